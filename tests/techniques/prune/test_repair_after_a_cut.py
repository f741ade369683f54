"""Repair: exact where removed channels depend on kept ones, never worse than slicing, and every kind of layer."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gossamer import flow
from gossamer.analysis.coupling import couple
from gossamer.analysis.masked import masked_operations
from gossamer.program import Program
from gossamer.program.dialect import bound_arguments
from gossamer.program.interpreter import Interpreter
from gossamer.techniques.prune import repair as module
from gossamer.techniques.prune.repair import Repair, cumulative_statistics, repair


def samples(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def captured(net: nn.Module, *shape: int) -> Program:
    return flow.capture(net.eval(), torch.from_numpy(samples(2, *shape)))


def cut_and_repair(program: Program, keep: Mapping[str, list[int]], x: np.ndarray, **options: bool) -> Repair:
    coupling = couple(program)
    by_leaf = coupling.keep_by_leaf(keep)
    name = program.signature.inputs[0].name
    readers = {node.name for node in masked_operations(coupling.trace, by_leaf, {"batch": 1, "length": 12})}
    return repair(program, coupling.cut(keep), coupling.survivors(by_leaf), {name: x}, readers=readers, **options)


def error(before: Program, after: Program, x: np.ndarray) -> float:
    """Squared, as a share of the outputs' energy."""
    name = before.signature.inputs[0].name
    outputs = [Interpreter(program).run({name: x}) for program in (before, after)]
    was, now = (np.concatenate([value.ravel() for value in one.values()]) for one in outputs)
    return float(np.square(now - was).sum() / np.square(was).sum())


def sliced(program: Program, keep: Mapping[str, list[int]]) -> Program:
    return couple(program).cut(keep)


class Chain(nn.Module):
    """Two layers with something in between; the last channel of the first is twice its first."""

    def __init__(self, first: nn.Module, between: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.between, self.second = first, between, second
        with torch.no_grad():
            for parameter in self.first.parameters():
                parameter[-1] = 2 * parameter[0]

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.between(self.first(x)))


CHAINS = {
    "linear": (lambda: Chain(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)), (5,)),
    "linear on sequences": (lambda: Chain(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)), (7, 5)),
    "without bias": (lambda: Chain(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3, bias=False)), (5,)),
    "convolution": (
        lambda: Chain(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3, stride=2, padding=1, dilation=2)),
        (2, 12, 11),
    ),
    "convolution 1d": (lambda: Chain(nn.Conv1d(2, 6, 3), nn.ReLU(), nn.Conv1d(6, 4, 5, padding=2)), (2, 20)),
    "flatten": (
        lambda: Chain(nn.Conv2d(2, 6, 3), nn.Sequential(nn.ReLU(), nn.Flatten()), nn.Linear(6 * 6, 3)),
        (2, 5, 4),
    ),
}


@pytest.mark.parametrize("name", CHAINS)
def test_what_depends_on_kept_channels_is_restored(name: str):
    """Removing a channel that is twice another changes nothing, with zero padding too."""
    torch.manual_seed(0)
    make, shape = CHAINS[name]
    program, x = captured(make(), *shape), samples(100, *shape)
    keep = {"first": [0, 1, 2, 3, 4]}
    fixed = cut_and_repair(program, keep, x)
    unseen = samples(50, *shape, seed=1)
    assert error(program, sliced(program, keep), unseen) > 1e-2
    assert error(program, fixed.program, unseen) < 1e-6
    assert [(fit.layer, fit.applied) for fit in fixed.fits] == [("second", True)]
    assert (fixed.left, fixed.norms, fixed.samples) == ((), (), 100)


def test_groups_of_a_convolution_are_fitted_each_on_its_own():
    torch.manual_seed(0)
    first, second = nn.Conv2d(2, 8, 3), nn.Conv2d(8, 6, 3, groups=2)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter[[3, 7]] = 2 * parameter[[0, 4]]
    program = captured(nn.Sequential(first, nn.ReLU(), second), 2, 8, 8)
    (name,) = (group.name for group in couple(program).free if group.size == 4)
    x, keep = samples(100, 2, 8, 8), {name: [0, 1, 2]}
    assert error(program, sliced(program, keep), x) > 1e-2
    assert error(program, cut_and_repair(program, keep, x).program, x) < 1e-6


