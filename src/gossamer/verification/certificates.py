"""Certificates: what the data prove about a limit on the metric."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from gossamer.core.errors import DataError, OptionError
from gossamer.core.units import format_amount
from gossamer.verification.bootstrap import bca_interval, bca_mean_interval
from gossamer.verification.paired import (
    drop_interval,
    mcnemar,
    normal_quantile,
    samples_needed,
    score_z,
    shows_larger_drop,
    shows_smaller_drop,
    smallest_provable_limit,
)

Decision = Literal["holds", "fails", "undecided"]

MIN_BOOTSTRAP_SAMPLES = 20
"""With fewer samples no bootstrap interval is believed, and the claim is undecided."""


@dataclass(frozen=True)
class Claim:
    """What is to be proven: that a metric gets worse by less than a limit.

    Attributes:
        text: as the user wrote it, ``top1 drop <= 1pt``.
        limit: in ``unit``.
        unit: ``pt`` (points: scores are shares, times 100), or empty for the metric's own.
        better: which direction of the metric is better.
        alpha: one-sided level of the test.
        data_digest: of the samples it is tested on.
        prediction_digests: by side, ``before`` and ``after``.
    """

    text: str
    limit: float
    unit: Literal["pt", ""] = "pt"
    better: Literal["higher", "lower"] = "higher"
    alpha: float = 0.05
    data_digest: str = ""
    prediction_digests: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 0.5:
            raise OptionError(f"reading the claim {self.text!r}", got=f"alpha={self.alpha}", expected="0 < alpha < 0.5")
        if not math.isfinite(self.limit) or (self.unit == "pt" and abs(self.limit) >= 100):
            raise OptionError(
                f"reading the claim {self.text!r}", got=f"limit={self.limit}", expected="below 100 points"
            )


@dataclass(frozen=True)
class Certificate:
    """The result of testing a claim. Only ``holds`` meets a budget.

    Attributes:
        claim: its text.
        test: the test used, ``paired score`` or ``paired bootstrap BCa``.
        alpha: one-sided level.
        looks_planned: looks at the data fixed beforehand.
        looks_used: looks taken.
        n: samples used.
        estimate: of the drop, in ``unit``; positive is worse.
        interval: lower and upper bound, each at one-sided level ``alpha``; ``None`` where too few samples tell nothing.
        decision: ``holds``: a drop of the limit or more is refuted; ``fails``: a drop above the limit is shown;
            ``undecided``: neither.
        limit: in ``unit``.
        unit: ``pt`` or the metric's own.
        samples_needed: of an undecided claim, how many samples would decide it with probability 0.8 if the present
            estimate were the truth; ``None`` where it is decided, or where no number would.
        evidence: counts, statistic, p-values.
        data_digest: of the samples.
        prediction_digests: by side.
    """

    claim: str
    test: str
    alpha: float
    looks_planned: int
    looks_used: int
    n: int
    estimate: float
    interval: tuple[float, float] | None
    decision: Decision
    limit: float
    unit: str
    samples_needed: int | None = None
    evidence: Mapping[str, float] = field(default_factory=dict)
    data_digest: str = ""
    prediction_digests: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        text = f"{self.claim}: {self.decision}; drop {format_amount(self.estimate, self.unit)}"
        if self.interval:
            text += " [{}, {}]".format(*(format_amount(bound, self.unit) for bound in self.interval))
        text += f", n={self.n}"
        if self.decision != "undecided":
            return text
        if self.samples_needed is None:
            return f"{text}; no number of samples would decide it at this estimate"
        return f"{text}; about {self.samples_needed} samples would decide it"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value; ``from_json`` reads it back."""
        return {
            "claim": self.claim,
            "test": self.test,
            "alpha": self.alpha,
            "looks_planned": self.looks_planned,
            "looks_used": self.looks_used,
            "n": self.n,
            "estimate": self.estimate,
            "interval": list(self.interval) if self.interval else None,
            "decision": self.decision,
            "limit": self.limit,
            "unit": self.unit,
            "samples_needed": self.samples_needed,
            "evidence": dict(self.evidence),
            "data_digest": self.data_digest,
            "prediction_digests": dict(self.prediction_digests),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Certificate:
        """Inverse of ``to_json``."""
        interval = value["interval"]
        return cls(**{**value, "interval": (interval[0], interval[1]) if interval else None})


def certify_scores(before: np.ndarray, after: np.ndarray, claim: Claim, *, seed: int = 0) -> Certificate:
    """Certificate from per-sample scores of the original and the compressed model on the same samples.

    Scores that are all 0 or 1 with a limit in points get the score test of non-inferiority; others a paired BCa
    bootstrap of the mean beside the paired t interval, of which the wider end counts.

    Args:
        before: scores of the original, shape (n,); shares from 0 to 1 for a limit in points.
        after: scores of the compressed model in the same order.
        claim: what is to be proven.
        seed: of the bootstrap.

    Raises:
        DataError: counts differ, there are no samples, or scores are not finite.
    """
    before, after = _paired(before, after, claim)
    harm = before - after if claim.better == "higher" else after - before
    if claim.unit == "pt" and np.isin(before, (0, 1)).all() and np.isin(after, (0, 1)).all():
        return _certify_counts(int(np.sum(harm > 0)), int(np.sum(harm < 0)), len(harm), claim)
    harm = harm * (100.0 if claim.unit == "pt" else 1.0)
    if len(harm) < MIN_BOOTSTRAP_SAMPLES:
        return _from_interval(float(harm.mean()), None, len(harm), claim)
    if harm.min() == harm.max():
        scale = 100.0 if claim.unit == "pt" else float(np.abs(before).max())
        return _from_interval(float(harm[0]), _unseen(float(harm[0]), scale, len(harm), claim), len(harm), claim)
    low, high = bca_mean_interval(harm, alpha=claim.alpha, seed=seed)
    mean, error = float(harm.mean()), float(harm.std(ddof=1)) / math.sqrt(len(harm))
    reach = _t_quantile(1 - claim.alpha, len(harm) - 1) * error
    return _from_interval(mean, (min(low, mean - reach), max(high, mean + reach)), len(harm), claim)


def certify_metric(
    value_before: Callable[[np.ndarray], float],
    value_after: Callable[[np.ndarray], float],
    n: int,
    claim: Claim,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Certificate:
    """Certificate for a metric that is no mean over samples, such as F1: both sides computed anew for each resample.

    With a limit in points the interval is never tighter than what ``n`` samples without any change could show, since
    a handful of flips tells a bootstrap little about flips that it did not see.

    Args:
        value_before: the original's metric on the samples with these indices, shape (n,) with repetitions; in percent
            for a limit in points.
        value_after: the same of the compressed model.
        n: samples.
        claim: what is to be proven.
        resamples: bootstrap resamples.
        seed: of the bootstrap.

    Cost: 2 * (resamples + 200) evaluations of the metric.
    """
    sign = 1.0 if claim.better == "higher" else -1.0

    def harm(indices: np.ndarray) -> float:
        return sign * (value_before(indices) - value_after(indices))

    estimate = harm(np.arange(n))
    if n < MIN_BOOTSTRAP_SAMPLES:
        return _from_interval(estimate, None, n, claim)
    low, high = bca_interval(harm, n, alpha=claim.alpha, resamples=resamples, seed=seed)
    if claim.unit == "pt" or low == high:
        scale = 100.0 if claim.unit == "pt" else abs(value_before(np.arange(n)))
        floor = _unseen(estimate, scale, n, claim)
        low, high = min(low, floor[0]), max(high, floor[1])
    return _from_interval(estimate, (low, high), n, claim)


def power_line(n: int, disagreement: float, limit_pt: float, *, alpha: float = 0.05) -> str:
    """One sentence for start-up: can ``n`` samples prove a limit in points at this disagreement, if nothing is lost?"""
    smallest = 100 * smallest_provable_limit(n, disagreement, alpha=alpha)
    text = f"{n} samples at {disagreement:.1%} disagreement can prove a drop of at most {smallest:.2f} pt"
    if smallest <= limit_pt:
        return f"{text}: enough for {limit_pt:g} pt"
    needed = samples_needed(limit_pt / 100, disagreement, alpha=alpha) if limit_pt > 0 else None
    return f"{text}: {limit_pt:g} pt needs {f'about {needed}' if needed else 'a candidate that is better'}"


def _certify_counts(b: int, c: int, n: int, claim: Claim) -> Certificate:
    limit = claim.limit / 100
    decision: Decision = "undecided"
    if shows_smaller_drop(b, c, n, limit, claim.alpha):
        decision = "holds"
    elif shows_larger_drop(b, c, n, limit, claim.alpha):
        decision = "fails"
    needed = samples_needed(limit, (b + c) / n, (b - c) / n, alpha=claim.alpha) if decision == "undecided" else None
    low, high = drop_interval(b, c, n, claim.alpha)
    return Certificate(
        claim=claim.text,
        test="paired score",
        alpha=claim.alpha,
        looks_planned=1,
        looks_used=1,
        n=n,
        estimate=100 * (b - c) / n,
        interval=(100 * low, 100 * high),
        decision=decision,
        limit=claim.limit,
        unit="pt",
        samples_needed=max(needed, n + 1) if needed else None,
        evidence={"lost": b, "won": c, "z": float(score_z(b, c, n, limit)), "mcnemar_p": mcnemar(b, c)},
        data_digest=claim.data_digest,
        prediction_digests=claim.prediction_digests,
    )


def _from_interval(estimate: float, interval: tuple[float, float] | None, n: int, claim: Claim) -> Certificate:
    decision: Decision = "undecided"
    needed = MIN_BOOTSTRAP_SAMPLES if interval is None else None
    if interval is not None:
        decision = "holds" if interval[1] < claim.limit else "fails" if interval[0] > claim.limit else "undecided"
        needed = _needed_by_width(estimate, interval, n, claim) if decision == "undecided" else None
    return Certificate(
        claim=claim.text,
        test="paired bootstrap BCa",
        alpha=claim.alpha,
        looks_planned=1,
        looks_used=1,
        n=n,
        estimate=estimate,
        interval=interval,
        decision=decision,
        limit=claim.limit,
        unit=claim.unit,
        samples_needed=needed,
        data_digest=claim.data_digest,
        prediction_digests=claim.prediction_digests,
    )


def _needed_by_width(estimate: float, interval: tuple[float, float], n: int, claim: Claim) -> int | None:
    """Samples at which the interval, shrinking as 1 / sqrt(n), leaves the limit outside with power 0.8."""
    gap = abs(claim.limit - estimate)
    if gap == 0:
        return None
    reach = interval[1] - estimate if claim.limit > estimate else estimate - interval[0]
    quantile = normal_quantile(1 - claim.alpha)
    wanted = reach * (quantile + normal_quantile(0.8)) / quantile
    return max(math.ceil(n * (wanted / gap) ** 2), n + 1)


def _unseen(estimate: float, scale: float, n: int, claim: Claim) -> tuple[float, float]:
    """Interval for changes that none of ``n`` samples shows: a share of up to 1 - alpha^(1/n), each up to ``scale``."""
    reach = -scale * math.expm1(math.log(claim.alpha) / n)
    return estimate - reach, estimate + reach


def _paired(before: np.ndarray, after: np.ndarray, claim: Claim) -> tuple[np.ndarray, np.ndarray]:
    doing = f"testing the claim {claim.text!r}"
    before, after = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if before.shape != after.shape or before.ndim != 1 or not len(before):
        got = f"scores of shape {list(before.shape)} before and {list(after.shape)} after"
        raise DataError(doing, got=got, expected="one score for each sample, the same samples on both sides")
    if not (np.isfinite(before).all() and np.isfinite(after).all()):
        raise DataError(doing, got="scores that are not finite", expected="finite scores")
    return before, after


def _t_quantile(probability: float, df: int) -> float:
    """Student's t quantile by the Cornish-Fisher expansion: within 1e-3 for 19 and more degrees of freedom."""
    z = normal_quantile(probability)
    return z + (z**3 + z) / (4 * df) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * df * df)
