"""One candidate before the bench: verified, timed beside the baseline, and the budget proven on samples kept for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gossamer.core.budget import Clause
from gossamer.core.measurement import Measurement
from gossamer.datasets.samples import Samples
from gossamer.metrics.comparison import Comparison
from gossamer.search.baseline import build_baseline
from gossamer.search.claims import (
    METRIC_KINDS,
    ClauseResult,
    Predictions,
    behaviour_of,
    decide_measured_clause,
    decide_metric_clause,
    drop_text,
    flips_of,
    measure_drop,
    misses,
    without_claim,
)
from gossamer.search.evaluation import (
    check_parity,
    compare_speed,
    diagnose_candidate,
    measure_process,
    outputs_on,
    run_kernels,
)
from gossamer.search.front import Member, Status
from gossamer.search.task import Candidate, Task, labels_for
from gossamer.techniques.quantize.int8 import int8_layers
from gossamer.verification.parity import Parity
from gossamer.verification.policies import BF16, FP32, INT8, INT8_BF16, Policy
from gossamer.verification.verdict import decide


@dataclass(frozen=True)
class Original:
    """The baseline and what it predicts."""

    candidate: Candidate
    parity: Parity
    on_choose: Mapping[str, np.ndarray]
    on_prove: Mapping[str, np.ndarray]


def build_original(task: Task) -> Original:
    """Lower and verify the original, and run it on the choosing and on the proving samples."""
    baseline, parity = build_baseline(task)
    on_choose = outputs_on(baseline, task.choose)
    on_prove = on_choose if task.prove is task.choose else outputs_on(baseline, task.prove)
    return Original(baseline, parity, on_choose, on_prove)


class Judge:
    """Judges candidates of one search; keeps what they share: the baseline's figures and the machine's resolution.

    The proving samples are opened for one candidate after the other, in the order they are judged. Each may claim at
    the full level as long as all before it held; behind the first that did not, figures are given and nothing claimed.

    Args:
        task: the search.
        original: the baseline.
        notes: what the reader should know is added here.
    """

    def __init__(self, task: Task, original: Original, notes: list[str]) -> None:
        self._task = task
        self._original = original
        self._notes = notes
        self._resolution: float | None = None
        self._baseline_speed: tuple[Measurement, ...] = ()
        self._baseline_process = measure_process(task, original.candidate)
        self._may_claim = True
        self._diagnosed = False

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

    def set_aside(self, candidate: Candidate, on_choose: Mapping[str, np.ndarray]) -> Member:
        """A candidate that misses the budget on the choosing samples: kept with the reason, not timed or proven."""
        task, predictions = self._task, self._on_choose(on_choose)
        clauses = self._metric_clauses(predictions)
        missed = [result for result in clauses if result.short_by > 0]
        return Member(
            candidate,
            "rejected",
            tuple(f"on the choosing samples, {result.clause}: {result.found}" for result in missed),
            clauses=tuple(clauses),
            evidence={"drop": drop_text(measure_drop(task.metric, predictions, task.seed)), **self._evidence()},
        )

    def judge(self, candidate: Candidate, on_choose: Mapping[str, np.ndarray]) -> Member:
        """Verify, measure and prove one candidate; one that answers wrongly is not measured.

        Args:
            candidate: what to judge.
            on_choose: what it predicts on the choosing samples, for the choice of slices.
        """
        task = self._task
        task.progress.stage(f"{candidate.name}: verify")
        policy = policy_of(candidate)
        parity = check_parity(task, candidate, policy)
        if parity.verdict == "rejected":
            return self._wrong(candidate, parity)
        kernels = run_kernels(task, candidate)
        placement = _placement_reasons(task, candidate, kernels, parity)
        self._notes += [f"{candidate.name}: {reason}" for reason in placement]
        task.progress.stage(f"{candidate.name}: measure")
        comparison = compare_speed(task, self._original.candidate, candidate, self._resolution)
        self._resolution = comparison.resolution
        self._baseline_speed = self._baseline_speed or comparison.a
        measurements = (*comparison.b, *measure_process(task, candidate))
        task.progress.stage(f"{candidate.name}: prove")
        predictions = self._on_prove(outputs_on(candidate, task.prove))
        proven = self._claimed(self._metric_clauses(predictions))
        clauses = proven + self._measured_clauses(measurements, comparison.a)
        certificates = [result.certificate for result in clauses if result.certificate is not None]
        verdict = decide(parity, certificates, flips_of(task.metric, predictions))
        status, reasons = _judge(verdict.kind, verdict.reasons, clauses, self._slower(candidate, comparison))
        if status == "accepted" and comparison.word == "unstable" and not self._is_smaller(candidate):
            status, reasons = "undecided", (f"no gain in size, and in speed {comparison}",)
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
                "drop": drop_text(measure_drop(task.metric, predictions, task.seed)),
                **self._behaviour(predictions, self._on_choose(on_choose)),
                **self._evidence(),
            },
        )

    def _wrong(self, candidate: Candidate, parity: Parity) -> Member:
        """A file that does not compute what its program says: not timed or proven; the first is diagnosed."""
        verdict, evidence = decide(parity), self._evidence()
        reasons = verdict.reasons
        if not self._diagnosed:
            self._diagnosed = True
            diagnosis = diagnose_candidate(self._task, candidate, parity)
            reasons = (*reasons, str(diagnosis))
            evidence["diagnosis"] = diagnosis.to_json()
        return Member(candidate, "rejected", reasons, verdict=verdict, evidence=evidence)

    def _behaviour(self, proven: Predictions, chosen: Predictions) -> dict[str, object]:
        found = behaviour_of(self._task.metric, proven, chosen, seed=self._task.seed)
        return {} if found is None else {"behaviour": found.to_json()}

    def _claimed(self, results: list[ClauseResult]) -> list[ClauseResult]:
        """The results, without claims if an earlier candidate failed on the same samples."""
        may_claim, self._may_claim = self._may_claim, self._may_claim and all(r.decision == "holds" for r in results)
        return results if may_claim else [without_claim(result) for result in results]

    def _is_smaller(self, candidate: Candidate) -> bool:
        return candidate.size_bytes < self._original.candidate.size_bytes

    def _slower(self, candidate: Candidate, comparison: Comparison) -> list[str]:
        """Why a candidate is no gain over the baseline; empty if it is one, or if the baseline misses the budget."""
        smaller = self._is_smaller(candidate)
        slower = comparison.interval[1] < 1  # also where the machine was too noisy for a word
        if comparison.word == "faster" or (smaller and not slower):
            return []
        misses = any(result.decision == "fails" for result in self._baseline_clauses())
        if misses or (comparison.word == "unstable" and not slower):
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

    def baseline_member(self) -> Member:
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


def policy_of(candidate: Candidate) -> Policy:
    """What is asked of a candidate's file: integers are judged as integers, whatever computes the rest."""
    floats = candidate.target.precision == "float32"
    if candidate.recipe.steps and int8_layers(candidate.program):
        return INT8 if floats else INT8_BF16
    return FP32 if floats else BF16


def _beside(
    task: Task, samples: Samples, before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]
) -> Predictions:
    """Outputs of the original and of a candidate on the same samples, with what the metric needs."""
    classes = samples.labels if samples.labels is not None and samples.labels.ndim == 1 else None
    return Predictions(before, after, labels_for(task, samples, before), classes, samples.digest, samples.inputs)


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
    """Layers that should have run in integers and did not, with the signal-to-noise ratio against simulation.

    The ratio alone says little: in a deep network single steps of rounding grow to 30 dB with every kernel in integers.
    """
    rules = task.target.facts.quantizers
    if rules is None:
        return []
    reasons = [
        f"{layer} ran in float ({kernels.get(layer, 'not found in the profile')})"
        for layer in int8_layers(candidate.program)
        if kernels.get(layer) not in rules.int8_kernels
    ]
    worst = parity.worst("real")
    if reasons and worst is not None and worst.sqnr_db < rules.placement_snr_db:
        reasons.append(
            f"runtime against simulation: {worst.sqnr_db:.1f} dB, less than the {rules.placement_snr_db:g} dB "
            "of a placement that the runtime honours"
        )
    return reasons
