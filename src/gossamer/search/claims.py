"""Budget clauses against evidence: what holds, what fails, what the data cannot decide.

How the samples kept for proving are used:

- They are opened once for each member, in the order that the choosing samples fixed. Each test is at full level, and
  the first member that is not shown to hold ends it: what comes later has intervals but no claim (``without_claim``).
  So the chance that any false claim is made is alpha at most, however many members there are.
- "metric drop <= d" with right or wrong answers is tested in five looks (``DEFAULT_LOOKS``). Where all predictions are
  there already, the certificate says at which look it was decided, and its figures are of the samples read until then;
  figures of all samples stand beside it (``measure_drop``) and decide nothing. ``decide_drop_in_looks`` predicts only
  what each look reads, and gives up where the rest would hardly prove the claim: the same test, fewer inferences.
- All other clauses are tested once, on all samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from gossamer.core.budget import Clause
from gossamer.core.digest import digest_arrays
from gossamer.core.errors import DataError
from gossamer.core.measurement import Measurement
from gossamer.core.names import require_known
from gossamer.core.units import format_amount
from gossamer.metrics.base import Metric
from gossamer.verification.behaviour import Behaviour, Observed, behaviour
from gossamer.verification.calibration_error import (
    Confidences,
    calibration_error,
    certify_calibration,
    certify_calibration_rise,
    confidences,
)
from gossamer.verification.certificates import (
    Certificate,
    Claim,
    certify_metric,
    certify_scores,
    certify_sequentially,
    certify_share,
)
from gossamer.verification.flips import Flips, count_flips, decisions
from gossamer.verification.sequential import DEFAULT_LOOKS
from gossamer.verification.slices import columns_of, cut_columns, slices_of
from gossamer.verification.worst_group import certify_each

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
            unit = "pt" if self.certificate.unit == "%" else self.certificate.unit
            return format_amount(self.certificate.estimate - self.certificate.limit, unit)
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
        classes: the label of each sample where labels are class numbers, for classes and calibration.
        data_digest: of the samples.
        inputs: of the samples, for slices.
        columns: what else is known of every sample, for slices.
    """

    before: Mapping[str, np.ndarray]
    after: Mapping[str, np.ndarray]
    labels: Any
    classes: np.ndarray | None
    data_digest: str
    inputs: Mapping[str, np.ndarray] = field(default_factory=dict)
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)

    @cached_property
    def digests(self) -> dict[str, str]:
        """By side, the digest of what the outputs decide."""
        sides = {"before": self.before, "after": self.after}
        return {
            side: digest_arrays({name: decisions(outputs[name]) for name in outputs}) for side, outputs in sides.items()
        }

    def take(self, rows: np.ndarray) -> Predictions:
        """The samples with these indices, under the digest of them all."""
        before, after, labels, classes = (
            _rows(value, rows) for value in (self.before, self.after, self.labels, self.classes)
        )
        return Predictions(before, after, labels, classes, self.data_digest)


def decide_metric_clause(
    clause: Clause, metric: Metric, predictions: Predictions, seed: int, looks: int = DEFAULT_LOOKS
) -> ClauseResult:
    """Test a clause about the metric on the samples kept for proving.

    Args:
        clause: of one of ``METRIC_KINDS``.
        metric: the user's.
        predictions: of all samples.
        seed: of bootstraps.
        looks: of the sequential test of a drop in right or wrong answers; 1 for a test of fixed size.

    Raises:
        DataError: the metric, its labels or the data lack what the clause is about.
        UnknownName: no such slices.
    """
    if clause.kind == "metric drop":
        return _drop(clause, metric, predictions, seed, looks)
    if clause.kind in ("worst class metric drop", "worst slice metric drop"):
        return _worst(clause, metric, predictions, seed)
    if clause.kind in ("flips", "negative flips"):
        return _flips(clause, metric, predictions)
    if clause.quantity == "calibration error":
        return _calibration(clause, metric, predictions, seed)
    return _level(clause, metric, predictions, seed)


