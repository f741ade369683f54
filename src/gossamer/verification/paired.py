"""Paired statistics of two models on the same samples: non-inferiority, McNemar, intervals, power.

Notation: ``b`` samples that only the reference has right, ``c`` samples that only the candidate has right, ``n``
samples in all; the drop is (b - c) / n. Functions take and return shares, not points.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np

_EXACT_BELOW = 25
"""With fewer disagreements McNemar's test is the exact binomial one."""


def normal_quantile(probability: float) -> float:
    """Quantile of the standard normal distribution."""
    return NormalDist().inv_cdf(probability)


def constrained_reverse_share(b: np.ndarray, c: np.ndarray, n: int, drop: float) -> np.ndarray:
    """Maximum-likelihood estimate of P(only the candidate is right), given that the true drop is ``drop``.

    Args:
        b: counts, any shape.
        c: counts of the same shape.
        n: samples.
        drop: from 0 to 1.
    """
    linear = -b - c + (2 * n - b + c) * drop
    constant = -c * drop * (1 - drop)
    return (np.sqrt(linear * linear - 8 * n * constant) - linear) / (4 * n)


def score_z(b: np.ndarray | float, c: np.ndarray | float, n: int, drop: float) -> np.ndarray:
    """Paired score statistic for the hypothesis that the true drop is ``drop``; very negative where it is smaller.

    The hypothesis "drop >= d" is rejected at level alpha where z <= -z_alpha. At ``drop`` = 0 this is McNemar's
    (b - c) / sqrt(b + c). Swapping the models negates it: z(b, c, d) = -z(c, b, -d). Without any difference from the
    hypothesis (b = c = 0 at ``drop`` = 0) it is 0.

    Reference: Tango (1998), Statistics in Medicine 17, 891-908.
    """
    b, c = np.asarray(b, dtype=np.float64), np.asarray(c, dtype=np.float64)
    if drop < 0:
        return -score_z(c, b, n, -drop)
    reverse = constrained_reverse_share(b, c, n, drop)
    variance = n * (2 * reverse + drop * (1 - drop))
    distance = b - c - n * drop
    return np.divide(distance, np.sqrt(variance), out=np.zeros_like(distance), where=variance > 0)


def shows_smaller_drop(b: int, c: int, n: int, drop: float, alpha: float = 0.05) -> bool:
    """Non-inferiority test: whether the data show a true drop below ``drop`` at one-sided level ``alpha``.

    The score test, except that without a single disagreement the exact probability (1 - drop)^n decides: the normal
    approximation would accept a candidate at the limit in 6.8 % of cases there (1 point, n = 268; exact needs 299).
    """
    if b == 0 and c == 0:
        return drop > 0 and n * math.log1p(-drop) <= math.log(alpha)
    return bool(score_z(b, c, n, drop) <= -normal_quantile(1 - alpha))


def shows_larger_drop(b: int, c: int, n: int, drop: float, alpha: float = 0.05) -> bool:
    """Whether the data show a true drop above ``drop``: the same test with the models swapped."""
    return shows_smaller_drop(c, b, n, -drop, alpha)


@lru_cache(maxsize=4096)  # classes and simulations ask for the same few counts again and again
def drop_upper_bound(b: int, c: int, n: int, alpha: float = 0.05) -> float:
    """Upper confidence bound of the drop at one-sided level ``alpha``: the score test turned round.

    ``shows_smaller_drop`` is true exactly for limits above this bound.
    """
    if b == 0 and c == 0:
        return -math.expm1(math.log(alpha) / n)
    quantile = normal_quantile(1 - alpha)
    low, high = (b - c) / n, 1.0
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (low, middle) if score_z(b, c, n, middle) <= -quantile else (middle, high)
    return high


def drop_interval(b: int, c: int, n: int, alpha: float = 0.05) -> tuple[float, float]:
    """Lower and upper confidence bound of the drop, each at one-sided level ``alpha`` (a 90 % interval for 0.05)."""
    return -drop_upper_bound(c, b, n, alpha), drop_upper_bound(b, c, n, alpha)


