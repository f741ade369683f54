"""Diagnoses of real files in real runtimes, with faults planted in the lowering."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from gossamer import flow
from gossamer.core.target import Target
from gossamer.lowering import lower_to_onnx
from gossamer.program import Edit, Interpreter, Program
from gossamer.program.dialect import aten
from gossamer.runtimes import lower_for, open_executable, resolve_target
from gossamer.search.diagnosis import compare_lowered_nodes, compare_nodes, diagnose, diagnose_lowered, error_sources
from gossamer.search.probe import Builder, PieceProbe, Raised
from gossamer.techniques.quantize.int8 import Int8
from gossamer.verification.inputs import Case, parity_cases
from gossamer.verification.parity import compare_runnables
from gossamer.verification.policies import FP32, INT8

TARGETS = ["onnxruntime:cpu", "openvino:cpu"]


@pytest.fixture(scope="module", params=TARGETS)
def on(request: pytest.FixtureRequest) -> Target:
    target = resolve_target(request.param)
    pytest.importorskip(target.runtime)
    return target


@pytest.fixture(scope="module")
def images(digits: tuple[np.ndarray, np.ndarray]) -> dict[str, np.ndarray]:
    return {"x": digits[0][:200]}


@pytest.fixture(scope="module")
def cases(digit_program: Program, images: dict[str, np.ndarray]) -> tuple[Case, ...]:
    return parity_cases(digit_program.signature, images)


@pytest.fixture(scope="module")
def quantized(digit_program: Program, images: dict[str, np.ndarray], on: Target) -> Program:
    return Int8().apply(digit_program, images, on)


def scaled(factors):
    """Lowering that multiplies the results of some nodes by factors, wherever they stand in what is lowered."""

    def lower(target, program):
        edit = Edit(program)
        for name in {node.name for node in program.call_nodes} & set(factors):
            node = edit.node(name)
            made = edit.after(node, "planted", aten.mul.Tensor, (node, factors[name]), node.meta["value"])
            edit.replace(node, made)
        planted = {node.name for node in edit.graph.nodes} - {node.name for node in program.graph.nodes}
        return lower_for(target, edit.finish("planted") if planted else program)

    return lower


def fused_wrong(target, program):
    """Lowering that loses a part of each ReLU it can fuse with the convolution before: one that nothing else reads."""
    edit = Edit(program)
    changed = 0
    for node in program.call_nodes:
        source = node.args[0]
        fusable = node.target is aten.relu.default and source.target in (aten.conv2d.default, aten.batch_norm.default)
        if fusable and len(source.users) == 1 and node.name == "down_2":
            copy = edit.node(node)
            copy.args = (edit.before(copy, "planted", aten.sub.Tensor, (copy.args[0], 0.1), node.meta["value"]),)
            changed += 1
    return lower_for(target, edit.finish("planted") if changed else program)


def test_a_right_file_is_clean(digit_program: Program, cases, on: Target):
    found = diagnose_lowered(digit_program, on, cases, FP32)
    assert (found.kind, found.findings, found.observed) == ("clean", (), True)
    assert max(found.growth.values()) < 1e-5


def test_the_first_diverging_node_is_named_with_its_place(digit_program: Program, cases, on: Target):
    found = diagnose_lowered(digit_program, on, cases, FP32, lower=scaled({"down_2": 1.01}))
    assert found.kind == "node"
    assert [finding.node for finding in found.findings] == ["down_2"]
    assert found.first.op == "relu(down_1)"
    assert (found.first.module, found.first.case) == ("down.2", "real 0-7")
    assert "self.down" in found.first.source
    assert found.first.relative_l2 == pytest.approx(0.01, rel=1e-3)
    assert "the file is wrong: ONNX's own evaluator agrees with the runtime" in found.first.notes
    assert found.compilations <= 40
    order = [node.name for node in digit_program.call_nodes]
    for name, error in found.growth.items():
        assert (error > 1e-5) == (order.index(name) >= order.index("down_2")), name
    assert len(found.growth) > 3


def test_both_of_two_faults_and_both_of_a_cancelling_pair_are_named(digit_program: Program, cases, on: Target):
    two = diagnose_lowered(digit_program, on, cases, FP32, lower=scaled({"stem_0": 1.1, "blocks2_1_add": 0.9}))
    assert [finding.node for finding in two.findings] == ["stem_0", "blocks2_1_add"]
    cancelling = scaled({"mean": 4.0, "blocks2_1_relu_1": 0.25})
    lowered = diagnose_lowered(digit_program, on, cases, FP32, lower=cancelling)
    assert [finding.node for finding in lowered.findings] == ["blocks2_1_relu_1", "mean"]


def test_a_fault_of_fusion_is_named_as_a_group_and_hides_when_looked_at(digit_program: Program, cases, on: Target):
    found = diagnose_lowered(digit_program, on, cases, FP32, lower=fused_wrong)
    assert found.kind == "group"
    assert found.first.group == ("down_1", "down_2")
    assert not found.observed  # down_1 is one of the values on the way
    with_tap = {"down_1", "down_2"}
    assert found.growth.keys() & with_tap


def test_a_group_of_an_integer_kernel(quantized: Program, cases, on: Target):
    found = diagnose_lowered(quantized, on, cases, INT8, lower=fused_wrong)
    assert found.kind == "group"
    assert {"down_0", "down_2"} <= set(found.first.group)
    assert len(found.first.group) <= 4
    assert "codes differ" in found.first.reason


def test_quantized_values_are_compared_step_by_step(quantized: Program, cases, on: Target, tmp_path: Path):
    # Two thousandths of a value move few outputs, but half a step somewhere moves many codes.
    slightly = Builder(on, tmp_path, scaled({"blocks1_0_conv1": 1.002}))
    parity = compare_runnables(Interpreter(quantized), slightly(quantized), cases, INT8)
    assert parity.verdict == "equivalent"
    rejected = compare_nodes(quantized, slightly, cases, INT8, parity)
    assert rejected.verdict == "rejected"
    assert "node blocks1_0_relu_dequantize" in rejected.reason
    assert "the policy allows 1 on 0.05%" in rejected.reason
    found = diagnose(quantized, slightly, cases, INT8, parity=rejected)
    assert found.first.node == "blocks1_0_conv1"


def test_right_integers_pass_node_by_node(
    quantized: Program, digit_program: Program, cases, on: Target, tmp_path: Path
):
    build = Builder(on, tmp_path)
    for program, policy in ((quantized, INT8), (digit_program, FP32)):
        parity = compare_runnables(Interpreter(program), build(program), cases, policy)
        assert compare_nodes(program, build, cases, policy, parity) is parity
        assert compare_lowered_nodes(program, on, cases, policy, parity) is parity
        assert parity.verdict != "rejected"


def test_two_programs_are_compared_by_the_names_of_their_values(digit_program: Program, cases):
    edit = Edit(digit_program)
    norm = edit.node("down_1")
    norm.args = (*norm.args[:7], 1e-2, *norm.args[8:])
    other = edit.finish("another epsilon")
    found = diagnose(digit_program, Interpreter, cases, FP32, source=other)
    assert (found.kind, [finding.node for finding in found.findings]) == ("node", ["down_1"])
    assert found.first.notes == ()  # there is no file to ask about


def test_a_tensor_of_another_checkpoint_is_named(digit_program: Program, cases, target: Target):
    def lower(target, program):
        lowered = lower_for(target, program)
        model = onnx.load_from_string(lowered.model)
        for entry in model.graph.initializer:
            if entry.name == "head.weight":
                older = onnx.numpy_helper.to_array(entry) * np.float32(0.9)
                entry.CopyFrom(onnx.numpy_helper.from_array(older, entry.name))
        return replace(lowered, model=model.SerializeToString())

    found = diagnose_lowered(digit_program, target, cases, FP32, lower=lower)
    assert found.first.node == "head"
    assert "the file holds other values of head.weight" in found.first.notes


def test_a_file_that_is_not_what_lowering_gives_now(digit_program: Program, cases, target: Target, tmp_path: Path):
    stale = tmp_path / "stale.onnx"
    stale.write_bytes(scaled({"head": 1.5})(target, digit_program).model)
    found = diagnose_lowered(digit_program, target, cases, FP32, model=stale)
    assert (found.kind, found.findings) == ("boundary", ())
    assert "the file is not what lowering gives now" in str(found)


class WrongAt:
    """A session that computes one node wrong, whatever file it is given."""

    def __init__(self, session, node):
        self.session, self.node = session, node
        self.specs, self.fingerprint = session.specs, session.fingerprint

    def run(self, inputs, taps=()):
        outputs = self.session.run(inputs)
        return {name: values * np.float32(1.01) if name == self.node else values for name, values in outputs.items()}

    def close(self):
        self.session.close()


def test_a_wrong_runtime_is_told_from_a_wrong_file(digit_program: Program, cases, target: Target, tmp_path: Path):
    build = Builder(target, tmp_path, open_=lambda *where: WrongAt(open_executable(*where), "down_2"))
    found = diagnose(digit_program, build, cases, FP32)
    assert found.first.node == "down_2"
    assert found.first.notes == (
        "the file is right, the runtime is wrong: ONNX's own evaluator agrees with the reference",
    )


def test_reduced_precision_is_recognised(digit_program: Program, cases, target: Target):
    def lower(target, program):
        if "down_0" not in {node.name for node in program.call_nodes}:
            return lower_for(target, program)
        edit = Edit(program)
        node = edit.node("down_0")
        short = []
        for operand in node.args[:2]:
            value = operand.meta["value"]
            half = edit.before(node, "half", aten.to.dtype, (operand, torch.bfloat16), replace(value, dtype="bfloat16"))
            short.append(edit.before(node, "back", aten.to.dtype, (half, torch.float32), value))
        node.args = (*short, *node.args[2:])
        return lower_for(target, edit.finish("bfloat16"))

    found = diagnose_lowered(digit_program, target, cases, FP32, lower=lower)
    assert found.first.node == "down_0"
    assert "as if computed in bfloat16: the precision of the runtime is not pinned" in found.first.notes


def test_what_raises_is_named(digit_program: Program, cases, target: Target, tmp_path: Path):
    class Fragile:
        def __init__(self, program):
            self.inner = Interpreter(program)
            self.specs, self.fingerprint = self.inner.specs, "fragile"
            self.fails = "down_2" in {node.name for node in program.call_nodes}

        def run(self, inputs, taps=()):
            if self.fails:
                raise OverflowError("too large")
            return self.inner.run(inputs)

    found = diagnose(digit_program, Fragile, cases, FP32)
    assert (found.kind, found.first.node) == ("node", "down_2")
    assert found.first.reason == "real 0-7: it raised OverflowError: too large"
    probe = PieceProbe(digit_program, Fragile, FP32)
    probe.observe(cases[:1])
    with pytest.raises(Raised, match="too large"):
        error_sources(probe, Fragile(digit_program))


def test_what_does_not_repeat_is_noted(digit_program: Program, cases):
    class Noisy(Interpreter):
        """Draws a number at every run of a piece that has a certain node."""

        generator = np.random.default_rng(0)

        def run(self, inputs, taps=()):
            outputs = super().run(inputs, taps)
            if "stem_2" in outputs or len(self.program.call_nodes) > 30:
                outputs = {name: values + np.float32(self.generator.random()) for name, values in outputs.items()}
            return outputs

    found = diagnose(digit_program, Noisy, cases, FP32)
    assert found.findings
    assert any("another value when run again" in note for note in found.findings[0].notes)


def test_no_more_cases_are_held_than_memory_allows(digit_program: Program, cases, monkeypatch: pytest.MonkeyPatch):
    probe = PieceProbe(digit_program, Interpreter, FP32)
    probe.observe(cases)
    assert probe.cases == list(cases)
    monkeypatch.setattr("gossamer.search.probe.MOST_BYTES", 1000)
    probe.observe(cases)
    assert probe.cases == [cases[0]]


class Chain(nn.Module):
    """Convolutions one behind the other, with weights that keep the size of the values."""

    def __init__(self, depth: int, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.convs = nn.Sequential(*(nn.Conv2d(8 if index else 1, 8, 3, padding=1) for index in range(depth)))
        for conv in self.convs:
            nn.init.kaiming_normal_(conv.weight, nonlinearity="linear")

    def forward(self, x):
        return self.convs(x)


@pytest.mark.slow
def test_accumulated_error_grows_with_depth_and_its_parts_add_up(on: Target, images, tmp_path: Path):
    """Float against int8: no layer is wrong, and what each adds is told apart. A mean of three draws of weights."""
    totals = []
    for depth in (1, 2, 4, 8, 15, 29):
        found = []
        for seed in range(3):
            program = flow.capture(Chain(depth, seed).eval(), torch.from_numpy(images["x"][:2]))
            quantized = Int8(observer="minmax").apply(program, images, on)
            build = Builder(on, tmp_path)
            probe = PieceProbe(program, build, INT8, source=quantized)
            probe.observe([Case("real 0-31", "real", {"x": images["x"][:32]})])
            found.append(error_sources(probe, build(quantized)))
            assert len(found[-1].parts) == depth
        assert np.mean([one.explained for one in found]) == pytest.approx(1, abs=0.2), depth
        totals.append(np.mean([one.total for one in found]))
    assert totals == sorted(totals)
    assert totals[-1] > 5 * totals[0]


def test_accumulation_is_told_from_a_fault(images, target: Target, tmp_path: Path):
    program = flow.capture(Chain(6, 0).eval(), torch.from_numpy(images["x"][:2]))
    cases = parity_cases(program.signature, images)
    strict = replace(FP32, relative_l2=None, scaled_max=None, sqnr_db=34.0, agreement=0.0)
    quantized = Int8(observer="minmax").apply(program, images, target)
    found = diagnose(program, Builder(target, tmp_path), cases, strict, source=quantized)
    assert found.kind == "accumulation"
    assert found.attribution.accumulates
    assert "the error accumulates" in str(found)


def test_lowering_by_hand_gives_the_same_diagnosis(digit_program: Program, cases, target: Target, tmp_path: Path):
    """A builder takes any way of lowering and opening."""
    build = Builder(target, tmp_path, lambda target, program: lower_to_onnx(program), open_executable)
    assert diagnose(digit_program, build, cases, FP32).kind == "clean"