def misses(clause: Clause, metric: Metric, predictions: Predictions) -> bool:
    """Whether the point estimate of a clause about the metric is beyond its limit: quick, and proves nothing.

    Raises as ``decide_metric_clause`` does, so a call with the original on both sides checks a clause before any work.
    """
    if clause.kind in ("flips", "negative flips"):
        return float(_changed(clause, metric, predictions).mean()) > clause.amount
    if clause.quantity == "calibration error":
        before, after = (calibration_error(side) for side in _confidences(clause, metric, predictions))
        return after - before > clause.amount / 100 if clause.is_drop else after > clause.amount
    if clause.scope:
        plain = replace(clause, scope="", scope_name="")
        return any(
            misses(plain, metric, predictions.take(rows)) for rows in _groups(clause, metric, predictions).values()
        )
    before, after = (metric.value(side, predictions.labels) for side in (predictions.before, predictions.after))
    if clause.is_drop:
        return metric.harm(before, after) > _drop_limit(clause, metric, predictions)
    return metric.harm(_level_limit(clause, metric, before), after) > 0


def _claim(clause: Clause, metric: Metric, limit: float, predictions: Predictions) -> Claim:
    unit: Literal["pt", ""] = "pt" if metric.unit == "%" else ""
    return Claim(
        str(clause),
        limit,
        unit,
        metric.better,
        alpha=1 - clause.confidence,
        data_digest=predictions.data_digest,
        prediction_digests=predictions.digests,
    )


def _certify(metric: Metric, predictions: Predictions, claim: Claim, seed: int, looks: int = 1) -> Certificate:
    before, after = _scores(metric, predictions)
    if before is not None and after is not None:
        return certify_scores(before, after, claim, looks=looks if _right_or_wrong(before, after) else 1, seed=seed)

    def on(outputs: Mapping[str, np.ndarray], indices: np.ndarray) -> float:
        return metric.value(_rows(outputs, indices), _rows(predictions.labels, indices))

    count = len(next(iter(predictions.before.values())))
    return certify_metric(
        lambda i: on(predictions.before, i), lambda i: on(predictions.after, i), count, claim, seed=seed
    )


def _scores(metric: Metric, predictions: Predictions) -> tuple[np.ndarray | None, np.ndarray | None]:
    before, after = (metric.per_sample(side, predictions.labels) for side in (predictions.before, predictions.after))
    return before, after


def _right_or_wrong(*scores: np.ndarray) -> bool:
    return all(bool(np.isin(side, (0, 1)).all()) for side in scores)


def _rows(value: Any, indices: np.ndarray) -> Any:
    if isinstance(value, Mapping):
        return {name: array[indices] for name, array in value.items()}
    return None if value is None else value[indices]


def _drop(clause: Clause, metric: Metric, predictions: Predictions, seed: int, looks: int) -> ClauseResult:
    claim = _claim(clause, metric, _drop_limit(clause, metric, predictions), predictions)
    return _from_certificate(clause, _certify(metric, predictions, claim, seed, looks))