def mcnemar(b: int, c: int) -> float:
    """Two-sided p-value for "the models differ at all"; exact (binomial) with fewer than 25 disagreements."""
    total = b + c
    if total >= _EXACT_BELOW:
        return 2 * NormalDist().cdf(-abs(b - c) / math.sqrt(total))
    tail = sum(math.comb(total, k) for k in range(min(b, c) + 1)) / 2**total
    return min(1.0, 2 * tail)


def wilson_interval(hits: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a share; (0, 1) without observations."""
    if n == 0:
        return 0.0, 1.0
    z = normal_quantile((1 + confidence) / 2)
    share = hits / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (0.0 if hits == 0 else max(centre - reach, 0.0)), (1.0 if hits == n else min(centre + reach, 1.0))


def share_interval(count: int, n: int, alpha: float = 0.05) -> tuple[float, float]:
    """Exact (Clopper-Pearson) bounds of a share, each at one-sided level ``alpha``: the binomial test turned round."""
    return 1 - _share_upper_bound(n - count, n, alpha), _share_upper_bound(count, n, alpha)


@lru_cache(maxsize=4096)
def _share_upper_bound(count: int, n: int, alpha: float) -> float:
    """The share at which ``count`` hits or fewer of ``n`` have chance ``alpha``."""
    if count == n:
        return 1.0
    ways = np.cumsum(np.concatenate([[0.0], np.log(np.arange(n, n - count, -1)) - np.log(np.arange(1, count + 1))]))
    hits = np.arange(count + 1)

    def chance(share: float) -> float:
        return float(np.exp(ways + hits * math.log(share) + (n - hits) * math.log1p(-share)).sum())

    low, high = count / n, 1.0
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (low, middle) if chance(middle) <= alpha else (middle, high)
    return high


def share_samples_needed(limit: float, share: float, *, alpha: float = 0.05, power: float = 0.8) -> int | None:
    """Samples with which ``share_interval`` leaves ``limit`` outside with probability ``power``; both are shares.

    ``None`` where they are equal, since no number of samples tells them apart.
    """
    if limit == share:
        return None
    spreads = math.sqrt(limit * (1 - limit)), math.sqrt(share * (1 - share))
    root = (normal_quantile(1 - alpha) * spreads[0] + normal_quantile(power) * spreads[1]) / abs(limit - share)
    least = math.log(alpha) / math.log1p(-limit) if share < limit < 1 else 1
    return math.ceil(max(root * root, least))


def samples_needed(
    limit: float, disagreement: float, drop: float = 0.0, *, alpha: float = 0.05, power: float = 0.8
) -> int | None:
    """Samples with which the test decides on ``limit`` with probability ``power``.

    It decides for the candidate where ``drop`` is below the limit, against it where above; ``None`` where they are
    equal, since no number of samples tells them apart.

    Args:
        limit: largest permitted drop, a share.
        disagreement: share of samples that exactly one of the models has right; at least ``|drop|``.
        drop: the true drop assumed.
        alpha: one-sided level of the test.
        power: probability of a decision.
    """
    if limit == drop:
        return None
    disagreement = max(disagreement, abs(drop))
    b, c = (disagreement + drop) / 2, (disagreement - drop) / 2
    if limit < 0:
        b, c = c, b
    assumed = float(constrained_reverse_share(np.asarray(b), np.asarray(c), 1, abs(limit)))
    null_spread = math.sqrt(2 * assumed + abs(limit) * (1 - abs(limit)))
    true_spread = math.sqrt(max(disagreement - drop * drop, 0.0))
    root = (normal_quantile(1 - alpha) * null_spread + normal_quantile(power) * true_spread) / abs(limit - drop)
    least = math.log(alpha) / math.log1p(-limit) if 0 < limit < 1 and drop < limit else 1
    return math.ceil(max(root * root, least))


def smallest_provable_limit(n: int, disagreement: float, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """The tightest limit, a share, that ``n`` samples prove with probability ``power`` where the true drop is 0.

    About 2.49 sqrt(disagreement / n) where disagreements are many, and never below 1 - alpha^(1/n).
    """
    low, high = 0.0, 1.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        needed = samples_needed(middle, disagreement, alpha=alpha, power=power)
        low, high = (low, middle) if needed is not None and needed <= n else (middle, high)
    return high
