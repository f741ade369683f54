"""A recipe of the user's, tried: applied, lowered, verified, and measured beside the original. Nothing is searched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from gossamer.analysis.statistics import sizes_on
from gossamer.core.deadline import Deadline
from gossamer.core.errors import OptionError
from gossamer.core.progress import Progress
from gossamer.datasets.samples import Samples, split_by_digest
from gossamer.datasets.sources import read_samples
from gossamer.metrics import resolve_metric
from gossamer.program.program import Program
from gossamer.search.claims import METRIC_KINDS
from gossamer.search.evaluation import layer_microseconds, outputs_on
from gossamer.search.front import Front, Member, Status
from gossamer.search.judging import Judge, build_original
from gossamer.search.setup import (
    CHOOSE_SHARE,
    calibration_of,
    read_budget,
    read_recipe,
    require_float32,
    target_of,
)
from gossamer.search.story import tell
from gossamer.search.surgery_story import surgery_story
from gossamer.search.task import Candidate, Task, lower_candidate
from gossamer.techniques.recipe import AppliedStep, Recipe, apply_steps
from gossamer.training.fine_tune import FineTuning, fine_tune

_OUTCOMES: Mapping[Status, Literal["met", "undecided", "missed"]] = {
    "accepted": "met",
    "undecided": "undecided",
    "rejected": "missed",
}

_HELD = ("behaviour", "drop")
"""Evidence that says something about a model only on samples that it was not fitted to."""


@dataclass(frozen=True)
class Trial:
    """What is asked for, as the user gave it.

    Attributes:
        recipe: a ``Recipe``, its TOML text, its file, or its steps in one line.
        data: calibration data, with labels for ``fine_tune``.
        eval_data: samples for the metric; ``None`` to measure everything else.
        metric: on ``eval_data``.
        target: in place of the recipe's own.
        inline: the target of steps in one line.
        budget: may be empty.
        fine_tune: steps of training behind the last step that cuts something.
        transform: for image folders.
    """

    recipe: Any
    data: Any
    eval_data: Any = None
    metric: str = "top1"
    target: str = ""
    inline: str = ""
    budget: str = ""
    fine_tune: int = 0
    transform: Any = None


def try_recipe(program: Program, trial: Trial, progress: Progress, folder: Path) -> Front:
    """Apply a recipe and judge what it makes beside the original.

    Args:
        program: the original.
        trial: the recipe and what it is judged on.
        progress: told about every stage.
        folder: working files, removed by the caller.

    Returns:
        A front whose best member is the result, also where it is no gain; ``missed`` only where it misses the budget or
        its file does not compute what its program says. Its evidence has ``surgery`` if something was cut.

    Raises:
        OptionError: the recipe cannot be read, has no target, or cuts nothing that could be fine-tuned; a budget on the
            metric without data to test it.
        DataError: no labels where some are needed, or not the data that the recipe was made with.
    """
    recipe = read_recipe(trial.recipe, trial.inline)
    _require_work(recipe, trial)
    samples = calibration_of(recipe, read_samples(trial.data, transform=trial.transform).matched_to(program.signature))
    if trial.fine_tune:
        samples.require_labels("fine-tuning")  # before any work
    task = _task(program, recipe, samples, trial, progress, folder)
    original = build_original(task)
    changed, steps = _applied(task, recipe, samples, trial.fine_tune)
    name = ", ".join(dict.fromkeys(step.name for step in recipe.steps))
    candidate = lower_candidate(task, name + (", fine-tuned" if trial.fine_tune else ""), changed, recipe.steps)
    judge = Judge(task, original, notes := [])
    member = judge.judge(candidate, outputs_on(candidate, task.choose))
    members = judge.baseline_member(), member
    if trial.eval_data is None:
        members = _without_metric(members[0]), _without_metric(member)
    if any(step.family == "resize" for step in recipe.steps):
        members[1].evidence["surgery"] = _surgery(task, original.candidate, candidate, steps)
    return _front(task, *members, notes)


def _require_work(recipe: Recipe, trial: Trial) -> None:
    if not recipe.steps:
        raise OptionError("applying a recipe", got="no step", expected="at least one")
    if trial.fine_tune and not any(step.family == "resize" for step in recipe.steps):
        got = f"fine-tuning behind {', '.join(map(str, recipe.steps))}"
        raise OptionError("applying a recipe", got=got, expected="a step that cuts something: prune, drop_blocks")


def _task(program: Program, recipe: Recipe, samples: Samples, trial: Trial, progress: Progress, folder: Path) -> Task:
    require_float32(program)
    target = target_of(recipe, trial.target)
    metric = resolve_metric(trial.metric if trial.eval_data is not None else "agreement")
    budget = read_budget(trial.budget, metric)
    plain = replace(samples, labels=None)
    parts = {"choose": plain, "prove": plain}
    if trial.eval_data is not None:
        evaluation = read_samples(trial.eval_data, transform=trial.transform).matched_to(program.signature)
        if metric.needs_labels:
            evaluation.require_labels(metric.name)
        parts = dict(split_by_digest(evaluation, {"choose": CHOOSE_SHARE, "prove": 1 - CHOOSE_SHARE}))
    elif any(clause.kind in METRIC_KINDS for clause in budget.clauses):
        expected = "samples that the recipe is not fitted to"
        raise OptionError(
            "applying a recipe", got=f"the budget {budget} without data", expected=expected, try_="--eval"
        )
    deadline = Deadline.after(None)
    return Task(
        program, plain, parts["choose"], parts["prove"], metric, target, budget, recipe.seed, deadline, progress, folder
    )


def _applied(task: Task, recipe: Recipe, samples: Samples, tuning: int) -> tuple[Program, list[AppliedStep]]:
    """The changed program and its steps. Training comes behind the last cut: what is quantized then has its weights."""
    last = max((at for at, step in enumerate(recipe.steps) if step.family == "resize"), default=-1)
    program, done = task.program, list[AppliedStep]()
    for part, tuned in ((recipe.steps[: last + 1], bool(tuning)), (recipe.steps[last + 1 :], False)):
        for step in apply_steps(program, replace(recipe, steps=part), samples.inputs, task.target, task.progress):
            done.append(step)
            program = step.after
        if tuned:
            task.progress.stage(f"fine-tuning for {tuning} steps")
            settings = FineTuning(steps=tuning, seed=recipe.seed)
            program = fine_tune(program, samples.inputs, samples.require_labels("fine-tuning"), settings)
    return program, done


def _without_metric(member: Member) -> Member:
    """Without figures of the metric: the samples are those that the recipe was fitted to."""
    verdict = replace(member.verdict, flips=None) if member.verdict else None
    evidence = {key: item for key, item in member.evidence.items() if key not in _HELD}
    return replace(member, metric_value=None, verdict=verdict, evidence=evidence)


def _surgery(task: Task, baseline: Candidate, candidate: Candidate, steps: list[AppliedStep]) -> dict[str, Any]:
    task.progress.stage(f"{candidate.name}: layers")
    times = layer_microseconds(task, baseline), layer_microseconds(task, candidate)
    sizes = sizes_on(task.program, task.calibrate.inputs)
    return surgery_story(steps, task.program, candidate.program, sizes, times)


def _front(task: Task, baseline: Member, member: Member, notes: list[str]) -> Front:
    parity = member.verdict.parity if member.verdict else None
    judged = bool(task.budget.clauses) or (parity is not None and parity.verdict == "rejected")
    accepted = member.status == "accepted"
    front = Front(
        (baseline, member) if accepted else (baseline,),
        () if accepted else (member,),
        member,
        _OUTCOMES[member.status] if judged else "met",
        improved=accepted,
        budget=str(task.budget),
        metric=task.metric.name,
        target=str(task.target),
        notes=tuple(notes),
    )
    report = front.report()
    if not task.budget.clauses:  # there is none to be met
        report["summary"] = f"{member.name} beside the original: {member.comparison}"
    for one in (baseline, member):
        one.evidence["search"] = report
    tell(task, front)
    return front
