"""Certificates: what the data prove about a limit on the metric."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np

from gossamer.core.digest import digest_arrays
from gossamer.core.errors import DataError, OptionError
from gossamer.core.units import format_amount
from gossamer.verification.bootstrap import bca_interval, bca_mean_interval
from gossamer.verification.paired import (
    drop_interval,
    mcnemar,
    normal_quantile,
    samples_needed,
    score_z,
    share_interval,
    share_samples_needed,
    shows_larger_drop,
    shows_smaller_drop,
    smallest_provable_limit,
)
from gossamer.verification.sequential import (
    DEFAULT_LOOKS,
    FUTILE_BELOW,
    conditional_power,
    look_ends,
    look_order,
    nominal_levels,
)

Decision = Literal["holds", "fails", "undecided"]

MIN_BOOTSTRAP_SAMPLES = 20
"""With fewer samples no bootstrap interval is believed, and the claim is undecided."""

_LISTED = 4
"""Undecided parts that a text names; the others it counts."""


@dataclass(frozen=True)
class Claim:
    """What is to be proven: that a metric gets worse by less than a limit.

    Attributes:
        text: as the user wrote it, ``top1 drop <= 1pt``.
        limit: in ``unit``.
        unit: ``pt`` (points: scores are shares, times 100), ``%`` (a share of samples), or empty for the metric's own.
        better: which direction of the metric is better.
        alpha: one-sided level of the test.
        data_digest: of the samples it is tested on.
        prediction_digests: by side, ``before`` and ``after``, of what the models decided; where it is empty, the
            certificate has those of the scores that were read.
        quantity: what is limited, for texts; empty for a share.
    """

    text: str
    limit: float
    unit: Literal["pt", "%", ""] = "pt"
    better: Literal["higher", "lower"] = "higher"
    alpha: float = 0.05
    data_digest: str = ""
    prediction_digests: Mapping[str, str] = field(default_factory=dict)
    quantity: str = "drop"

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 0.5:
            raise OptionError(f"reading the claim {self.text!r}", got=f"alpha={self.alpha}", expected="0 < alpha < 0.5")
        if not math.isfinite(self.limit) or (self.unit == "pt" and abs(self.limit) >= 100):
            raise OptionError(
                f"reading the claim {self.text!r}", got=f"limit={self.limit}", expected="below 100 points"
            )


@dataclass(frozen=True)
class Certificate:
    """The result of testing a claim. Only ``holds`` meets a budget. Every figure is of the ``n`` samples used.

    Attributes:
        claim: its text.
        test: the test used, such as ``paired score`` or ``paired bootstrap BCa``.
        alpha: one-sided level, over all looks.
        looks_planned: looks at the data fixed beforehand; 1 for a test of fixed size.
        looks_used: looks taken; fewer of an undecided claim mean that the test gave up.
        n: samples used.
        estimate: of the drop, in ``unit``; positive is worse.
        interval: lower and upper bound, each at one-sided level ``alpha``, and with several looks at that of the look
            they are from, so that they hold wherever the test stopped; ``None`` where too few samples tell nothing.
        decision: ``holds``: a drop of the limit or more is refuted; ``fails``: a drop above the limit is shown;
            ``undecided``: neither.
        limit: in ``unit``.
        unit: ``pt``, ``%`` or the metric's own.
        samples_needed: of an undecided claim, how many samples would decide it with probability 0.8 if the present
            estimate were the truth; ``None`` where it is decided, or where no number would.
        evidence: counts, statistic, p-values.
        data_digest: of the samples.
        prediction_digests: by side.
        available: samples there were; ``None`` in files of before they were counted.
        quantity: what the estimate is of, for texts.
        parts: of a claim about the worst of several groups, the certificate of each.
        withheld: why the claim is not made although this test alone would grant it; empty where nothing forbids it.
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
    available: int | None = None
    quantity: str = "drop"
    parts: Mapping[str, Certificate] = field(default_factory=dict)
    withheld: str = ""

    @property
    def futile(self) -> bool:
        """Whether the test gave up early, since the samples left would hardly have proven the claim."""
        return self.decision == "undecided" and self.looks_used < self.looks_planned

    @property
    def figure(self) -> str:
        """The estimate with its interval: ``+0.19 pt [-0.55 pt, +0.93 pt]``."""
        text = format_amount(self.estimate, self.unit)
        if self.interval is None:
            return text
        return text + " [{}, {}]".format(*(format_amount(bound, self.unit) for bound in self.interval))

    @property
    def finding(self) -> str:
        """What was found, without the claim and the decision."""
        text = " ".join(word for word in (self.quantity, self.figure) if word) + f", {self.counted}"
        if self.parts:
            text = f"{max(self.parts, key=lambda name: self.parts[name].estimate)}: {text}{self._open_parts}"
        return text + self.advice

    @property
    def counted(self) -> str:
        """The samples used: ``n=400 of 2000``."""
        return f"n={self.n}" + (f" of {self.available}" if (self.available or 0) > self.n else "")

    @property
    def advice(self) -> str:
        """Of an undecided claim, what would decide it, to be put behind a figure; else empty."""
        if self.decision != "undecided":
            return ""
        if self.withheld:
            return f"; no claim: {self.withheld}"
        futile = "; given up early: the other samples would hardly prove it" if self.futile else ""
        if futile and (self.samples_needed or 0) <= (self.available or 0):  # those would rather refute it
            return futile
        if self.samples_needed is None:
            return f"{futile}; no number of samples would decide it at this estimate"
        return f"{futile}; about {self.samples_needed} samples would decide it"

    @property
    def _open_parts(self) -> str:
        """The undecided groups, with the samples they have and need."""
        found = {name: part for name, part in self.parts.items() if part.decision == "undecided"}
        named = [
            f"{name} ({part.n}{f' of about {part.samples_needed}' if part.samples_needed else ''} samples)"
            for name, part in list(found.items())[:_LISTED]
        ]
        more = [f"{len(found) - _LISTED} more"] if len(found) > _LISTED else []
        return f"; undecided: {', '.join(named + more)}" if found else ""

    def __str__(self) -> str:
        return f"{self.claim}: {self.decision}; {self.finding}"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value; ``from_json`` reads it back."""
        value = {item.name: getattr(self, item.name) for item in fields(self)}
        return {
            **value,
            "interval": list(self.interval) if self.interval else None,
            "evidence": dict(self.evidence),
            "prediction_digests": dict(self.prediction_digests),
            "parts": {name: part.to_json() for name, part in self.parts.items()},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Certificate:
        """Inverse of ``to_json``."""
        interval = value["interval"]
        parts = {name: cls.from_json(part) for name, part in value.get("parts", {}).items()}
        return cls(**{**value, "interval": (interval[0], interval[1]) if interval else None, "parts": parts})


Scores = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""From the indices of samples, shape (k,), their scores before and after, shape (k,) each."""


