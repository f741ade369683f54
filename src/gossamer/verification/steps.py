"""Quantized values compared in steps of their grid: how many codes differ, and by how much."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from gossamer.verification.policies import Policy

SURE = 3.0
"""Standard errors by which the share of codes that differ must be above the policy's: one of 100 proves nothing."""

OFF_GRID = 0.01
"""Share of a step beyond which a value is not that of a code: float rounding of a dequantized one is far smaller."""

LARGEST_COUNTED = 3
"""Differences of this many steps and more are counted together."""


@dataclass(frozen=True)
class StepHistogram:
    """How far the codes of one quantized value are from the reference.

    Attributes:
        counts: number of elements off by 0, 1, 2, and 3 or more steps.
        largest: the largest difference in steps; infinite where a value is NaN or infinite on one side.
    """

    counts: tuple[int, ...]
    largest: float

    @property
    def share(self) -> float:
        """Share of the elements that differ at all."""
        return 1 - self.counts[0] / max(sum(self.counts), 1)

    def __add__(self, other: StepHistogram) -> StepHistogram:
        counts = tuple(a + b for a, b in zip(self.counts, other.counts, strict=True))
        return StepHistogram(counts, max(self.largest, other.largest))

    def __str__(self) -> str:
        return f"{self.share:.2%} of {sum(self.counts)} codes differ, by at most {self.largest:g} steps"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value."""
        return {**asdict(self), "counts": list(self.counts), "largest": str(self.largest)}

    def beyond(self, policy: Policy) -> str:
        """Why the codes are not acceptable under the policy's bounds on steps, or an empty text."""
        total = sum(self.counts)
        expected = policy.step_share * total
        few = total - self.counts[0] <= expected + SURE * math.sqrt(expected)
        if policy.steps is None or (self.largest <= policy.steps and few):
            return ""
        return f"{self}; the policy allows {policy.steps} on {policy.step_share:.2%}"


NO_STEPS = StepHistogram((0,) * (LARGEST_COUNTED + 1), 0.0)


def count_steps(wanted: np.ndarray, got: np.ndarray, scale: np.ndarray, axis: int | None) -> StepHistogram:
    """Compare two dequantized values of equal shape; a value between two codes counts as the farther one.

    Args:
        wanted: the reference's, any shape.
        got: the candidate's.
        scale: of the grid, shape () or (channels,).
        axis: the axis that the scales run along.
    """
    if axis is not None:
        scale = np.reshape(scale, [-1 if place == axis % wanted.ndim else 1 for place in range(wanted.ndim)])
    with np.errstate(invalid="ignore"):
        apart = np.abs(wanted.astype(np.float64) - got.astype(np.float64)) / scale.astype(np.float64)
        off = np.ceil(apart - OFF_GRID)
    off = np.where(np.isfinite(off), off, np.inf)
    counted = np.minimum(off, LARGEST_COUNTED).astype(np.int64).reshape(-1)
    counts = tuple(np.bincount(counted, minlength=LARGEST_COUNTED + 1).tolist())
    return StepHistogram(counts, float(off.max(initial=0.0)))