def decide_drop_in_looks(
    clause: Clause,
    metric: Metric,
    predict: Callable[[np.ndarray], Predictions],
    n: int,
    data_digest: str,
    looks: int = DEFAULT_LOOKS,
) -> ClauseResult:
    """Test "metric drop <= d" with predictions that are made as they are needed.

    Args:
        clause: of the kind ``metric drop``, its limit in points.
        metric: one with a score for each sample.
        predict: predictions on the samples with these indices; asked for each sample at most once.
        n: samples kept for proving.
        data_digest: of all of them; it fixes the order in which they are read.
        looks: planned beforehand.

    Raises:
        DataError: the metric is no mean over samples.
    """

    def scores(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _need_scores(clause, metric, predict(rows))

    claim = Claim(str(clause), clause.amount, "pt", metric.better, 1 - clause.confidence, data_digest)
    return _from_certificate(clause, certify_sequentially(scores, n, claim, looks=looks))


def without_claim(result: ClauseResult) -> ClauseResult:
    """What was found for a member behind one that was not shown to hold: a clause that would hold stays undecided."""
    if result.decision != "holds" or result.certificate is None:
        return result
    reason = "a member before it was not shown to hold on these samples"
    certificate = replace(result.certificate, decision="undecided", withheld=reason)
    return replace(result, decision="undecided", found=f"{result.found}{certificate.advice}", certificate=certificate)


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
    """How much the metric fell on all samples, for tables: whatever the budget says of it, this decides nothing."""
    unit: Literal["pt", ""] = "pt" if metric.unit == "%" else ""
    claim = Claim("drop", 0.0, unit, metric.better, data_digest=predictions.data_digest)
    return _certify(metric, predictions, claim, seed)


def drop_text(certificate: Certificate) -> str:
    """A drop with its 90 % interval."""
    return certificate.figure


def _from_certificate(clause: Clause, certificate: Certificate) -> ClauseResult:
    short = max(0.0, certificate.estimate - certificate.limit) / max(abs(certificate.limit), 1e-9)
    return ClauseResult(str(clause), certificate.decision, certificate.finding, short, certificate)


def _level(clause: Clause, metric: Metric, predictions: Predictions, seed: int) -> ClauseResult:
    """``top1 >= 90%``, ``mae <= 1.5``, ``top1 >= 0.99x baseline``: a drop from a fixed level or from the original."""
    before = metric.value(predictions.before, predictions.labels)
    level = _level_limit(clause, metric, before)
    if clause.unit == "x":
        limit = metric.harm(before, level)
        return _from_certificate(
            clause, _certify(metric, predictions, _claim(clause, metric, limit, predictions), seed)
        )
    after = metric.value(predictions.after, predictions.labels)
    claim = _claim(clause, metric, 0.0, predictions)
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
    found = (
        f"{after:{figure}}{metric.unit} [{low:{figure}}, {high:{figure}}], {certificate.counted}{certificate.advice}"
    )
    short = max(0.0, sign * (level - after)) / max(abs(level), 1e-9)
    return ClauseResult(str(clause), certificate.decision, found, short, certificate)


def _worst(clause: Clause, metric: Metric, predictions: Predictions, seed: int) -> ClauseResult:
    """The worst class or slice: each must pass its own test."""

    def certify(rows: np.ndarray, claim: Claim) -> Certificate:
        part = predictions.take(rows)
        return _certify(metric, part, replace(claim, limit=_drop_limit(clause, metric, part)), seed)

    groups = _groups(clause, metric, predictions)
    claim = _claim(clause, metric, _drop_limit(clause, metric, predictions), predictions)
    return _from_certificate(clause, certify_each(groups, claim, certify))


def _groups(clause: Clause, metric: Metric, predictions: Predictions) -> dict[str, np.ndarray]:
    """The classes or slices of a clause, as indices by name."""
    doing = f"testing {clause}"
    if clause.scope == "worst class":
        labels = class_numbers(predictions)
        if labels is None:
            raise DataError(doing, got="no class labels", expected="one class number a sample")
        return {f"class {label}": np.flatnonzero(labels == label) for label in np.unique(labels)}
    before = _output(metric, predictions.before)
    columns = columns_of(before, predictions.inputs, class_numbers(predictions), predictions.columns)
    if clause.scope_name:
        require_known(clause.scope_name, columns, "slices", doing)
        columns = {clause.scope_name: columns[clause.scope_name]}
    slices = slices_of(columns, cut_columns(columns))  # nothing here depends on what the candidate answers
    if not slices:
        raise DataError(doing, got=f"{len(before)} samples", expected="at least two slices of 50 samples")
    return slices


def class_numbers(predictions: Predictions) -> np.ndarray | None:
    """Labels as whole numbers, shape (n,); ``None`` where they are no classes."""
    labels = predictions.classes
    if labels is None or labels.ndim != 1 or not np.array_equal(labels, np.rint(labels)):
        return None
    return labels.astype(np.int64)


def _output(metric: Metric, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """The output that the metric reads."""
    return outputs[metric.output] if metric.output else next(iter(outputs.values()))


def _need_scores(clause: Clause, metric: Metric, predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    before, after = _scores(metric, predictions)
    if before is None or after is None:
        raise DataError(
            f"testing {clause}", got=f"{metric.name}, which is no mean over samples", expected="a right/wrong metric"
        )
    return before, after


def _changed(clause: Clause, metric: Metric, predictions: Predictions) -> np.ndarray:
    """Which samples changed from right to wrong, or in either direction."""
    before, after = _need_scores(clause, metric, predictions)
    return before > after if clause.quantity == "negative flips" else before != after


def _flips(clause: Clause, metric: Metric, predictions: Predictions) -> ClauseResult:
    changed = _changed(clause, metric, predictions)
    claim = replace(_claim(clause, metric, 100 * clause.amount, predictions), unit="%", quantity="")
    return _from_certificate(clause, certify_share(int(changed.sum()), len(changed), claim))


def _confidences(clause: Clause, metric: Metric, predictions: Predictions) -> list[Confidences]:
    labels = class_numbers(predictions)
    if labels is None:
        raise DataError(f"testing {clause}", got="no class labels", expected="one class number a sample")
    return [confidences(_output(metric, side), labels) for side in (predictions.before, predictions.after)]


def _calibration(clause: Clause, metric: Metric, predictions: Predictions, seed: int) -> ClauseResult:
    before, after = _confidences(clause, metric, predictions)
    claim = _claim(clause, metric, clause.amount, predictions)
    if clause.is_drop:
        claim = replace(claim, unit="pt", quantity="rise")
        return _from_certificate(clause, certify_calibration_rise(before, after, claim, seed=seed))
    claim = replace(claim, limit=100 * clause.amount, unit="%", quantity="")
    return _from_certificate(clause, certify_calibration(after, claim, seed=seed))


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

METRIC_KINDS = frozenset(
    {
        "metric",
        "metric drop",
        "worst class metric drop",
        "worst slice metric drop",
        "flips",
        "negative flips",
        "calibration error",
        "calibration error rise",
    }
)
"""Kinds of clause that are decided on predictions; the others on measurements."""


def flips_of(metric: Metric, predictions: Predictions) -> Flips | None:
    """The four-way table, where the metric is right or wrong per sample."""
    before, after = _scores(metric, predictions)
    if before is None or after is None or not _right_or_wrong(before, after):
        return None
    return count_flips(before, after)


def behaviour_of(
    metric: Metric, prove: Predictions, choose: Predictions | None = None, *, seed: int = 0
) -> Behaviour | None:
    """What changed behind the average of a metric, on the samples kept for proving; slices are chosen on the others.

    A metric that is no mean over samples, such as F1, is replaced by right and wrong answers; ``None`` where there are
    none either.
    """
    observed = _observe(metric, prove)
    other = _observe(metric, choose) if choose is not None else None
    if observed is None:
        return None
    if metric.per_sample(prove.before, prove.labels) is None:
        return behaviour(observed, other, seed=seed)
    return behaviour(observed, other, unit="pt" if metric.unit == "%" else "", better=metric.better, seed=seed)


def _observe(metric: Metric, predictions: Predictions) -> Observed | None:
    before, after = (_output(metric, side) for side in (predictions.before, predictions.after))
    labels = class_numbers(predictions) if before.ndim > 1 and before.shape[1] > 1 else None  # numbers are no classes
    score_before, score_after = _scores(metric, predictions)
    if score_before is None or score_after is None:
        if labels is None or before.ndim != 2:
            return None
        score_before, score_after = ((decisions(side) == labels).astype(np.float64) for side in (before, after))
    return Observed(before, after, score_before, score_after, labels, predictions.inputs, predictions.columns)
