"""Claims about the worst class or slice."""

import json
import math

import numpy as np
import pytest

from gossamer.core.digest import canonical_json
from gossamer.core.errors import DataError
from gossamer.verification.certificates import Certificate, Claim, certify_scores
from gossamer.verification.paired import samples_needed
from gossamer.verification.worst_group import certify_each, group_power_lines

THREE_POINTS = Claim("worst class top1 drop <= 3pt", 3.0)


def certificate(lost, sizes):
    """Groups of which the first ``lost`` samples got worse."""
    after = np.concatenate([np.r_[np.zeros(k), np.ones(n - k)] for k, n in zip(lost, sizes, strict=True)])
    ends = np.cumsum(sizes)
    groups = {f"class {i}": np.arange(end - n, end) for i, (n, end) in enumerate(zip(sizes, ends, strict=True))}
    return certify_each(groups, THREE_POINTS, lambda rows, one: certify_scores(np.ones(len(rows)), after[rows], one))


def test_all_hold_only_if_each_does():
    held = certificate([1, 0, 2], [400, 400, 400])
    assert (held.decision, held.n, held.available) == ("holds", 1200, 1200)
    assert [part.decision for part in held.parts.values()] == ["holds"] * 3
    assert held.estimate == 0.5
    assert held.finding.startswith("class 2: drop +0.50 pt")
    one_open = certificate([1, 0, 9], [400, 400, 400])
    assert one_open.decision == "undecided"
    assert "undecided: class 2 (400 of about" in one_open.finding


def test_a_small_group_is_named_with_what_it_needs():
    found = certificate([0, 0], [1000, 30])
    assert found.decision == "undecided"
    assert found.parts["class 1"].samples_needed == 99  # 0.97^99 is below 5 %
    assert "class 1 (30 of about 99 samples)" in str(found)
    assert found.samples_needed == math.ceil(1030 * 99 / 30)
    many = certificate([0] * 9, [30] * 9)
    assert "class 3 (30 of about 99 samples), 5 more" in str(many)


def test_one_of_many_fails_only_at_the_corrected_level():
    """Fifteen of 250 lost: more than three points at level 0.05, not at 0.05 / 20."""
    alone = certificate([15], [250])
    beside = certificate([15] + [0] * 19, [250] * 20)
    assert alone.decision == "fails"
    assert beside.decision == "undecided"
    assert beside.parts["class 0"].decision == "fails"
    assert beside.samples_needed == 5001
    assert certificate([40] + [0] * 19, [250] * 20).decision == "fails"


def test_the_interval_agrees_with_the_decision():
    for lost in range(0, 40, 3):
        found = certificate([lost, 0, 0], [300, 300, 300])
        low, high = found.interval
        assert (high < 3.0) == (found.decision == "holds")
        assert (low > 3.0) == (found.decision == "fails")


def test_no_number_of_samples_decides_a_group_at_the_limit():
    assert certificate([0, 9], [300, 300]).samples_needed is None


@pytest.mark.parametrize("drop", [0.0, 0.03])
def test_the_interval_holds_the_worst_drop_and_at_the_limit_few_pass(drop):
    """Ten equal classes, so that the largest of ten noisy drops is far above the truth."""
    rng = np.random.default_rng(0)
    trials, below, above, passed = 200, 0, 0, 0
    for _ in range(trials):
        lost = rng.binomial(150, drop + 0.005, size=10)
        after = np.concatenate([np.r_[np.zeros(k), np.ones(150 - k)] for k in lost])
        before = (rng.random(1500) >= 0.005).astype(float)
        groups = {str(i): np.arange(i * 150, (i + 1) * 150) for i in range(10)}
        found = certify_each(groups, THREE_POINTS, lambda rows, one: certify_scores(before[rows], after[rows], one))  # noqa: B023
        below += found.interval[1] < 100 * drop
        above += found.interval[0] > 100 * drop
        passed += found.decision == "holds" and drop == 0.03
    bound = 0.05 + 2 * math.sqrt(0.05 * 0.95 / trials)
    assert max(below, above, passed) / trials <= bound


@pytest.mark.slow
def test_worst_classes_at_the_limit_pass_at_most_at_level_alpha():
    """One class at the limit, the others certain to pass: the case that is hardest to refuse."""
    rng = np.random.default_rng(1)
    trials, passed = 2000, 0
    for _ in range(trials):
        lost, won = rng.multinomial(300, [0.04, 0.01, 0.95])[:2]
        after = np.r_[np.zeros(lost), np.ones(1200 - lost)]
        before = np.ones(1200)
        before[lost : lost + won] = 0.0
        groups = {"bad": np.arange(300), "good": np.arange(300, 1200)}
        found = certify_each(groups, THREE_POINTS, lambda rows, one: certify_scores(before[rows], after[rows], one))  # noqa: B023
        passed += found.decision == "holds"
    assert passed / trials <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / trials)


def test_groups_may_share_samples():
    after = np.r_[np.zeros(2), np.ones(398)]
    groups = {"all": np.arange(400), "half": np.arange(200)}
    found = certify_each(groups, THREE_POINTS, lambda rows, one: certify_scores(np.ones(len(rows)), after[rows], one))
    assert found.n == 400


def test_json_keeps_every_part():
    found = certificate([1, 5], [400, 60])
    assert Certificate.from_json(json.loads(canonical_json(found.to_json()))) == found


def test_without_groups_there_is_nothing_to_test():
    with pytest.raises(DataError, match="no groups"):
        certify_each({}, THREE_POINTS, lambda rows, one: certify_scores(rows, rows, one))


def test_power_lines_list_the_groups_that_cannot_be_decided():
    lines = group_power_lines({"class 0": 500, "class 1": 40, "class 2": 12}, 0.02, 3.0)
    needed = samples_needed(0.03, 0.02)
    assert (
        lines[0] == f"3 pt in each of 3 groups needs about {needed} samples a group at 2.0% disagreement: 1 have them"
    )
    assert lines[1].startswith("undecidable: class 2 with 12 samples can prove")
    assert lines[2].startswith("undecidable: class 1 with 40 samples can prove")
    assert len(group_power_lines({"class 0": 500}, 0.02, 3.0)) == 1
    assert group_power_lines(dict.fromkeys(map(str, range(20)), 10), 0.02, 3.0)[-1] == "undecidable: 12 more groups"
    assert "needs a candidate that is better" in group_power_lines({"class 0": 500}, 0.02, 0.0)[0]
