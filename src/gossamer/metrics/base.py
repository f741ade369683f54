"""What a metric is: a name, a direction, and one function from outputs and labels to scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from gossamer.core.errors import DataError
from gossamer.core.names import nearest

Outputs = Mapping[str, np.ndarray]
Labels = np.ndarray | Mapping[str, np.ndarray] | None
"""Labels, or for a metric without labels the outputs of the reference model by name."""

Score = Callable[[Any, Any], object]
"""From outputs and labels, one score for each sample, shape (samples,), or one finite figure for the whole set."""


@dataclass(frozen=True)
class Metric:
    """A figure of merit of a model on data, such as ``top1``.

    Attributes:
        name: as written by the user, ``top1`` or ``top1@logits``.
        unit: ``%`` for a share shown as percent, empty for the metric's own unit.
        better: which direction is better.
        needs_labels: labels are required; otherwise ``labels`` are the outputs of the reference model.
        score: the computation. Scores of single samples of a ``%`` metric are shares from 0 to 1; a figure for the
            whole set is in ``unit`` already.
        output: the output it reads; the first one if ``None``.
    """

    name: str
    unit: Literal["%", ""]
    better: Literal["higher", "lower"]
    needs_labels: bool
    score: Score
    output: str | None = None

    def value(self, outputs: Outputs, labels: Labels) -> float:
        """The metric in ``unit``: accuracy in percent.

        Raises:
            DataError: outputs and labels do not fit each other, or the figure is not finite.
        """
        scores = self._scores(outputs, labels)
        value = float(scores.mean()) * self._factor if scores.ndim else float(scores)
        if not math.isfinite(value):
            raise DataError(
                f"computing the metric {self.name}",
                got=f"{value} from outputs {_shapes(outputs)}",
                expected="a finite figure",
                try_="check whether the model's outputs or the labels hold NaN or infinity",
            )
        return value

    def per_sample(self, outputs: Outputs, labels: Labels) -> np.ndarray | None:
        """Scores (samples,) whose mean (times 100 for ``%``) is the value; ``None`` if it is not a mean (F1)."""
        scores = self._scores(outputs, labels)
        return scores if scores.ndim else None

    def harm(self, before: float, after: float) -> float:
        """How much worse ``after`` is than ``before``, in ``unit`` (points for ``%``); negative if it is better."""
        return before - after if self.better == "higher" else after - before

    @property
    def _factor(self) -> float:
        return 100.0 if self.unit == "%" else 1.0

    def _scores(self, outputs: Outputs, labels: Labels) -> np.ndarray:
        doing = f"computing the metric {self.name}"
        if labels is None:
            raise DataError(
                doing,
                got="no labels",
                expected="labels" if self.needs_labels else "the outputs of the reference model as labels",
                try_="--metric agreement needs no labels" if self.needs_labels else "",
            )
        outputs = _restrict(outputs, self.output, doing)
        if isinstance(labels, Mapping) and self.output is not None:
            labels = _restrict(labels, self.output, doing)
        result = self.score(outputs, labels)
        try:
            scores = np.asarray(result, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise DataError(doing, got=type(result).__name__, expected="a number, or an array of scores") from error
        if scores.ndim == 0:
            return scores
        rows = sample_count(next(iter(outputs.values())), doing)
        if scores.shape != (rows,):
            raise DataError(
                doing,
                got=f"scores of shape {list(scores.shape)}",
                expected=f"[{rows}]: one for each sample, or a figure",
            )
        return scores


def first_output(outputs: Outputs) -> np.ndarray:
    """The array that a metric reads: the only one left after ``@output``, else the model's first output."""
    return np.asarray(next(iter(outputs.values())))


def label_array(labels: Labels, doing: str) -> np.ndarray:
    """Labels as an array; of a mapping, the first entry."""
    if isinstance(labels, Mapping):
        labels = next(iter(labels.values()), None)
    if labels is None:
        raise DataError(doing, got="no labels", expected="an array of labels")
    return np.asarray(labels)


def sample_count(array: np.ndarray, doing: str) -> int:
    """Number of samples: the length of axis 0."""
    if array.ndim == 0 or array.shape[0] == 0:
        raise DataError(doing, got=f"an output of shape {list(array.shape)}", expected="at least one sample on axis 0")
    return array.shape[0]


def class_logits(outputs: Outputs, labels: Labels, doing: str) -> tuple[np.ndarray, np.ndarray]:
    """Logits with the classes on the last axis, and whole-number labels of the shape of the other axes.

    The class axis is the last one, or axis 1 in the layout (samples, classes, ...) of images and volumes, whichever
    leaves the shape of the labels; of two that do, axis 1 for four axes and more, else the last.

    Raises:
        DataError: shapes do not fit, labels are not whole numbers, or are outside the range of the classes.
    """
    logits, targets = first_output(outputs), label_array(labels, doing)
    sample_count(logits, doing)
    if targets.ndim == logits.ndim and targets.shape[-1] == 1:
        targets = targets[..., 0]
    last, channels_first = logits.shape[:-1], logits.shape[:1] + logits.shape[2:]
    fits_first = targets.shape == channels_first and logits.ndim >= 3
    if fits_first and (logits.ndim >= 4 or targets.shape != last):
        logits = np.moveaxis(logits, 1, -1)
    elif logits.ndim < 2 or targets.shape != last:
        raise DataError(
            doing,
            got=f"an output of shape {list(logits.shape)} and labels of shape {list(targets.shape)}",
            expected="output (samples, classes) and labels (samples,), or one class axis more than the labels",
            try_="choose another output with name@output, or write your own metric: file.py:function",
        )
    classes = logits.shape[-1]
    if classes < 2:
        raise DataError(doing, got=f"{classes} class on the class axis", expected="at least 2 classes")
    if not np.issubdtype(targets.dtype, np.integer):
        if not np.array_equal(targets, np.rint(targets)):
            raise DataError(doing, got=f"labels of dtype {targets.dtype} with fractions", expected="class indices")
        targets = targets.astype(np.int64)
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= classes:
        raise DataError(doing, got=f"labels from {low} to {high}", expected=f"0 to {classes - 1}: {classes} classes")
    return logits, targets


def mean_per_sample(values: np.ndarray) -> np.ndarray:
    """Mean over everything but axis 0: positions of one sample count as one sample."""
    return values.reshape(values.shape[0], -1).mean(axis=1, dtype=np.float64)


def _restrict(outputs: Outputs, output: str | None, doing: str) -> Outputs:
    if not outputs:
        raise DataError(doing, got="no outputs", expected="at least one named output")
    if output is None:
        return outputs
    if output not in outputs:
        close = nearest(output, outputs)
        raise DataError(
            doing,
            got=f"output {output!r}",
            expected=f"one of: {', '.join(outputs)}",
            try_=f"@{close[0]}" if close else "",
        )
    return {output: outputs[output]}


def _shapes(outputs: Outputs) -> str:
    return ", ".join(f"{name}{list(np.shape(array))}" for name, array in outputs.items())
