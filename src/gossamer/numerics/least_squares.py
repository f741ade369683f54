"""Least squares behind a cut: what removed inputs contributed, expressed through the inputs that stay.

A consumer computes ``y = W x + b`` with W (p, q), one row of inputs x (q,) per sample, token or output position. Its
inputs enter as ``Moments`` only: capture once, then solve for any set of kept columns, any ridge. All in float64.

A convolution is such a consumer of its windows: ``weight.flatten(1)`` is W, column ``channel * taps + tap``, and
``sampled_windows`` gives the rows. Each group of a grouped convolution is a consumer of its own; a depthwise one has
nothing to compensate with, its channels go and the next full consumer is compensated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from gossamer.core.errors import DataError, InternalError, OptionError
from gossamer.core.names import require_known
from gossamer.numerics.saliency import Index
from gossamer.numerics.saturation import Window

RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""What ``ridge="auto"`` tries, relative to the mean variance of the kept inputs."""

Prior = Literal["slice", "zero"]

# Moments


@dataclass(frozen=True)
class Moments:
    """All that least squares needs of rows of inputs and, optionally, of the targets seen beside them.

    Moments of two shards add up to those of one pass: ``sum(shards[1:], shards[0])``.

    Attributes:
        count: number of rows.
        mean: (q,) of the inputs.
        scatter: (q, q), sum of products of centred inputs.
        target_mean: (p,), empty without targets.
        cross: (p, q), sum of products of centred targets and inputs.
        target_scatter: (p,), sum of squares of centred targets.
    """

    count: int
    mean: Tensor
    scatter: Tensor
    target_mean: Tensor
    cross: Tensor
    target_scatter: Tensor

    @classmethod
    def of(cls, rows: Tensor, targets: Tensor | None = None) -> Moments:
        """Moments of (n, q) inputs and (n, p) targets, with n at least 1.

        Raises:
            DataError: no rows, not as many targets, or values that are not finite.
        """
        doing = "computing moments of calibration rows"
        targets = rows.new_zeros(len(rows), 0) if targets is None else targets
        if not len(rows) or len(targets) != len(rows):
            raise DataError(doing, got=f"{len(rows)} rows, {len(targets)} targets", expected="at least one, as many")
        rows, targets = rows.double(), targets.double()
        mean, target_mean = rows.mean(0), targets.mean(0)
        if not bool(torch.isfinite(mean).all() and torch.isfinite(target_mean).all()):
            raise DataError(doing, got="values that are not finite", try_="look for inf or nan in the calibration data")
        rows, targets = rows - mean, targets - target_mean
        return cls(len(rows), mean, rows.T @ rows, target_mean, targets.T @ rows, targets.square().sum(0))

    def __add__(self, other: Moments) -> Moments:
        """Moments of both sets of rows together. Reference: Chan, Golub and LeVeque, 1979.

        Raises:
            DataError: of other inputs or targets.
        """
        if self.cross.shape != other.cross.shape:
            (targets, inputs), (others, width) = self.cross.shape, other.cross.shape
            got = f"{inputs} inputs with {targets} targets, and {width} with {others}"
            raise DataError("adding moments of calibration rows", got=got, expected="the same inputs and targets")
        count = self.count + other.count
        share = other.count / count
        step, target_step = other.mean - self.mean, other.target_mean - self.target_mean
        weight = self.count * share
        return Moments(
            count,
            self.mean + share * step,
            (self.scatter + other.scatter).addr_(step, step, alpha=weight),
            self.target_mean + share * target_step,
            (self.cross + other.cross).addr_(target_step, step, alpha=weight),
            self.target_scatter + other.target_scatter + weight * target_step.square(),
        )

    @property
    def width(self) -> int:
        """Number of inputs q."""
        return len(self.mean)

    @property
    def has_targets(self) -> bool:
        """Whether targets were seen beside the inputs."""
        return len(self.target_mean) > 0

    def columns(self, keep: Sequence[int] | Tensor) -> Moments:
        """Moments of some of the inputs, in the order given; of the same targets."""
        keep = torch.as_tensor(keep, device=self.mean.device)
        cross, scatter = self.cross[:, keep], self.scatter[keep][:, keep]
        return Moments(self.count, self.mean[keep], scatter, self.target_mean, cross, self.target_scatter)

    def aimed_at(self, weight: Tensor, bias: Tensor | None = None) -> Moments:
        """These inputs with the outputs ``weight x + bias`` as targets; weight (p, q), bias (p,)."""
        weight = weight.double()
        mean = weight @ self.mean + (0.0 if bias is None else bias.double())
        cross = weight @ self.scatter
        return Moments(self.count, self.mean, self.scatter, mean, cross, (cross * weight).sum(1))

    def error(self, weight: Tensor, bias: Tensor) -> float:
        """Mean over rows of the squared distance between targets and ``weight x + bias``, summed over outputs."""
        weight = weight.double()
        spread = self.target_scatter.sum() + (weight * (weight @ self.scatter - 2 * self.cross)).sum()
        shift = self.target_mean - weight @ self.mean - bias.double()
        return float(spread.clamp(min=0) / self.count + shift.square().sum())  # rounding can pass zero


