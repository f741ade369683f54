"""Mean absolute error."""

from __future__ import annotations

import numpy as np

from gossamer.core.errors import DataError
from gossamer.metrics.base import Labels, Metric, Outputs, first_output, label_array, mean_per_sample, sample_count


def absolute_errors(outputs: Outputs, labels: Labels) -> np.ndarray:
    """Mean of |output - label| in each sample, in the label's unit; shape (samples,)."""
    predicted, actual = first_output(outputs), label_array(labels, "computing mae")
    rows = sample_count(predicted, "computing mae")
    if predicted.shape != actual.shape and predicted.size == actual.size and actual.shape[:1] == (rows,):
        actual = actual.reshape(predicted.shape) if _squeezed(predicted) == _squeezed(actual) else actual
    if predicted.shape != actual.shape:
        raise DataError(
            "computing mae",
            got=f"an output of shape {list(predicted.shape)} and labels of shape {list(actual.shape)}",
            expected="one label for each output value",
        )
    return mean_per_sample(np.abs(predicted.astype(np.float64) - actual.astype(np.float64)))


def _squeezed(array: np.ndarray) -> tuple[int, ...]:
    """Shape without the axes of length 1 behind the sample axis: (n, 1) and (n,) hold the same values."""
    return (array.shape[0], *(size for size in array.shape[1:] if size != 1))


MAE = Metric("mae", "", "lower", needs_labels=True, score=absolute_errors)