def certify_scores(
    before: np.ndarray, after: np.ndarray, claim: Claim, *, looks: int = 1, seed: int = 0
) -> Certificate:
    """Certificate from per-sample scores of the original and the compressed model on the same samples.

    Scores that are all 0 or 1 with a limit in points get the score test of non-inferiority; others a paired BCa
    bootstrap of the mean beside the paired t interval, of which the wider end counts.

    Args:
        before: scores of the original, shape (n,); shares from 0 to 1 for a limit in points.
        after: scores of the compressed model in the same order.
        claim: what is to be proven.
        looks: with more than one, the test of ``certify_sequentially`` with its early decisions and its figures; it
            does not give up early, as all scores are there.
        seed: of the bootstrap.

    Raises:
        DataError: counts differ, there are no samples, or scores are not finite.
        OptionError: the number of looks.
    """
    before, after = paired_scores(before, after, claim)
    scores: Scores = lambda rows: (before[rows], after[rows])  # noqa: E731
    return certify_sequentially(scores, len(before), claim, looks=looks, futility=False, seed=seed)


def certify_sequentially(
    scores: Scores,
    n: int,
    claim: Claim,
    *,
    looks: int = DEFAULT_LOOKS,
    futility: bool = True,
    seed: int = 0,
) -> Certificate:
    """Certificate from scores that are computed as they are needed: it stops reading as soon as the claim is decided.

    After each of ``looks`` equal parts of the samples the claim is tested at that look's nominal level, for and
    against, so that over all looks each side errs at most at level alpha. Samples are read in the order of
    ``look_order``. The certificate's figures are of the samples read, whatever is known of the others; its interval is
    the repeated one, at the level of the look, which allows for the stopping.

    Args:
        scores: asked for each sample at most once.
        n: samples there are.
        claim: what is to be proven; its data digest fixes the order.
        looks: planned beforehand, 1 to 50.
        futility: give up when the chance to prove the claim with the rest, if what was seen goes on, is below 5 %. It
            costs a little power, and never lets more pass.
        seed: of the bootstrap.

    Raises:
        DataError: no samples, or scores that are not one finite number a sample.
        OptionError: the number of looks.

    References: O'Brien and Fleming (1979); repeated intervals: Jennison and Turnbull (1989), JRSS B 51, 305-361.
    """
    seen: list[tuple[np.ndarray, np.ndarray]] = []

    def test(rows: np.ndarray, level: float) -> Certificate:
        new = rows[sum(len(before) for before, _ in seen) :]
        if len(new):
            seen.append(paired_scores(*scores(new), claim, count=len(new)))
        before, after = (np.concatenate(side) for side in zip(*seen, strict=True))
        return _test_scores(before, after, claim, level, seed)

    return _look_by_look(test, n, claim, looks, futility=futility)