# The fit


@dataclass(frozen=True)
class Refit:
    """A fitted layer.

    Attributes:
        weight: (p, m) float64.
        bias: (p,) float64.
        ridge: the one used; larger than the one asked for where that left the equations singular.
        condition: lower bound of the condition number of the equations solved.
    """

    weight: Tensor
    bias: Tensor
    ridge: float
    condition: float


def refit(moments: Moments, prior: Tensor, ridge: float = 1e-4) -> Refit:
    """The layer that is nearest to the targets, pulled towards ``prior`` by the ridge.

    Minimises ``E||y - V x - c||^2 + lambda ||V - prior||^2`` with lambda = ridge * mean variance of the inputs.

    Args:
        moments: of m inputs and p targets.
        prior: (p, m).
        ridge: 0 or more, relative.

    Cost: O(m^3 + p m^2).
    """
    prior = prior.double()
    factor, ridge, condition = _factorize(moments, ridge)
    residual = (moments.cross - prior @ moments.scatter) / moments.count
    weight = prior + torch.cholesky_solve(residual.T, factor).T
    return Refit(weight, moments.target_mean - weight @ moments.mean, ridge, condition)


def _factorize(moments: Moments, ridge: float) -> tuple[Tensor, float, float]:
    """Cholesky factor of the inputs' covariance plus a ridge, tenfold until it is regular; the ridge; the condition."""
    if not ridge >= 0:
        raise OptionError("solving least squares", got=f"ridge {ridge}", expected="0 or more")
    eps = torch.finfo(torch.float64).eps
    gram = moments.scatter / moments.count
    # Inputs that are all constant vary by rounding only, which must not be fitted.
    scale = max(float(gram.diagonal().mean()), eps * float(moments.mean.square().mean())) or 1.0
    while True:
        raised = gram.clone()
        raised.diagonal().add_(ridge * scale)
        factor, failed = torch.linalg.cholesky_ex(raised)
        pivots = factor.diagonal()
        condition = float((pivots.max() / pivots.min()).square()) if not failed else math.inf
        if condition < 1 / (len(gram) * eps):
            return factor, ridge, condition
        ridge = max(10 * ridge, 1e-12)


@dataclass(frozen=True)
class Compensation:
    """What a consumer becomes when some of its input columns go.

    Attributes:
        weight: (p, m), the dtype of the original.
        bias: (p,). A consumer without bias in front of a batch norm needs none: subtract this from the running mean.
        ridge: the relative ridge used, see ``Refit``.
        condition: lower bound of the condition number of the equations solved.
        error: mean squared error of the outputs per row, on the held-out rows if there are any.
        sliced_error: that of plain slicing, on the same rows.
        applied: false where compensation was worse than slicing, and slicing was kept.
    """

    weight: Tensor
    bias: Tensor
    ridge: float
    condition: float
    error: float
    sliced_error: float
    applied: bool


