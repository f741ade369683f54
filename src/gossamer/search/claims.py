"""Budget clauses against evidence: what holds, what fails, what the data cannot decide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from gossamer.core.budget import Clause
from gossamer.core.errors import DataError
from gossamer.core.measurement import Measurement
from gossamer.core.units import format_amount
from gossamer.metrics.base import Metric
from gossamer.verification.certificates import Certificate, Claim, certify_metric, certify_scores
from gossamer.verification.flips import Flips

Decision = Literal["holds", "fails", "undecided"]


@dataclass(frozen=True)
class ClauseResult:
    """One clause of the budget and what became of it.

    Attributes:
        clause: its text.
        decision: ``holds``, ``fails`` or ``undecided``.
        found: the figure it was decided on, with its interval.
        short_by: how far it is missed, relative to the limit; 0 if it holds.
        certificate: of a clause about the metric.
    """

    clause: str
    decision: Decision
    found: str
    short_by: float = 0.0
    certificate: Certificate | None = None

    @property
    def beyond(self) -> str:
        """By how much the figure is beyond the limit: ``+0.36 pt``, or relative to the limit; empty if it is not."""
        if not self.short_by:
            return ""
        if self.certificate is not None:
            return format_amount(self.certificate.estimate - self.certificate.limit, self.certificate.unit)
        return f"{self.short_by:.0%}" if self.short_by < 10 else f"{1 + self.short_by:.0f} times the limit"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value."""
        certificate = self.certificate.to_json() if self.certificate else None
        return {"clause": self.clause, "decision": self.decision, "found": self.found, "certificate": certificate}


@dataclass(frozen=True)
class Predictions:
    """Outputs of the original and of a candidate on the same samples, with the labels.

    Attributes:
        before: the original's outputs by name.
        after: the candidate's.
        labels: labels, or the original's outputs for a metric that compares with them.
        classes: the label of each sample where labels are class numbers, for the worst class.
        data_digest: of the samples.
    """

    before: Mapping[str, np.ndarray]
    after: Mapping[str, np.ndarray]
    labels: Any
    classes: np.ndarray | None
    data_digest: str


def decide_metric_clause(clause: Clause, metric: Metric, predictions: Predictions, seed: int) -> ClauseResult:
    """Test a clause about the metric on the samples kept for proving."""
    if clause.kind == "metric drop":
        return _drop(clause, metric, predictions, seed)
    if clause.kind == "worst class metric drop":
        return _worst_class(clause, metric, predictions, seed)
    if clause.kind in ("flips", "negative flips"):
        return _flips(clause, metric, predictions)
    return _level(clause, metric, predictions, seed)


def misses(clause: Clause, metric: Metric, predictions: Predictions) -> bool:
    """Whether the point estimate of a clause about the metric is beyond its limit: quick, and proves nothing."""
    before, after = (metric.value(side, predictions.labels) for side in (predictions.before, predictions.after))
    harm = metric.harm(before, after)
    if clause.kind == "metric drop":
        return harm > _drop_limit(clause, metric, predictions)
    if clause.kind == "metric":
        return metric.harm(_level_limit(clause, metric, before), after) > 0
    return decide_metric_clause(clause, metric, predictions, seed=0).short_by > 0


def _claim(clause: Clause, metric: Metric, limit: float, digest: str) -> Claim:
    unit: Literal["pt", ""] = "pt" if metric.unit == "%" else ""
    return Claim(str(clause), limit, unit, metric.better, alpha=1 - clause.confidence, data_digest=digest)


def _certify(metric: Metric, predictions: Predictions, claim: Claim, seed: int) -> Certificate:
    before = metric.per_sample(predictions.before, predictions.labels)
    after = metric.per_sample(predictions.after, predictions.labels)
    if before is not None and after is not None:
        return certify_scores(before, after, claim, seed=seed)

    def on(outputs: Mapping[str, np.ndarray], indices: np.ndarray) -> float:
        return metric.value(_rows(outputs, indices), _rows(predictions.labels, indices))

    count = len(next(iter(predictions.before.values())))
    return certify_metric(
        lambda i: on(predictions.before, i), lambda i: on(predictions.after, i), count, claim, seed=seed
    )


