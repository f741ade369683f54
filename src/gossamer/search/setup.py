"""From what the user gave to a Task: everything is read and checked before any work starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gossamer.core.budget import Better, Budget, parse_budget
from gossamer.core.deadline import Deadline, parse_duration
from gossamer.core.errors import DataError, ModelError, OptionError
from gossamer.core.progress import Progress
from gossamer.core.target import Target
from gossamer.datasets.samples import UNNAMED, Samples, split_by_digest
from gossamer.datasets.selection import choose_calibration
from gossamer.datasets.sources import read_samples
from gossamer.frontends import read_model
from gossamer.metrics import METRICS, resolve_metric
from gossamer.metrics.base import Metric
from gossamer.program.program import Program
from gossamer.runtimes import resolve_target
from gossamer.search.task import Task
from gossamer.techniques.recipe import Recipe, apply_recipe, is_line

CHOOSE_SHARE = 0.4
CALIBRATE_SHARE = 0.2
_SHARES = {
    "calibrate": CALIBRATE_SHARE,
    "choose": CHOOSE_SHARE * (1 - CALIBRATE_SHARE),
    "prove": (1 - CHOOSE_SHARE) * (1 - CALIBRATE_SHARE),
}
MAX_CALIBRATION = 512
"""Ranges hardly move beyond a few hundred samples; more only cost time."""

MIN_SAMPLES = 4

EXAMPLE_SAMPLES = 2
"""The smallest batch that a trace does not take for a fixed one."""


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
    # Without a free batch the example's is the model's for good: then it is the one that the target runs.
    count = resolved.batch if dynamic is None else EXAMPLE_SAMPLES
    example = example_inputs if example_inputs is not None else example_from(samples, count)
    program = read_model(model, weights=weights, example=example, dynamic=dynamic)
    require_float32(program)
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


def require_float32(program: Program) -> None:
    """Other float widths are a ``ModelError``: they would only fail later, in a runtime that lacks their kernels."""
    for name, role in program.roles.items():
        dtype = str(program.tensors[name].dtype).removeprefix("torch.")
        if role == "parameter" and dtype in ("float16", "bfloat16", "float64"):
            raise ModelError(
                f"compressing {program.name}",
                got=f"parameter {name!r} in {dtype}",
                expected="a model in float32",
                try_="model.float(), and example inputs in float32",
            )


def read_budget(text: str, metric: Metric) -> Budget:
    """The budget with its ``drop`` about this metric; an empty text is no limit at all."""
    plain = metric.name.partition("@")[0].rpartition(":")[2]  # of file.py:function, the function
    if not isinstance(text, str):
        raise OptionError("reading the budget", got=repr(text), expected="text; empty for no limit")
    if not text.strip():
        return Budget(())
    figures: dict[str, Better] = {
        name: known.better for name, known in {**METRICS, plain: metric}.items() if not known.unit
    }
    budget = parse_budget(text, plain, METRICS, figures)
    for clause in budget.clauses:
        if clause.kind.removesuffix(" drop").endswith("metric") and clause.quantity != plain:
            raise OptionError(
                f"reading the budget {text!r}",
                got=f"a limit on {clause.quantity}",
                expected=f"the metric that is measured: {metric.name}",
                try_=f"--metric {clause.quantity}",
            )
    return budget


def example_from(samples: Samples, count: int = EXAMPLE_SAMPLES) -> Any:
    """A few samples to trace with: by input name, or bare if the data do not name the input.

    Double precision, which NumPy makes unasked, becomes float32, as it does when the data are matched to the model.
    """
    head = {name: np.resize(array, (count, *array.shape[1:])) for name, array in samples.inputs.items()}
    head = {name: array.astype(np.float32) if array.dtype == np.float64 else array for name, array in head.items()}
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
        parts = dict(split_by_digest(samples, _SHARES))
    else:
        evaluation = evaluation.matched_to(program.signature)
        if metric.needs_labels:
            evaluation.require_labels(metric.name)
        _require_enough(evaluation, MIN_SAMPLES * 2)
        parts = dict(split_by_digest(evaluation, {"choose": CHOOSE_SHARE, "prove": 1 - CHOOSE_SHARE}))
        parts["calibrate"] = samples
    parts["calibrate"] = _to_calibrate(parts["calibrate"], seed)
    return parts


def _to_calibrate(samples: Samples, seed: int) -> Samples:
    """At most 512 of these samples, every class in proportion; without labels, which ranges do not depend on."""
    chosen = choose_calibration(len(samples), samples.labels, seed, MAX_CALIBRATION)
    return replace(samples.take(chosen), labels=None)


def _require_enough(samples: Samples, count: int) -> None:
    if len(samples) < count:
        raise DataError(
            "splitting the data",
            got=f"{len(samples)} samples ({samples.origin})",
            expected=f"at least {count}, and hundreds to prove anything",
        )


def replay(
    program: Program, recipe: Any, data: Any, target: str | None, progress: Progress, inline: str = ""
) -> Program:
    """Apply a recipe given as object, text or file.

    Args:
        program: what to change.
        recipe: a ``Recipe``, its TOML text, its file, or its steps in one line.
        data: calibration data.
        target: instead of the recipe's own.
        progress: told about every step.
        inline: the target of steps in one line, which name none.

    Raises:
        OptionError: the recipe cannot be read, or there is no target.
        DataError: the recipe names the data it was made with, and these are others.
    """
    steps = read_recipe(recipe, inline)
    resolved = target_of(steps, target)
    samples = calibration_of(steps, read_samples(data).matched_to(program.signature))
    return apply_recipe(program, steps, samples.inputs, resolved, progress)


def read_recipe(recipe: Any, inline: str = "") -> Recipe:
    """A recipe from what the user gave; see ``replay``."""
    if isinstance(recipe, str) and is_line(recipe) and ("{" in recipe or not Path(recipe).exists()):
        return replace(Recipe.from_line(recipe), target=inline)
    if isinstance(recipe, Path) or (isinstance(recipe, str) and "\n" not in recipe):
        try:
            recipe = Path(recipe).read_text(encoding="utf-8")
        except OSError as error:
            expected = "a TOML file, or steps in one line: prune{macs=0.7} | int8"
            raise OptionError("reading a recipe", got=str(error), expected=expected) from error
    return Recipe.from_toml(recipe) if isinstance(recipe, str) else recipe


def target_of(recipe: Recipe, target: str | None) -> Target:
    """The target given, else the recipe's own."""
    text = target or recipe.target
    if not text:
        raise OptionError("applying a recipe", got="no target", expected="target= in the recipe or as an argument")
    return resolve_target(text)


def calibration_of(recipe: Recipe, samples: Samples) -> Samples:
    """The samples that the recipe was made with: these, or what a search takes of them to calibrate."""
    if not recipe.data_digest:
        return samples
    plain = replace(samples, labels=None)
    candidates = [plain, _to_calibrate(samples, recipe.seed), _to_calibrate(plain, recipe.seed)]
    if len(samples) >= MIN_SAMPLES * 3:
        candidates.append(_to_calibrate(split_by_digest(samples, _SHARES)["calibrate"], recipe.seed))
    for candidate in candidates:
        if candidate.digest == recipe.data_digest:
            return candidate
    raise DataError(
        "applying a recipe",
        got=f"calibration data other than it was made with: {samples.origin}, {len(samples)} samples",
        expected=f"the data whose digest begins with {recipe.data_digest[:12]}",
        try_="the --data of then; or take data_digest out of the recipe to calibrate on these",
    )
