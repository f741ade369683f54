"""Mixed precision: layers given back to float, as they are no faster in int8 or cost too much harm."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import fx

from gossamer.core.target import Target
from gossamer.program import dialect
from gossamer.search.precision import Int8Plan
from gossamer.search.sensitivity import LayerSensitivity
from gossamer.search.task import Candidate, Task
from gossamer.techniques.quantize.int8 import int8_layers

_SHARE_OF_GAIN = 0.9
"""A mix keeps the layers that make up this share of what int8 saves, and leaves the many small ones in float."""


def faster_mixes(
    task: Task, plan: Int8Plan, whole: Candidate, layers: Sequence[LayerSensitivity], target: Target | None = None
) -> list[Candidate]:
    """Candidates that leave layers in float which int8 does not make faster; which of them is, the caller measures.

    Counters of single kernels propose, since they leave out the conversions between layers: the layers that int8 slows
    down; these and all that gain little; grouped convolutions, depthwise ones among them.

    Args:
        task: the search.
        plan: how layers are quantized.
        whole: all layers in int8.
        layers: what the counters tell of each.
        target: with the precision that layers left in float will have, if it is another than the task's.
    """
    saved = {row.layer: row.saved_us or 0.0 for row in layers}
    proposals = [
        [layer for layer, gain in saved.items() if gain <= 0],
        _all_but_the_largest(saved),
        [layer for layer, node in int8_layers(whole.program).items() if _is_grouped(node)],
    ]
    distinct = {frozenset(layers): layers for layers in proposals if 0 < len(layers) < len(saved)}
    return [plan.candidate(task, layers, target) for layers in distinct.values()]


def _is_grouped(node: fx.Node) -> bool:
    return dialect.op_class(node) == "conv" and dialect.bound_arguments(node)["groups"] > 1


def _all_but_the_largest(saved: dict[str, float]) -> list[str]:
    """The layers beside those of largest gain that make up most of it."""
    total = sum(gain for gain in saved.values() if gain > 0)
    kept: set[str] = set()
    reached = 0.0
    for layer in sorted(saved, key=lambda name: -saved[name]):
        if reached >= _SHARE_OF_GAIN * total:
            break
        kept.add(layer)
        reached += saved[layer]
    return [layer for layer in saved if layer not in kept]


def fewest_in_float(
    task: Task, plan: Int8Plan, ranked: Sequence[LayerSensitivity], holds: Callable[[Candidate], bool]
) -> Candidate | None:
    """The candidate with the fewest layers in float, taken from the front of ``ranked``, for which ``holds`` is true.

    Bisection over the count: harm is taken to fall as layers are given back. ``None`` if even one layer left in int8 is
    too much, or the time limit passed before any was found.
    """
    low, high = 1, len(ranked) - 1
    found: Candidate | None = None
    task.progress.stage("layers back to float", max(high, 1).bit_length())
    while low <= high and not task.deadline.passed:
        count = (low + high) // 2
        candidate = plan.candidate(task, [row.layer for row in ranked[:count]])
        task.progress.advance(candidate.name)
        if holds(candidate):
            found, high = candidate, count - 1
        else:
            low = count + 1
    return found
