"""The search of this version: precisions. Baseline, candidates, the few worth judging, the best of them.

Whatever replaces the inside keeps the outside: a ``Task`` in, a ``Front`` out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from gossamer.search.audit import audit
from gossamer.search.evaluation import layer_microseconds, outputs_on, quick_times
from gossamer.search.front import Front, Member, fastest_first
from gossamer.search.judging import Judge, Original, build_original
from gossamer.search.mixed import faster_mixes, fewest_in_float
from gossamer.search.precision import SHORT_NAMES, Int8Plan, choose_int8, float_targets
from gossamer.search.sensitivity import LayerSensitivity, scan
from gossamer.search.story import tell
from gossamer.search.task import Candidate, Task, labels_for, lower_candidate
from gossamer.techniques.quantize.int8 import int8_layers
from gossamer.verification.certificates import power_line

_TYPICAL_DISAGREEMENT = 0.02
"""Share of samples whose answer int8 changes, for the power line before anything is known: seen 1 to 3 %."""

_JUDGED = 3
"""So many candidates are timed with intervals and proven, if they answer rightly: the rest is only compared quickly."""

_SMALLER = 0.95
"""A slower candidate is worth judging if its file is at least 5 % smaller than those before it."""

_SCAN_S = 120.0
"""The harm of each layer ranks them, should some go back to float: of a large model only those that save most time."""

_AUDITED_SAMPLES = 64
"""The audit of other processors runs the interpreter several times: enough to see who saturates, not to price it."""


def search(task: Task) -> Front:
    """Find the members that hold the budget.

    Candidates are timed quickly by turns. Those that miss the budget on the choosing samples are set aside; of the rest
    the fastest are judged until one answers rightly, and slower ones that are smaller, three at most. Where that leaves
    nothing in int8, layers go back to float, those first that do most harm for the time they save.
    """
    original, notes = _prepare(task)
    judge = Judge(task, original, notes)
    pool = _pool(task, original, notes)
    tried: list[Member] = []
    judged, smallest = 0, math.inf
    for candidate in _fastest_first(task, original.candidate, pool, notes):
        if judged == _JUDGED or candidate.size_bytes >= _SMALLER * smallest:
            continue
        on_choose = outputs_on(candidate, task.choose)
        if judge.misses_on_choose(on_choose):
            tried.append(judge.set_aside(candidate, on_choose))
            continue
        member = judge.judge(candidate, on_choose)
        tried.append(member)
        judged += member.comparison is not None
        if member.verdict and member.verdict.kind != "rejected":  # what is wrong with it may be right in a slower one
            smallest = candidate.size_bytes
    if pool.plan and not any(member.verdict and int8_layers(member.candidate.program) for member in tried):
        tried += [judge.judge(one, outputs_on(one, task.choose)) for one in _raised(task, judge, pool, notes)]
    front = _front(task, judge, tried, notes)
    _audit(task, front.best)
    for member in tried:
        member.evidence["sensitivity"] = [row.to_json() for row in pool.layers]
    tell(task, front)
    return front


def _audit(task: Task, best: Member) -> None:
    """What the best member would answer on other processors, into its evidence; left out past the time limit."""
    if task.deadline.passed or not int8_layers(best.candidate.program):
        return
    task.progress.stage(f"{best.name}: other processors")
    found = audit(best.candidate.program, task.choose, best.candidate.target, count=_AUDITED_SAMPLES)
    best.evidence["other_processors"] = found.to_json()


@dataclass
class _Pool:
    """Candidates before any is judged.

    Attributes:
        floats: the original in other precisions of floats.
        plan: how layers are quantized; ``None`` if int8 does not apply.
        int8: with all layers in int8 first, then with some in float.
        layers: what each layer costs and gains in int8.
    """

    floats: list[Candidate]
    plan: Int8Plan | None
    int8: list[Candidate] = field(default_factory=list)
    layers: list[LayerSensitivity] = field(default_factory=list)


def _pool(task: Task, original: Original, notes: list[str]) -> _Pool:
    targets = float_targets(task)
    floats = [lower_candidate(task, SHORT_NAMES[one.precision], task.program, target=one) for one in targets]
    plan, found = choose_int8(task, original.on_choose)
    notes += found
    if plan is None:
        return _Pool(floats, None)
    whole = plan.candidate(task)
    layers = scan(task, plan, whole, original.candidate, limit_s=_SCAN_S)
    pool = _Pool(floats, plan, [whole, *faster_mixes(task, plan, whole, layers)], layers)
    others = [plan.placed(task, placement) for placement in task.target.facts.placements]
    pool.int8 += [other.candidate(task) for other in others]
    for target, plain in zip(targets, floats, strict=True):
        pool.int8 += [one.candidate(task, target=target) for one in (plan, *others)]
        float_us = layer_microseconds(task, plain)
        there = [replace(row, float_us=float_us.get(row.layer)) for row in layers]
        pool.int8 += faster_mixes(task, plan, whole, there, target)
    return pool


def _fastest_first(task: Task, baseline: Candidate, pool: _Pool, notes: list[str]) -> list[Candidate]:
    """All candidates, by a quick timing."""
    candidates = [*pool.floats, *pool.int8]
    if not candidates:
        return []
    task.progress.stage("comparing candidates")
    base_ms, *times_ms = quick_times(task, [baseline, *candidates])
    timed = sorted(zip(times_ms, candidates, strict=True), key=lambda pair: pair[0])
    quick = ", ".join(f"{candidate.name} {base_ms / ms:.2f}x" for ms, candidate in timed)
    notes.append(f"quick timing by turns, to choose what is judged: {quick}")
    return [candidate for _, candidate in timed]


def _raised(task: Task, judge: Judge, pool: _Pool, notes: list[str]) -> list[Candidate]:
    """The fewest layers in float for which the choosing samples miss no clause: none or one candidate."""
    assert pool.plan is not None
    ranked = sorted(pool.layers, key=lambda row: -row.price)
    found = fewest_in_float(
        task, pool.plan, ranked, lambda candidate: not judge.misses_on_choose(outputs_on(candidate, task.choose))
    )
    if found is None:
        notes.append("no choice of layers in float was found that holds the budget on the choosing samples")
    return [found] if found else []


def _prepare(task: Task) -> tuple[Original, list[str]]:
    original = build_original(task)
    for samples, outputs in ((task.choose, original.on_choose), (task.prove, original.on_prove)):
        task.metric.value(outputs, labels_for(task, samples, outputs))  # wrong labels show now, not after the work
    notes = [
        f"{len(task.calibrate)} samples to calibrate, {len(task.choose)} to choose, {len(task.prove)} to prove",
    ]
    for name, values in original.on_choose.items():
        bad = int(np.isnan(values.reshape(len(values), -1)).any(axis=1).sum()) if values.dtype.kind == "f" else 0
        notes += [f"the original's output {name} is NaN for {bad} of {len(values)} samples"] if bad else []
    scores = task.metric.per_sample(original.on_prove, labels_for(task, task.prove, original.on_prove))
    if scores is not None and np.isin(scores, (0, 1)).all():  # right or wrong: for others the line would be wrong
        drops = [clause for clause in task.budget.clauses if clause.kind == "metric drop" and clause.unit == "pt"]
        notes += [power_line(len(task.prove), _TYPICAL_DISAGREEMENT, clause.amount) for clause in drops]
    return original, notes


def _front(task: Task, judge: Judge, tried: list[Member], notes: list[str]) -> Front:
    """Sort what was judged into members and the rest, and choose the best."""
    baseline = judge.baseline_member()
    accepted = fastest_first([member for member in tried if member.status == "accepted"])
    rest = [member for member in tried if member.status != "accepted"]
    undecided = fastest_first([member for member in rest if member.status == "undecided"])
    baseline_holds = all(result.decision == "holds" for result in baseline.clauses)
    if accepted:
        best, outcome = _smallest_of_fastest(accepted), "met"
    elif undecided:
        best, outcome = undecided[0], "undecided"
    elif baseline_holds:
        best, outcome = baseline, "met"
    else:
        best = min([*tried, baseline], key=_distance)
        fails = any(result.decision == "fails" for result in best.clauses) or best.status == "rejected"
        outcome = "missed" if fails else "undecided"
    if task.deadline.passed:
        notes.append("the time limit passed; optional work was left out")
    front = Front(
        (*([baseline] if baseline_holds else []), *accepted),
        (*rest, *([] if baseline_holds else [baseline])),
        best,
        outcome,
        improved=best.status != "baseline" and outcome != "missed",
        budget=str(task.budget),
        metric=task.metric.name,
        target=str(task.target),
        notes=tuple(notes),
    )
    for member in (*front.members, *front.tried):  # an artifact carries the story of the search it came from
        member.evidence["search"] = front.report()
    return front


def _distance(member: Member) -> tuple[int, float]:
    measured = member.status == "baseline" or member.comparison is not None
    return (not measured, sum(result.short_by for result in member.clauses))


def _smallest_of_fastest(accepted: list[Member]) -> Member:
    """The fastest member, or a smaller one that the machine cannot tell from it in speed."""

    def gap(member: Member) -> float:
        first, own = accepted[0].comparison, member.comparison
        return first.speedup / own.speedup - 1 if first and own else 0.0

    resolution = accepted[0].comparison.resolution if accepted[0].comparison else 0.0
    tied = [member for member in accepted if gap(member) <= resolution]
    return min(tied, key=lambda member: member.size_bytes)
