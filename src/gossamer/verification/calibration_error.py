"""Calibration error: how far the confidence of a classifier is from how often it is right.

Samples are sorted by confidence into 15 bins of equal size; the error is the mean over the bins of |share of right
answers - mean confidence|. Noise makes a bin's gap look larger, never smaller (Jensen): the estimate is too high, and
resampling makes it higher still. BCa intervals of a change missed the truth in up to 46 % of simulations at a nominal
5 %. The bounds here allow for it, and are rather too wide than too narrow:

- from above, the estimate is on the safe side of the error, and the summed difference of the two sides' gaps, bin by
  bin, on the safe side of its rise: to each, z standard errors of the bootstrap are added, with z at half of alpha,
  since mistakes are rare and their error too is skewed (at alpha, 6.5 % of the bounds missed, of 2,000);
- from below, the largest bias that noise can have is taken off as well.

Reference: Nguyen and O'Connor (2015), equal-mass bins; Guo et al. (2017), On calibration of modern neural networks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gossamer.core.errors import DataError
from gossamer.verification.certificates import (
    MIN_BOOTSTRAP_SAMPLES,
    Certificate,
    Claim,
    certificate_of,
    unseen_changes,
)
from gossamer.verification.paired import normal_quantile

BINS = 15
RESAMPLES = 500
"""For a standard error, which needs fewer than a quantile does."""

_TEST = "bootstrap, 15 equal-mass bins"


@dataclass(frozen=True)
class Confidences:
    """What a classifier answers, and how sure it is.

    Attributes:
        confidence: probability of the answer, shape (n,).
        right: 1.0 where the answer is the label, else 0.0, shape (n,).
    """

    confidence: np.ndarray
    right: np.ndarray

    def take(self, rows: np.ndarray) -> Confidences:
        """The samples with these indices."""
        return Confidences(self.confidence[rows], self.right[rows])


def probabilities(scores: np.ndarray) -> np.ndarray:
    """Probabilities (n, classes): the scores themselves if no row is negative and all sum to 1, else their softmax."""
    scores = np.asarray(scores, dtype=np.float64)
    if (scores >= 0).all() and np.allclose(scores.sum(axis=1), 1.0, atol=1e-3):
        return scores
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def confidences(scores: np.ndarray, labels: np.ndarray) -> Confidences:
    """Answers of a classifier with scores (n, classes), two classes at least, for labels (n,).

    Raises:
        DataError: other shapes, scores that are not finite, or labels that are no class numbers.
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    doing = "computing the calibration error"
    if scores.ndim != 2 or scores.shape[1] < 2 or labels.shape != (len(scores),):
        got = f"an output of shape {list(scores.shape)} and labels of shape {list(labels.shape)}"
        raise DataError(doing, got=got, expected="output (samples, classes) and labels (samples,)")
    if labels.dtype.kind not in "biu" or labels.min() < 0 or labels.max() >= scores.shape[1]:
        got = f"labels of dtype {labels.dtype} from {labels.min()} to {labels.max()}"
        raise DataError(doing, got=got, expected=f"class numbers from 0 to {scores.shape[1] - 1}")
    if not np.isfinite(scores).all():
        raise DataError(doing, got="scores that are not finite", expected="finite scores")
    shares = probabilities(scores)
    return Confidences(shares.max(axis=1), (shares.argmax(axis=1) == labels).astype(np.float64))


def calibration_error(given: Confidences) -> float:
    """The calibration error, a share; fewer than 15 samples have a bin each."""
    return float(np.abs(_gaps(given)).sum())


def certify_calibration(after: Confidences, claim: Claim, *, seed: int = 0) -> Certificate:
    """Certificate that the calibration error is below a limit in percent."""

    def figures(rows: np.ndarray) -> tuple[float, float]:
        error = calibration_error(after.take(rows))
        return error, error

    return _certificate(figures, after, claim, seed)


def certify_calibration_rise(before: Confidences, after: Confidences, claim: Claim, *, seed: int = 0) -> Certificate:
    """Certificate that the calibration error rises by less than a limit in points."""

    def figures(rows: np.ndarray) -> tuple[float, float]:
        gaps, others = _gaps(after.take(rows)), _gaps(before.take(rows))
        return float(np.abs(gaps).sum() - np.abs(others).sum()), float(np.abs(gaps - others).sum())

    return _certificate(figures, after, claim, seed)


def _certificate(
    figures: Callable[[np.ndarray], tuple[float, float]], after: Confidences, claim: Claim, seed: int
) -> Certificate:
    """From the estimate, and what is on its safe side from above, on the samples with given indices."""
    n = len(after.right)
    estimate, above = (100 * figure for figure in figures(np.arange(n)))
    if n < MIN_BOOTSTRAP_SAMPLES:
        return certificate_of(_TEST, estimate, None, n, claim)
    rng = np.random.default_rng(seed)
    errors = 100 * np.std([figures(rng.integers(n, size=n)) for _ in range(RESAMPLES)], axis=0)
    reach = normal_quantile(1 - claim.alpha / 2) * errors
    floor = unseen_changes(estimate, 100.0, n, claim.alpha)
    low = min(estimate - 100 * _largest_bias(after) - float(reach[0]), floor[0])
    high = max(above + float(reach[1]), floor[1])
    if claim.unit == "%":
        low, high = max(low, 0.0), min(high, 100.0)
    return certificate_of(_TEST, estimate, (low, high), n, claim)


def _gaps(given: Confidences) -> np.ndarray:
    """Of each bin, from the least confident on, the summed right answers less confidences, over n; shape (bins,)."""
    return np.add.reduceat(_sorted_gaps(given), _starts(len(given.right))) / len(given.right)


def _largest_bias(given: Confidences) -> float:
    """By how much noise alone makes the error too large, if every bin is calibrated: sum of E|mean of its noise|."""
    gaps, n = _sorted_gaps(given), len(given.right)
    sizes = np.diff([*_starts(n), n])
    means = np.add.reduceat(gaps, _starts(n)) / sizes
    spreads = np.add.reduceat((gaps - np.repeat(means, sizes)) ** 2, _starts(n))
    spreads *= sizes / np.maximum(sizes - 1, 1)
    return math.sqrt(2 / math.pi) * float(np.sqrt(spreads).sum()) / n


def _sorted_gaps(given: Confidences) -> np.ndarray:
    return (given.right - given.confidence)[np.argsort(given.confidence)]


def _starts(n: int) -> np.ndarray:
    bins = min(BINS, n)
    return np.arange(bins) * n // bins
