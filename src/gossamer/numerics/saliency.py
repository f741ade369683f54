"""Saliency: one number for each removable unit (channel, head, feature), larger = keep.

Evidence comes as tensors of which one axis holds the units of a group. Which position belongs to which unit is an
index vector, (axis size,) integers: the unit, or -1 where the position belongs to another group. So the same functions
score channels, heads of several columns each, and what a flatten or a concatenation made of them.

All scores are float64. Only Taylor, Fisher and (in ``least_squares``) the removal cost can be compared between groups;
the others order the units of one group.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from gossamer.core.errors import DataError, OptionError
from gossamer.core.names import require_known
from gossamer.numerics.quantizers import broadcast_along

Index = Tensor | np.ndarray | Sequence[int]
"""(axis size,) integers: the unit of each position along an axis, -1 where it belongs to none."""

Inner = Literal["sum", "squares"]

# Units


def unit_scores(values: Tensor, index: Index, size: int, axis: int = 0) -> Tensor:
    """Sum of all values of each unit.

    Args:
        values: any shape, with the units along ``axis``.
        index: unit of each position along ``axis``.
        size: number of units.
        axis: where the units are.

    Returns:
        (size,) float64.
    """
    return _unit_sums(values.movedim(axis, 0)[None], index, size)[0]


def _unit_sums(values: Tensor, index: Index, size: int) -> Tensor:
    """(samples, axis, ...) to (samples, size)."""
    positions = values.flatten(2).sum(2, dtype=torch.float64) if values.dim() > 2 else values.double()
    index = torch.as_tensor(index, device=values.device)
    own = index >= 0
    sums = torch.zeros(len(values), size, dtype=torch.float64, device=values.device)
    return sums.index_add_(1, index[own], positions[:, own])


def ranking(scores: Tensor) -> list[int]:
    """All units from the best to the worst; equal scores in order of their index.

    Raises:
        DataError: a score is not finite.
    """
    if not bool(torch.isfinite(scores).all()):
        bad = torch.nonzero(~torch.isfinite(scores)).flatten().tolist()
        raise DataError(
            "ranking units by their scores",
            got=f"no finite score for {len(bad)} of {len(scores)} units, the first at index {bad[0]}",
            try_="look for inf or nan in the weights and the calibration data",
        )
    return torch.sort(scores, descending=True, stable=True).indices.tolist()


def keep_indices(scores: Tensor, count: int) -> list[int]:
    """The ``count`` best units in ascending order; of equal scores the earlier. Smaller counts give subsets.

    Raises:
        OptionError: the count is not within 1..units.
        DataError: a score is not finite.
    """
    if not 1 <= count <= len(scores):
        raise OptionError("choosing what to keep", got=f"count {count}", expected=f"1 to {len(scores)}")
    return sorted(ranking(scores)[:count])


def relative(scores: Tensor) -> Tensor:
    """Scores divided by their mean, so that they can meet scores of another scale; zeros if that is zero."""
    mean = scores.double().mean()
    return scores.double() / mean if mean > 0 else torch.zeros_like(scores, dtype=torch.float64)


def combine(members: Sequence[Tensor]) -> Tensor:
    """Score of a group from those of its members: the sum of their squares after division by each member's mean.

    Args:
        members: (units,) each, at least one.

    Returns:
        (units,).
    """
    return torch.stack([relative(scores).square() for scores in members]).sum(0)


# Scores from weights


def random(size: int, seed: int) -> Tensor:
    """A random permutation: the control that every other score has to beat."""
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed)).double()


def l1(weight: Tensor, index: Index, size: int, axis: int = 0, scale: Tensor | None = None) -> Tensor:
    """Sum of absolute weights of each unit.

    Args:
        weight: any shape, with the units along ``axis``.
        index: unit of each position along ``axis``.
        size: number of units.
        axis: where the units are.
        scale: (axis size,), what a batch norm behind the layer multiplies with, gamma / sigma. Without it the score
            ranks a scaling of the weights that the norm undoes.
    """
    return unit_scores(_scaled(weight, scale, axis).abs(), index, size, axis)


def l2(weight: Tensor, index: Index, size: int, axis: int = 0, scale: Tensor | None = None) -> Tensor:
    """Sum of squared weights of each unit; arguments as for ``l1``."""
    return unit_scores(_scaled(weight, scale, axis).square(), index, size, axis)


def _scaled(weight: Tensor, scale: Tensor | None, axis: int) -> Tensor:
    weight = weight.double()  # half precision would overflow when squared
    return weight if scale is None else weight * broadcast_along(scale.double(), weight, axis)


def norm_scale(gamma: Tensor, index: Index, size: int) -> Tensor:
    """Absolute scale of a batch norm, of (channels,); it means most after training with a penalty on it."""
    return unit_scores(gamma.double().abs(), index, size)


# Scores from gradients


def gate_gradient(value: Tensor, gradient: Tensor, index: Index, size: int, axis: int = 0) -> Tensor:
    """Derivative of the loss by a gate of value 1 that multiplies each unit: the sum of value * gradient.

    Of a weight, of an activation (with ``axis=1``) or of a norm: there it is the sum for scale and for shift.

    Args:
        value: any shape, with the units along ``axis``.
        gradient: of the loss by ``value``, same shape.
        index: unit of each position along ``axis``.
        size: number of units.
        axis: where the units are.
    """
    return unit_scores(value.double() * gradient.double(), index, size, axis)


def taylor_gate(gates: Tensor) -> Tensor:
    """Mean over batches of the squared gate gradient, from (batches, units).

    Reference: Molchanov et al., Importance Estimation for Neural Network Pruning, 2019.
    """
    return gates.double().square().mean(0)


def taylor(weight: Tensor, gradient: Tensor, index: Index, size: int, axis: int = 0, inner: Inner = "sum") -> Tensor:
    """Squared first-order change of the loss when a unit's weights go, for one batch; average it over batches.

    Args:
        weight: any shape, with the units along ``axis``.
        gradient: of the loss by ``weight``, same shape.
        index: unit of each position along ``axis``.
        size: number of units.
        axis: where the units are.
        inner: "sum": the square of the sum of weight * gradient; "squares": the sum of its squares.

    Raises:
        UnknownName: another ``inner``.
    """
    require_known(inner, get_args(Inner), "inner", "scoring by Taylor expansion")
    if inner == "sum":
        return gate_gradient(weight, gradient, index, size, axis).square()
    return unit_scores((weight.double() * gradient.double()).square(), index, size, axis)


def fisher(
    activation: Tensor, gradient: Tensor, index: Index, size: int, axis: int = 1, *, mean_loss: bool = True
) -> Tensor:
    """Half the mean over samples of the squared gate gradient of each sample.

    Args:
        activation: (samples, ...), with the units along ``axis``.
        gradient: of the loss by ``activation``, same shape.
        index: unit of each position along ``axis``.
        size: number of units.
        axis: where the units are, not 0.
        mean_loss: the loss is the mean over the samples. Its gradients are multiplied by their number, or the score
            would shrink with the batch.

    Reference: Theis et al., Faster gaze prediction with dense networks and Fisher pruning, 2018.
    """
    samples = len(activation)
    gates = _unit_sums((activation.double() * gradient.double()).movedim(axis, 1), index, size)
    return fisher_gate(gates * (samples if mean_loss else 1))


def fisher_gate(gates: Tensor) -> Tensor:
    """Half the mean of the squared gate gradients of samples, from (samples, units) of a loss summed over samples."""
    return gates.double().square().mean(0) / 2


# Scores from activations


def hrank(maps: Tensor) -> Tensor:
    """Mean rank of each channel's activation maps.

    Ranks are of float32 with the tolerance max(height, width) * eps * largest singular value, since rank depends on
    both. They say little on small maps, nothing on maps of one pixel.

    Args:
        maps: (samples, channels, height, width).

    Returns:
        (channels,).

    Raises:
        DataError: not of four dimensions.

    Reference: Lin et al., HRank: Filter Pruning using High-Rank Feature Map, 2020.
    """
    require_maps(maps, "scoring by the rank of activation maps")
    tolerance = max(maps.shape[2:]) * torch.finfo(torch.float32).eps
    return torch.linalg.matrix_rank(maps.float(), rtol=tolerance).double().mean(0)


def require_maps(maps: Tensor, doing: str) -> None:
    """Raise ``DataError`` unless ``maps`` are (samples, channels, height, width) and none of these is 0."""
    if maps.dim() != 4 or not maps.numel():
        raise DataError(
            doing,
            got=f"activations of shape {tuple(maps.shape)}",
            expected="(samples, channels, height, width)",
            try_="another score for this group: l2, taylor, fisher or removal cost",
        )
