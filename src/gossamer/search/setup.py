"""From what the user gave to a Task: everything is read and checked before any work starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gossamer.core.budget import Budget, parse_budget
from gossamer.core.deadline import Deadline, parse_duration
from gossamer.core.errors import DataError, OptionError
from gossamer.core.progress import Progress
from gossamer.core.target import Target
from gossamer.datasets.samples import UNNAMED, Samples, split_by_digest
from gossamer.datasets.sources import read_samples
from gossamer.frontends import read_model
from gossamer.metrics import METRICS, resolve_metric
from gossamer.metrics.base import Metric
from gossamer.program.program import Program
from gossamer.runtimes import resolve_target
from gossamer.search.task import Task
from gossamer.techniques.recipe import Recipe, apply_recipe

CHOOSE_SHARE = 0.4
CALIBRATE_SHARE = 0.2
MAX_CALIBRATION = 512
"""Ranges hardly move beyond a few hundred samples; more only cost time."""

MIN_SAMPLES = 4


def make_task(  # noqa: PLR0913 - the user's knobs, one by one
    model: Any,
    data: Any,
    eval_data: Any,
    *,
    metric: str,
    target: str | Target,
    budget: str,
    time: str | None,
    seed: int,
    example_inputs: Any,
    weights: Any,
    dynamic: Any,
    transform: Any,
    progress: Progress,
    folder: Path,
) -> Task:
    """Read and check everything.

    Raises:
        UserError: the first thing that is wrong.
    """
    resolved = resolve_target(target) if isinstance(target, str) else target
    chosen = resolve_metric(metric)
    limits = read_budget(budget, chosen)
    deadline = Deadline.after(parse_duration(time) if time else None)
    progress.stage("reading data")
    samples = read_samples(data, transform=transform)
    evaluation = read_samples(eval_data, transform=transform) if eval_data is not None else None
    progress.stage("capturing the model")
    example = example_inputs if example_inputs is not None else example_from(samples)
    program = read_model(model, weights=weights, example=example, dynamic=dynamic)
    parts = _split(program, samples, evaluation, chosen, seed)
    return Task(
        program,
        parts["calibrate"],
        parts["choose"],
        parts["prove"],
        chosen,
        resolved,
        limits,
        seed,
        deadline,
        progress,
        folder,
    )


def read_budget(text: str, metric: Metric) -> Budget:
    """The budget with its ``drop`` about this metric; an empty text is no limit at all."""
    name = metric.name.partition("@")[0]
    plain = name if name.isidentifier() else None
    if not text.strip():
        return Budget(())
    budget = parse_budget(text, plain, METRICS)
    for clause in budget.clauses:
        if clause.kind in ("metric", "metric drop", "worst class metric drop") and clause.quantity != plain:
            raise OptionError(
                f"reading the budget {text!r}",
                got=f"a limit on {clause.quantity}",
                expected=f"the metric that is measured: {metric.name}",
                try_=f"--metric {clause.quantity}",
            )
    return budget


def example_from(samples: Samples) -> Any:
    """Two samples to trace with: by input name, or bare if the data do not name the input."""
    head = {name: array[:2] for name, array in samples.inputs.items()}
    return next(iter(head.values())) if list(head) == [UNNAMED] else head


def _split(
    program: Program, samples: Samples, evaluation: Samples | None, metric: Metric, seed: int
) -> Mapping[str, Samples]:
    """Calibrate / choose / prove: from one set by sample digest, or the last two from the evaluation data."""
    samples = samples.matched_to(program.signature)
    if evaluation is None:
        if metric.needs_labels:
            samples.require_labels(metric.name)
        _require_enough(samples, MIN_SAMPLES * 3)
        rest = 1 - CALIBRATE_SHARE
        shares = {
            "calibrate": CALIBRATE_SHARE,
            "choose": CHOOSE_SHARE * rest,
            "prove": (1 - CHOOSE_SHARE) * rest,
        }
        parts = dict(split_by_digest(samples, shares))
    else:
        evaluation = evaluation.matched_to(program.signature)
        if metric.needs_labels:
            evaluation.require_labels(metric.name)
        _require_enough(evaluation, MIN_SAMPLES * 2)
        parts = dict(split_by_digest(evaluation, {"choose": CHOOSE_SHARE, "prove": 1 - CHOOSE_SHARE}))
        parts["calibrate"] = samples
    calibrate = parts["calibrate"].shuffled(seed)
    parts["calibrate"] = calibrate.take(np.arange(min(len(calibrate), MAX_CALIBRATION)))
    return parts


def _require_enough(samples: Samples, count: int) -> None:
    if len(samples) < count:
        raise DataError(
            "splitting the data",
            got=f"{len(samples)} samples ({samples.origin})",
            expected=f"at least {count}, and hundreds to prove anything",
        )


def replay(program: Program, recipe: Any, data: Any, target: str | None, progress: Progress) -> Program:
    """Apply a recipe given as object, text or file."""
    if isinstance(recipe, Path) or (isinstance(recipe, str) and "\n" not in recipe):
        try:
            recipe = Path(recipe).read_text(encoding="utf-8")
        except OSError as error:
            raise OptionError("reading a recipe", got=str(error), expected="a TOML file") from error
    steps = Recipe.from_toml(recipe) if isinstance(recipe, str) else recipe
    text = target or steps.target
    if not text:
        raise OptionError("applying a recipe", got="no target", expected="target= in the recipe or as an argument")
    samples = read_samples(data).matched_to(program.signature)
    return apply_recipe(program, steps, samples.inputs, resolve_target(text), progress)
