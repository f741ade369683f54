import json
import math

import numpy as np
import pytest

from gossamer.core.digest import canonical_json
from gossamer.core.errors import DataError, OptionError
from gossamer.verification.certificates import (
    Certificate,
    Claim,
    certify_metric,
    certify_scores,
    certify_share,
    power_line,
)

ONE_POINT = Claim("top1 drop <= 1pt", 1.0, data_digest="d", prediction_digests={"before": "p", "after": "q"})


def right(n, wrong):
    scores = np.ones(n)
    scores[list(wrong)] = 0
    return scores


def test_holds_fails_and_undecided():
    holds = certify_scores(right(5000, range(20)), right(5000, range(10, 30)), ONE_POINT)
    assert (holds.decision, holds.estimate, holds.samples_needed) == ("holds", 0.0, None)
    assert holds.interval[1] < 1.0
    fails = certify_scores(right(1000, []), right(1000, range(40)), ONE_POINT)
    assert (fails.decision, fails.estimate) == ("fails", 4.0)
    assert fails.interval[0] > 1.0
    open_ = certify_scores(right(500, []), right(500, range(4)), ONE_POINT)
    assert open_.decision == "undecided"
    assert open_.samples_needed > 500
    assert f"about {open_.samples_needed} samples" in str(open_)
    assert (open_.evidence["lost"], open_.evidence["won"]) == (4, 0)


@pytest.mark.parametrize("better", ["higher", "lower"])
def test_swapping_models_negates_the_estimate(better):
    rng = np.random.default_rng(0)
    before, after = rng.integers(0, 2, (2, 400))
    claim = Claim("x", 1.0, better=better)
    one, other = certify_scores(before, after, claim), certify_scores(after, before, claim)
    assert one.estimate == -other.estimate
    assert one.interval == pytest.approx((-other.interval[1], -other.interval[0]))


@pytest.mark.parametrize("n", [1, 30, 298])
def test_few_equal_answers_never_prove_one_point(n):
    equal = right(n, [0])
    certificate = certify_scores(equal, equal, ONE_POINT)
    assert certificate.decision == "undecided"
    assert certificate.samples_needed == 299
    shares = np.full(n, 0.7)
    whole = certify_metric(lambda rows: 90.0, lambda rows: 90.0, n, ONE_POINT, resamples=50)
    for found in (certify_scores(shares, shares, ONE_POINT), whole):
        assert found.decision == "undecided"
        assert found.samples_needed == (20 if n == 1 else 299)


def test_enough_equal_answers_do():
    equal = right(299, [0])
    assert certify_scores(equal, equal, ONE_POINT).decision == "holds"
    assert certify_metric(lambda rows: 90.0, lambda rows: 90.0, 400, ONE_POINT, resamples=50).decision == "holds"


def test_no_number_of_samples_decides_a_candidate_at_the_limit():
    certificate = certify_scores(right(1000, []), right(1000, range(10)), ONE_POINT)
    assert (certificate.decision, certificate.samples_needed) == ("undecided", None)
    assert "no number of samples" in str(certificate)


def test_errors_in_the_metrics_own_unit():
    rng = np.random.default_rng(1)
    before = rng.gamma(2.0, 1.0, 600)
    claim = Claim("mae drop <= 0.1", 0.1, unit="", better="lower")
    assert certify_scores(before, before + rng.normal(0, 0.2, 600), claim).decision == "holds"
    assert certify_scores(before, before + rng.normal(0.3, 0.2, 600), claim).decision == "fails"
    near = certify_scores(before, before + rng.normal(0.09, 0.2, 600), claim)
    assert near.decision == "undecided"
    assert near.samples_needed > 600
    few = certify_scores(before[:10], before[:10], claim)
    assert (few.decision, few.interval, few.samples_needed) == ("undecided", None, 20)


