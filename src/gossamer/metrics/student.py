"""Quantiles of Student's t distribution for whole degrees of freedom, without SciPy."""

from __future__ import annotations

import math
from functools import cache


def t_cdf(theta: float, df: int) -> float:
    """P(|T| <= sqrt(df) tan(theta)) for theta in [0, pi/2): a finite sum of positive terms, exact to rounding.

    Reference: Abramowitz and Stegun (1964), 26.7.3 and 26.7.4.
    """
    cosine_squared = math.cos(theta) ** 2
    odd = df % 2
    term = math.cos(theta) if odd else 1.0
    total = term if df > 1 else 0.0
    for k in range(2 + odd, df - 1, 2):
        term *= (k - 1) / k * cosine_squared
        total += term
    share = math.sin(theta) * total
    return 2 / math.pi * (theta + share) if odd else share


@cache
def t_quantile(probability: float, df: int) -> float:
    """The value that Student's t with ``df`` degrees of freedom stays below with ``probability``.

    Args:
        probability: between 0 and 1, for example 0.975 for a two-sided 95 % interval.
        df: at least 1.
    """
    if not 0 < probability < 1 or df < 1:
        raise ValueError(f"probability {probability} must lie between 0 and 1, df {df} must be at least 1")
    if probability < 0.5:
        return -t_quantile(1 - probability, df)
    wanted = 2 * probability - 1
    low, high = 0.0, math.pi / 2
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if t_cdf(middle, df) < wanted else (low, middle)
    return math.sqrt(df) * math.tan(middle)