def _rows(value: Any, indices: np.ndarray) -> Any:
    if isinstance(value, Mapping):
        return {name: array[indices] for name, array in value.items()}
    return None if value is None else value[indices]


def _drop(clause: Clause, metric: Metric, predictions: Predictions, seed: int) -> ClauseResult:
    claim = _claim(clause, metric, _drop_limit(clause, metric, predictions), predictions.data_digest)
    return _from_certificate(clause, _certify(metric, predictions, claim, seed))


def _drop_limit(clause: Clause, metric: Metric, predictions: Predictions) -> float:
    """The largest drop allowed, in points or the metric's own unit."""
    scale = abs(metric.value(predictions.before, predictions.labels)) if clause.unit == "x" else 1.0
    return clause.amount * scale


def _level_limit(clause: Clause, metric: Metric, before: float) -> float:
    """The value to be kept, in the metric's unit."""
    if clause.unit == "x":
        return before + abs(before) * (clause.amount - 1)
    return clause.amount * (100.0 if metric.unit == "%" and clause.unit == "share" else 1.0)


def measure_drop(metric: Metric, predictions: Predictions, seed: int) -> Certificate:
    """How much the metric fell, for a budget that does not limit it."""
    unit: Literal["pt", ""] = "pt" if metric.unit == "%" else ""
    return _certify(metric, predictions, Claim("drop", 0.0, unit, metric.better), seed)


def drop_text(certificate: Certificate) -> str:
    """A drop with its 90 % interval."""
    text = format_amount(certificate.estimate, certificate.unit)
    if certificate.interval is None:
        return text
    low, high = certificate.interval
    return f"{text} [{format_amount(low, certificate.unit)}, {format_amount(high, certificate.unit)}]"


def _from_certificate(clause: Clause, certificate: Certificate) -> ClauseResult:
    found = f"drop {drop_text(certificate)}, n={certificate.n}"
    if certificate.decision == "undecided" and certificate.samples_needed:
        found += f"; about {certificate.samples_needed} samples would decide it"
    short = max(0.0, certificate.estimate - certificate.limit) / max(abs(certificate.limit), 1e-9)
    return ClauseResult(str(clause), certificate.decision, found, short, certificate)


def _level(clause: Clause, metric: Metric, predictions: Predictions, seed: int) -> ClauseResult:
    """``top1 >= 90%``, ``mae <= 1.5``, ``top1 >= 0.99x baseline``: a drop from a fixed level or from the original."""
    before = metric.value(predictions.before, predictions.labels)
    level = _level_limit(clause, metric, before)
    if clause.unit == "x":
        limit = metric.harm(before, level)
        return _from_certificate(
            clause, _certify(metric, predictions, _claim(clause, metric, limit, predictions.data_digest), seed)
        )
    after = metric.value(predictions.after, predictions.labels)
    claim = _claim(clause, metric, 0.0, predictions.data_digest)
    scores = metric.per_sample(predictions.after, predictions.labels)
    # A fixed level is a drop from a model that scores exactly this level, on every sample and on every resample.
    if scores is None:
        certificate = certify_metric(
            lambda _: level,
            lambda rows: metric.value(_rows(predictions.after, rows), _rows(predictions.labels, rows)),
            len(next(iter(predictions.after.values()))),
            claim,
            seed=seed,
        )
    else:
        factor = 100.0 if metric.unit == "%" else 1.0
        certificate = certify_scores(np.full(len(scores), level / factor), scores, claim, seed=seed)
    drops = certificate.interval or (float("nan"), float("nan"))
    sign = 1.0 if metric.better == "higher" else -1.0
    low, high = sorted(level - sign * drop for drop in drops)
    figure = ".2f" if metric.unit else ".4g"
    found = f"{after:{figure}}{metric.unit} [{low:{figure}}, {high:{figure}}], n={certificate.n}"
    short = max(0.0, sign * (level - after)) / max(abs(level), 1e-9)
    return ClauseResult(str(clause), certificate.decision, found, short, certificate)