def test_bootstrap_accepts_candidates_at_the_limit_at_most_at_level_alpha():
    rng = np.random.default_rng(2)
    trials, accepted = 200, 0
    for seed in range(trials):
        harm = rng.normal(0.1, 0.3, 100)
        claim = Claim("mae drop <= 0.1", 0.1, unit="", better="lower")
        accepted += certify_scores(np.zeros(100), harm, claim, seed=seed).decision == "holds"
    assert accepted / trials <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / trials)


def f1(actual, predicted):
    hits = np.sum(actual & predicted)
    return 200 * hits / max(np.sum(actual) + np.sum(predicted), 1)


def test_a_metric_that_is_no_mean_is_computed_anew_for_each_resample():
    rng = np.random.default_rng(3)
    actual = rng.random(1500) < 0.4
    before = actual ^ (rng.random(1500) < 0.1)
    after = before ^ (rng.random(1500) < 0.01)
    worse = before & (rng.random(1500) < 0.8)
    claim = Claim("f1 drop <= 2pt", 2.0)

    def value(predicted):
        return lambda rows: f1(actual[rows], predicted[rows])

    held = certify_metric(value(before), value(after), 1500, claim, resamples=500)
    assert held.decision == "holds"
    assert held.estimate == pytest.approx(f1(actual, before) - f1(actual, after))
    assert held.interval[0] < held.estimate < held.interval[1]
    assert certify_metric(value(before), value(worse), 1500, claim, resamples=500).decision == "fails"
    # One lucky flip among 30 samples must not prove two points, though every resample says so.
    lucky = before[:30].copy()
    lucky[np.flatnonzero(lucky != actual[:30])[0]] ^= True
    small = certify_metric(
        lambda r: f1(actual[:30][r], before[:30][r]), lambda r: f1(actual[:30][r], lucky[r]), 30, claim, resamples=500
    )
    assert small.decision == "undecided"


def test_json_round_trip():
    certificate = certify_scores(right(100, []), right(100, [1]), ONE_POINT)
    assert Certificate.from_json(json.loads(canonical_json(certificate.to_json()))) == certificate
    few = certify_scores(np.full(3, 0.5), np.full(3, 0.4), ONE_POINT)
    assert Certificate.from_json(json.loads(canonical_json(few.to_json()))) == few
    assert (certificate.looks_planned, certificate.looks_used) == (1, 1)
    assert certificate.prediction_digests == {"before": "p", "after": "q"}


def test_a_share_of_samples_is_tested_exactly():
    claim = Claim("flips <= 1%", 1.0, "%", quantity="")
    assert certify_share(0, 299, claim).decision == "holds"
    few = certify_share(0, 268, claim)
    assert (few.decision, few.samples_needed) == ("undecided", 299)
    assert str(few) == "flips <= 1%: undecided; 0.00 % [0.00 %, 1.11 %], n=268; about 299 samples would decide it"
    assert certify_share(40, 1000, claim).decision == "fails"
    assert certify_share(10, 1000, claim).samples_needed is None  # exactly at the limit


def test_flips_at_the_limit_pass_at_most_at_level_alpha():
    rng = np.random.default_rng(0)
    claim = Claim("flips <= 2%", 2.0, "%", quantity="")
    held = [certify_share(int(count), 400, claim).decision == "holds" for count in rng.binomial(400, 0.02, size=2000)]
    assert np.mean(held) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 2000)


def test_power_line_says_whether_to_start():
    assert power_line(10_000, 0.05, 1.0).endswith("enough for 1 pt")
    assert "1 pt needs about 3162" in power_line(1000, 0.05, 1.0)
    assert "a candidate that is better" in power_line(1000, 0.05, 0.0)


def test_scores_that_cannot_be_paired_are_refused():
    with pytest.raises(DataError, match=r"shape \[3\] before and \[4\] after"):
        certify_scores(np.ones(3), np.ones(4), ONE_POINT)
    with pytest.raises(DataError, match="finite"):
        certify_scores(np.ones(3), np.array([1, np.nan, 1]), ONE_POINT)
    with pytest.raises(OptionError, match="alpha"):
        Claim("x", 1.0, alpha=0.7)
    with pytest.raises(OptionError, match="100 points"):
        Claim("x", 100.0)
