"""Pieces of programs compute what the whole computes, wherever they are cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gossamer import flow
from gossamer.core.errors import UnknownName
from gossamer.core.target import Target
from gossamer.program import Interpreter, Program
from gossamer.program.segment import atoms, cut, downstream, expose, frontiers, fused_groups, pieces_of, resume
from gossamer.program.values import TensorValue
from gossamer.techniques.quantize.int8 import Int8


class Several(nn.Module):
    """Two inputs, a split, an operation with several results, sizes, a constant mask, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 8, batch_first=True)
        self.fc = nn.Linear(8, 8)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        a, b = x.split([6, 6], -1)
        h, (last, _) = self.lstm(a * torch.arange(6) + b)
        scores, best = h.topk(2, dim=-1)
        mask = torch.ones(3, 3).tril().sum()
        joined = torch.cat([self.fc(h), y.expand(x.shape[0], x.shape[1], 8)], 1) * mask
        return joined.reshape(x.shape[0], -1), last.squeeze(0) + scores.mean(1).sum(-1, keepdim=True) + best.sum(1)[
            :, :1
        ]


@pytest.fixture(scope="module")
def several() -> Program:
    torch.manual_seed(0)
    return flow.capture(Several(), {"x": torch.randn(2, 5, 12), "y": torch.randn(2, 1, 8)})


@pytest.fixture(scope="module")
def quantized(digit_program: Program, digits: tuple[np.ndarray, np.ndarray], target: Target) -> Program:
    return Int8().apply(digit_program, {"x": digits[0][:200]}, target)


@pytest.fixture(params=["several", "digit_program", "reader_program", "quantized"])
def program(request: pytest.FixtureRequest) -> Program:
    return request.getfixturevalue(request.param)


