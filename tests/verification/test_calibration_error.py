"""How far confidence is from being right, and what can be proven about it."""

import math

import numpy as np
import pytest

from gossamer.core.errors import DataError
from gossamer.verification.calibration_error import (
    Confidences,
    calibration_error,
    certify_calibration,
    certify_calibration_rise,
    confidences,
    probabilities,
)
from gossamer.verification.certificates import Claim

LEVEL, RISE = Claim("calibration error <= 3%", 3.0, "%", quantity=""), Claim("rise <= 1pt", 1.0, quantity="rise")


def world(n, sharpness, rng, *, changed=0.02):
    """A calibrated classifier, and one that is sharper and flips a few answers."""
    sure = 0.501 + 0.498 * rng.beta(4, 1.2, n)
    right = (rng.random(n) < sure).astype(float)
    margin = np.log(sure / (1 - sure)) * sharpness + rng.normal(0, 0.05, n)
    flips = (rng.random(n) < changed) & (sure < 0.8)
    return Confidences(sure, right), Confidences(1 / (1 + np.exp(-np.abs(margin))), np.where(flips, 1 - right, right))


def truth(sharpness):
    before, after = world(1_000_000, sharpness, np.random.default_rng(9))
    return 100 * calibration_error(after), 100 * (calibration_error(after) - calibration_error(before))


def test_it_is_the_mean_gap_of_fifteen_bins():
    rng = np.random.default_rng(0)
    given = Confidences(rng.random(150), (rng.random(150) < 0.5).astype(float))
    order = np.argsort(given.confidence)
    bins = order.reshape(15, 10)
    expected = np.mean([abs(given.right[rows].mean() - given.confidence[rows].mean()) for rows in bins])
    assert calibration_error(given) == pytest.approx(expected)
    assert calibration_error(Confidences(np.array([0.9, 0.6]), np.array([1.0, 0.0]))) == pytest.approx(0.35)


def test_scores_that_are_no_probabilities_go_through_softmax():
    scores = np.array([[2.0, 0.0], [0.0, 0.0], [1000.0, 0.0]])
    assert probabilities(scores)[:, 0] == pytest.approx([1 / (1 + math.exp(-2)), 0.5, 1.0])
    shares = np.array([[0.7, 0.3], [0.2, 0.8]])
    assert probabilities(shares).tolist() == shares.tolist()
    found = confidences(shares, np.array([0, 0]))
    assert (found.confidence.tolist(), found.right.tolist()) == ([0.7, 0.8], [1.0, 0.0])


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (np.zeros((3, 1)), np.zeros(3, int), r"shape \[3, 1\]"),
        (np.zeros((3, 2)), np.zeros(2, int), r"labels of shape \[2\]"),
        (np.zeros((3, 2)), np.array([0, 1, 2]), "from 0 to 2"),
        (np.zeros((3, 2)), np.array([0, 1, -1]), "from -1 to 1"),
        (np.zeros((3, 2)), np.zeros(3), "float64"),
        (np.full((3, 2), np.nan), np.zeros(3, int), "not finite"),
    ],
)
def test_only_classifiers_have_one(scores, labels, message):
    with pytest.raises(DataError, match=message):
        confidences(scores, labels)


def test_level_and_rise_are_decided_both_ways():
    before, after = world(6000, 2.0, np.random.default_rng(0))
    loose, tight = (Claim("x", limit, "%", quantity="") for limit in (15.0, 3.0))
    assert certify_calibration(after, loose).decision == "holds"
    failed = certify_calibration(after, tight)
    assert failed.decision == "fails"
    assert failed.interval[0] < failed.estimate <= failed.interval[1]
    assert certify_calibration_rise(before, after, RISE).decision == "fails"
    same = certify_calibration_rise(before, before, RISE)
    assert (same.decision, same.estimate) == ("holds", 0.0)
    near = certify_calibration_rise(*world(1000, 1.0, np.random.default_rng(0)), RISE)
    assert near.decision == "undecided"
    assert near.samples_needed > 1000


def test_few_samples_prove_nothing():
    before, _ = world(50, 1.0, np.random.default_rng(0))
    few = before.take(np.arange(19))
    assert certify_calibration(few, LEVEL).interval is None
    perfect = Confidences(np.ones(60), np.ones(60))
    found = certify_calibration_rise(perfect, perfect, RISE)
    assert (found.decision, found.samples_needed) == ("undecided", 299)


@pytest.mark.slow
@pytest.mark.parametrize("n", [500, 1500])
@pytest.mark.parametrize("sharpness", [1.3, 1.8])
def test_bounds_miss_the_truth_at_most_at_level_alpha(n, sharpness):
    """Before is calibrated: there noise inflates the estimate most, and a plain bootstrap misses the rise in 40 %."""
    level, rise = truth(sharpness)
    rng = np.random.default_rng(1)
    trials, missed = 100, np.zeros(4)
    for seed in range(trials):
        before, after = world(n, sharpness, rng)
        low, high = certify_calibration(after, LEVEL, seed=seed).interval
        lowest, highest = certify_calibration_rise(before, after, RISE, seed=seed).interval
        missed += [high < level, low > level, highest < rise, lowest > rise]
    assert missed.max() / trials <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / trials)