def compensate(
    weight: Tensor,
    keep: Sequence[int] | Tensor,
    moments: Moments,
    bias: Tensor | None = None,
    prior: Prior = "slice",
    ridge: float | Literal["auto"] = 1e-4,
    held_out: Moments | None = None,
) -> Compensation:
    """Re-express the removed columns of a layer through the kept ones, by regression on calibration rows.

    Args:
        weight: (p, q); of a convolution ``weight.flatten(1)``.
        keep: kept columns in ascending order, see ``kept_columns``.
        moments: of the layer's q inputs. For the sequential form: of its inputs in the program cut so far, all q or
            only the kept ones, with the outputs of the original layer as targets.
        bias: (p,), none is zero.
        prior: what the ridge pulls towards. "slice", the kept weights: keeping every column returns the very weights,
            and on the rows of ``moments`` it is never worse than slicing. "zero" has neither property.
        ridge: relative to the mean variance of the kept inputs; "auto" takes the best of ``RIDGES`` on ``held_out``.
        held_out: like ``moments``, of rows of other samples. They decide whether compensation is applied at all.

    Raises:
        OptionError: nothing is kept, the moments do not fit, or "auto" without held-out rows.
        UnknownName: no such prior.

    Reference: He et al., Channel Pruning for Accelerating Very Deep Neural Networks, 2017.
    """
    doing = "compensating a cut by least squares"
    require_known(prior, get_args(Prior), "prior", doing)
    if not len(keep):
        raise OptionError(doing, got="no column to keep", expected="at least one")
    if ridge == "auto" and held_out is None:
        raise OptionError(doing, got="ridge auto without held-out rows", try_="give held_out, or a number as ridge")
    keep = torch.as_tensor(keep, device=weight.device)
    old_bias = weight.new_zeros(len(weight)) if bias is None else bias
    sliced = weight[:, keep]
    fitted_on = _regression(weight, keep, moments, old_bias)
    judged_on = fitted_on if held_out is None else _regression(weight, keep, held_out, old_bias)
    sliced_error = judged_on.error(sliced, old_bias)
    if len(keep) == weight.shape[1] and not moments.has_targets:
        return Compensation(sliced, old_bias, 0.0, 1.0, sliced_error, sliced_error, applied=True)
    towards = sliced if prior == "slice" else torch.zeros_like(sliced)
    fits = [refit(fitted_on, towards, each) for each in (RIDGES if ridge == "auto" else (ridge,))]
    layers = [(fit.weight.to(weight.dtype), fit.bias.to(weight.dtype)) for fit in fits]
    errors = [judged_on.error(*fitted) for fitted in layers]
    error, best = min((error, place) for place, error in enumerate(errors))
    applied = error <= sliced_error
    new_weight, new_bias = layers[best] if applied else (sliced, old_bias)
    ridge, condition = fits[best].ridge, fits[best].condition
    return Compensation(new_weight, new_bias, ridge, condition, min(error, sliced_error), sliced_error, applied)


def _regression(weight: Tensor, keep: Tensor, moments: Moments, bias: Tensor) -> Moments:
    """Moments of the kept inputs with the original outputs as targets."""
    if moments.width not in ({weight.shape[1], len(keep)} if moments.has_targets else {weight.shape[1]}):
        raise OptionError(
            "compensating a cut by least squares",
            got=f"moments of {moments.width} inputs for a weight of {weight.shape[1]} columns, {len(keep)} kept",
            expected="as many as columns; with targets, as many as kept columns will do",
        )
    aimed = moments if moments.has_targets else moments.aimed_at(weight, bias)
    return aimed.columns(keep) if moments.width == weight.shape[1] else aimed


# Removal cost


@dataclass(frozen=True)
class Consumer:
    """One layer that reads a group.

    Attributes:
        weight: (p, q).
        moments: of its q inputs.
        index: (q,), the unit of each column, -1 for columns of another group; every unit has equally many.
    """

    weight: Tensor
    moments: Moments
    index: Index


def removal_costs(consumers: Sequence[Consumer], size: int, ridge: float = 1e-4) -> Tensor:
    """Error that removing each unit leaves after the best compensation, as a share of the outputs' energy.

    It is summed over consumers and can be compared between groups. Exact for ``ridge=0``, which nearly collinear
    inputs do not allow.

    Args:
        consumers: every layer that reads the group.
        size: number of units.
        ridge: as for ``refit``.

    Returns:
        (size,) float64.

    Cost: O(q^3) for each consumer.
    """
    alive = torch.arange(size)
    return torch.stack([_Remainder(consumer, size, ridge).costs(alive) for consumer in consumers]).sum(0)


def subset_cost(consumers: Sequence[Consumer], size: int, removed: Sequence[int], ridge: float = 1e-4) -> float:
    """Error that removing these units together leaves, as ``removal_costs``."""
    return sum(_Remainder(consumer, size, ridge).cost_of_all(removed) for consumer in consumers)


@dataclass(frozen=True)
class Elimination:
    """A choice of units to keep.

    Attributes:
        keep: units in ascending order.
        removed: the others, in the order in which they went.
        costs: what each of them added to the error.
    """

    keep: list[int]
    removed: list[int]
    costs: list[float]


