"""Ranges of activations: what each observer promises, and data on which no range can be observed."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gossamer import flow
from gossamer.core.errors import DataError
from gossamer.numerics.quantizers import histogram_error
from gossamer.techniques.quantize.calibration import observe_ranges
from gossamer.techniques.quantize.int8 import Int8


@pytest.fixture(scope="module")
def doubling():
    """y = 2 x on (batch, 6), and its only node."""
    program = flow.capture(nn.Sequential(nn.Linear(6, 6, bias=False)), torch.ones(2, 6))
    (weight,) = program.tensors
    program.tensors[weight].data = 2 * torch.eye(6)
    return SimpleNamespace(program=program, node=program.call_nodes[0])


def observed(doubling, values: np.ndarray, observer: str, percentile: float = 99.0) -> tuple[float, float]:
    rows = np.resize(values, (-(-values.size // 6), 6)).astype(np.float32)
    return observe_ranges(doubling.program, {"input": rows}, [doubling.node], observer, percentile)[doubling.node]


ARRAYS = st.lists(st.floats(-1e3, 1e3, width=32), min_size=12, max_size=500).map(np.array)


@settings(max_examples=40, deadline=None)
@given(ARRAYS)
def test_minmax_is_exact(doubling, values: np.ndarray):
    assert observed(doubling, values, "minmax") == (2 * values.min(), 2 * values.max())


@settings(max_examples=40, deadline=None)
@given(ARRAYS, st.floats(50, 100, exclude_min=True))
def test_a_percentile_lies_inside_the_extremes_and_holds_its_share(doubling, values: np.ndarray, percentile: float):
    values = np.resize(values, -(-values.size // 6) * 6)
    low, high = observed(doubling, values, "percentile", percentile)
    # Ends are edges of 2048 bins, computed in float64 from float32 extremes.
    slack = 1e-6 * (abs(values).max() + 1)
    assert 2 * values.min() - slack <= low <= high <= 2 * values.max() + slack
    inside = np.mean((2 * values >= low - slack) & (2 * values <= high + slack))
    assert inside >= percentile / 100 - 1e-9


@settings(max_examples=25, deadline=None)
@given(ARRAYS)
def test_mse_never_expects_more_error_than_minmax(doubling, values: np.ndarray):
    lowest, highest = observed(doubling, values, "minmax")
    if lowest == highest:
        assert observed(doubling, values, "mse") == (lowest, highest)
        return
    doubled = torch.from_numpy(2 * np.resize(values, -(-values.size // 6) * 6)).float()
    counts = torch.histc(doubled, 2048, lowest, highest).double()

    def error(ends: tuple[float, float]) -> float:
        return histogram_error(counts, (lowest, highest), *ends, levels=255)

    assert error(observed(doubling, values, "mse")) <= error((lowest, highest))


def test_mse_cuts_an_outlier_off(doubling):
    """Nearly all values in [0, 2] and one at 6: a finer grid for all is worth some error of the one."""
    values = np.append(np.random.default_rng(0).uniform(0, 1, 60_000), 3.0)
    assert 2 < observed(doubling, values, "mse")[1] < 6.0
    assert observed(doubling, values, "minmax")[1] == 6.0


def test_batches_of_any_size_see_the_same_extremes(doubling):
    values = np.random.default_rng(1).standard_normal((101, 6)).astype(np.float32)
    for count in (1, 31, 32, 33, 101):
        expected = (2 * values[:count].min(), 2 * values[:count].max())
        assert observed(doubling, values[:count], "minmax") == expected


class Root(nn.Module):
    """Not a number for inputs below zero, inside."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.root = nn.Linear(3, 2)

    def forward(self, x):
        return self.root(torch.sqrt(self.first(x)).clamp(max=5))


def test_values_that_are_not_finite_are_named_with_their_node(target):
    net = Root()
    nn.init.eye_(net.first.weight)
    nn.init.zeros_(net.first.bias)
    program = flow.capture(net, torch.ones(2, 3))
    data = np.ones((8, 3), np.float32)
    Int8().apply(program, {"x": data}, target)
    data[5, 1] = -1
    with pytest.raises(DataError, match=r"calibrating Root\n  got: values that are not finite at \w+"):
        Int8().apply(program, {"x": data}, target)


@pytest.mark.parametrize("inputs", [{}, {"x": np.empty((0, 3), np.float32)}])
def test_no_data_is_refused(target, inputs):
    with pytest.raises(DataError, match=r"no samples[\s\S]*a hundred or more"):
        Int8().apply(flow.capture(nn.Linear(3, 2), torch.ones(2, 3)), inputs, target)


@pytest.mark.parametrize("dynamic", [None, {"input": {0: "batch=3..5"}}])
def test_programs_of_a_fixed_or_bounded_batch_are_calibrated_too(target, dynamic):
    net = nn.Linear(6, 4)
    data = np.random.default_rng(0).standard_normal((32, 6)).astype(np.float32)
    free = Int8(observer="minmax").apply(flow.capture(net, torch.ones(4, 6)), {"input": data}, target)
    bound = Int8(observer="minmax").apply(flow.capture(net, torch.ones(4, 6), dynamic=dynamic), {"input": data}, target)
    assert {name: tensor.tolist() for name, tensor in free.tensors.items()} == {
        name: tensor.tolist() for name, tensor in bound.tensors.items()
    }
