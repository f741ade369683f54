"""Which samples to calibrate on: few, and of every class."""

from __future__ import annotations

import numpy as np

from gossamer.core.errors import DataError


def choose_calibration(total: int, labels: np.ndarray | None, seed: int, count: int) -> np.ndarray:
    """Indices of ``count`` samples, drawn without replacement, with classes in proportion.

    Class labels (whole numbers, truth values or texts, one a sample) are stratified: one sample of each class first,
    then all by the classes' shares, so that any prefix of the result is balanced, too. Without labels, or with numbers
    to predict, the draw is plain. Same arguments, same samples.

    Args:
        total: number of samples there are.
        labels: (total, ...) or ``None``.
        seed: of the draw.
        count: samples wanted; all of them if there are fewer.

    Raises:
        DataError: another number of labels than samples, or nothing to draw.
    """
    if total < 1 or count < 1 or (labels is not None and len(labels) != total):
        of = "none" if labels is None else len(labels)
        raise DataError(
            "choosing calibration samples",
            got=f"{count} of {total} samples, labels: {of}",
            expected="at least one sample, and a label for each if there are any",
        )
    order = np.random.default_rng(seed).permutation(total)
    if labels is None or labels.ndim != 1 or labels.dtype.kind not in "biuUS":
        return order[:count]
    _, classes, sizes = np.unique(labels[order], return_inverse=True, return_counts=True)
    # The k-th of n samples of a class stands at k / n: the first of each class come first, then all at an even pace.
    by_class = np.argsort(classes, kind="stable")
    rank = np.empty(total)
    rank[by_class] = np.concatenate([np.arange(size) / size for size in sizes])
    return order[np.argsort(rank, kind="stable")][:count]
