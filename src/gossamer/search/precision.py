"""Candidates that change nothing but precision: floats in bfloat16, and layers in int8 on the best grids."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from gossamer.core.errors import GossamerError, UnsupportedOp
from gossamer.core.names import literal_glob
from gossamer.core.target import Target
from gossamer.program.program import Program
from gossamer.search.evaluation import divergence, outputs_on
from gossamer.search.task import Candidate, Task, lower_candidate
from gossamer.techniques import resolve_technique
from gossamer.techniques.base import Technique
from gossamer.techniques.quantize.calibration import OBSERVERS
from gossamer.techniques.quantize.int8 import Calibration, Int8

FLOAT_STEPS = {"smooth": 0.98, "equalize": 0.98, "smooth{alpha=0.9,insert=on}": 0.8}
"""Steps that leave a float model as it is and may make it easier to quantize; tried one by one.

A step is kept if it brings the outputs nearer than to this share of the distance: 2 % less is chance, and each step has
to be explained; products that smoothing inserts cost time as well.
"""

_COMPARED_SAMPLES = 1024
_WORTH = 0.98
"""The same share for other grids after a step, and for the correction of biases."""

SHORT_NAMES = {"float32": "fp32", "bfloat16": "bf16"}


@dataclass(frozen=True)
class Int8Plan:
    """How a model is quantized, whichever of its layers stay in float.

    Attributes:
        before: steps on the float model.
        program: the float model after these steps.
        technique: without ``skip``.
        calibration: of the model after these steps.
    """

    before: tuple[Technique, ...]
    program: Program
    technique: Int8
    calibration: Calibration
    _quantized: dict[Int8, Program] = field(default_factory=dict, init=False, repr=False, compare=False)

    def candidate(self, task: Task, skip: Sequence[str] = (), target: Target | None = None) -> Candidate:
        """Quantize all layers but those in ``skip``, once for all targets, and lower."""
        technique = replace(self.technique, skip=tuple(map(literal_glob, skip)))
        if technique not in self._quantized:
            self._quantized[technique] = technique.quantize(self.calibration)
        program = self._quantized[technique]
        where = f", {technique.placement}" if technique.placement else ""
        rest = f", {len(skip)} {'layer' if len(skip) == 1 else 'layers'} in float" if skip else ""
        floats = f", floats in {SHORT_NAMES[target.precision]}" if target and target != task.target else ""
        return lower_candidate(task, f"int8{where}{rest}{floats}", program, (*self.before, technique), target)

    def observed(self, observer: str) -> Int8Plan:
        """The same with ranges of activations chosen in another way."""
        technique = replace(self.technique, observer=observer)
        return replace(self, technique=technique, calibration=self.calibration.with_ranges_of(technique))

    def placed(self, task: Task, placement: str) -> Int8Plan:
        """The same with pairs placed in another way. Cost: one calibration."""
        technique = replace(self.technique, placement=placement)
        return replace(
            self,
            technique=technique,
            calibration=technique.calibrate(self.program, task.calibrate.inputs, task.target),
        )

    def __str__(self) -> str:
        return " + ".join(map(str, (*self.before, self.technique)))


def float_targets(task: Task) -> list[Target]:
    """The task's target in every other precision that it computes floats in."""
    others = [name for name in task.target.facts.float_precisions if name != task.target.precision]
    return [replace(task.target, precision=name) for name in others]


def choose_int8(task: Task, reference: Mapping[str, np.ndarray]) -> tuple[Int8Plan | None, list[str]]:
    """The way to quantize whose outputs stay nearest to the original's on the choosing samples, and notes about it.

    First the observer, then each step that helps floats, behind one that was kept the observer again, then the
    correction of biases: each kept only if it helps.

    Args:
        task: the search.
        reference: the original's outputs on the choosing samples.

    Returns:
        ``None`` if int8 does not apply to the model.
    """
    samples = task.choose.take(slice(0, _COMPARED_SAMPLES))
    wanted = {name: array[:_COMPARED_SAMPLES] for name, array in reference.items()}
    task.progress.stage("int8", 2 * len(OBSERVERS) + len(FLOAT_STEPS))
    try:
        calibration = Int8().calibrate(task.program, task.calibrate.inputs, task.target)
    except UnsupportedOp as error:
        return None, [f"int8 does not apply: {error.got}"]
    tried: dict[str, float] = {}
    plan, best = Int8Plan((), task.program, Int8(), calibration), math.inf

    def consider(name: str, candidate: Int8Plan | None, worth: float) -> None:
        nonlocal plan, best
        if candidate is not None:
            tried[name] = divergence(wanted, outputs_on(candidate.candidate(task), samples))
            if tried[name] < worth * best:
                plan, best = candidate, tried[name]
        task.progress.advance(name)

    try:
        plain = plan
        for observer in OBSERVERS:
            consider(observer, plain.observed(observer), worth=1.0)
        for name, worth in FLOAT_STEPS.items():
            consider(name, _with_step(task, plan, name), worth)
        if plan.before:
            for observer in [one for one in OBSERVERS if one != plan.technique.observer]:
                consider(f"{observer} again", plan.observed(observer), _WORTH)
        consider("bias_correction", replace(plan, technique=replace(plan.technique, bias_correction=True)), _WORTH)
    except GossamerError as error:  # nothing of the user's: the model in float has passed all this
        return None, [f"int8 failed, a bug in gossamer, please report it: {error}"]
    distances = ", ".join(f"{name} {value:.2%}" for name, value in tried.items())
    return plan, [f"int8 by relative output distance: {distances}; taken: {plan}"]


def _with_step(task: Task, plan: Int8Plan, name: str) -> Int8Plan | None:
    """A plan with one more step on the float model; ``None`` if there is nothing in it that the step could act on."""
    if task.deadline.passed:
        return None
    step = resolve_technique(name)
    try:
        program = step.apply(plan.program, task.calibrate.inputs, task.target)
    except UnsupportedOp:
        return None
    calibration = plan.technique.calibrate(program, task.calibrate.inputs, task.target)
    return Int8Plan((*plan.before, step), program, plan.technique, calibration)