def certify_metric(
    value_before: Callable[[np.ndarray], float],
    value_after: Callable[[np.ndarray], float],
    n: int,
    claim: Claim,
    *,
    looks: int = 1,
    resamples: int = 2000,
    seed: int = 0,
) -> Certificate:
    """Certificate for a metric that is no mean over samples, such as F1: both sides computed anew for each resample.

    With a limit in points the interval is never tighter than what ``n`` samples without any change could show, since
    a handful of flips tells a bootstrap little about flips that it did not see.

    Args:
        value_before: the original's metric on the samples with these indices, shape (k,) with repetitions; in percent
            for a limit in points.
        value_after: the same of the compressed model.
        n: samples.
        claim: what is to be proven.
        looks: as for ``certify_scores``.
        resamples: bootstrap resamples.
        seed: of the bootstrap.

    Cost: 2 * (resamples + 200) evaluations of the metric a look.
    """
    sign = -1.0 if claim.better == "lower" else 1.0

    def test(rows: np.ndarray, level: float) -> Certificate:
        def harm(indices: np.ndarray) -> float:
            return sign * (value_before(rows[indices]) - value_after(rows[indices]))

        everything = np.arange(len(rows))
        estimate = harm(everything)
        if len(rows) < MIN_BOOTSTRAP_SAMPLES:
            return certificate_of(BOOTSTRAP, estimate, None, len(rows), claim)
        low, high = bca_interval(harm, len(rows), alpha=level, resamples=resamples, seed=seed)
        if claim.unit == "pt" or low == high:
            scale = 100.0 if claim.unit == "pt" else abs(value_before(rows))
            floor = unseen_changes(estimate, scale, len(rows), level)
            low, high = min(low, floor[0]), max(high, floor[1])
        return certificate_of(BOOTSTRAP, estimate, (low, high), len(rows), claim)

    return _look_by_look(test, n, claim, looks, futility=False)


def certify_share(count: int, n: int, claim: Claim) -> Certificate:
    """Certificate that a share of samples is below a limit, by the exact binomial test.

    Args:
        count: samples that have what is limited, for example negative flips.
        n: samples.
        claim: its limit in percent.
    """
    interval = share_interval(count, n, claim.alpha)
    certificate = certificate_of("binomial", 100 * count / n, (100 * interval[0], 100 * interval[1]), n, claim)
    if certificate.decision != "undecided":
        return certificate
    needed = share_samples_needed(claim.limit / 100, count / n, alpha=claim.alpha)
    return replace(certificate, samples_needed=max(needed, n + 1) if needed else None)


