import math

import numpy as np
import pytest
from scipy import optimize, stats

from gossamer.verification.bootstrap import bca_interval, bca_mean_interval
from gossamer.verification.paired import (
    drop_interval,
    mcnemar,
    samples_needed,
    score_z,
    share_interval,
    share_samples_needed,
    shows_larger_drop,
    shows_smaller_drop,
    smallest_provable_limit,
    wilson_interval,
)

COUNTS = [(0, 0, 300), (3, 0, 200), (0, 4, 200), (5, 2, 100), (30, 45, 1000), (12, 12, 50), (200, 150, 10_000)]


def maximised_z(b, c, n, d):
    """The score statistic with the nuisance share found by numerical maximisation of the trinomial likelihood."""

    def loss(q):
        terms = [(b, q + d), (c, q), (n - b - c, 1 - 2 * q - d)]
        return -sum(k * math.log(p) for k, p in terms if k)

    low, high = max(0.0, -d) + 1e-15, (1 - d) / 2 - 1e-15
    q = optimize.minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-14}).x
    q = min((low, high, q), key=loss)
    return (b - c - n * d) / math.sqrt(n * (2 * q + d * (1 - d)))


@pytest.mark.parametrize(("b", "c", "n"), COUNTS)
@pytest.mark.parametrize("d", [-0.05, -0.01, 0.002, 0.01, 0.05, 0.3])
def test_score_statistic_equals_numerical_constrained_maximisation(b, c, n, d):
    assert float(score_z(b, c, n, d)) == pytest.approx(maximised_z(b, c, n, d), abs=1e-6)


@pytest.mark.parametrize(("b", "c", "n"), COUNTS[1:])
def test_at_no_drop_it_is_mcnemar(b, c, n):
    assert float(score_z(b, c, n, 0.0)) == pytest.approx((b - c) / math.sqrt(b + c))
    if b + c < 25:
        assert mcnemar(b, c) == pytest.approx(stats.binomtest(b, b + c).pvalue)
    else:
        assert mcnemar(b, c) == pytest.approx(stats.chi2.sf((b - c) ** 2 / (b + c), 1))
    assert mcnemar(b, c) == mcnemar(c, b)


@pytest.mark.parametrize(("b", "c", "n"), COUNTS)
def test_swapping_the_models_negates_everything(b, c, n):
    assert float(score_z(b, c, n, 0.02)) == -float(score_z(c, b, n, -0.02))
    low, high = drop_interval(b, c, n)
    assert drop_interval(c, b, n) == (-high, -low)
    assert low <= (b - c) / n <= high


@pytest.mark.parametrize(("b", "c", "n"), COUNTS)
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_the_interval_is_the_test_turned_round(b, c, n, alpha):
    low, high = drop_interval(b, c, n, alpha)
    assert shows_smaller_drop(b, c, n, high + 1e-9, alpha)
    assert not shows_smaller_drop(b, c, n, high - 1e-9, alpha)
    assert shows_larger_drop(b, c, n, low - 1e-9, alpha)
    assert not shows_larger_drop(b, c, n, low + 1e-9, alpha)


def accept_rate(test, n, reverse, limit, trials=4000):
    """How often a test accepts candidates whose true drop is exactly the limit."""
    rng = np.random.default_rng([n, round(1e4 * reverse)])
    counts = rng.multinomial(n, [reverse + limit, reverse, 1 - 2 * reverse - limit], size=trials)[:, :2]
    pairs, repeats = np.unique(counts, axis=0, return_counts=True)
    return sum(k for (b, c), k in zip(pairs.tolist(), repeats.tolist(), strict=True) if test(b, c, n, limit)) / trials


def at_most_alpha(rate, trials=4000):
    return rate <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / trials)


@pytest.mark.parametrize(
    ("n", "reverse", "limit"),
    [
        (268, 0.0, 0.01),
        (299, 0.0, 0.01),
        (300, 0.01, 0.02),
        (500, 0.02, 0.01),
        (2000, 0.005, 0.01),
        (10_000, 0.01, 0.01),
    ],
)
def test_candidates_at_the_limit_are_accepted_at_most_at_level_alpha(n, reverse, limit):
    assert at_most_alpha(accept_rate(shows_smaller_drop, n, reverse, limit))


