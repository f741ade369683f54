"""Ranges of activations, observed on calibration data."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx

from gossamer.analysis.statistics import run_batches
from gossamer.core.errors import DataError
from gossamer.numerics.quantizers import histogram_divergence, histogram_error
from gossamer.program.program import Program

OBSERVERS = ("minmax", "percentile", "mse", "entropy")

_BINS = 2048
_LEVELS = 256
_MSE_STEPS = 40
_MSE_SMALLEST = 0.3
_ENTROPY_STEPS = 113


@dataclass
class Histogram:
    """Counts of a value's elements between its extremes, in 2048 bins; all 0 where the value never changes."""

    lowest: float
    highest: float
    counts: Tensor

    @classmethod
    def of(cls, values: Tensor) -> Histogram:
        """Of one tensor."""
        lowest, highest = (float(end) for end in torch.aminmax(values))
        histogram = cls(lowest, highest, torch.zeros(_BINS, dtype=torch.float64))
        histogram.add(values)
        return histogram

    def add(self, values: Tensor) -> None:
        """Count values that lie between the extremes."""
        if self.highest > self.lowest:
            self.counts += torch.histc(values.float(), _BINS, self.lowest, self.highest).double()

    def range(self, observer: str, percentile: float) -> tuple[float, float]:
        """Smallest and largest real value that the grid has to hold.

        Args:
            observer: ``minmax``: the extremes. ``percentile``: cut so that this share of all elements lies inside, half
                of the rest on each side. ``mse``: the shrunken range of least expected squared error. ``entropy``: the
                shrunken range whose codes say most about the values, by Kullback-Leibler divergence.
            percentile: share in percent, for that observer.
        """
        if observer == "minmax" or float(self.counts.sum()) == 0:
            return self.lowest, self.highest
        if observer == "percentile":
            return self._percentile(percentile)
        return self._least_error() if observer == "mse" else self._least_divergence()

    def _edge(self, index: int) -> float:
        """Real value at the lower end of a bin."""
        return self.lowest + index * (self.highest - self.lowest) / _BINS

    def _percentile(self, percentile: float) -> tuple[float, float]:
        total = float(self.counts.sum())
        outside = (1 - percentile / 100) / 2 * total
        cumulative = torch.cumsum(self.counts, 0)
        first = int(torch.searchsorted(cumulative, outside, right=True))
        last = int(torch.searchsorted(cumulative, total - outside))
        return self._edge(first), self._edge(min(last + 1, _BINS))

    def _least_error(self) -> tuple[float, float]:
        """Shrink both ends by one factor; which factor is a line search over the expected error."""
        edges = (self.lowest, self.highest)

        def error(share: float) -> float:
            return histogram_error(self.counts, edges, edges[0] * share, edges[1] * share, levels=_LEVELS - 1)

        best = min(torch.linspace(1.0, _MSE_SMALLEST, _MSE_STEPS).tolist(), key=error)
        return edges[0] * best, edges[1] * best

    def _least_divergence(self) -> tuple[float, float]:
        """Shrink both ends by one factor, in whole bins, down to one bin a code.

        Zeros are exact on every grid, and a spike of them behind a relu would drown all else: the bin that holds them
        counts as much as its neighbours.
        """
        counts = self.counts.clone()
        if self.lowest <= 0 <= self.highest:
            zero = min(int(-self.lowest / (self.highest - self.lowest) * _BINS), _BINS - 1)
            counts[zero] = counts[[index for index in (zero - 1, zero + 1) if 0 <= index < _BINS]].mean()

        def window(share: float) -> tuple[int, int]:
            return self._bin(self.lowest * share), self._bin(self.highest * share)

        shares = torch.linspace(1.0, _LEVELS / _BINS, _ENTROPY_STEPS).tolist()
        windows = [(start, stop) for start, stop in map(window, shares) if stop - start >= _LEVELS]
        start, stop = min(windows, key=lambda ends: histogram_divergence(counts, *ends, levels=_LEVELS))
        return self._edge(start), self._edge(stop)

    def _bin(self, value: float) -> int:
        """Index of the bin edge nearest to a value."""
        return min(max(round((value - self.lowest) / (self.highest - self.lowest) * _BINS), 0), _BINS)


def observe(
    program: Program, inputs: Mapping[str, np.ndarray], values: Collection[fx.Node]
) -> dict[fx.Node, Histogram]:
    """Distributions of values on calibration data: two passes, extremes first, then the counts between them.

    Args:
        program: run in float by the reference interpreter.
        inputs: calibration inputs by name, first axis the samples.
        values: the nodes to observe.

    Raises:
        DataError: a value is not finite on the calibration data, named with the node.
    """
    wanted = set(values)
    found: dict[fx.Node, Histogram] = {}

    def see_extremes(node: fx.Node, value: Tensor) -> None:
        if node in wanted:
            low, high = (float(end) for end in torch.aminmax(value))
            require_finite(program, node, low, high)
            known = found.setdefault(node, Histogram(low, high, torch.zeros(_BINS, dtype=torch.float64)))
            known.lowest, known.highest = min(low, known.lowest), max(high, known.highest)

    def count(node: fx.Node, value: Tensor) -> None:
        if node in wanted:
            found[node].add(value)

    run_batches(program, inputs, see_extremes)
    run_batches(program, inputs, count)
    return found


def require_finite(program: Program, node: fx.Node, *values: float) -> None:
    """Raise ``DataError`` with the node unless all values are finite."""
    if not np.isfinite(values).all():
        raise DataError(
            f"calibrating {program.name}",
            got=f"values that are not finite at {node.name} ({node.meta.get('module', '')})",
            expected="finite values on all calibration data",
            try_="check the preprocessing of the data",
        )