def power_line(n: int, disagreement: float, limit_pt: float, *, alpha: float = 0.05) -> str:
    """One sentence for start-up: can ``n`` samples prove a limit in points at this disagreement, if nothing is lost?"""
    smallest = 100 * smallest_provable_limit(n, disagreement, alpha=alpha)
    text = f"{n} samples at {disagreement:.1%} disagreement can prove a drop of at most {smallest:.2f} pt"
    if smallest <= limit_pt:
        return f"{text}: enough for {limit_pt:g} pt"
    needed = samples_needed(limit_pt / 100, disagreement, alpha=alpha) if limit_pt > 0 else None
    return f"{text}: {limit_pt:g} pt needs {f'about {needed}' if needed else 'a candidate that is better'}"


def certificate_of(
    test: str, estimate: float, interval: tuple[float, float] | None, n: int, claim: Claim
) -> Certificate:
    """A certificate of fixed size that is decided by an interval at the claim's level.

    Args:
        test: its name.
        estimate: in the claim's unit, like the interval.
        interval: ``None`` where too few samples tell nothing.
        n: samples.
        claim: what is tested.
    """
    decision: Decision = "undecided"
    if interval is not None:
        decision = "holds" if interval[1] < claim.limit else "fails" if interval[0] > claim.limit else "undecided"
    certificate = Certificate(
        claim=claim.text,
        test=test,
        alpha=claim.alpha,
        looks_planned=1,
        looks_used=1,
        n=n,
        estimate=estimate,
        interval=interval,
        decision=decision,
        limit=claim.limit,
        unit=claim.unit,
        data_digest=claim.data_digest,
        prediction_digests=claim.prediction_digests,
        available=n,
        quantity=claim.quantity,
    )
    return replace(certificate, samples_needed=_needed(certificate, claim.alpha, claim.alpha))


BOOTSTRAP = "paired bootstrap BCa"


def _look_by_look(
    test: Callable[[np.ndarray, float], Certificate], n: int, claim: Claim, looks: int, *, futility: bool
) -> Certificate:
    """Apply a test to the samples read so far, at each look's level, until it decides or gives up."""
    if n < 1:
        raise DataError(f"testing the claim {claim.text!r}", got="no samples", expected="at least one")
    levels, ends = nominal_levels(claim.alpha, looks), look_ends(n, looks)
    order = look_order(n, claim.data_digest) if looks > 1 else np.arange(n)
    look, certificate = 1, test(order[: ends[0]], levels[0])
    while look < looks and certificate.decision == "undecided":
        share = ends[look - 1] / n
        if futility and share < 1 and _chance(certificate, levels[look - 1], share, levels[-1]) < FUTILE_BELOW:
            break
        certificate = test(order[: ends[look]], levels[look])
        look += 1
    level = levels[look - 1]
    return replace(
        certificate,
        looks_planned=looks,
        looks_used=look,
        available=n,
        samples_needed=_needed(certificate, level, levels[-1]),
        evidence={**certificate.evidence, **({"nominal_level": level} if looks > 1 else {})},
    )


def _test_scores(before: np.ndarray, after: np.ndarray, claim: Claim, level: float, seed: int) -> Certificate:
    """The test of scores at one look."""
    harm = after - before if claim.better == "lower" else before - after
    n = len(harm)
    if not claim.prediction_digests:
        digests = {"before": digest_arrays({"scores": before}), "after": digest_arrays({"scores": after})}
        claim = replace(claim, prediction_digests=digests)
    if claim.unit == "pt" and np.isin(before, (0, 1)).all() and np.isin(after, (0, 1)).all():
        return _test_counts(int(np.sum(harm > 0)), int(np.sum(harm < 0)), n, claim, level)
    harm = harm * (100.0 if claim.unit == "pt" else 1.0)
    mean = float(harm.mean())
    if n < MIN_BOOTSTRAP_SAMPLES:
        return certificate_of(BOOTSTRAP, mean, None, n, claim)
    if harm.min() == harm.max():
        scale = 100.0 if claim.unit == "pt" else float(np.abs(before).max())
        return certificate_of(BOOTSTRAP, mean, unseen_changes(mean, scale, n, level), n, claim)
    low, high = bca_mean_interval(harm, alpha=level, seed=seed)
    reach = _t_quantile(1 - level, n - 1) * float(harm.std(ddof=1)) / math.sqrt(n)
    return certificate_of(BOOTSTRAP, mean, (min(low, mean - reach), max(high, mean + reach)), n, claim)


