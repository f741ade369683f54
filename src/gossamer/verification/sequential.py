"""Looking at the data before all of it is read: levels and sizes of the looks, their order, when to give up.

With K equal looks, look k is the fixed-size test at the smaller nominal level Phi(-C sqrt(K/k)). The constant C is such
that a candidate at the limit passes any of them with probability alpha: 1.75 for alpha = 0.05 and K = 5, which gives
z <= -3.91, -2.77, -2.26, -1.96, -1.75. Reference: O'Brien and Fleming (1979), Biometrics 35, 549-556.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from gossamer.core.errors import OptionError

DEFAULT_LOOKS = 5
MAX_LOOKS = 50
FUTILE_BELOW = 0.05
"""With less than this chance to prove the claim with the samples left, reading them is not worth it."""

_STEP = 0.05
"""Of the grid, in standard deviations of one look's increment: the constant is right to 1e-4."""


def nominal_levels(alpha: float, looks: int) -> tuple[float, ...]:
    """One-sided level of the test at each of ``looks`` equal looks; (alpha,) for one.

    Raises:
        OptionError: fewer than 1 or more than 50 looks.
    """
    if not 1 <= looks <= MAX_LOOKS:
        raise OptionError("planning the looks of a test", got=f"{looks} looks", expected=f"1 to {MAX_LOOKS}")
    if looks == 1:
        return (alpha,)
    constant = boundary_constant(alpha, looks)
    return tuple(NormalDist().cdf(-constant * math.sqrt(looks / look)) for look in range(1, looks + 1))


@lru_cache
def boundary_constant(alpha: float, looks: int) -> float:
    """The boundary at the last look: a standardised sum that crosses C sqrt(K/k) at some look k with chance alpha."""
    low, high = 0.0, 8.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if _crossing(middle, looks) > alpha else (low, middle)
    return high


def _crossing(constant: float, looks: int) -> float:
    """Chance that a random walk of ``looks`` standard normal steps is ever above constant * sqrt(looks)."""
    top = constant * math.sqrt(looks)
    below = top - _STEP * (np.arange(int((top + 8 * math.sqrt(looks)) / _STEP)) + 0.5)
    step = np.exp(-0.5 * (below[:, None] - below) ** 2) * (_STEP / math.sqrt(2 * math.pi))
    density = np.exp(-0.5 * below**2) / math.sqrt(2 * math.pi)
    for _ in range(looks - 1):
        density = step @ density
    return 1 - float(density.sum()) * _STEP


def look_ends(n: int, looks: int) -> tuple[int, ...]:
    """Samples read by the end of each look; with fewer samples than looks some are equal."""
    return tuple(-(-n * look // looks) for look in range(1, looks + 1))


def look_order(n: int, digest: str) -> np.ndarray:
    """Order in which samples are read, shape (n,): a permutation that the digest of the data alone fixes.

    So nobody can choose it, and what is read first is a fair sample even of data that lie sorted.
    """
    return np.random.default_rng(list(digest.encode())).permutation(n)


def conditional_power(z: float, share: float, level: float) -> float:
    """Chance that the last look proves the claim if what was seen so far goes on.

    Args:
        z: the test statistic now; very negative where the claim is nearly proven.
        share: of the samples that were read, above 0 and below 1.
        level: nominal level of the last look.
    """
    return NormalDist().cdf((-z / math.sqrt(share) + NormalDist().inv_cdf(level)) / math.sqrt(1 - share))
