"""Macro-averaged F1."""

from __future__ import annotations

import numpy as np

from gossamer.metrics.base import Labels, Metric, Outputs, class_logits


def macro_f1(outputs: Outputs, labels: Labels) -> float:
    """Mean over the classes seen in labels or predictions of 2 TP / (2 TP + FP + FN), in percent.

    A row with a NaN counts as a missed label and as no prediction. It is no mean over samples: budgets on it are
    tested with a bootstrap.
    """
    logits, targets = class_logits(outputs, labels, "computing f1")
    classes = logits.shape[-1]
    valid = ~np.isnan(logits).any(axis=-1)
    predicted = logits.argmax(axis=-1)[valid]
    actual_counts = np.bincount(targets.ravel(), minlength=classes)
    predicted_counts = np.bincount(predicted, minlength=classes)
    hits = np.bincount(predicted[predicted == targets[valid]], minlength=classes)
    seen = (actual_counts + predicted_counts) > 0
    return float(100.0 * np.mean(2 * hits[seen] / (actual_counts + predicted_counts)[seen]))


F1 = Metric("f1", "%", "higher", needs_labels=True, score=macro_f1)
