"""The proof: what is right passes, every planted wrong rule is refuted and named."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from micro_graphs import MICRO

from gossamer.analysis import proof as proofs
from gossamer.analysis.coupling import Coupling, couple
from gossamer.analysis.proof import ALL, prove, proven
from gossamer.analysis.rules import RULES
from gossamer.analysis.rules.products import _linear
from gossamer.analysis.trace import Call, Trace
from gossamer.frontends.torch_module import capture
from gossamer.program import surgery
from gossamer.program.dialect import aten
from gossamer.testing.models import MODELS, Lambda


def with_rule(target: Any, rule: Any) -> Mapping[Any, Any]:
    return {**RULES, target: rule}


def test_a_proof_has_an_entry_for_each_group_and_one_for_all():
    coupling, proof = proven(MODELS["vision transformer"].program)
    assert [entry.group for entry in proof.entries] == [group.name for group in coupling.free]
    assert proof.together is not None
    assert proof.together.group == ALL
    assert proof.refuted == proof.reproducers == {}
    assert 0 < proof.deviation <= 1e-10
    assert 0 < max(entry.deviation_fp32 for entry in proof.entries) < 1e-4
    assert {entry.group for entry in proof.entries if entry.renormalising} == {"layers.patch"}
    stored = json.loads(json.dumps(proof.to_json()))
    assert stored["program"] == str(coupling.program.digest)
    assert [entry["group"] for entry in stored["entries"]] == [entry.group for entry in proof.entries]


def test_equal_seeds_give_equal_proofs():
    program = MODELS["residual"].program
    assert prove(couple(program), seed=3) == prove(couple(program), seed=3)


def test_groups_of_equal_signature_share_a_proof():
    net = torch.nn.Sequential(*(layer for _ in range(5) for layer in (torch.nn.Linear(6, 6), torch.nn.ReLU())))
    entries = prove(couple(capture(net.eval(), torch.randn(2, 6)))).entries
    assert [(entry.group, entry.shared_with) for entry in entries] == [("0", ""), ("2", ""), ("4", "2"), ("6", "2")]


def test_nothing_free_is_proven_without_a_run():
    proof = prove(couple(MICRO["add of an input"].program))
    assert (proof.entries, proof.together, proof.deviation) == ((), None, 0.0)
    assert proof.to_json()["together"] is None


# Planted wrong rules


def swapped_concat(t: Trace, call: Call) -> Any:
    """Says that the second operand comes first."""
    first, second = (t.axes_of(tensor) for tensor in call["tensors"])
    return (first[0], t.axes.concat((second[1], first[1])), *first[2:])


def forgotten_bias(t: Trace, call: Call) -> Any:
    """Links everything but the bias."""
    bias, call.arguments["bias"] = call.arguments["bias"], None
    result = _linear(t, call)
    call.arguments["bias"] = bias
    return result


def shifted_split(t: Trace, call: Call) -> Any:
    """Says that the parts stand in the other order."""
    axes, sizes = call.axes("self"), call["split_sizes"]
    parts = t.axes.split(axes[1], sum(sizes[1:]))
    assert parts is not None
    return [(axes[0], part, *axes[2:]) for part in reversed(parts)]


def blind_softmax(t: Trace, call: Call) -> Any:
    """Says that softmax looks at each entry alone."""
    return call.axes("self")


def blind_mean(t: Trace, call: Call) -> Any:
    """Forgets that a mean sums over what it reduces."""
    return tuple(axis for dim, axis in enumerate(call.axes("self")) if dim not in call["dim"])


PLANTED = {
    "concat order": ("concat", aten.cat.default, swapped_concat),
    "missing bias": ("linear", aten.linear.default, forgotten_bias),
    "split boundary": ("split by sizes", aten.split_with_sizes.default, shifted_split),
    "softmax as a unary": ("softmax over channels", aten.softmax.int, blind_softmax),
    "mean that sums nothing": ("mean over channels", aten.mean.dim, blind_mean),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_wrong_rule_is_refuted(name: str):
    graph, target, rule = PLANTED[name]
    coupling = couple(MICRO[graph].program, with_rule(target, rule))
    proof = prove(coupling)
    assert proof.refuted
    for group, reason in proof.refuted.items():
        assert reason.startswith("proof failed")
        assert group in proof.reproducers[group]
        compile(proof.reproducers[group], "reproducer", "exec")
    frozen = coupling.freeze(proof.refuted)
    assert all(frozen.group(group).frozen == reason for group, reason in proof.refuted.items())


def test_an_attention_scale_that_is_not_pinned_is_refuted(monkeypatch: pytest.MonkeyPatch):
    program = MICRO["attention, packed by chunk"].program
    assert not prove(couple(program)).refuted
    monkeypatch.delitem(surgery.REWRITES, aten.scaled_dot_product_attention.default)
    refuted = prove(couple(program)).refuted
    assert list(refuted) == ["layers.qkv:head_dim"]
    assert "scaled_dot_product_attention" in refuted["layers.qkv:head_dim"]


@pytest.mark.parametrize(
    ("graph", "target"),
    [
        ("grouped conv", aten.conv2d.default),
        ("grouped transposed conv", aten.conv_transpose2d.input),
        ("group norm", aten.group_norm.default),
        ("layer norm", aten.layer_norm.default),
        ("hard-coded view", aten.reshape.default),
        ("split by sizes", aten.split_with_sizes.default),
        ("slice of channels", aten.slice.Tensor),
        ("one channel selected", aten.select.int),
        ("repeat", aten.repeat.default),
        ("expand", aten.expand.default),
        ("padding beside channels", aten.pad.default),
    ],
)
def test_a_size_that_is_not_rewritten_is_refuted(monkeypatch: pytest.MonkeyPatch, graph: str, target: Any):
    monkeypatch.delitem(surgery.REWRITES, target)
    assert prove(couple(MICRO[graph].program)).refuted


def test_a_tensor_sliced_in_the_wrong_places_is_refuted(monkeypatch: pytest.MonkeyPatch):
    """Where outputs cannot tell: the members say what must be left of every tensor."""
    original = surgery._sliced
    monkeypatch.setattr(surgery, "_sliced", lambda tensor, survivors: original(tensor, survivors) + 0.5)
    reasons = prove(couple(MICRO["linear"].program)).refuted
    assert "is not what is left of the original" in reasons["layers.a"]


def test_the_first_node_that_differs_is_named(monkeypatch: pytest.MonkeyPatch):
    graph, target, rule = PLANTED["concat order"]
    reason = prove(couple(MICRO[graph].program, with_rule(target, rule))).refuted["layers.a"]
    assert "cat differs first" in reason


def test_a_failure_of_all_together_is_laid_on_one_group(monkeypatch: pytest.MonkeyPatch):
    coupling = couple(MODELS["vision transformer"].program)
    evidence = proofs._Trial.evidence

    def failing(trial: Any, name: str, groups: Any) -> Any:
        found = evidence(trial, name, groups)
        culprits = {"layers.up", "layers.qkv:heads"} <= {group.name for group in groups}
        return replace(found, refuted="they fight") if culprits else found

    monkeypatch.setattr(proofs._Trial, "evidence", failing)
    proof = prove(coupling)
    assert proof.refuted == {"layers.up": "proof failed together with others: they fight"}
    assert proof.together is not None
    assert not proof.together.refuted


def test_a_proven_program_comes_with_its_failures_frozen(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(surgery.REWRITES, aten.group_norm.default)
    coupling, proof = proven(MICRO["group norm"].program)
    assert isinstance(coupling, Coupling)
    assert set(proof.refuted) == {"layers.a:channels.0"}
    assert coupling.group("layers.a:channels.0").frozen == proof.refuted["layers.a:channels.0"]
    assert [group.name for group in coupling.free] == ["layers.a:channels.1"]


@pytest.mark.parametrize("name", ["mean over channels", "root mean square by hand", "attention, heads in the batch"])
def test_a_program_that_was_cut_is_coupled_and_proven_again(name: str):
    coupling = couple(MICRO[name].program)
    group = coupling.free[0]
    again, proof = proven(coupling.cut({group.name: range(group.size - 1)}))
    assert proof.refuted == {}
    left = {one.name: one.size - (one is group) for one in coupling.free}
    assert {one.name: one.size for one in again.free} == {name: size for name, size in left.items() if size > 1}


def test_outputs_without_a_finite_value_prove_nothing():
    layers = {"a": torch.nn.Linear(5, 4), "b": torch.nn.Linear(4, 2)}
    model = Lambda(lambda m, x: torch.log(-1 - m["b"](m["a"](x)).abs()), **layers)
    proof = prove(couple(capture(model.eval(), {"x": torch.randn(2, 5)})))
    assert proof.refuted == {"layers.a": "proof failed: outputs differ, or none is finite"}
    assert json.loads(json.dumps(proof.to_json(), allow_nan=False))["entries"][0]["deviation"] is None


def test_inner_values_are_compared_where_outputs_let_nothing_through():
    """The last layer multiplies by zero: outputs agree whatever happens before it."""

    def silenced(m: Any, x: torch.Tensor) -> torch.Tensor:
        return m["b"](torch.cat([m["a"](x), m["c"](x)], 1)) * torch.zeros(2)

    layers = {"a": torch.nn.Linear(5, 4), "c": torch.nn.Linear(5, 6), "b": torch.nn.Linear(10, 2)}
    program = capture(Lambda(silenced, **layers).eval(), {"x": torch.randn(2, 5)})
    assert not prove(couple(program)).refuted
    assert prove(couple(program, with_rule(aten.cat.default, swapped_concat))).refuted
