"""Agreement with the original model, for data without labels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gossamer.core.errors import DataError
from gossamer.metrics.base import Labels, Metric, Outputs, first_output, mean_per_sample, sample_count

RELATIVE_TOLERANCE = 0.05
"""A regression value agrees within this share of max(|reference|, RMS of the reference over the data)."""


def agreement_scores(outputs: Outputs, labels: Labels) -> np.ndarray:
    """Share of decisions of each sample that equal the original model's; shape (samples,).

    ``labels`` are the original's outputs: a mapping by name, or one array. What counts as a decision:

    - floats with a class axis of at least two: the argmax, on the last axis, or on axis 1 for four axes and more
      (samples, classes, height, width);
    - other floats (samples,) or (samples, 1): regression, within ``RELATIVE_TOLERANCE``;
    - integers and booleans: every value.

    A NaN agrees with nothing.
    """
    doing = "computing agreement with the original model"
    candidate = first_output(outputs)
    reference = _reference(outputs, labels)
    sample_count(candidate, doing)
    if candidate.shape != reference.shape:
        raise DataError(
            doing,
            got=f"an output of shape {list(candidate.shape)}",
            expected=f"{list(reference.shape)}, as the original gives",
        )
    return mean_per_sample(_agree(candidate, reference))


def _reference(outputs: Outputs, labels: Labels) -> np.ndarray:
    if not isinstance(labels, Mapping):
        return np.asarray(labels)
    name = next(iter(outputs))
    if name not in labels:
        raise DataError(
            "computing agreement with the original model",
            got=f"output {name!r}",
            expected=f"one of the original's: {', '.join(labels)}",
        )
    return np.asarray(labels[name])


def _agree(candidate: np.ndarray, reference: np.ndarray) -> np.ndarray:
    if not np.issubdtype(reference.dtype, np.floating):
        return candidate == reference
    axis = 1 if reference.ndim >= 4 else -1
    if reference.ndim >= 2 and reference.shape[axis] >= 2:
        broken = (np.isnan(candidate) | np.isnan(reference)).any(axis=axis)
        return (candidate.argmax(axis=axis) == reference.argmax(axis=axis)) & ~broken
    exact = reference.astype(np.float64)
    allowed = RELATIVE_TOLERANCE * np.maximum(np.abs(exact), np.sqrt(np.mean(exact**2)))
    return np.abs(candidate.astype(np.float64) - exact) <= allowed


AGREEMENT = Metric("agreement", "%", "higher", needs_labels=False, score=agreement_scores)