def _test_counts(b: int, c: int, n: int, claim: Claim, level: float) -> Certificate:
    """The paired score test: ``b`` samples only the original has right, ``c`` only the compressed model."""
    limit = claim.limit / 100
    decision: Decision = "undecided"
    if shows_smaller_drop(b, c, n, limit, level):
        decision = "holds"
    elif shows_larger_drop(b, c, n, limit, level):
        decision = "fails"
    low, high = drop_interval(b, c, n, level)
    return replace(
        certificate_of("paired score", 100 * (b - c) / n, (100 * low, 100 * high), n, claim),
        decision=decision,
        evidence={"lost": b, "won": c, "z": float(score_z(b, c, n, limit)), "mcnemar_p": mcnemar(b, c)},
    )


def _chance(certificate: Certificate, level: float, share: float, last_level: float) -> float:
    """Chance that the last look proves the claim, if what was seen so far goes on."""
    z = certificate.evidence.get("z")
    if z is None:
        if certificate.interval is None or certificate.interval[1] == certificate.estimate:
            return 1.0
        error = (certificate.interval[1] - certificate.estimate) / normal_quantile(1 - level)
        z = (certificate.estimate - certificate.limit) / error
    return conditional_power(z, share, last_level)


def _needed(certificate: Certificate, level: float, last_level: float) -> int | None:
    """Samples with which an undecided test decides with power 0.8: its last look is what they are for.

    Of a test by interval: those at which the interval, shrinking as 1 / sqrt(n), leaves the limit outside; as 1 / n
    where it only allows for changes that no sample showed.
    """
    n, estimate, limit = certificate.n, certificate.estimate, certificate.limit
    if certificate.decision != "undecided":
        return None
    if certificate.interval is None:
        return MIN_BOOTSTRAP_SAMPLES
    if "lost" in certificate.evidence:
        share = (certificate.evidence["lost"] + certificate.evidence["won"]) / n
        needed = samples_needed(limit / 100, share, estimate / 100, alpha=last_level)
    elif limit == estimate:
        needed = None
    else:
        low, high = certificate.interval
        reach, gap = (high - estimate if limit > estimate else estimate - low), abs(limit - estimate)
        wanted = reach * (normal_quantile(1 - last_level) + normal_quantile(0.8)) / normal_quantile(1 - level)
        needed = math.ceil(n * (wanted / gap) ** 2)
        if certificate.unit and gap < 100 and math.isclose(reach, unseen_changes(0.0, 100.0, n, level)[1]):
            needed = math.ceil(math.log(last_level) / math.log1p(-gap / 100))
    return max(needed, n + 1) if needed else None


def unseen_changes(estimate: float, scale: float, n: int, alpha: float) -> tuple[float, float]:
    """Interval for changes that none of ``n`` samples shows: a share of up to 1 - alpha^(1/n), each up to ``scale``."""
    reach = -scale * math.expm1(math.log(alpha) / n)
    return estimate - reach, estimate + reach


def paired_scores(
    before: np.ndarray, after: np.ndarray, claim: Claim, count: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Both sides as float64 of shape (n,); raises ``DataError`` unless they are finite and of ``count`` samples."""
    doing = f"testing the claim {claim.text!r}"
    before, after = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    wanted = len(before) if count is None and before.ndim else count
    if before.shape != after.shape or before.shape != (wanted,) or not wanted:
        got = f"scores of shape {list(before.shape)} before and {list(after.shape)} after"
        raise DataError(doing, got=got, expected="one score for each sample, the same samples on both sides")
    if not (np.isfinite(before).all() and np.isfinite(after).all()):
        raise DataError(doing, got="scores that are not finite", expected="finite scores")
    return before, after


def _t_quantile(probability: float, df: int) -> float:
    """Student's t quantile by the Cornish-Fisher expansion: within 3e-3 for 19 and more degrees of freedom."""
    z = normal_quantile(probability)
    terms = (
        (z**3 + z) / (4 * df),
        (5 * z**5 + 16 * z**3 + 3 * z) / (96 * df**2),
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * df**3),
    )
    return z + sum(terms)
