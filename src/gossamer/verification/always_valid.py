"""An always-valid test of a limit in points: it may be looked at after every sample, at the price of power.

Someone who bets a share of a fortune on each sample being better than the limit does not win if the true drop is the
limit or more: the fortune, 1 at first, ever reaches 1 / alpha with a chance of at most alpha (Ville's inequality), for
samples of any distribution between the bounds. So a fortune of 1 / alpha refutes "drop >= limit", whenever it is found.
Reference: Waudby-Smith and Ramdas (2024), Estimating means of bounded random variables by betting, JRSS B 86, 1-27.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from gossamer.core.errors import DataError, OptionError
from gossamer.verification.certificates import Certificate, Claim, Scores, certificate_of, paired_scores
from gossamer.verification.sequential import look_order

_FRACTIONS = np.geomspace(1 / 64, 63 / 64, 16)
"""Of the largest bet that cannot ruin; small ones win with many samples, large ones where nothing is ever lost."""

CHUNK = 200
"""Samples asked for at a time."""


def log_fortunes(harm: np.ndarray, limit: float) -> np.ndarray:
    """Log of the fortune after each sample, shape (n,), of betting that the mean of ``harm`` is below ``limit``.

    The fortune is divided equally among 16 bettors with fixed bets.

    Args:
        harm: shape (n,), each from -1 to 1.
        limit: from -1 to 1.
    """
    return _together(_bettors(harm, limit, np.zeros(len(_FRACTIONS))))


def certify_always(scores: Scores, n: int, claim: Claim, *, chunk: int = CHUNK) -> Certificate:
    """Certificate by the always-valid test, which stops at the first sample that decides.

    Args:
        scores: asked for each sample at most once, in the order of ``look_order``; shares from 0 to 1.
        n: samples there are; more may be added later without harm to the level.
        claim: what is to be proven; its limit is in points.
        chunk: samples asked for at a time.

    Raises:
        DataError: no samples, or scores that are no shares.
        OptionError: the limit is not in points.
    """
    doing = f"testing the claim {claim.text!r} after every sample"
    if claim.unit != "pt":
        raise OptionError(doing, got="a limit that is not in points", expected="a metric of shares from 0 to 1")
    if n < 1:
        raise DataError(doing, got="no samples", expected="at least one")
    limit, wanted = claim.limit / 100, -math.log(claim.alpha)
    order, harm = look_order(n, claim.data_digest), np.empty(0)
    logs = np.zeros((2, len(_FRACTIONS)))  # of the bettors for the claim, and of those against it
    decided = np.zeros(0, dtype=bool)
    while not decided.any() and len(harm) < n:
        rows = order[len(harm) : len(harm) + chunk]
        before, after = paired_scores(*scores(rows), claim, count=len(rows))
        if min(before.min(), after.min()) < 0 or max(before.max(), after.max()) > 1:
            raise DataError(doing, got="scores beyond 0 and 1", expected="shares")
        new = after - before if claim.better == "lower" else before - after
        both = np.stack([_bettors(new, limit, logs[0]), _bettors(-new, -limit, logs[1])])
        decided = (_together(both) >= wanted).any(axis=0)
        stop = int(decided.argmax()) + 1 if decided.any() else len(new)
        harm, logs = np.concatenate([harm, new[:stop]]), both[:, stop - 1]
    pro, contra = (float(value) for value in _together(logs))
    interval = -_upper_bound(-harm, wanted), _upper_bound(harm, wanted)
    certificate = certificate_of(
        "e-process", 100 * float(harm.mean()), (100 * interval[0], 100 * interval[1]), len(harm), claim
    )
    decision = "holds" if pro >= wanted else "fails" if contra >= wanted else "undecided"
    needed = _needed(harm, limit, wanted) if decision == "undecided" else None
    return replace(
        certificate,
        decision=decision,
        looks_planned=n,
        looks_used=len(harm),
        available=n,
        samples_needed=max(needed, n + 1) if needed else None,
        evidence={"log_e_for": pro, "log_e_against": contra},
    )


def _bets(limit: float) -> np.ndarray:
    """Shares of the fortune for one unit between limit and harm, below 1 / (1 + |limit|): no sample can ruin."""
    return _FRACTIONS / (1 + abs(limit))


def _bettors(harm: np.ndarray, limit: float, start: np.ndarray) -> np.ndarray:
    """Log of each bettor's fortune after each sample, shape (n, 16)."""
    return start + np.cumsum(np.log1p(_bets(limit) * (limit - harm[:, None])), axis=0)


def _together(logs: np.ndarray) -> np.ndarray:
    """Log of the mean fortune of the bettors, who are on the last axis."""
    top = logs.max(axis=-1, keepdims=True)
    return (top + np.log(np.exp(logs - top).mean(axis=-1, keepdims=True)))[..., 0]


def _upper_bound(harm: np.ndarray, wanted: float) -> float:
    """The smallest limit that the fortune at the end refutes."""
    values, counts = np.unique(harm, return_counts=True)
    low, high = float(harm.mean()), 1.0
    for _ in range(50):
        middle = (low + high) / 2
        logs = counts @ np.log1p(_bets(middle) * (middle - values[:, None]))
        low, high = (low, middle) if _together(logs) >= wanted else (middle, high)
    return high


def _needed(harm: np.ndarray, limit: float, wanted: float) -> int | None:
    """Samples after which the best bettor alone has won enough, if the fortune goes on to grow as it did."""
    growth = max(
        float(np.log1p(_bets(limit) * (sign * (limit - harm))[:, None]).mean(axis=0).max()) for sign in (1, -1)
    )
    return math.ceil((wanted + math.log(len(_FRACTIONS))) / growth) if growth > 0 else None
