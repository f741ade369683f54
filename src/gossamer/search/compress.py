"""The search of this version: baseline, int8, sensitive layers back to float, then verify, measure, prove.

Whatever replaces the inside keeps the outside: a ``Task`` in, a ``Front`` out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gossamer.core.budget import Clause
from gossamer.core.errors import GossamerError, UnsupportedOp
from gossamer.core.measurement import Measurement
from gossamer.datasets.samples import Samples
from gossamer.metrics.comparison import Comparison
from gossamer.search.baseline import build_baseline
from gossamer.search.claims import (
    METRIC_KINDS,
    ClauseResult,
    Predictions,
    decide_measured_clause,
    decide_metric_clause,
    drop_text,
    flips_of,
    measure_drop,
    misses,
)
from gossamer.search.evaluation import check_parity, compare_speed, divergence, measure_process, outputs_on, run_kernels
from gossamer.search.fallback import fewest_in_float, int8_candidate, rank_by_sensitivity
from gossamer.search.front import Front, Member, Status, fastest_first
from gossamer.search.task import Candidate, Task, labels_for
from gossamer.techniques.quantize.calibration import OBSERVERS
from gossamer.techniques.quantize.int8 import Calibration, Int8, int8_layers
from gossamer.verification.certificates import power_line
from gossamer.verification.parity import Parity
from gossamer.verification.policies import INT8
from gossamer.verification.verdict import decide

_TYPICAL_DISAGREEMENT = 0.02
"""Share of samples whose answer int8 changes, for the power line before anything is known: seen 1 to 3 %."""


def search(task: Task) -> Front:
    """Find the members that hold the budget.

    The samples kept for proving are opened for one candidate: plain int8, or, where that misses the budget on the
    choosing samples, the one with the fewest layers back in float that does not.
    """
    run = _Run(task, *_prepare(task))
    tried: list[Member] = []
    plain = run.best_int8()
    if plain is not None and not run.misses_on_choose(plain.on_choose):
        tried.append(run.judge(plain.candidate))
    elif plain is not None:
        tried.append(run.set_aside(plain))
        raised = run.raise_precision(plain)
        if raised is not None:
            tried.append(run.judge(raised))
    return run.front(tried)


@dataclass
class _Original:
    """The baseline and what it predicts."""

    candidate: Candidate
    parity: Parity
    on_choose: Mapping[str, np.ndarray]
    on_prove: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class _Plain:
    """All layers in int8, with one observer, and what it predicts."""

    candidate: Candidate
    on_choose: Mapping[str, np.ndarray]
    technique: Int8
    calibration: Calibration
    distance: float


def _prepare(task: Task) -> tuple[_Original, list[str]]:
    baseline, parity = build_baseline(task)
    original = _Original(
        baseline, parity, outputs_on(task, baseline, task.choose), outputs_on(task, baseline, task.prove)
    )
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


class _Run:
    """The state of one search."""

    def __init__(self, task: Task, original: _Original, notes: list[str]) -> None:
        self._task = task
        self._original = original
        self._notes = notes
        self._resolution: float | None = None
        self._baseline_speed: tuple[Measurement, ...] = ()
        self._baseline_process = measure_process(task, original.candidate)

    def best_int8(self) -> _Plain | None:
        """Plain int8 with the observer whose outputs stay nearest to the original's; ``None`` if it does not apply."""
        task = self._task
        task.progress.stage("int8", len(OBSERVERS))
        found: list[_Plain] = []
        for observer in OBSERVERS:
            technique = Int8(observer=observer)
            try:
                calibration = technique.calibrate(task.program, task.calibrate.inputs, task.target)
            except UnsupportedOp as error:
                self._notes.append(f"int8 does not apply: {error.got}")
                return None
            try:
                candidate = int8_candidate(task, technique, calibration)
                on_choose = outputs_on(task, candidate, task.choose)
            except GossamerError as error:  # a candidate that fails is no reason to lose the others
                self._notes.append(f"int8 with {observer} failed, a bug in gossamer, please report it: {error}")
                return None
            distance = divergence(self._original.on_choose, on_choose)
            found.append(_Plain(candidate, on_choose, technique, calibration, distance))
            task.progress.advance(observer)
        found.sort(key=lambda plain: plain.distance)
        distances = ", ".join(f"{plain.technique.observer} {plain.distance:.2%}" for plain in found)
        self._notes.append(f"observers by relative output distance: {distances}")
        return found[0]

    def _on_choose(self, outputs: Mapping[str, np.ndarray]) -> Predictions:
        return _beside(self._task, self._task.choose, self._original.on_choose, outputs)

    def _on_prove(self, outputs: Mapping[str, np.ndarray]) -> Predictions:
        return _beside(self._task, self._task.prove, self._original.on_prove, outputs)

    def _clauses(self, kinds: frozenset[str]) -> list[Clause]:
        return [clause for clause in self._task.budget.clauses if clause.kind in kinds]

    def _metric_clauses(self, predictions: Predictions) -> list[ClauseResult]:
        task = self._task
        return [decide_metric_clause(c, task.metric, predictions, task.seed) for c in self._clauses(METRIC_KINDS)]

    def misses_on_choose(self, outputs: Mapping[str, np.ndarray]) -> bool:
        """Whether the point estimates on the choosing samples already miss the budget."""
        predictions = self._on_choose(outputs)
        return any(misses(clause, self._task.metric, predictions) for clause in self._clauses(METRIC_KINDS))

    def set_aside(self, plain: _Plain) -> Member:
        """A candidate that misses the budget on the choosing samples: kept with the reason, not timed or proven."""
        task, predictions = self._task, self._on_choose(plain.on_choose)
        clauses = self._metric_clauses(predictions)
        missed = [result for result in clauses if result.short_by > 0]
        return Member(
            plain.candidate,
            "rejected",
            tuple(f"on the choosing samples, {result.clause}: {result.found}" for result in missed),
            clauses=tuple(clauses),
            evidence={"drop": drop_text(measure_drop(task.metric, predictions, task.seed)), **self._evidence()},
        )

    def raise_precision(self, plain: _Plain) -> Candidate | None:
        """The fewest sensitive layers in float for which the choosing samples miss no clause."""
        task, technique, calibration = self._task, plain.technique, plain.calibration
        ranked = rank_by_sensitivity(task, technique, calibration, plain.candidate)

        def holds(candidate: Candidate) -> bool:
            return not self.misses_on_choose(outputs_on(task, candidate, task.choose))

        found = fewest_in_float(task, technique, calibration, ranked, holds)
        if found is None:
            self._notes.append("no choice of layers in float was found that holds the budget on the choosing samples")
        return found

    def judge(self, candidate: Candidate) -> Member:
        """Verify, measure and prove one candidate."""
        task = self._task
        task.progress.stage(f"{candidate.name}: verify")
        parity = check_parity(task, candidate, INT8)
        kernels = run_kernels(task, candidate)
        placement = _placement_reasons(task, candidate, kernels, parity)
        self._notes += [f"{candidate.name}: {reason}" for reason in placement]
        task.progress.stage(f"{candidate.name}: measure")
        comparison = compare_speed(task, self._original.candidate, candidate, self._resolution)
        self._resolution = comparison.resolution
        self._baseline_speed = self._baseline_speed or comparison.a
        measurements = (*comparison.b, *measure_process(task, candidate))
        task.progress.stage(f"{candidate.name}: prove")
        predictions = self._on_prove(outputs_on(task, candidate, task.prove))
        proven = self._metric_clauses(predictions)
        clauses = proven + self._measured_clauses(measurements, comparison.a)
        limited = zip(self._clauses(METRIC_KINDS), proven, strict=True)
        known = (result.certificate for clause, result in limited if clause.kind == "metric drop")
        drop = next(known, None) or measure_drop(task.metric, predictions, task.seed)
        certificates = [result.certificate for result in clauses if result.certificate is not None]
        verdict = decide(parity, certificates, flips_of(task.metric, predictions))
        status, reasons = _judge(verdict.kind, verdict.reasons, clauses, self._slower(candidate, comparison))
        return Member(
            candidate,
            status,
            reasons,
            task.metric.value(predictions.after, predictions.labels),
            tuple(clauses),
            verdict,
            comparison,
            measurements,
            kernels,
            evidence={
                "placement": placement,
                "drop": drop_text(drop),
                **self._evidence(),
            },
        )

    def _slower(self, candidate: Candidate, comparison: Comparison) -> list[str]:
        """Why a candidate is no gain over the baseline; empty if it is one, or if the baseline misses the budget."""
        smaller = candidate.size_bytes < self._original.candidate.size_bytes
        if comparison.word == "faster" or (comparison.word != "slower" and smaller):
            return []
        if any(result.decision == "fails" for result in self._baseline_clauses()):
            return []
        what = "no gain over the baseline" if smaller else "neither faster nor smaller than the baseline"
        return [f"{what}: {comparison}"]

    def _measured_clauses(
        self, measurements: tuple[Measurement, ...], baseline: tuple[Measurement, ...]
    ) -> list[ClauseResult]:
        wanted = [clause for clause in self._task.budget.clauses if clause.kind not in METRIC_KINDS]
        reference = (*baseline, *self._baseline_process)
        return [decide_measured_clause(clause, measurements, reference) for clause in wanted]

    def _evidence(self) -> dict[str, object]:
        task = self._task
        return {
            "metric": task.metric.name,
            "budget": str(task.budget),
            "target": str(task.target),
            "data": {
                "calibrate": task.calibrate.digest,
                "choose": task.choose.digest,
                "prove": task.prove.digest,
                "counts": [len(task.calibrate), len(task.choose), len(task.prove)],
            },
            "original_program": task.program.digest,
            "capture": list(task.program.provenance),
        }

    def _baseline_clauses(self) -> tuple[ClauseResult, ...]:
        """The budget as the original meets it: levels of the metric, and what was measured; it drops by nothing."""
        task, same = self._task, self._on_prove(self._original.on_prove)
        levels = [
            decide_metric_clause(clause, task.metric, same, task.seed)
            for clause in task.budget.clauses
            if clause.kind == "metric" and clause.unit != "x"
        ]
        measured = (*self._baseline_speed, *self._baseline_process)
        return (*levels, *self._measured_clauses(measured, self._baseline_speed))

    def _baseline_member(self) -> Member:
        """The original as a member: its clauses about the metric hold by definition, the measured ones are measured."""
        task, original = self._task, self._original
        labels = labels_for(task, task.prove, original.on_prove)
        if not self._baseline_speed:
            comparison = compare_speed(task, original.candidate, original.candidate, None)
            self._baseline_speed = comparison.a
        measurements = (*self._baseline_speed, *self._baseline_process)
        return Member(
            original.candidate,
            "baseline",
            metric_value=task.metric.value(original.on_prove, labels),
            clauses=self._baseline_clauses(),
            verdict=decide(original.parity),
            measurements=measurements,
            evidence=self._evidence(),
        )

    def front(self, tried: list[Member]) -> Front:
        """Sort what was judged into members and the rest, and choose the best."""
        task = self._task
        baseline = self._baseline_member()
        accepted = fastest_first([member for member in tried if member.status == "accepted"])
        rest = [member for member in tried if member.status != "accepted"]
        undecided = fastest_first([member for member in rest if member.status == "undecided"])
        baseline_holds = all(result.decision == "holds" for result in baseline.clauses)
        if accepted:
            best, outcome = accepted[0], "met"
        elif undecided:
            best, outcome = undecided[0], "undecided"
        elif baseline_holds:
            best, outcome = baseline, "met"
        else:
            best = min([*tried, baseline], key=_distance)
            fails = any(result.decision == "fails" for result in best.clauses) or best.status == "rejected"
            outcome = "missed" if fails else "undecided"
        notes = list(self._notes)
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