def inputs_of(program: Program, batch: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    sizes = {"batch": batch, "length": 7}
    inputs = {}
    for spec in program.signature.inputs:
        shape = [sizes.get(str(dim), dim) for dim in spec.shape]
        values = rng.integers(0, 40, shape) if spec.dtype == "int64" else rng.standard_normal(shape)
        inputs[spec.name] = values.astype(spec.dtype)
    return inputs


def values_of(program: Program, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    nodes = [node for node in program.graph.nodes if node.op != "output"]
    return Interpreter(program).run(inputs, [n.name for n in nodes if isinstance(n.meta["value"], TensorValue)])


def assert_same_as_whole(program: Program, groups: list[tuple[str, ...]]) -> None:
    values = values_of(program, inputs_of(program))
    pieces = [piece for piece in pieces_of(program, groups) if piece.outputs]
    segment = cut(program, pieces)
    results = Interpreter(segment.program).run(segment.inputs_from(values))
    assert list(results) == [name for piece in pieces for name in piece.outputs]
    for name, result in results.items():
        # Products of a few dozen terms: PyTorch may sum those of a strided input in another order.
        scale = np.abs(values[name]).max(initial=0.0)
        np.testing.assert_allclose(result, values[name], rtol=0, atol=1e-6 * scale, err_msg=name)


def test_all_atoms_side_by_side_compute_the_values_of_the_whole(program: Program):
    assert_same_as_whole(program, atoms(program))


def test_all_fused_groups_do(program: Program):
    groups = fused_groups(program)
    assert sorted(name for group in groups for name in group) == sorted(
        name for atom in atoms(program) for name in atom
    )
    assert_same_as_whole(program, groups)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_every_run_of_atoms_does(several: Program, quantized: Program, data: st.DataObject):
    program = data.draw(st.sampled_from([several, quantized]))
    parts = atoms(program)
    start = data.draw(st.integers(0, len(parts) - 1))
    end = data.draw(st.integers(start + 1, len(parts)))
    assert_same_as_whole(program, [tuple(name for atom in parts[start:end] for name in atom)])


def test_what_belongs_together_is_one_atom(several: Program, quantized: Program):
    by_name = {name: atom for atom in atoms(several) for name in atom}
    assert by_name["getitem"] is by_name["getitem_1"] is by_name["split_with_sizes"]
    assert by_name["lstm_lstm"] is by_name["lstm_getitem"]
    assert not {"arange", "tril", "sym_size"} & set(by_name)  # made again where they are needed
    pairs = {name: atom for atom in atoms(quantized) for name in atom}
    assert pairs["stem_2_quantize"] == ("stem_2_quantize", "stem_2_dequantize")
    assert "stem_0_weight_quantize" not in pairs


def test_a_fused_group_is_what_an_integer_kernel_computes(quantized: Program):
    groups = {name: group for group in fused_groups(quantized) for name in group}
    assert groups["stem_0"] == ("stem_0", "stem_2", "stem_2_quantize", "stem_2_dequantize")
    assert groups["blocks1_0_add"][:2] == ("blocks1_0_add", "blocks1_0_relu_1")
    assert groups["head"] == ("head",)  # its result is float


def test_a_piece_behind_a_quantizer_quantizes_again(quantized: Program):
    segment = cut(quantized, pieces_of(quantized, [("blocks1_0_conv1",)]))
    assert list(segment.feeds.values()) == ["stem_2_dequantize"]
    assert {"stem_2_dequantize_codes", "stem_2_dequantize_again"} <= {n.name for n in segment.program.call_nodes}


def test_pieces_keep_their_place_in_the_source(digit_program: Program):
    (node,) = cut(digit_program, pieces_of(digit_program, [("down_0",)])).program.call_nodes
    original = next(node for node in digit_program.call_nodes if node.name == "down_0")
    assert node.meta["module"] == original.meta["module"] == "down.0"
    assert node.meta["source"] == original.meta["source"] != ""


def test_a_piece_saves_and_loads_as_a_program(reader_program: Program, tmp_path):
    segment = cut(reader_program, pieces_of(reader_program, atoms(reader_program)[4:9]))
    flow.save(segment.program, tmp_path / "piece")
    assert flow.capture(tmp_path / "piece").digest == segment.program.digest


def test_exposed_values_come_with_the_outputs(digit_program: Program):
    inputs = inputs_of(digit_program)
    wanted = values_of(digit_program, inputs)
    exposed = expose(digit_program, ["stem_2", "blocks2_0_add", "stem_2"])
    found = Interpreter(exposed).run(inputs)
    assert list(found) == ["output", "stem_2", "blocks2_0_add"]
    for name, values in found.items():
        np.testing.assert_array_equal(values, wanted[name])


def test_frontiers_are_the_values_that_everything_passes(digit_program: Program, several: Program):
    found = frontiers(digit_program)
    assert "stem_2" in found
    assert "blocks1_0_conv1" not in found  # the residual passes beside it
    names = [name for atom in atoms(digit_program) for name in atom]
    for name in found:
        behind = names[names.index(name) + 1 :]
        if behind:
            assert pieces_of(digit_program, [behind])[0].inputs == (name,)
    assert frontiers(several) == []


def test_resuming_computes_what_is_behind_a_changed_value(digit_program: Program):
    inputs = inputs_of(digit_program)
    values = values_of(digit_program, inputs)
    plain = Interpreter(digit_program).run(inputs)["output"]
    assert resume(digit_program, values, {})["output"].tobytes() == plain.tobytes()
    same = resume(digit_program, values, {"down_2": values["down_2"]})["output"]
    assert same.tobytes() == plain.tobytes()
    negative = F.relu(torch.from_numpy(values["down_1"] - 1)).numpy()
    tail = cut(digit_program, [downstream(digit_program, ["down_2"])])
    expected = Interpreter(tail.program).run({"down_2_given": negative})["head"]
    np.testing.assert_array_equal(resume(digit_program, values, {"down_2": negative})["output"], expected)


def test_names_that_are_no_nodes_are_refused(digit_program: Program):
    for refused in (
        lambda: pieces_of(digit_program, [("stem_9",)]),
        lambda: expose(digit_program, ["stem_9"]),
        lambda: downstream(digit_program, ["stem_9"]),
    ):
        with pytest.raises(UnknownName, match=r"cutting DigitNet[\s\S]*'stem_9'[\s\S]*stem_"):
            refused()
