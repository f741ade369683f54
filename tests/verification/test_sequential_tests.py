"""Looks at the data: levels, order, early stops, and that no plan lets more pass than its level."""

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
    certify_sequentially,
)
from gossamer.verification.paired import shows_larger_drop, shows_smaller_drop
from gossamer.verification.sequential import (
    boundary_constant,
    conditional_power,
    look_ends,
    look_order,
    nominal_levels,
)

ONE_POINT = Claim("top1 drop <= 1pt", 1.0, data_digest="some data")


def right_or_wrong(n, disagreement, drop, rng):
    """Scores of two models: the first has ``drop`` more right, one alone is right in ``disagreement`` of samples."""
    place = rng.random(n)
    lost = (disagreement + drop) / 2
    return np.where((place >= lost) & (place < disagreement), 0.0, 1.0), np.where(place < lost, 0.0, 1.0)


def asked(before, after):
    """Scores on demand, and the list of what was asked for."""
    rows = []

    def scores(new):
        rows.extend(new.tolist())
        return before[new], after[new]

    return scores, rows


def at_most_alpha(rate, trials, alpha=0.05):
    return rate <= alpha + 2 * math.sqrt(alpha * (1 - alpha) / trials)


def test_boundaries_of_five_looks_are_those_of_the_tables():
    z = [-math.sqrt(2) * _erfcinv(2 * level) for level in nominal_levels(0.05, 5)]
    assert z == pytest.approx([-3.91, -2.77, -2.26, -1.96, -1.75], abs=0.01)
    assert boundary_constant(0.05, 5) == pytest.approx(1.751, abs=1e-3)
    assert boundary_constant(0.025, 5) == pytest.approx(2.040, abs=1e-3)  # Jennison and Turnbull (2000), table 2.3
    assert nominal_levels(0.05, 1) == (0.05,)


def _erfcinv(value):
    from scipy import special

    return float(special.erfcinv(value))


@pytest.mark.parametrize(("alpha", "looks"), [(0.05, 5), (0.01, 3), (0.3, 10)])
def test_a_random_walk_crosses_the_boundary_at_level_alpha(alpha, looks):
    steps = np.random.default_rng(0).standard_normal((200_000, looks))
    z = steps.cumsum(axis=1) / np.sqrt(np.arange(1, looks + 1))
    bounds = boundary_constant(alpha, looks) * np.sqrt(looks / np.arange(1, looks + 1))
    assert np.mean((z >= bounds).any(axis=1)) == pytest.approx(alpha, abs=3 * math.sqrt(alpha / 200_000))


@pytest.mark.parametrize("looks", [0, -1, 51])
def test_a_plan_needs_a_sensible_number_of_looks(looks):
    with pytest.raises(OptionError, match=f"{looks} looks"):
        certify_scores(np.ones(10), np.ones(10), ONE_POINT, looks=looks)


def test_the_data_fix_the_order():
    first = look_order(50, "a")
    assert sorted(first) == list(range(50))
    assert first.tolist() == look_order(50, "a").tolist() != look_order(50, "b").tolist()
    assert len(look_order(3, "")) == 3
    assert look_ends(1000, 5) == (200, 400, 600, 800, 1000)
    assert look_ends(3, 5) == (1, 2, 2, 3, 3)


def test_conditional_power_is_the_chance_under_the_trend():
    rng = np.random.default_rng(0)
    share, z, level = 0.4, -1.2, 0.04
    sums = -z * math.sqrt(share) + (-z / math.sqrt(share)) * (1 - share)  # the trend goes on
    ends = sums + math.sqrt(1 - share) * rng.standard_normal(100_000)
    bound = 1.7507  # of the standard normal at 0.04
    assert conditional_power(z, share, level) == pytest.approx(np.mean(ends >= bound), abs=0.01)


def test_a_clear_case_is_decided_on_part_of_the_samples_each_asked_for_once():
    before, after = right_or_wrong(10_000, 0.03, 0.0, np.random.default_rng(0))
    scores, rows = asked(before, after)
    found = certify_sequentially(scores, 10_000, ONE_POINT)
    assert found.decision == "holds"
    assert (found.looks_planned, found.available) == (5, 10_000)
    assert found.n == len(rows) == found.looks_used * 2000 < 10_000
    assert rows == look_order(10_000, "some data")[: found.n].tolist()
    assert f"n={found.n} of 10000" in str(found)
    used = np.array(rows)
    assert found.estimate == pytest.approx(100 * np.mean(before[used] - after[used]))
    assert found.interval[1] < 1.0
    assert found.evidence["nominal_level"] == nominal_levels(0.05, 5)[found.looks_used - 1]
    assert certify_scores(before, after, ONE_POINT, looks=5) == found


