"""How much to keep where: counts for every group under one budget.

An allocator is a ``Path``: a function from a knob in [0, 1] to counts by group, which never fall as the knob rises, are
at least 1, and are the full sizes at 1. ``allocate`` turns the knob until the cost fits. Costs are a function of all
counts together, because the cost of a group depends on the widths of its neighbours.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from gossamer.core.errors import OptionError
from gossamer.numerics.saliency import ranking

Counts = dict[str, int]
Path = Callable[[float], Counts]
Cost = Callable[[Mapping[str, int]], float]
"""Cost of a network whose groups have these counts, for example its MACs; never lower where a count is higher."""

_HALVINGS = 50
"""Of the knob: beyond the resolution of any ranking."""


def allocate(path: Path, cost: Cost, budget: float, multiple: int | Mapping[str, int] = 1) -> Counts:
    """The largest counts on a path that cost no more than a share of the whole.

    Where several groups would grow at the same turn of the knob, they grow one after the other. So a larger budget
    never keeps less of any group.

    Args:
        path: the allocator.
        cost: of all counts together.
        budget: share of the cost of the full sizes, in (0, 1].
        multiple: counts are rounded up to it, for every group or by group (1 where none is given); see ``align``.

    Raises:
        OptionError: the budget is not within (0, 1], or less than the smallest counts cost.
    """
    doing = f"allocating {budget:.4g} of the cost"
    if not 0 < budget <= 1:
        raise OptionError(doing, got=f"budget {budget}", expected="a share within (0, 1]")
    full = path(1.0)
    limit = budget * cost(full)

    def counts_at(knob: float) -> Counts:
        return {name: align(count, _multiple(multiple, name), full[name]) for name, count in path(knob).items()}

    low, high = counts_at(0.0), full
    if cost(full) <= limit:
        return full
    if cost(low) > limit:
        least = cost(low) / cost(full)
        raise OptionError(doing, got=f"at least {least:.4g} is left", try_="a larger budget or a smaller multiple")
    left, right = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (left + right) / 2
        counts = counts_at(middle)
        if cost(counts) <= limit:
            left, low = middle, counts
        else:
            right, high = middle, counts
    for name in low:
        larger = {**low, name: high[name]}
        if cost(larger) > limit:
            break
        low = larger
    return low


def align(count: int, multiple: int, size: int) -> int:
    """The count rounded up to a multiple, at least one, at most the size (which need not be a multiple).

    Raises:
        OptionError: the multiple is not positive.
    """
    if multiple < 1:
        raise OptionError("rounding a width", got=f"multiple {multiple}", expected="1 or more")
    return min(size, multiple * max(1, math.ceil(count / multiple)))


def _multiple(multiple: int | Mapping[str, int], name: str) -> int:
    return multiple if isinstance(multiple, int) else multiple.get(name, 1)


# Allocators


def uniform(sizes: Mapping[str, int]) -> Path:
    """The same share of every group."""
    return lambda share: {name: _rounded(share, size) for name, size in sizes.items()}


def global_rank(scores: Mapping[str, Tensor]) -> Path:
    """The best units of all groups in one ranking; for scores that can be compared between groups.

    Others can be made to by ``saliency.relative``. Equal scores rank in the order of groups and indices.

    Args:
        scores: (units,) by group.
    """
    owner = torch.cat([torch.full((len(each),), group) for group, each in enumerate(scores.values())])
    order = owner[ranking(torch.cat([each.double() for each in scores.values()]))]

    def counts(share: float) -> Counts:
        kept = torch.bincount(order[: round(share * len(order))], minlength=len(scores)).tolist()
        return {name: max(1, count) for name, count in zip(scores, kept, strict=True)}

    return counts


def energy(energies: Mapping[str, Tensor]) -> Path:
    """In every group the fewest units that hold the same share of its energy; see ``energy_count``.

    Args:
        energies: (units,) by group, squared quantities such as ``saliency.l2``.
    """
    return lambda share: {name: energy_count(each, share) for name, each in energies.items()}


def energy_count(energies: Tensor, share: float) -> int:
    """Smallest number of the largest energies (squared singular values) that sum up to a share of them all."""
    if share >= 1:
        return len(energies)
    reached = energies.double().sort(descending=True).values.cumsum(0)
    return max(1, int((reached < share * reached[-1]).sum()) + 1) if float(reached[-1]) > 0 else 1


def power_law(sizes: Mapping[str, int], weights: Mapping[str, int], p: float = 0.1) -> Path:
    """Small groups keep a larger share: a group with n weights keeps ``c * n^p`` of them, and so of its units.

    Args:
        sizes: units by group.
        weights: weights by group.
        p: 1 gives equal shares, 0 equal numbers of weights.

    Raises:
        OptionError: p is not within 0..1.
    """
    names, numbers = list(sizes), [weights[name] for name in sizes]
    power_law_shares(numbers, 1.0, p)  # refuses a bad p now, not when the knob is turned

    def counts(share: float) -> Counts:
        shares = power_law_shares(numbers, share * sum(numbers), p)
        return {name: _rounded(kept, sizes[name]) for name, kept in zip(names, shares, strict=True)}

    return counts


def power_law_shares(weights: Sequence[int], total: float, p: float = 0.1) -> list[float]:
    """Shares with which layers of n weights keep ``c * n^p`` each and ``total`` together.

    By water-filling: a layer that this asks for more than it has keeps all, and the others divide the rest.

    Raises:
        OptionError: p is not within 0..1.

    Reference: Liu et al., Robust Binary Models by Pruning Randomly-initialized Networks, 2022.
    """
    if not 0 <= p <= 1:
        raise OptionError("allocating by a power law", got=f"p {p}", expected="0 to 1")
    shares, rest = [0.0] * len(weights), total
    order = sorted(range(len(weights)), key=lambda layer: weights[layer])
    for position, layer in enumerate(order):
        power = sum(weights[other] ** p for other in order[position:])
        kept = min(weights[layer], rest * weights[layer] ** p / power)
        shares[layer] = kept / weights[layer]
        rest -= kept
    return shares


def power_law_counts(weights: Sequence[int], total: int, p: float = 0.1) -> list[int]:
    """Whole numbers of weights by ``power_law_shares`` that sum up to ``total``, by largest remainder.

    Raises:
        OptionError: p is not within 0..1, or there are fewer weights than that.
    """
    if not 0 <= total <= sum(weights):
        raise OptionError("allocating by a power law", got=f"total {total}", expected=f"0 to {sum(weights)}")
    exact = [share * count for share, count in zip(power_law_shares(weights, total, p), weights, strict=True)]
    counts = [math.floor(each) for each in exact]
    by_remainder = sorted(range(len(exact)), key=lambda layer: counts[layer] - exact[layer])
    for layer in by_remainder[: total - sum(counts)]:
        counts[layer] += 1
    return counts


def knapsack(scores: Mapping[str, Tensor], cost: Cost, multiple: int | Mapping[str, int] = 1) -> Path:
    """Remove step by step where the loss of score is least for the cost saved, from everything to next to nothing.

    Where costs add up, each of its steps has the least loss of all choices that cost as little (the fractional optimum
    of the knapsack); with costs such as MACs it is greedy.

    Args:
        scores: (units,) by group, comparable between groups.
        cost: of all counts together. What a step saves must not rise as other groups shrink, which holds for sums of
            products of widths.
        multiple: size of the steps, for every group or by group; the first may be smaller.

    Cost: two calls of ``cost`` for each step and few more (2,213 for the 1,090 steps of a ResNet-56).
    """
    losses = {name: torch.sort(each.double()).values.cumsum(0).tolist() for name, each in scores.items()}
    counts = {name: len(each) for name, each in scores.items()}
    steps = {name: align(1, _multiple(multiple, name), count) for name, count in counts.items()}
    states, now = [dict(counts)], cost(counts)

    def lost(name: str, count: int) -> float:
        return losses[name][-count - 1] if count < len(losses[name]) else 0.0

    def next_step(name: str) -> tuple[float, int, float]:
        """Loss per cost saved, the count behind the step, and its cost."""
        after = steps[name] * ((counts[name] - 1) // steps[name])
        then = cost({**counts, name: after})
        loss = lost(name, after) - lost(name, counts[name])
        return loss / (now - then) if now > then else math.inf, after, then

    unknown = -math.inf  # a price still to be found
    queue = [(unknown, place, name) for place, name in enumerate(counts) if counts[name] > steps[name]]
    while queue:
        # Prices only rise as other groups shrink: the head is the cheapest once its price is fresh.
        _, place, name = heapq.heappop(queue)
        price, after, then = next_step(name)
        if queue and (price, place) > queue[0][:2]:
            heapq.heappush(queue, (price, place, name))
            continue
        counts[name], now = after, then
        states.append(dict(counts))
        if after > steps[name]:
            heapq.heappush(queue, (unknown, place, name))
    return lambda knob: dict(states[round((1 - knob) * (len(states) - 1))])


def _rounded(share: float, size: int) -> int:
    return min(size, max(1, round(share * size)))