def eliminate(consumers: Sequence[Consumer], size: int, count: int, ridge: float = 1e-4) -> Elimination:
    """Remove the cheapest unit, compensate, and repeat until ``count`` are left.

    The costs sum to the error of the set removed. The set need not be the best one: ``swap`` may improve it.

    Args:
        consumers: every layer that reads the group.
        size: number of units.
        count: units to keep.
        ridge: as for ``refit``.

    Raises:
        OptionError: the count is not within 1..size.

    Cost: O(q^3 + size q^2) for each consumer; 5 s to remove 128 channels of 256 with 9 taps, on one core.
    """
    if not 1 <= count <= size:
        raise OptionError("eliminating units by their cost", got=f"count {count}", expected=f"1 to {size}")
    states = [_Remainder(consumer, size, ridge) for consumer in consumers]
    alive, removed, costs = torch.arange(size), [], []
    while len(alive) > count:
        now = torch.stack([state.costs(alive) for state in states]).sum(0)
        cheapest = int(now.argmin())
        costs.append(float(now[cheapest]))
        removed.append(int(alive[cheapest]))
        for state in states:
            state.remove(removed[-1])
        alive = torch.cat([alive[:cheapest], alive[cheapest + 1 :]])
    return Elimination(alive.tolist(), removed, costs)


def swap(consumers: Sequence[Consumer], size: int, keep: Sequence[int], ridge: float = 1e-4) -> list[int]:
    """Exchange kept and removed units, best pair first, while that lowers the error; for groups of a few dozen units.

    Args:
        consumers: every layer that reads the group.
        size: number of units.
        keep: units to start from.
        ridge: as for ``refit``.

    Returns:
        As many units, in ascending order.
    """
    states = [_Remainder(consumer, size, ridge) for consumer in consumers]

    def cost(kept: frozenset[int]) -> float:
        return sum(state.cost_of_all([unit for unit in range(size) if unit not in kept]) for state in states)

    best = frozenset(keep)
    least = cost(best)
    while True:
        pairs = [(best - {old}) | {new} for old in sorted(best) for new in range(size) if new not in best]
        costs = [cost(pair) for pair in pairs]
        if not costs or min(costs) >= least * (1 - 1e-9):  # rounding alone must not swap for ever
            return sorted(best)
        least = min(costs)
        best = pairs[costs.index(least)]


class _Remainder:
    """One consumer while its units go: weights compensated so far, and the inverse of the moments of what is left."""

    def __init__(self, consumer: Consumer, size: int, ridge: float) -> None:
        moments = consumer.moments
        factor, _, _ = _factorize(moments, ridge)
        self.weight = consumer.weight.double()
        self.inverse = torch.cholesky_inverse(factor)
        self.columns = _unit_columns(consumer.index, size)
        outputs = moments.aimed_at(self.weight)
        energy = float(outputs.target_scatter.sum()) / moments.count + float(outputs.target_mean.square().sum())
        self.energy = energy or math.inf  # without output there is nothing to lose

    def costs(self, alive: Tensor) -> Tensor:
        """Cost of removing each of these units alone."""
        return self._cost(self.columns[alive])

    def cost_of_all(self, units: Sequence[int]) -> float:
        """Cost of removing these units together."""
        return float(self._cost(self.columns[list(units)].reshape(1, -1))) if len(units) else 0.0

    def _cost(self, columns: Tensor) -> Tensor:
        """tr(W_D ((G^-1)[D,D])^-1 W_D^T) for each row D of ``columns``."""
        own = self.weight[:, columns].permute(1, 2, 0)
        blocks = self.inverse[columns[:, :, None], columns[:, None, :]]
        return (own * torch.linalg.solve(blocks, own)).sum((1, 2)) / self.energy

    def remove(self, unit: int) -> None:
        columns = self.columns[unit]
        rows = self.inverse[columns]
        step = torch.linalg.solve(rows[:, columns], rows)
        self.weight = self.weight - self.weight[:, columns] @ step
        self.inverse.addmm_(rows.T, step, alpha=-1)  # ours, and ten times faster in place


def _unit_columns(index: Index, size: int) -> Tensor:
    """(size, columns per unit): where each unit is."""
    index = torch.as_tensor(index)
    counts = torch.bincount(index[index >= 0], minlength=size)
    if len(counts) != size or not bool((counts == counts[0]).all()) or not int(counts[0]):
        raise InternalError(
            "finding the columns of each unit", got=f"columns per unit {counts.tolist()}", expected=f"{size} equal ones"
        )
    order = torch.sort(index, stable=True).indices
    return order[len(index) - int(counts.sum()) :].reshape(size, -1)


