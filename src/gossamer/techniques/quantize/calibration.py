"""Ranges of activations, observed on calibration data."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx

from gossamer.core.errors import DataError
from gossamer.numerics.quantizers import histogram_error
from gossamer.program.interpreter import execute
from gossamer.program.program import Program

OBSERVERS = ("minmax", "percentile", "mse")

_BINS = 2048
_BATCH = 32
_MSE_STEPS = 40
_MSE_SMALLEST = 0.3


@dataclass
class _Histogram:
    """Counts of a value's elements between its extremes."""

    lowest: float
    highest: float
    counts: Tensor


def observe_ranges(
    program: Program, inputs: Mapping[str, np.ndarray], values: Collection[fx.Node], observer: str, percentile: float
) -> dict[fx.Node, tuple[float, float]]:
    """Smallest and largest real value that each grid has to hold.

    Two passes over the data: extremes first, then histograms between them (not needed for ``minmax``).

    Args:
        program: run in float by the reference interpreter.
        inputs: calibration inputs by name, first axis the samples.
        values: the nodes to observe.
        observer: ``minmax``: the extremes; ``percentile``: cut so that this share of all elements lies inside, half of
            the rest on each side; ``mse``: the shrunken range of least expected squared error.
        percentile: share in percent, for that observer.

    Raises:
        DataError: a value is not finite on the calibration data, named with the node.
    """
    wanted = set(values)
    extremes: dict[fx.Node, tuple[float, float]] = {}

    def see_extremes(node: fx.Node, value: Tensor) -> None:
        if node in wanted:
            low, high = (float(end) for end in torch.aminmax(value))
            if not (np.isfinite(low) and np.isfinite(high)):
                raise DataError(
                    f"calibrating {program.name}",
                    got=f"values that are not finite at {node.name} ({node.meta.get('module', '')})",
                    expected="finite values on all calibration data",
                    try_="check the preprocessing of the data",
                )
            known = extremes.get(node, (low, high))
            extremes[node] = min(low, known[0]), max(high, known[1])

    _run(program, inputs, see_extremes)
    if observer == "minmax":
        return extremes
    histograms = {
        node: _Histogram(low, high, torch.zeros(_BINS, dtype=torch.float64)) for node, (low, high) in extremes.items()
    }

    def count(node: fx.Node, value: Tensor) -> None:
        if node in wanted:
            histogram = histograms[node]
            if histogram.highest > histogram.lowest:
                histogram.counts += torch.histc(value.float(), _BINS, histogram.lowest, histogram.highest).double()

    _run(program, inputs, count)
    choose = _least_error if observer == "mse" else lambda histogram: _percentile(histogram, percentile)
    return {node: choose(histogram) for node, histogram in histograms.items()}


def _run(program: Program, inputs: Mapping[str, np.ndarray], observe) -> None:
    count = len(next(iter(inputs.values())))
    low, high = _batch_range(program)
    size = min(_BATCH, high) if low <= _BATCH else low
    for start in range(0, count, size):
        batch = {name: array[start : start + size] for name, array in inputs.items()}
        if min(size, count - start) < low:  # samples of the piece are repeated where the program takes no smaller batch
            batch = {name: np.resize(array, (low, *array.shape[1:])) for name, array in batch.items()}
        checked = program.signature.check(batch)
        execute(program, {name: torch.from_numpy(array) for name, array in checked.items()}, observe)


def _batch_range(program: Program) -> tuple[int, int]:
    """Smallest and largest batch that the program takes."""
    first = program.signature.inputs[0].shape[0]
    if isinstance(first, int):
        return first, first
    low, high = program.signature.dims.get(first, (1, None))
    return max(low, 1), _BATCH if high is None else high


def _percentile(histogram: _Histogram, percentile: float) -> tuple[float, float]:
    total = float(histogram.counts.sum())
    if total == 0:
        return histogram.lowest, histogram.highest
    outside = (1 - percentile / 100) / 2 * total
    cumulative = torch.cumsum(histogram.counts, 0)
    width = (histogram.highest - histogram.lowest) / _BINS
    first = int(torch.searchsorted(cumulative, outside, right=True))
    last = int(torch.searchsorted(cumulative, total - outside))
    return histogram.lowest + first * width, histogram.lowest + min(last + 1, _BINS) * width


def _least_error(histogram: _Histogram) -> tuple[float, float]:
    """Shrink both ends by one factor; which factor is a line search over the expected error."""
    edges = (histogram.lowest, histogram.highest)
    if float(histogram.counts.sum()) == 0:
        return edges

    def error(share: float) -> float:
        return histogram_error(histogram.counts, edges, edges[0] * share, edges[1] * share, levels=255)

    best = min(torch.linspace(1.0, _MSE_SMALLEST, _MSE_STEPS).tolist(), key=error)
    return edges[0] * best, edges[1] * best
