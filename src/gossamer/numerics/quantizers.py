"""Integer grids: rounding, scales from ranges, and the search for the range that loses least.

A grid maps a real x to the code ``clamp(round(x / scale) + zero_point, low, high)`` and a code q back to
``scale * (q - zero_point)``. Rounding is half to even.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

MIN_SCALE = 1e-8
"""Smallest scale: keeps constant and all-zero tensors on a valid grid."""


def broadcast_along(parameter: Tensor, x: Tensor, axis: int | None) -> Tensor:
    """View a (channels,) tensor so that it multiplies ``x`` along ``axis``; a () tensor is returned as it is."""
    if axis is None:
        return parameter
    shape = [1] * x.dim()
    shape[axis] = -1
    return parameter.reshape(shape)


def fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor, axis: int | None, low: int, high: int) -> Tensor:
    """The nearest values to ``x`` on the grid, same shape and dtype."""
    step, zero = broadcast_along(scale, x, axis), broadcast_along(zero_point, x, axis)
    return (torch.clamp(torch.round(x / step) + zero, low, high) - zero) * step


def affine_grid(lowest: Tensor, highest: Tensor, low: int, high: int) -> tuple[Tensor, Tensor]:
    """Scale and zero point of the grid that covers [lowest, highest] and holds 0 exactly.

    A rounded zero point moves the grid; the scale then grows until both ends are covered again, in the direction where
    it grows least. Else images of 256 levels in [-1, 1] would lie half way between two codes, all of them. An end less
    than half a step from 0 is not covered.

    Args:
        lowest: smallest real values, any shape.
        highest: largest real values, same shape.
        low: smallest code.
        high: largest code.

    Returns:
        Scale and zero point (a whole number as float), each of the shape of ``lowest``.
    """
    lowest, highest = lowest.clamp(max=0.0), highest.clamp(min=0.0)
    scale = ((highest - lowest) / (high - low)).clamp(min=MIN_SCALE)
    exact = low - lowest / scale

    def grown(zero_point: Tensor) -> Tensor:
        """The scale at which both ends are covered."""
        below, above = (
            torch.where((codes < 1) & (end <= scale / 2), 0.0, end / codes.clamp(min=0))
            for end, codes in ((-lowest, zero_point - low), (highest, high - zero_point))
        )
        return torch.maximum(scale, torch.maximum(below, above))

    down, up = (rounded.clamp(low, high) for rounded in (exact.floor(), exact.ceil()))
    scale_down, scale_up = grown(down), grown(up)
    is_up = scale_up < scale_down
    return torch.where(is_up, scale_up, scale_down), torch.where(is_up, up, down)


def symmetric_grid(largest: Tensor, high: int) -> tuple[Tensor, Tensor]:
    """Scale and zero point 0 of the grid that covers [-largest, largest] with codes -high..high."""
    scale = (largest / high).clamp(min=MIN_SCALE)
    return scale, torch.zeros_like(scale)


def best_symmetric_scale(
    weight: Tensor,
    axis: int,
    high: int,
    steps: int = 40,
    ends: tuple[float, float] = (1.0, 0.5),
    allowed: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Per-channel scale of least squared error, searched from the first range of ``ends`` to the last.

    Args:
        weight: any shape.
        axis: the channel axis.
        high: largest code, 127 for int8.
        steps: number of ranges tried.
        ends: widest and narrowest range tried, as shares of max-abs.
        allowed: which channels may have these codes, given with the channel axis first; the widest range always may.

    Returns:
        (channels,) scales.
    """
    channels = weight.movedim(axis, 0)
    rows = channels.flatten(1)
    largest = rows.abs().amax(1).clamp(min=MIN_SCALE * high)
    best = ends[0] * largest / high
    best_error = torch.full_like(best, torch.inf)
    for share in torch.linspace(*ends, steps, dtype=rows.dtype).tolist():
        scale = share * largest / high
        codes = torch.clamp(torch.round(rows / scale[:, None]), -high, high)
        error = (codes * scale[:, None] - rows).square().sum(1)
        better = error < best_error
        if allowed is not None:
            better &= allowed(codes.reshape(channels.shape))
        best, best_error = torch.where(better, scale, best), torch.where(better, error, best_error)
    return best


def histogram_error(counts: Tensor, edges: tuple[float, float], lowest: float, highest: float, levels: int) -> float:
    """Expected squared error of an affine grid over [lowest, highest] for values distributed as a histogram.

    Args:
        counts: (bins,) number of values per bin.
        edges: real values at the two ends of the histogram.
        lowest: smallest value of the grid.
        highest: largest value of the grid.
        levels: number of codes less one, 255 for 8 bits.
    """
    bins = counts.numel()
    width = (edges[1] - edges[0]) / bins
    centers = edges[0] + width * (torch.arange(bins, dtype=torch.float64) + 0.5)
    scale, zero_point = affine_grid(torch.tensor(lowest).double(), torch.tensor(highest).double(), 0, levels)
    # Inside the grid a value is off by at most half a step; bins narrower than a step see the mean of that error.
    error = fake_quantize(centers, scale, zero_point, None, 0, levels) - centers
    inside = (centers >= lowest) & (centers <= highest)
    squared = torch.where(inside, torch.maximum(error.square(), scale**2 / 12), error.square())
    return float((squared * counts).sum())


def histogram_divergence(counts: Tensor, start: int, stop: int, levels: int) -> float:
    """Kullback-Leibler divergence of a distribution clipped to ``counts[start:stop]`` from what its codes keep of it.

    What lies outside counts in the outermost bins. The codes split the bins kept into ``levels`` even parts, and each
    spreads the values that were inside evenly over those of its bins that hold any.

    Args:
        counts: (bins,) number of values per bin.
        start: first bin kept.
        stop: one behind the last bin kept.
        levels: number of codes, 256 for 8 bits.

    Reference: Migacz, 8-bit Inference with TensorRT, 2017; ONNX Runtime's ``HistogramCollector`` does the same.
    """
    kept = counts[start:stop].double()
    clipped = kept.clone()
    clipped[0] += counts[:start].sum()
    clipped[-1] += counts[stop:].sum()
    filled = clipped > 0
    codes = torch.arange(len(kept)) * levels // len(kept)
    mass = torch.zeros(levels, dtype=torch.float64).index_add_(0, codes, kept)
    bins = torch.zeros(levels, dtype=torch.float64).index_add_(0, codes, filled.double())
    coded = torch.where(filled, (mass / bins.clamp(min=1))[codes], 0.0)
    coded[filled & (coded == 0)] = _NEARLY_EMPTY  # only what was cut off stands here: no code is left for it
    p, q = clipped[filled] / clipped.sum(), coded[filled] / coded.sum()
    return float((p * (p / q).log()).sum())


_NEARLY_EMPTY = 1e-4
"""Counts in place of none, so that the divergence is finite."""