def _beside(
    task: Task, samples: Samples, before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]
) -> Predictions:
    """Outputs of the original and of a candidate on the same samples, with what the metric needs."""
    classes = samples.labels if samples.labels is not None and samples.labels.ndim == 1 else None
    return Predictions(before, after, labels_for(task, samples, before), classes, samples.digest)


def _distance(member: Member) -> tuple[int, float]:
    return (member.verdict is None, sum(result.short_by for result in member.clauses))


def _judge(
    kind: str, reasons: tuple[str, ...], clauses: list[ClauseResult], slower: list[str]
) -> tuple[Status, tuple[str, ...]]:
    """Status and reasons from verdict, clauses and speed."""
    failed = [f"{result.clause}: {result.found}" for result in clauses if result.decision == "fails"]
    if kind == "rejected" or failed or slower:
        own = list(reasons) if kind == "rejected" and not failed else []
        return "rejected", (*own, *failed, *slower)
    open_ = [f"{result.clause}: {result.found}" for result in clauses if result.decision == "undecided"]
    if open_:
        return "undecided", tuple(open_)
    return "accepted", ()


def _placement_reasons(task: Task, candidate: Candidate, kernels: Mapping[str, str], parity: Parity) -> list[str]:
    """Layers that should have run in integers and did not, and a signal-to-noise ratio that says the same."""
    rules = task.target.facts.quantizers
    if rules is None:
        return []
    reasons = [
        f"{layer} ran in float ({kernels.get(layer, 'not found in the profile')})"
        for layer in int8_layers(candidate.program)
        if kernels.get(layer) not in rules.int8_kernels
    ]
    worst = parity.worst("real")
    if worst is not None and worst.sqnr_db < rules.placement_snr_db:
        reasons.append(
            f"runtime against simulation: {worst.sqnr_db:.1f} dB, less than the {rules.placement_snr_db:g} dB "
            "of a placement that the runtime honours"
        )
    return reasons