def test_the_interval_of_a_look_is_wider_than_its_samples_alone_would_give():
    before, after = right_or_wrong(4000, 0.03, 0.0, np.random.default_rng(1))
    found = certify_scores(before, after, ONE_POINT, looks=5)
    rows = look_order(4000, "some data")[: found.n]
    plain = certify_scores(before[rows], after[rows], ONE_POINT)
    assert found.interval[0] < plain.interval[0] <= plain.interval[1] < found.interval[1]


def test_data_that_lie_sorted_are_read_in_a_fair_order():
    """All that got worse lie at the end: a reader from the front would accept it at once."""
    before, after = np.ones(5000), np.r_[np.ones(4850), np.zeros(150)]
    assert certify_scores(before, after, ONE_POINT, looks=5).decision == "fails"
    assert certify_sequentially(lambda rows: (before[rows], after[rows]), 5000, ONE_POINT).decision != "holds"


def test_it_gives_up_where_the_rest_would_hardly_prove_the_claim():
    before, after = right_or_wrong(2000, 0.04, 0.02, np.random.default_rng(0))
    scores, rows = asked(before, after)
    found = certify_sequentially(scores, 2000, ONE_POINT)
    assert found.futile
    assert found.n == len(rows) < 2000
    assert str(found).endswith("the other samples would hardly prove it")
    assert certify_sequentially(scores, 2000, ONE_POINT, futility=False).decision == "fails"  # it was worth nothing


def test_what_gives_up_near_the_limit_still_says_what_would_decide():
    before, after = np.ones(3000), np.ones(3000)
    after[look_order(3000, "some data")[::125]] = 0.0  # 0.8 points, evenly
    found = certify_sequentially(lambda rows: (before[rows], after[rows]), 3000, ONE_POINT)
    assert found.futile
    assert found.samples_needed > 3000
    assert f"about {found.samples_needed} samples would decide it" in str(found)


def test_few_equal_answers_never_prove_one_point_in_looks():
    equal = np.ones(320)
    assert certify_scores(equal, equal, ONE_POINT, looks=5).decision == "undecided"  # 0.99^320 is above 0.04
    assert certify_scores(np.ones(321), np.ones(321), ONE_POINT, looks=5).decision == "holds"
    assert certify_sequentially(lambda rows: (equal[rows], equal[rows]), 3, ONE_POINT).decision == "undecided"


def decided_at(counts, ends, levels):
    """Look at which counts (looks, 2) of lost and won hold a limit of one point, or None."""
    for (b, c), n, level in zip(counts.tolist(), ends, levels, strict=True):
        if shows_smaller_drop(b, c, n, 0.01, level):
            return n
        if shows_larger_drop(b, c, n, 0.01, level):
            return None
    return None


def simulate(n, disagreement, drop, levels, trials):
    """Decisions of many candidates: the samples used by those that hold."""
    rng = np.random.default_rng([n, round(1e5 * disagreement), round(1e5 * drop)])
    ends = look_ends(n, len(levels))
    sizes = np.diff((0, *ends))
    shares = [(disagreement + drop) / 2, (disagreement - drop) / 2, 1 - disagreement]
    counts = np.stack([rng.multinomial(size, shares, size=trials)[:, :2] for size in sizes], axis=1).cumsum(axis=1)
    return [used for each in counts if (used := decided_at(each, ends, levels)) is not None]


@pytest.mark.parametrize("n", [500, 2000, 10_000])
@pytest.mark.parametrize("disagreement", [0.015, 0.03])
@pytest.mark.parametrize("looks", [1, 5])
def test_candidates_at_the_limit_pass_at_most_at_level_alpha(n, disagreement, looks):
    accepted = simulate(n, disagreement, 0.01, nominal_levels(0.05, looks), 2000)
    assert at_most_alpha(len(accepted) / 2000, 2000)


def test_five_looks_at_the_full_level_are_caught_by_the_same_check():
    assert not at_most_alpha(len(simulate(10_000, 0.03, 0.01, (0.05,) * 5, 2000)) / 2000, 2000)


def test_two_of_five_samples_are_saved_where_nothing_is_lost():
    used = simulate(10_000, 0.03, 0.0, nominal_levels(0.05, 5), 500)
    assert len(used) / 500 > 0.97
    assert np.mean(used) <= 0.6 * 10_000


@pytest.mark.slow
def test_whole_certificates_at_the_limit_pass_at_most_at_level_alpha():
    rng = np.random.default_rng(3)
    trials, lazily, plainly = 2000, 0, 0
    for trial in range(trials):
        claim = Claim("top1 drop <= 1pt", 1.0, data_digest=str(trial))
        before, after = right_or_wrong(1000, 0.03, 0.01, rng)
        scores, _ = asked(before, after)
        lazily += certify_sequentially(scores, 1000, claim).decision == "holds"
        plainly += certify_scores(before, after, claim).decision == "holds"
    assert at_most_alpha(lazily / trials, trials)
    assert at_most_alpha(plainly / trials, trials)


