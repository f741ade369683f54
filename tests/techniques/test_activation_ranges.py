"""Ranges of activations: what each observer promises, and data on which no range can be observed."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gossamer import flow
from gossamer.core.errors import DataError
from gossamer.numerics.quantizers import affine_grid, fake_quantize, histogram_divergence, histogram_error
from gossamer.techniques.quantize.calibration import OBSERVERS, Histogram, observe
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
    return observe(doubling.program, {"input": rows}, [doubling.node])[doubling.node].range(observer, percentile)


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


def histogram_of(values: np.ndarray) -> Histogram:
    lowest, highest = float(values.min()), float(values.max())
    counts, _ = np.histogram(values, bins=2048, range=(lowest, highest))
    return Histogram(lowest, highest, torch.from_numpy(counts).double())


def error_of(values: np.ndarray, ends: tuple[float, float]) -> float:
    """Mean squared error of the values themselves on 256 codes over a range."""
    scale, zero = affine_grid(*(torch.tensor(end, dtype=torch.float64) for end in ends), 0, 255)
    kept = fake_quantize(torch.from_numpy(values), scale, zero, None, 0, 255)
    return float((kept - torch.from_numpy(values)).square().mean())


NORMAL, HEAVY, RELU = (
    np.random.default_rng(0).standard_normal(40_000),
    np.random.default_rng(1).standard_t(2.5, 40_000),
    np.maximum(np.random.default_rng(2).standard_normal(40_000), 0),
)
DISTRIBUTIONS = {
    "normal": NORMAL,
    "heavy tails": HEAVY,
    "behind a relu": RELU,
    "shifted": NORMAL + 2,
    "above 5": abs(NORMAL) + 5,
}


def test_the_percentile_is_that_of_the_values():
    low, high = histogram_of(NORMAL).range("percentile", 99.0)
    width = (NORMAL.max() - NORMAL.min()) / 2048
    np.testing.assert_allclose((low, high), np.quantile(NORMAL, [0.005, 0.995]), atol=1.001 * width)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_mse_is_the_best_of_its_shares_on_the_values_themselves(name: str):
    values = DISTRIBUTIONS[name]
    found = error_of(values, histogram_of(values).range("mse", 100.0))
    shares = np.linspace(1, 0.3, 40)
    best = min(error_of(values, (values.min() * share, values.max() * share)) for share in shares)
    # The histogram knows a value to within one of 2048 bins, an eighth of a step of 256 codes.
    assert found <= 1.05 * best


def divergence_by_hand(counts: list[float], start: int, stop: int, levels: int) -> float:
    """Definition of ``histogram_divergence``, one bin after the other."""
    p = list(counts[start:stop])
    p[0] += sum(counts[:start])
    p[-1] += sum(counts[stop:])
    size, q = len(p), [0.0] * len(p)
    for level in range(levels):
        bins = [index for index in range(size) if index * levels // size == level]
        filled = [index for index in bins if p[index] > 0]
        for index in filled:
            q[index] = sum(counts[start + other] for other in bins) / len(filled) or 1e-4
    total_p, total_q = sum(p), sum(q)
    return sum(a / total_p * np.log(a / total_p / (b / total_q)) for a, b in zip(p, q, strict=True) if a > 0)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 50), min_size=12, max_size=60).filter(any),
    st.integers(0, 5),
    st.integers(0, 5),
    st.integers(1, 6),
)
def test_the_divergence_is_that_of_its_definition(counts: list[int], start: int, cut: int, levels: int):
    stop = len(counts) - cut
    found = histogram_divergence(torch.tensor(counts).double(), start, stop, levels)
    assert found == pytest.approx(divergence_by_hand(counts, start, stop, levels), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", ["normal", "heavy tails", "shifted"])
def test_entropy_takes_the_window_of_least_divergence(name: str):
    values = DISTRIBUTIONS[name]
    histogram = histogram_of(values)
    low, high = histogram.range("entropy", 100.0)
    width = (values.max() - values.min()) / 2048
    counts = histogram.counts.clone()
    zero = int(-values.min() / width)
    counts[zero] = (counts[zero - 1] + counts[zero + 1]) / 2

    def divergence(share: float) -> float:
        start, stop = (round((end * share - values.min()) / width) for end in (values.min(), values.max()))
        return histogram_divergence(counts, start, stop, 256)

    chosen = high / values.max()
    assert low / values.min() == pytest.approx(chosen, abs=0.01)
    assert divergence(chosen) <= min(map(divergence, np.linspace(1, 0.125, 113))) + 1e-6


def test_entropy_serves_the_many_where_tails_are_heavy():
    """Half of all values lie within 1.2 of 0, single ones at 90: each observer is best by its own measure."""

    def errors(observer: str) -> Tensor:
        values = torch.from_numpy(HEAVY)
        ends = (torch.tensor(end, dtype=torch.float64) for end in histogram_of(HEAVY).range(observer, 100.0))
        return (fake_quantize(values, *affine_grid(*ends, 0, 255), None, 0, 255) - values).abs()

    entropy, minmax, mse = map(errors, ("entropy", "minmax", "mse"))
    assert entropy.median() < 0.5 * minmax.median()
    assert entropy.square().mean() > minmax.square().mean() >= mse.square().mean()


def test_entropy_cuts_nothing_off_where_there_are_no_tails():
    uniform = np.random.default_rng(3).uniform(-1, 3, 200_000)
    assert histogram_of(uniform).range("entropy", 100.0) == pytest.approx((-1, 3), abs=0.1)


def test_a_spike_of_zeros_does_not_move_the_entropy_range():
    spiked = np.concatenate([RELU, np.zeros(400_000)])
    assert histogram_of(spiked).range("entropy", 100.0) == histogram_of(RELU).range("entropy", 100.0)


@pytest.mark.parametrize("observer", OBSERVERS)
def test_a_value_that_never_changes_has_its_own_range(doubling, observer: str):
    assert observed(doubling, np.full(24, 1.5), observer) == (3.0, 3.0)


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
