"""Behaviour behind the average: flips, classes, slices and calibration of two models on the same samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from gossamer.core.errors import DataError
from gossamer.verification.calibration_error import calibration_error, certify_calibration_rise, confidences
from gossamer.verification.certificates import Certificate, Claim, certify_scores
from gossamer.verification.flips import Flips, count_flips, decisions
from gossamer.verification.slices import columns_of, cut_columns, margin, slices_of
from gossamer.verification.worst_group import certify_each

WORST_SLICES = 5
NEGATIVE_FLIPS = 32
EXAMPLES = 8


@dataclass(frozen=True)
class Observed:
    """What two models answered on one split.

    Attributes:
        before: the original's output that the metric reads, samples on axis 0.
        after: the same of the compressed model.
        score_before: scores of the original, shape (n,): 1 right and 0 wrong, shares, or losses.
        score_after: the same of the compressed model.
        labels: class numbers (n,), or ``None``.
        inputs: arrays by name, for slices.
        columns: what the user knows of every sample, (n,) by name, for slices.
    """

    before: np.ndarray
    after: np.ndarray
    score_before: np.ndarray
    score_after: np.ndarray
    labels: np.ndarray | None = None
    inputs: Mapping[str, np.ndarray] = field(default_factory=dict)
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        arrays = (self.before, self.after, self.score_before, self.score_after, self.labels)
        if len({len(array) for array in arrays if array is not None}) != 1 or not len(self.before):
            got = f"outputs, scores and labels of {[len(array) for array in arrays if array is not None]} samples"
            raise DataError("comparing the behaviour of two models", got=got, expected="the same samples in each")


@dataclass(frozen=True)
class Group:
    """A class or a slice.

    Attributes:
        name: ``class 3``, ``brightness below 0.2``.
        n: samples.
        before: mean score of the original; in percent for shares.
        after: of the compressed model.
        drop: by how much it is worse; in points for shares.
        interval: of the drop, each bound at one-sided level alpha; of the worst class, of the drop of whichever class
            is worst in truth.
        status: of a slice, ``confirmed``: chosen on other samples, and a drop is shown on these, at a level corrected
            for the slices chosen; else ``exploratory``. Empty for a class.
        flips: where scores are right or wrong.
        examples: indices of up to 8 of its samples that got worse most.
    """

    name: str
    n: int
    before: float
    after: float
    drop: float
    interval: tuple[float, float] | None
    status: Literal["confirmed", "exploratory", ""] = ""
    flips: Flips | None = None
    examples: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value; ``note`` repeats the status for tables."""
        return {
            "name": self.name,
            "n": self.n,
            "before": self.before,
            "after": self.after,
            "drop": self.drop,
            "interval": list(self.interval) if self.interval else None,
            "note": self.status,
            "flips": self.flips.to_json() if self.flips else None,
            "examples": list(self.examples),
        }


@dataclass(frozen=True)
class Calibration:
    """Calibration error in 15 equal-mass bins, as shares; the interval of the change allows for the bins' bias."""

    before: float
    after: float
    interval: tuple[float, float] | None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value."""
        change = self.after - self.before
        interval = list(self.interval) if self.interval else None
        return {"before": self.before, "after": self.after, "change": change, "interval": interval}


@dataclass(frozen=True)
class Behaviour:
    """What changed, on the samples kept for proving; every index is into them.

    Attributes:
        n: samples.
        unit: of every drop: ``pt`` (before and after are percents), or empty for the metric's own.
        flips: the four-way table, with churn; ``None`` where scores are not right or wrong.
        churn: share of samples whose decision changed; ``None`` where outputs decide nothing.
        classes: in order of their numbers; empty without labels.
        worst_class: the one whose drop is largest, with an interval for the largest drop.
        slices: up to five, largest drop on the choosing samples first.
        calibration: of classifiers with labels.
        negative_flip_ids: up to 32 samples that went from right to wrong, those first of which the original was most
            sure.
    """

    n: int
    unit: Literal["pt", ""]
    flips: Flips | None
    churn: float | None
    classes: tuple[Group, ...]
    worst_class: Group | None
    slices: tuple[Group, ...]
    calibration: Calibration | None
    negative_flip_ids: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value, as the report reads it."""
        flips = self.flips
        return {
            "n": self.n,
            "unit": self.unit,
            "four_way": flips.to_json() if flips else None,
            "negative_flips": flips.negative_flips if flips else None,
            "positive_flips": flips.positive_flips if flips else None,
            "churn": self.churn,
            "per_class": [group.to_json() for group in self.classes],
            "worst_class": self.worst_class.to_json() if self.worst_class else None,
            "slices": [group.to_json() for group in self.slices],
            "calibration": self.calibration.to_json() if self.calibration else None,
            "negative_flip_ids": list(self.negative_flip_ids),
        }


