"""What each layer costs and gains in int8: the harm it does alone, the time it saves, the bytes."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from gossamer.core.errors import UnsupportedOp
from gossamer.program import dialect
from gossamer.program.values import tensor_value
from gossamer.search.baseline import build_baseline
from gossamer.search.evaluation import divergence, layer_microseconds, outputs_on
from gossamer.search.precision import Int8Plan, choose_int8, float_targets
from gossamer.search.task import Candidate, Task, lower_candidate
from gossamer.techniques.quantize.int8 import int8_layers

_SCAN_SAMPLES = 64
_LEAST_SAVED_US = 0.5
"""A layer that saves less than the counters resolve is priced as if it saved this much."""


@dataclass(frozen=True)
class LayerSensitivity:
    """One layer, with everything else in float.

    Attributes:
        layer: its site.
        op: ``conv``, ``linear``.
        weights: number of its weights.
        harm: relative L2 distance that it alone in int8 moves the output by; ``None`` if the time limit passed before.
        float_us: microseconds of its kernel in float inside the whole model, by the runtime's counters.
        int8_us: the same in int8; neither counts conversions beside it.
    """

    layer: str
    op: str
    weights: int
    harm: float | None
    float_us: float | None
    int8_us: float | None

    @property
    def saved_us(self) -> float | None:
        """Microseconds saved by int8; negative where int8 is slower."""
        return None if self.float_us is None or self.int8_us is None else self.float_us - self.int8_us

    @property
    def price(self) -> float:
        """Harm per microsecond saved; infinite where nothing is known to be saved."""
        if self.harm is None:
            return 0.0
        saved = self.saved_us
        return self.harm / (_LEAST_SAVED_US if saved is None else max(saved, _LEAST_SAVED_US))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value."""
        return {
            "layer": self.layer,
            "op": self.op,
            "weights": self.weights,
            "harm": self.harm,
            "float_us": self.float_us,
            "int8_us": self.int8_us,
            "saved_us": self.saved_us,
        }


def scan(
    task: Task, plan: Int8Plan, whole: Candidate, original: Candidate, limit_s: float = math.inf
) -> list[LayerSensitivity]:
    """Every layer alone in int8, in the order of the network.

    Alone, since a layer that ruins the output hides what the others do to it. Cost: one quantization, lowering and pass
    over at most 64 choosing samples a layer, and two profiles. Layers that a time limit cut off have no harm; those
    that int8 saves most on are tried first.

    Args:
        task: the search.
        plan: how layers are quantized.
        whole: all layers in int8.
        original: none.
        limit_s: seconds after which no more layers are tried; the task's own time limit holds as well.
    """
    plain = replace(plan, technique=replace(plan.technique, bias_correction=False))  # would cost two passes a layer
    samples = task.choose.shuffled(task.seed).take(slice(0, _SCAN_SAMPLES))
    reference = outputs_on(lower_candidate(task, "fp32", plan.calibration.program), samples)
    layers = int8_layers(whole.program)
    float_us, int8_us = layer_microseconds(task, original), layer_microseconds(task, whole)
    task.progress.stage("sensitivity of each layer", len(layers))
    saved = {layer: float_us.get(layer, 0.0) - int8_us.get(layer, 0.0) for layer in layers}
    harms: dict[str, float] = {}
    end = time.monotonic() + limit_s
    for layer in sorted(layers, key=lambda name: -saved[name]):
        if not task.deadline.passed and time.monotonic() < end:
            alone = plain.candidate(task, [other for other in layers if other != layer])
            harms[layer] = divergence(reference, outputs_on(alone, samples))
        task.progress.advance(layer)
    return [
        LayerSensitivity(
            layer,
            dialect.op_class(node),
            math.prod(map(int, tensor_value(dialect.bound_arguments(node)["weight"]).shape)),
            harms.get(layer),
            float_us.get(layer),
            int8_us.get(layer),
        )
        for layer, node in layers.items()
    ]


@dataclass(frozen=True)
class Sensitivity:
    """The scan of a whole model.

    Attributes:
        rows: one a layer, in the order of the network.
        whole: harm of all layers in int8 together.
        floats: harm of computing all floats in another precision, by its name; empty where the target has none.
        plan: how layers were quantized.
        target: its text.
    """

    rows: tuple[LayerSensitivity, ...]
    whole: float
    floats: Mapping[str, float]
    plan: str
    target: str

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Columns and rows for a terminal, most harm for the time saved first."""
        columns = ["layer", "op", "weights", "harm alone", "float", "int8", "saved", "harm per ms"]
        ordered = sorted(self.rows, key=lambda row: -row.price)
        return columns, [_cells(row) for row in ordered]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value."""
        return {
            "target": self.target,
            "plan": self.plan,
            "harm_of_all_in_int8": self.whole,
            "harm_of_floats": dict(self.floats),
            "layers": [row.to_json() for row in self.rows],
        }


def _cells(row: LayerSensitivity) -> list[str]:
    def time(microseconds: float | None) -> str:
        return "" if microseconds is None else f"{microseconds:.1f} us"

    saves = row.saved_us is not None and row.saved_us >= _LEAST_SAVED_US
    price = f"{1e3 * row.price:.3g}" if row.harm is not None and saves else ""
    harm = "" if row.harm is None else f"{row.harm:.3%}"
    return [row.layer, row.op, f"{row.weights:,}", harm, *map(time, (row.float_us, row.int8_us, row.saved_us)), price]


def scan_model(task: Task) -> Sensitivity:
    """Scan every layer of the task's model, one at a time.

    Raises:
        UnsupportedOp: the target has no int8, or the model nothing that int8 applies to.
    """
    original, _ = build_baseline(task)
    reference = outputs_on(original, task.choose)
    plan, notes = choose_int8(task, reference)
    if plan is None:
        raise UnsupportedOp(f"scanning {task.program.name}", got="; ".join(notes), expected="layers to quantize")
    whole = plan.candidate(task)
    floats = {}
    for target in float_targets(task):
        other = lower_candidate(task, target.precision, task.program, target=target)
        floats[target.precision] = divergence(reference, outputs_on(other, task.choose))
    harm = divergence(reference, outputs_on(whole, task.choose))
    return Sensitivity(tuple(scan(task, plan, whole, original)), harm, floats, str(plan), str(task.target))