# Rows and columns of convolutions


def kept_columns(index: Index, keep: Sequence[int], taps: int = 1) -> Tensor:
    """Columns of a consumer's weight that stay, ascending.

    Args:
        index: (axis size,), the unit of each position along the consumer's input axis; -1, of another group, stays.
        keep: units that stay.
        taps: columns of each position: kernel height * width of a convolution.

    Returns:
        (m,) int64.
    """
    index = torch.as_tensor(index)
    stays = (index < 0) | torch.isin(index, torch.as_tensor(keep, dtype=index.dtype))
    return stays.repeat_interleave(taps).nonzero().flatten()


def sample_positions(samples: int, size: Sequence[int], window: Window, count: int, seed: int) -> Tensor:
    """Random output positions of a convolution, for each sample its own, without repetition.

    Border positions, whose windows reach into the padding, are drawn in proportion to their number, but at least one
    if ``count`` is 2 or more.

    Args:
        samples: number of samples.
        size: of the input, without samples and channels.
        window: how the convolution reads it.
        count: positions for each sample; all where there are not as many.
        seed: of the draw; take another for each batch.

    Returns:
        (samples, count) int64, positions counted in row-major order.
    """
    inside = torch.ones(1, dtype=torch.bool)
    for starts, reach, length, pad in zip(*_starts(size, window), size, window.padding, strict=True):
        inside = (inside[:, None] & (starts >= pad) & (starts + reach < pad + length)).flatten()
    total, border = len(inside), int((~inside).sum())
    if count >= total:
        return torch.arange(total).expand(samples, total)
    quota = round(count * border / total)
    if 0 < border < total and count >= 2:
        quota = min(max(quota, 1), count - 1)
    keys = torch.rand(samples, total, generator=torch.Generator().manual_seed(seed))
    at_border, at_inside = keys.masked_fill(inside, -1.0), keys.masked_fill(~inside, -1.0)
    drawn = torch.cat([at_border.topk(quota).indices, at_inside.topk(count - quota).indices], 1)
    return drawn.sort(1).values


def sampled_windows(x: Tensor, window: Window, positions: Tensor) -> Tensor:
    """What a convolution reads at some of its output positions, zero padding included.

    Args:
        x: (samples, channels, *size), the input.
        window: how the convolution reads it.
        positions: (samples, count), see ``sample_positions``.

    Returns:
        (samples * count, channels * taps), tap fastest like ``weight.flatten(1)``.
    """
    padded = torch.nn.functional.pad(x, [edge for pad in reversed(window.padding) for edge in (pad, pad)])
    all_starts, _ = _starts(x.shape[2:], window)
    outputs = [len(starts) for starts in all_starts]
    flat = torch.zeros(*positions.shape, 1, dtype=torch.int64)
    for axis, starts in enumerate(all_starts):
        coordinate = positions // math.prod(outputs[axis + 1 :]) % outputs[axis]
        taps = torch.arange(window.kernel[axis]) * window.dilation[axis]
        read = starts[coordinate][:, :, None, None] + taps  # (samples, count, 1, taps of this axis)
        flat = (flat[..., None] * padded.shape[2 + axis] + read).flatten(2)
    return _gather(padded, flat.to(x.device))


def sampled_outputs(y: Tensor, positions: Tensor) -> Tensor:
    """Outputs (samples, channels, *size) of a convolution at the same positions, as (samples * count, channels)."""
    return _gather(y, positions[:, :, None].to(y.device))


def _starts(size: Sequence[int], window: Window) -> tuple[list[Tensor], list[int]]:
    """By axis: where in the padded input each output starts to read, and how far from there the last tap is."""
    reach = [(kernel - 1) * dilation for kernel, dilation in zip(window.kernel, window.dilation, strict=True)]
    axes = zip(size, window.padding, reach, window.stride, strict=True)
    return [torch.arange(0, length + 2 * pad - far, stride) for length, pad, far, stride in axes], reach


def _gather(maps: Tensor, flat: Tensor) -> Tensor:
    """Values of (samples, channels, ...) at (samples, count, taps), as (samples * count, channels * taps)."""
    samples, count, taps = flat.shape
    where = flat.reshape(samples, 1, -1).expand(-1, maps.shape[1], -1)
    values = maps.flatten(2).gather(2, where).unflatten(2, (count, taps))
    return values.transpose(1, 2).reshape(samples * count, -1)