@pytest.mark.slow
@pytest.mark.parametrize("looks", [1, 5])
def test_bootstraps_at_the_limit_pass_at_most_at_level_alpha(looks):
    rng = np.random.default_rng(2)
    trials, accepted = 2000, 0
    for seed in range(trials):
        harm = rng.normal(0.1, 0.3, 200)
        claim = Claim("mae drop <= 0.1", 0.1, unit="", better="lower", data_digest=str(seed))
        accepted += certify_scores(np.zeros(200), harm, claim, looks=looks, seed=seed).decision == "holds"
    assert at_most_alpha(accepted / trials, trials)


@pytest.mark.parametrize("looks", [1, 5])
def test_the_best_of_many_equal_candidates_passes_on_other_samples_at_most_at_level_alpha(looks):
    """All lose exactly the limit; the luckiest of 200 on the choosing samples is no better on the proving ones."""
    rng = np.random.default_rng(4)
    trials, ends, levels = 2000, look_ends(600, looks), nominal_levels(0.05, looks)
    passed = passed_on_choose = 0
    for _ in range(trials):
        choose = rng.multinomial(400, [0.02, 0.01, 0.97], size=200)[:, :2]
        prove = rng.multinomial(600 // looks, [0.02, 0.01, 0.97], size=(200, looks))[..., :2].cumsum(axis=1)
        best = (choose[:, 0] - choose[:, 1]).argmin()
        passed += decided_at(prove[best], ends, levels) is not None
        passed_on_choose += shows_smaller_drop(*choose[best].tolist(), 400, 0.01)
    assert at_most_alpha(passed / trials, trials)
    assert passed_on_choose / trials > 0.9  # why the choosing samples prove nothing


def test_looks_of_a_bootstrap_decide_early_and_both_ways():
    rng = np.random.default_rng(1)
    before = rng.gamma(2.0, 1.0, 1000)
    claim = Claim("mae drop <= 0.1", 0.1, unit="", better="lower")
    held = certify_scores(before, before + rng.normal(0, 0.2, 1000), claim, looks=5)
    failed = certify_scores(before, before + rng.normal(0.3, 0.2, 1000), claim, looks=5)
    assert (held.decision, failed.decision) == ("holds", "fails")
    assert max(held.looks_used, failed.looks_used) < 5
    scores, _ = asked(before, before + rng.normal(0.11, 0.2, 1000))
    assert certify_sequentially(scores, 1000, claim).futile


def test_looks_of_a_metric_that_is_no_mean():
    rng = np.random.default_rng(3)
    actual = rng.random(2000) < 0.5
    before = actual ^ (rng.random(2000) < 0.1)
    after = before ^ (rng.random(2000) < 0.005)
    read = []

    def precision(predicted):
        def value(rows):
            read.append(len(np.unique(rows)))
            return 100.0 * np.sum(actual[rows] & predicted[rows]) / np.sum(predicted[rows])

        return value

    claim = Claim("precision drop <= 5pt", 5.0)
    found = certify_metric(precision(before), precision(after), 2000, claim, looks=5, resamples=200)
    assert found.decision == "holds"
    assert found.n == found.looks_used * 400 == max(read) < 2000


def test_json_round_trip_and_files_of_before_there_were_looks():
    before, after = right_or_wrong(2000, 0.03, 0.0, np.random.default_rng(0))
    found = certify_scores(before, after, ONE_POINT, looks=5)
    value = json.loads(canonical_json(found.to_json()))
    assert Certificate.from_json(value) == found
    for name in ("available", "quantity", "parts", "withheld"):
        del value[name]
    older = Certificate.from_json(value)
    assert older.available is None
    assert older.counted == f"n={found.n}"


def test_predictions_are_identified_by_the_scores_that_were_read():
    before, after = right_or_wrong(2000, 0.03, 0.0, np.random.default_rng(0))
    whole, parts = (certify_scores(before, after, ONE_POINT, looks=looks) for looks in (1, 5))
    other = certify_scores(before, before, ONE_POINT)
    assert set(whole.prediction_digests) == {"before", "after"}
    assert whole.prediction_digests["before"] == other.prediction_digests["before"] == other.prediction_digests["after"]
    assert whole.prediction_digests["after"] != other.prediction_digests["after"]
    assert parts.prediction_digests["before"] != whole.prediction_digests["before"]


def test_scores_that_do_not_fit_the_samples_are_refused():
    with pytest.raises(DataError, match="no samples"):
        certify_sequentially(lambda rows: (rows, rows), 0, ONE_POINT)
    with pytest.raises(DataError, match="one score for each sample"):
        certify_sequentially(lambda rows: (rows[1:], rows[1:]), 50, ONE_POINT)