def _worst_class(clause: Clause, metric: Metric, predictions: Predictions, seed: int) -> ClauseResult:
    """Every class must pass its own test; no correction is needed for all of them to pass together."""
    if predictions.classes is None:
        raise DataError(f"testing {clause}", got="no class labels", expected="one class number a sample")
    worst: ClauseResult | None = None
    order = {"fails": 0, "undecided": 1, "holds": 2}
    for label in np.unique(predictions.classes):
        rows = np.flatnonzero(predictions.classes == label)
        part = Predictions(
            _rows(predictions.before, rows),
            _rows(predictions.after, rows),
            _rows(predictions.labels, rows),
            None,
            predictions.data_digest,
        )
        result = _drop(clause, metric, part, seed)
        named = ClauseResult(
            result.clause, result.decision, f"class {label}: {result.found}", result.short_by, result.certificate
        )
        key = (order[named.decision], -named.short_by)
        if worst is None or key < (order[worst.decision], -worst.short_by):
            worst = named
    assert worst is not None
    return worst


def _flips(clause: Clause, metric: Metric, predictions: Predictions) -> ClauseResult:
    """Share of samples that changed from right to wrong (or in either direction), with a one-sided Wilson bound."""
    from gossamer.verification.paired import wilson_interval

    before = metric.per_sample(predictions.before, predictions.labels)
    after = metric.per_sample(predictions.after, predictions.labels)
    if before is None or after is None:
        raise DataError(
            f"testing {clause}", got=f"{metric.name}, which is no mean over samples", expected="a right/wrong metric"
        )
    changed = before > after if clause.quantity == "negative flips" else before != after
    count, n = int(changed.sum()), len(changed)
    low, high = wilson_interval(count, n, confidence=2 * clause.confidence - 1)  # one-sided, so twice the tail
    decision: Decision = "holds" if high <= clause.amount else "fails" if low > clause.amount else "undecided"
    found = f"{count / n:.2%} [{low:.2%}, {high:.2%}], n={n}"
    return ClauseResult(str(clause), decision, found, max(0.0, count / n - clause.amount) / max(clause.amount, 1e-9))


def decide_measured_clause(
    clause: Clause, measured: Sequence[Measurement], baseline: Sequence[Measurement]
) -> ClauseResult:
    """Hold a measured quantity (latency, throughput, size, memory, load time) against its limit.

    Holds if the whole interval does, fails if none of it does; a figure without an interval counts as exact.
    """
    name = f"latency {clause.statistic}" if clause.quantity == "latency" else _MEASUREMENT_NAMES[clause.quantity]
    found = next((item for item in measured if item.name == name), None)
    if found is None:
        return ClauseResult(str(clause), "undecided", f"{name} was not measured: too few calls")
    limit = clause.amount
    if clause.unit == "x":
        reference = next((item.value for item in baseline if item.name == name), None)
        if reference is None:
            return ClauseResult(str(clause), "undecided", f"{name} of the baseline was not measured: too few calls")
        limit *= reference
    low, high = found.interval or (found.value, found.value)
    best, worst = (low, high) if clause.comparison == "<=" else (high, low)
    sign = 1 if clause.comparison == "<=" else -1
    decision: Decision = (
        "holds" if sign * (limit - worst) >= 0 else "fails" if sign * (best - limit) > 0 else "undecided"
    )
    short = max(0.0, sign * (found.value - limit)) / max(limit, 1e-12)
    return ClauseResult(str(clause), decision, str(found), short)


_MEASUREMENT_NAMES = {"size": "size", "peak memory": "peak memory", "load time": "load", "throughput": "throughput"}

METRIC_KINDS = frozenset({"metric", "metric drop", "worst class metric drop", "flips", "negative flips"})
"""Kinds of clause that are decided on predictions; the others on measurements."""


def flips_of(metric: Metric, predictions: Predictions) -> Flips | None:
    """The four-way table, where the metric is right or wrong per sample."""
    from gossamer.verification.flips import count_flips

    before = metric.per_sample(predictions.before, predictions.labels)
    after = metric.per_sample(predictions.after, predictions.labels)
    if before is None or after is None or not np.isin(np.concatenate([before, after]), (0, 1)).all():
        return None
    return count_flips(before, after)
