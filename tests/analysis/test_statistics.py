"""Batches, walks on several batches at once, and gate gradients against their definition."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gossamer import flow
from gossamer.analysis.coupling import Coupling, couple
from gossamer.analysis.masked import masked_operations
from gossamer.analysis.statistics import Walk, batches, evenly, gate_gradients, sizes_on
from gossamer.core.errors import DataError
from gossamer.program import Program
from gossamer.program.dialect import aten
from gossamer.program.interpreter import Interpreter, execute
from gossamer.testing.models import MODELS


def samples(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.fixture(scope="module")
def residual() -> Program:
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.body = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1, groups=2)
            self.head = nn.Linear(6 * 20, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.stem(x))
            return self.head((x + self.body(x)).flatten(1))

    return flow.capture(Net().eval(), torch.randn(2, 2, 4, 5))


def test_batches_hold_every_sample_once(residual: Program):
    x = samples(70, 2, 4, 5)
    sizes = [len(batch["x"]) for batch in batches(residual, {"x": x}, 32)]
    assert sizes == [32, 32, 6]
    joined = torch.cat([batch["x"] for batch in batches(residual, {"x": x}, 32)])
    np.testing.assert_array_equal(joined.numpy(), x)


def test_a_program_of_one_batch_size_gets_it():
    fixed = flow.capture(nn.Linear(2, 2), torch.randn(4, 2), dynamic=None)
    assert [len(batch["input"]) for batch in batches(fixed, {"input": samples(10, 2)})] == [4, 4, 4]
    assert sizes_on(fixed, {"input": samples(10, 2)}) == {}


@pytest.mark.parametrize("inputs", [{}, {"x": samples(0, 2, 4, 5)}])
def test_no_samples_are_an_error(residual: Program, inputs: dict[str, np.ndarray]):
    with pytest.raises(DataError, match="no samples"):
        next(batches(residual, inputs))


def test_an_even_choice_has_both_ends():
    x = np.arange(100)
    assert evenly({"x": x}, 5)["x"].tolist() == [0, 25, 50, 74, 99]
    assert evenly({"x": x}, 100)["x"] is x


def test_sizes_are_those_of_the_data(reader_program: Program, reader_ids: np.ndarray):
    assert sizes_on(reader_program, {"ids": reader_ids}) == {"batch": 1, "length": 12}
    assert sizes_on(reader_program, {}) == {"batch": 1, "length": 2}


def test_a_walk_has_the_values_of_a_run(residual: Program):
    x = samples(10, 2, 4, 5)
    parts = list(batches(residual, {"x": x}, 4))
    walk = Walk(residual, parts)
    seen: dict[str, list[Tensor]] = {}
    for node in residual.call_nodes:
        assert not walk.has(node)
        walk.compute(node)
        if isinstance(walk.values(node)[0], Tensor):
            seen[node.name] = walk.values(node)
    assert len(seen) > 5
    for place, batch in enumerate(parts):
        expected = {}
        execute(residual, batch, lambda node, value, to=expected: to.update({node.name: value}))
        for name, values in seen.items():
            assert torch.equal(values[place], expected[name])
    assert walk.peak >= sum(value.nbytes for value in seen["relu"])


def test_a_tensor_changed_on_the_way_changes_what_follows(residual: Program):
    parts = list(batches(residual, {"x": samples(4, 2, 4, 5)}))
    walk = Walk(residual, parts)
    for node in residual.call_nodes:
        if node.name == "body":
            walk.tensors["body.weight"] = torch.zeros_like(walk.tensors["body.weight"])
        walk.compute(node)
        if node.name == "body":
            bias = residual.tensors["body.bias"].view(1, -1, 1, 1)
            assert torch.equal(walk.values(node)[0], bias.expand_as(walk.values(node)[0]))
            walk.replace(node, [torch.ones_like(value) for value in walk.values(node)])
        if node.target is aten.add.Tensor:
            assert float(walk.values(node)[0].min()) >= 1  # of a relu's result and the ones


def project(outputs: list[Tensor]) -> Tensor:
    """A loss without symmetries."""
    generator = torch.Generator().manual_seed(3)
    floats = [output for output in outputs if output.is_floating_point()]
    return torch.stack(
        [(one.double().sin() * torch.rand(one.shape, generator=generator)).sum() for one in floats]
    ).sum()


def masked_loss(coupling: Coupling, name: str, unit: int, batch: dict[str, Tensor], gate: float) -> float:
    """The loss where a unit is multiplied by a gate, from the masked programs at 1 and 0 only where it is linear."""
    group = coupling.group(name)
    keep = coupling.keep_by_leaf({name: [other for other in range(group.size) if other != unit]})
    masks = masked_operations(coupling.trace, keep, {})

    def between(node, original):
        # an operation is affine in each operand, so its masked and plain forms interpolate to a gate
        return lambda *args, **kwargs: gate * node.target(*args, **kwargs) + (1 - gate) * original(*args, **kwargs)

    instead = {node: between(node, compute) for node, compute in masks.items()}
    return float(project(execute(coupling.program, batch, instead=instead)))


@pytest.mark.parametrize("name", ["residual", "flat features"])
def test_gate_gradients_are_those_of_the_masked_program(residual: Program, name: str):
    """Central differences of a gate that interpolates between the plain and the masked program."""
    torch.manual_seed(0)
    flat = nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(30, 4), nn.Tanh(), nn.Linear(4, 2))
    program = residual if name == "residual" else flow.capture(flat.eval(), torch.randn(2, 2, 4, 5))
    coupling = couple(program)
    names = [group.name for group in coupling.free]
    assert names
    inputs = {program.signature.inputs[0].name: samples(6, 2, 4, 5)}
    gates = gate_gradients(coupling, names, inputs, project)
    (batch,) = batches(program, inputs)
    for group in names:
        assert gates[group].shape == (6, coupling.group(group).size)
        for unit in range(coupling.group(group).size):
            high, low = (masked_loss(coupling, group, unit, batch, gate) for gate in (1.01, 0.99))
            assert float(gates[group][:, unit].sum()) == pytest.approx((high - low) / 0.02, rel=0.02, abs=2e-3)


def test_gate_gradients_of_one_sample_are_its_own(residual: Program):
    coupling, x = couple(residual), samples(5, 2, 4, 5)
    names = [group.name for group in coupling.free]

    def loss(outputs: Sequence[Tensor]) -> Tensor:
        return outputs[0].square().sum()

    together = gate_gradients(coupling, names, {"x": x}, loss)
    for place in range(5):
        alone = gate_gradients(coupling, names, {"x": x[place : place + 1]}, loss)
        for name in names:
            torch.testing.assert_close(together[name][place], alone[name][0], rtol=1e-4, atol=1e-6)


def test_samples_that_cannot_be_told_apart_share():
    """The hidden units of a recurrent layer are read by its weights, which hold no samples."""
    recurrent = next(model for name, model in MODELS.items() if "lstm" in name.lower())
    coupling = couple(recurrent.program)
    names = [group.name for group in coupling.free]
    gates = gate_gradients(coupling, names, recurrent.arrays, lambda outputs: outputs[0].square().sum())
    assert names
    for name in names:
        assert torch.isfinite(gates[name]).all()
        assert gates[name].abs().sum() > 0


def test_a_walk_and_the_interpreter_say_the_same_for_a_transformer(reader_program: Program, reader_ids: np.ndarray):
    parts = list(batches(reader_program, {"ids": reader_ids[:8]}))
    walk = Walk(reader_program, parts)
    for node in reader_program.call_nodes:
        walk.compute(node)
        last = walk.values(node)
    (expected,) = Interpreter(reader_program).run({"ids": reader_ids[:8]}).values()
    np.testing.assert_array_equal(last[0].numpy(), expected)