def behaviour(
    prove: Observed,
    choose: Observed | None = None,
    *,
    unit: Literal["pt", ""] = "pt",
    better: Literal["higher", "lower"] = "higher",
    alpha: float = 0.05,
    seed: int = 0,
) -> Behaviour:
    """Flips, classes, slices and calibration of two models.

    Slices are cut and chosen on ``choose`` and judged on ``prove``; without ``choose`` they are chosen on the samples
    they are judged on, and stay exploratory.

    Args:
        prove: what is reported.
        choose: other samples.
        unit: of the drop.
        better: which direction of the scores is better.
        alpha: one-sided level of every bound.
        seed: of the bootstraps.

    Cost: a bootstrap for each class and slice where scores are not right or wrong, and 500 resamples for calibration.
    """
    look = _Look(prove, Claim("drop", 0.0, unit, better, alpha), seed)
    classes = {} if prove.labels is None else _by_class(prove.labels)
    whole = certify_each(classes, look.claim, look.certify) if classes else None
    parts = whole.parts if whole else {}
    groups = [look.group(name, rows, parts[name].interval) for name, rows in classes.items()]
    worst = max(groups, key=lambda group: group.drop, default=None)
    decided = _decisions(prove)
    lost = look.worst_first(np.flatnonzero(look.harm > 0)) if look.right_or_wrong else np.empty(0, dtype=int)
    return Behaviour(
        n=len(look.harm),
        unit=unit,
        flips=count_flips(prove.score_before, prove.score_after, *decided) if look.right_or_wrong else None,
        churn=float((decided[0] != decided[1]).any(axis=1).mean()) if decided else None,
        classes=tuple(groups),
        worst_class=replace(worst, interval=whole.interval) if whole and worst else None,
        slices=_worst_slices(look, choose),
        calibration=_calibration(prove, alpha, seed),
        negative_flip_ids=tuple(lost[:NEGATIVE_FLIPS].tolist()),
    )


class _Look:
    """One split, and how its groups are tested."""

    def __init__(self, observed: Observed, claim: Claim, seed: int) -> None:
        self.observed = observed
        self.claim = claim
        self.seed = seed
        before, after = (np.asarray(side, dtype=np.float64) for side in (observed.score_before, observed.score_after))
        self.before, self.after = before, after
        self.harm = after - before if claim.better == "lower" else before - after
        both = np.concatenate([before, after])
        self.right_or_wrong = claim.unit == "pt" and bool(np.isin(both, (0, 1)).all())
        self._sure = margin(observed.before)

    def certify(self, rows: np.ndarray, claim: Claim) -> Certificate:
        """The drop on these samples."""
        return certify_scores(self.before[rows], self.after[rows], claim, seed=self.seed)

    def worst_first(self, rows: np.ndarray) -> np.ndarray:
        """Samples by how much worse they got; of equals those first of which the original was most sure."""
        sure = np.zeros(len(rows)) if self._sure is None else self._sure[rows]
        return rows[np.lexsort((-sure, -self.harm[rows]))]

    def group(
        self,
        name: str,
        rows: np.ndarray,
        interval: tuple[float, float] | None,
        status: Literal["confirmed", "exploratory", ""] = "",
    ) -> Group:
        """The figures of a class or a slice."""
        worse = self.worst_first(rows[self.harm[rows] > 0])
        factor = 100.0 if self.claim.unit == "pt" else 1.0
        return Group(
            name,
            len(rows),
            factor * float(self.before[rows].mean()),
            factor * float(self.after[rows].mean()),
            factor * float(self.harm[rows].mean()),
            interval,
            status,
            count_flips(self.before[rows], self.after[rows]) if self.right_or_wrong else None,
            tuple(worse[:EXAMPLES].tolist()),
        )


def _by_class(labels: np.ndarray) -> dict[str, np.ndarray]:
    return {f"class {label}": np.flatnonzero(labels == label) for label in np.unique(labels)}


def _decisions(observed: Observed) -> tuple[np.ndarray, ...]:
    """Decisions before and after, (n, positions); empty for outputs that are figures and always change a little."""
    sides = [decisions(side) for side in (observed.before, observed.after)]
    if np.issubdtype(sides[0].dtype, np.floating):
        return ()
    return tuple(side.reshape(len(side), -1) for side in sides)


def _worst_slices(look: _Look, choose: Observed | None) -> tuple[Group, ...]:
    other = look if choose is None else _Look(choose, look.claim, look.seed)
    columns, chosen_from = (
        columns_of(one.observed.before, one.observed.inputs, one.observed.labels, one.observed.columns)
        for one in (look, other)
    )
    cuts = cut_columns(chosen_from)
    there, here = slices_of(chosen_from, cuts), slices_of(columns, cuts)
    drops = {name: float(other.harm[rows].mean()) for name, rows in there.items() if name in here}
    worst = sorted((name for name in drops if drops[name] > 0), key=lambda name: -drops[name])[:WORST_SLICES]
    groups = []
    for name in worst:
        strict = replace(look.claim, alpha=look.claim.alpha / len(worst))
        shown = choose is not None and look.certify(here[name], strict).decision == "fails"
        interval = look.certify(here[name], look.claim).interval
        groups.append(look.group(name, here[name], interval, "confirmed" if shown else "exploratory"))
    return tuple(groups)


def _calibration(observed: Observed, alpha: float, seed: int) -> Calibration | None:
    """Of an output (n, classes) with class numbers for labels; anything else has none."""
    if observed.labels is None:
        return None
    try:
        before, after = (confidences(side, observed.labels) for side in (observed.before, observed.after))
    except DataError:
        return None
    certificate = certify_calibration_rise(before, after, Claim("rise", 0.0, alpha=alpha), seed=seed)
    interval = certificate.interval
    return Calibration(
        calibration_error(before),
        calibration_error(after),
        (interval[0] / 100, interval[1] / 100) if interval else None,
    )