def test_a_constant_channel_ends_in_the_bias():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))
    with torch.no_grad():
        net[0].weight[5], net[0].bias[5] = 0.0, 1.7  # pyright: ignore[reportIndexIssue, reportArgumentType]
    program = captured(net, 5)
    fixed = cut_and_repair(program, {"0": [0, 1, 2, 3, 4]}, samples(200, 5))
    weight, bias = program.tensors["2.weight"], program.tensors["2.bias"]
    torch.testing.assert_close(fixed.program.tensors["2.weight"], weight[:, :5], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fixed.program.tensors["2.bias"], bias + 1.7 * weight[:, 5], rtol=1e-4, atol=1e-4)


def test_a_norm_behind_takes_the_bias_and_keeps_its_statistics():
    """The same function as with a bias; only the mean moves."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    norm.running_mean, norm.running_var = torch.rand(4) - 0.5, torch.rand(4) + 0.5
    program = captured(
        Chain(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Sequential(nn.Conv2d(6, 4, 3, bias=False), norm)), 2, 9, 9
    )
    keep, x = {"first": [0, 1, 2, 3, 4]}, samples(100, 2, 9, 9)
    fixed = cut_and_repair(program, keep, x)
    assert fixed.norms == ()
    assert {name for name in fixed.program.tensors if "bias" in name} == {"first.bias", "second.1.bias"}
    means = [one.tensors["second.1.running_mean"] for one in (program, fixed.program)]
    assert not torch.equal(*means)
    assert fixed.program.tensors["second.1.running_var"] is program.tensors["second.1.running_var"]
    assert error(program, sliced(program, keep), x) > 1e-3
    assert error(program, fixed.program, x) < 1e-6


def test_norms_that_stand_behind_no_fitted_layer_get_new_statistics():
    torch.manual_seed(0)
    first = [nn.Conv2d(2, 6, 3), nn.Sequential(nn.BatchNorm2d(6), nn.ReLU())]  # whose values the cut leaves as they are
    net = nn.Sequential(*first, nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    program, x = captured(net, 2, 9, 9), samples(64, 2, 9, 9)
    fixed = cut_and_repair(program, {"0": [0, 2, 4]}, x, compensate=False)
    assert (fixed.fits, len(fixed.norms)) == ((), 1)
    norm = next(node for node in fixed.program.call_nodes if node.name in fixed.norms)
    source = bound_arguments(norm)["input"].name
    values = torch.from_numpy(Interpreter(fixed.program).run({"input": x}, taps=(source,))[source])
    torch.testing.assert_close(fixed.program.tensors["3.running_mean"], values.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fixed.program.tensors["3.running_var"], values.var((0, 2, 3)), rtol=1e-2, atol=1e-4)
    torch.testing.assert_close(fixed.program.tensors["2.weight"], program.tensors["2.weight"][:, [0, 2, 4]])


class Residual(nn.Module):
    """A stream, two layers that add to it, and two readers of it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.up, self.down = nn.Linear(5, 12), nn.Linear(12, 16), nn.Linear(16, 12)
        self.head, self.other = nn.Linear(12, 3), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.relu(self.stem(x))
        x = x + self.down(torch.relu(self.up(x)))
        return self.head(x), self.other(x)


def test_every_reader_of_a_residual_stream_is_fitted():
    torch.manual_seed(0)
    program, x = captured(Residual(), 5), samples(400, 5)
    keep = {"stem": list(range(8))}
    fixed = cut_and_repair(program, keep, x)
    assert [fit.layer for fit in fixed.fits] == ["up", "down", "head", "other"]
    unseen = samples(200, 5, seed=1)
    assert error(program, fixed.program, unseen) < 0.7 * error(program, sliced(program, keep), unseen)
    assert all(fit.error <= fit.sliced_error for fit in fixed.fits)


