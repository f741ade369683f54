"""The test that may be looked at after every sample."""

import math

import numpy as np
import pytest

from gossamer.core.errors import DataError, OptionError
from gossamer.verification.always_valid import certify_always, log_fortunes
from gossamer.verification.certificates import Claim, certify_scores

ONE_POINT = Claim("top1 drop <= 1pt", 1.0, data_digest="some data")


def harms(n, disagreement, drop, rng):
    """1 lost, -1 won, 0 the same."""
    shares = [(disagreement + drop) / 2, (disagreement - drop) / 2, 1 - disagreement]
    return rng.choice([1.0, -1.0, 0.0], size=n, p=shares)


def as_scores(harm):
    """Scores (before, after) of shares that differ by ``harm``."""
    before, after = np.maximum(harm, 0), np.maximum(-harm, 0)
    return lambda rows: (before[rows], after[rows])


def test_the_fortune_is_a_mean_of_sixteen_products():
    harm = np.array([0.0, 1.0, -0.5])
    bets = np.geomspace(1 / 64, 63 / 64, 16) / 1.02
    expected = [np.mean(np.prod(1 + bets * (0.02 - harm[:k, None]), axis=0)) for k in (1, 2, 3)]
    assert np.exp(log_fortunes(harm, 0.02)) == pytest.approx(expected)


@pytest.mark.parametrize("disagreement", [0.01, 0.03])
def test_at_the_limit_the_fortune_ever_reaches_its_goal_at_most_at_level_alpha(disagreement):
    rng = np.random.default_rng(0)
    trials = 400
    reached = [log_fortunes(harms(3000, disagreement, 0.01, rng), 0.01).max() >= math.log(20) for _ in range(trials)]
    assert np.mean(reached) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / trials)


def test_a_better_fortune_than_a_fair_one_is_caught_by_the_same_check():
    rng = np.random.default_rng(0)
    reached = [log_fortunes(harms(3000, 0.03, 0.01, rng), 0.02).max() >= math.log(20) for _ in range(100)]
    assert np.mean(reached) > 0.2


@pytest.mark.parametrize(("drop", "decision"), [(0.0, "holds"), (0.04, "fails"), (0.009, "undecided")])
def test_it_stops_at_the_sample_that_decides(drop, decision):
    harm = harms(4000, 0.05, drop, np.random.default_rng(1))
    found = certify_always(as_scores(harm), 4000, ONE_POINT)
    assert found.decision == decision
    assert found.available == found.looks_planned == 4000
    assert found.n == found.looks_used
    assert (found.n < 4000) == (decision != "undecided")
    whole = certify_always(as_scores(harm), 4000, ONE_POINT, chunk=4000)
    assert (whole.decision, whole.n) == (found.decision, found.n)
    assert whole.evidence == pytest.approx(found.evidence)
    low, high = found.interval
    assert low < found.estimate < high
    assert (high <= 1.0, low >= 1.0) == (decision == "holds", decision == "fails")
    side = "for" if decision == "holds" else "against"
    assert (found.evidence[f"log_e_{side}"] >= math.log(20)) == (decision != "undecided")


def test_an_undecided_claim_says_what_would_decide_it():
    rng = np.random.default_rng(2)
    found = certify_always(as_scores(np.r_[np.ones(15), -np.ones(15), np.zeros(970)]), 1000, ONE_POINT)
    assert found.decision == "undecided"
    assert not found.futile
    needed = found.samples_needed
    assert needed > 1000
    decided = [log_fortunes(harms(needed, 0.03, 0.0, rng), 0.01).max() >= math.log(20) for _ in range(50)]
    assert np.mean(decided) > 0.5


def test_it_asks_for_more_samples_than_a_test_of_fixed_size():
    """The price of looking always."""
    equal = np.ones(299)
    assert certify_scores(equal, equal, ONE_POINT).decision == "holds"
    assert certify_always(lambda rows: (equal[rows], equal[rows]), 299, ONE_POINT).decision == "undecided"


def test_losses_count_the_other_way():
    harm = harms(3000, 0.03, 0.0, np.random.default_rng(3))
    lower = Claim("error rise", 1.0, better="lower", data_digest="some data")
    scores = as_scores(harm)
    swapped = certify_always(lambda rows: scores(rows)[::-1], 3000, lower)
    assert (swapped.decision, swapped.n) == ("holds", certify_always(scores, 3000, ONE_POINT).n)


def test_what_it_cannot_bet_on_is_refused():
    with pytest.raises(OptionError, match="not in points"):
        certify_always(as_scores(np.zeros(9)), 9, Claim("mae drop <= 1", 1.0, unit=""))
    with pytest.raises(DataError, match="no samples"):
        certify_always(as_scores(np.zeros(0)), 0, ONE_POINT)
    with pytest.raises(DataError, match="beyond 0 and 1"):
        certify_always(lambda rows: (np.full(len(rows), 2.0), np.zeros(len(rows))), 9, ONE_POINT)