def test_a_test_that_ignores_the_limit_or_the_noise_is_caught_by_the_same_check():
    def not_significantly_worse(b, c, n, limit):
        return mcnemar(b, c) > 0.05

    def estimate_within_limit(b, c, n, limit):
        return (b - c) / n <= limit

    def plain_score(b, c, n, limit):
        return score_z(b, c, n, limit) <= -1.6449

    assert not at_most_alpha(accept_rate(not_significantly_worse, 500, 0.02, 0.01))
    assert not at_most_alpha(accept_rate(estimate_within_limit, 10_000, 0.01, 0.01))
    assert not at_most_alpha(accept_rate(plain_score, 268, 0.0, 0.01))  # why no disagreement at all is decided exactly


def test_power_line_matches_its_arithmetic_and_the_test_itself():
    for n, points in ((1000, 1.8), (2000, 1.2), (10_000, 0.56)):
        assert 100 * smallest_provable_limit(n, 0.05) == pytest.approx(points, abs=0.07)
    assert smallest_provable_limit(10**6, 0.05) == pytest.approx(2.486 * math.sqrt(0.05 / 10**6), rel=0.01)
    assert samples_needed(0.01, 0.0) == math.ceil(math.log(0.05) / math.log(0.99)) == 299
    assert samples_needed(0.01, 0.05, 0.01) is None
    rng = np.random.default_rng(0)
    n = samples_needed(0.01, 0.04, 0.002)
    counts = rng.multinomial(n, [0.021, 0.019, 0.96], size=4000)
    power = np.mean(score_z(counts[:, 0], counts[:, 1], n, 0.01) <= -1.6449)
    assert power == pytest.approx(0.8, abs=0.03)
    n = samples_needed(0.01, 0.04, 0.02)  # a candidate that is worse than permitted: power to say so
    counts = rng.multinomial(n, [0.03, 0.01, 0.96], size=4000)
    assert np.mean(score_z(counts[:, 0], counts[:, 1], n, 0.01) >= 1.6449) == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize(("hits", "n"), [(32, 32), (0, 10), (31, 32), (990, 1000)])
def test_wilson_interval_equals_scipy(hits, n):
    expected = stats.binomtest(hits, n).proportion_ci(method="wilson")
    assert wilson_interval(hits, n) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("hits", "n"), [(0, 268), (3, 200), (200, 200), (117, 5000)])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_exact_interval_of_a_share_equals_scipy(hits, n, alpha):
    expected = stats.binomtest(hits, n).proportion_ci(confidence_level=1 - 2 * alpha, method="exact")
    assert share_interval(hits, n, alpha) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_samples_for_a_share_give_the_power_they_promise():
    n = share_samples_needed(0.02, 0.01)
    highs = [share_interval(int(hits), n)[1] for hits in np.random.default_rng(0).binomial(n, 0.01, size=1000)]
    assert np.mean(np.array(highs) < 0.02) == pytest.approx(0.8, abs=0.06)  # the exact test is a little harder
    assert share_samples_needed(0.01, 0.0) == 299
    assert share_samples_needed(0.01, 0.01) is None
    assert share_samples_needed(0.01, 0.02) < 2000


def test_a_tail_of_few_resamples_is_no_narrower_than_the_normal_one():
    sample = np.random.default_rng(1).normal(size=200)
    low, high = bca_mean_interval(sample, alpha=5e-5)
    reach = 3.89 * sample.std() / math.sqrt(200)
    assert low <= sample.mean() - 0.95 * reach
    assert high >= sample.mean() + 0.95 * reach


def test_bca_equals_scipy_on_a_skewed_mean():
    sample = np.random.default_rng(1).exponential(size=80)
    expected = stats.bootstrap(
        (sample,), np.mean, confidence_level=0.9, n_resamples=9999, rng=np.random.default_rng(2)
    ).confidence_interval
    ours = bca_mean_interval(sample, resamples=9999)
    assert ours == pytest.approx((expected.low, expected.high), abs=0.02)
    assert bca_interval(lambda rows: float(sample[rows].mean()), 80, resamples=4000) == pytest.approx(ours, abs=0.03)
    skew = (ours[1] - sample.mean()) / (sample.mean() - ours[0])
    assert skew > 1.1  # the percentile interval would be nearly symmetric


def test_bootstrap_is_the_same_for_the_same_seed():
    sample = np.random.default_rng(1).normal(size=50)
    assert bca_mean_interval(sample, seed=3) == bca_mean_interval(sample, seed=3) != bca_mean_interval(sample, seed=4)
    assert bca_interval(lambda rows: float(sample[rows].mean()), 50, resamples=50, seed=3) == bca_interval(
        lambda rows: float(sample[rows].mean()), 50, resamples=50, seed=3
    )