def test_what_the_stream_lost_is_made_up_for_where_the_next_layer_adds_to_it():
    """The second of two layers that add learns what the first, which was cut, no longer adds."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 16), nn.Linear(16, 6)
            self.c, self.d = nn.Linear(6, 64), nn.Linear(64, 6)

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.b(torch.relu(self.a(x)))
            return x + self.d(torch.relu(self.c(x)))

    torch.manual_seed(0)
    program, x = captured(Two(), 6), samples(400, 6)
    keep, unseen = {"a": [0, 1, 2, 3]}, samples(200, 6, seed=1)
    fixed = cut_and_repair(program, keep, x)
    alone = dict(fixed.program.tensors) | {name: program.tensors[name] for name in ("d.weight", "d.bias")}
    without = Program(program.name, fixed.program.graph, alone, program.roles, program.signature)
    assert error(program, fixed.program, unseen) < 0.5 * error(program, without, unseen)


def test_a_renormalising_group_is_fitted_behind_the_changed_norm(reader_program: Program, reader_ids: np.ndarray):
    (stream,) = (group for group in couple(reader_program).free if group.renormalising)
    keep = {stream.name: list(range(0, stream.size, 2))}
    fixed, unseen = cut_and_repair(reader_program, keep, reader_ids[:100]), reader_ids[100:]
    assert error(reader_program, fixed.program, unseen) < 0.5 * error(
        reader_program, sliced(reader_program, keep), unseen
    )
    assert {"qkv", "out", "fc1", "fc2", "head"} == {fit.layer for fit in fixed.fits}


def test_a_depthwise_layer_keeps_its_means_and_the_next_full_layer_is_fitted():
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU()]
    program = captured(nn.Sequential(*layers, nn.Conv2d(8, 3, 1)), 2, 9, 9)
    x = samples(100, 2, 9, 9)
    fixed = cut_and_repair(program, {"0": [0, 1, 2]}, x)
    names = [str(node.meta["module"]) for node in program.call_nodes if node.name in fixed.corrected]
    assert names == ["4"]
    node = fixed.corrected[0]
    was, now = (
        Interpreter(one).run({"input": x}, taps=(node,))[node].mean((0, 2, 3)) for one in (program, fixed.program)
    )
    np.testing.assert_allclose(now, was, atol=1e-5)
    assert [fit.layer for fit in fixed.fits] == [
        node.name for node in program.call_nodes if node.meta["module"] in "26"
    ]


def test_what_cannot_be_fitted_is_named():
    torch.manual_seed(0)
    shared = nn.Conv2d(6, 6, 1)
    net = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.ConvTranspose2d(6, 6, 2), shared, nn.ReLU(), shared)
    program = captured(net, 2, 7, 7)
    fixed = cut_and_repair(program, {"0": [0, 1, 2]}, samples(40, 2, 7, 7))
    assert len(fixed.left) == 3
    assert fixed.fits == ()
    assert fixed.program.digest == sliced(program, {"0": [0, 1, 2]}).digest


def test_layers_too_wide_for_memory_are_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_WIDEST", 4)
    torch.manual_seed(0)
    program = captured(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)), 5)
    fixed = cut_and_repair(program, {"0": [0, 1, 2, 3, 4, 5]}, samples(40, 5))
    assert len(fixed.left) == 1


def test_few_samples_are_all_fitted_and_judged(digit_program: Program, digits):
    keep = {name: list(range(6)) for name in [couple(digit_program).free[0].name]}
    fixed = cut_and_repair(digit_program, keep, digits[0][:3])
    assert fixed.samples == 3
    assert all(fit.error <= fit.sliced_error for fit in fixed.fits)


def test_samples_are_limited_to_what_fits_into_memory(monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    program = captured(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)), 5)
    monkeypatch.setattr(module, "MEMORY", 10_000)
    fixed = cut_and_repair(program, {"0": [0, 1, 2]}, samples(500, 5))
    assert 0 < fixed.samples < 300
    assert fixed.to_json()["samples"] == fixed.samples


def test_cumulative_statistics_are_those_of_torch():
    """A batch norm in training with ``momentum=None``, which is the cumulative average over batches of one size."""
    values = [torch.from_numpy(samples(8, 5, 3, 3, seed=seed)) for seed in range(4)]
    norm = nn.BatchNorm2d(5, momentum=None)  # pyright: ignore[reportArgumentType]
    for value in values:
        norm(value)
    mean, variance = cumulative_statistics(values)
    torch.testing.assert_close(mean.float(), norm.running_mean)
    torch.testing.assert_close(variance.float(), norm.running_var)
    uneven = [torch.cat(values[:3]), values[3]]
    torch.testing.assert_close(cumulative_statistics(uneven)[0], mean)


def test_one_value_has_no_variance():
    mean, variance = cumulative_statistics([torch.tensor([[1.0, 2.0]])])
    assert (mean.tolist(), variance.tolist()) == ([1.0, 2.0], [0.0, 0.0])
