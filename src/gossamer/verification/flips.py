"""Flips: samples whose answer changed, behind an average that may not have."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from gossamer.core.errors import DataError


@dataclass(frozen=True)
class Flips:
    """Four-way table of right and wrong, before x after, as counts.

    Attributes:
        both_right: right before and after.
        lost: right before, wrong after: negative flips.
        won: wrong before, right after: positive flips.
        both_wrong: wrong before and after.
        changed: samples whose prediction changed, also from one wrong answer to another; ``None`` where predictions
            were not given.
    """

    both_right: int
    lost: int
    won: int
    both_wrong: int
    changed: int | None = None

    @property
    def n(self) -> int:
        """Samples."""
        return self.both_right + self.lost + self.won + self.both_wrong

    @property
    def negative_flips(self) -> float:
        """Share of samples that went from right to wrong."""
        return self.lost / self.n

    @property
    def positive_flips(self) -> float:
        """Share of samples that went from wrong to right."""
        return self.won / self.n

    @property
    def churn(self) -> float | None:
        """Share of samples whose prediction changed."""
        return None if self.changed is None else self.changed / self.n

    def __str__(self) -> str:
        text = f"flips: {self.lost} lost ({self.negative_flips:.2%}), {self.won} won ({self.positive_flips:.2%})"
        return text if self.churn is None else f"{text}, churn {self.churn:.2%}"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value; ``Flips(**value)`` reads it back."""
        return asdict(self)


def count_flips(
    right_before: np.ndarray,
    right_after: np.ndarray,
    predicted_before: np.ndarray | None = None,
    predicted_after: np.ndarray | None = None,
) -> Flips:
    """The four-way table of two models on the same samples.

    Args:
        right_before: 0/1 or booleans, shape (n,).
        right_after: the same of the compressed model.
        predicted_before: predictions, any type, samples on axis 0; with ``predicted_after`` they give the churn.
        predicted_after: the same of the compressed model.
    """
    before, after = np.asarray(right_before), np.asarray(right_after)
    if before.shape != after.shape or before.ndim != 1 or not len(before):
        raise DataError(
            "counting flips",
            got=f"shapes {list(before.shape)} and {list(after.shape)}",
            expected="one entry for each sample, the same samples on both sides",
        )
    if not (np.isin(before, (0, 1)).all() and np.isin(after, (0, 1)).all()):
        raise DataError("counting flips", got="scores between 0 and 1", expected="right (1) or wrong (0)")
    before, after = before.astype(bool), after.astype(bool)
    changed = None
    if predicted_before is not None and predicted_after is not None:
        first, second = np.asarray(predicted_before), np.asarray(predicted_after)
        if first.shape != second.shape or first.shape[:1] != before.shape:
            raise DataError(
                "counting flips",
                got=f"predictions of shape {list(first.shape)} and {list(second.shape)}",
                expected=f"{len(before)} samples on axis 0 on both sides",
            )
        changed = int((first != second).reshape(len(before), -1).any(axis=1).sum())
    return Flips(
        both_right=int(np.sum(before & after)),
        lost=int(np.sum(before & ~after)),
        won=int(np.sum(~before & after)),
        both_wrong=int(np.sum(~before & ~after)),
        changed=changed,
    )


def decisions(output: np.ndarray) -> np.ndarray:
    """What an output decides: the class of the largest score where it has a class axis, else its values.

    The class axis of floats is the last one, or axis 1 with four axes and more: (samples, classes, height, width).
    """
    output = np.asarray(output)
    axis = 1 if output.ndim >= 4 else -1
    if not np.issubdtype(output.dtype, np.floating) or output.ndim < 2 or output.shape[axis] < 2:
        return output
    return output.argmax(axis=axis)
