"""Bias-corrected and accelerated (BCa) bootstrap interval of a paired difference."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist

import numpy as np

_JACKKNIFE_GROUPS = 200
"""The acceleration is a third moment: leaving out one of 200 groups estimates it as well as leaving out each sample."""

_TAIL_RESAMPLES = 20
"""Where a tail holds fewer resamples than this, its quantile says little, and the normal interval counts as well."""


def bca_interval(
    statistic: Callable[[np.ndarray], float],
    n: int,
    *,
    alpha: float = 0.05,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Lower and upper confidence bound of a statistic, each at one-sided level ``alpha``.

    Args:
        statistic: takes sample indices, shape (n,) with repetitions, and computes the paired difference anew.
        n: samples, at least 2.
        alpha: one-sided level; 0.05 gives a 90 % interval.
        resamples: evaluations of the statistic; up to 200 more for the acceleration.
        seed: of the resampling.

    Reference: Efron (1987), Better bootstrap confidence intervals.
    """
    rng = np.random.default_rng(seed)
    everything = np.arange(n)
    estimate = statistic(everything)
    replicates = np.array([statistic(rng.integers(n, size=n)) for _ in range(resamples)])
    groups = np.array_split(rng.permutation(n), min(n, _JACKKNIFE_GROUPS))
    left_out = np.array([statistic(np.setdiff1d(everything, group, assume_unique=True)) for group in groups])
    return _bca(estimate, replicates, left_out, alpha)


def bca_mean_interval(
    differences: np.ndarray, *, alpha: float = 0.05, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """``bca_interval`` of the mean of per-sample differences, shape (n,), without a call for each resample."""
    rng = np.random.default_rng(seed)
    n = len(differences)
    rows = max(1, 2_000_000 // n)  # bounds the memory of one block of indices to 16 MB
    blocks = [
        differences[rng.integers(n, size=(min(rows, resamples - start), n))].mean(axis=1)
        for start in range(0, resamples, rows)
    ]
    left_out = (differences.sum() - differences) / (n - 1)
    return _bca(float(differences.mean()), np.concatenate(blocks), left_out, alpha)


def _bca(estimate: float, replicates: np.ndarray, left_out: np.ndarray, alpha: float) -> tuple[float, float]:
    normal = NormalDist()
    count = len(replicates)
    below = (np.sum(replicates < estimate) + 0.5 * np.sum(replicates == estimate)) / count
    bias = normal.inv_cdf(float(np.clip(below, 0.5 / count, 1 - 0.5 / count)))
    pull = left_out.mean() - left_out
    spread = float(np.sum(pull**2))
    acceleration = float(np.sum(pull**3)) / (6 * spread**1.5) if spread > 0 else 0.0
    ends = []
    for probability in (alpha, 1 - alpha):
        z = bias + normal.inv_cdf(probability)
        ends.append(normal.cdf(bias + z / (1 - acceleration * z)) if acceleration * z < 1 else float(z > 0))
    low, high = (float(bound) for bound in np.quantile(replicates, ends))
    if alpha * count < _TAIL_RESAMPLES:
        reach = normal.inv_cdf(1 - alpha) * float(replicates.std())
        low, high = min(low, estimate - reach), max(high, estimate + reach)
    return low, high
