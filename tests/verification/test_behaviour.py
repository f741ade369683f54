"""What changed behind the average."""

import json

import numpy as np
import pytest

from gossamer.core.digest import canonical_json
from gossamer.core.errors import DataError
from gossamer.verification.behaviour import Observed, behaviour


def observed(n, seed, *, harmed=0.3, columns=True):
    """Four classes; the second model loses ``harmed`` of the samples taken at night, and next to none by day."""
    rng = np.random.default_rng(seed)
    labels, night = rng.integers(0, 4, n), rng.random(n) < 0.2
    before = rng.normal(size=(n, 4))
    before[np.arange(n), labels] += np.where(rng.random(n) < 0.9, 4.0, -4.0)
    after = before + rng.normal(0, 0.01, size=(n, 4))
    lost = night & (rng.random(n) < harmed)
    after[lost, labels[lost]] -= 8.0
    right = [(side.argmax(axis=1) == labels).astype(float) for side in (before, after)]
    time = {"time": np.where(night, "night", "day")} if columns else {}
    return Observed(before, after, *right, labels, {}, time)


@pytest.fixture(scope="module")
def found():
    return behaviour(observed(2000, 0), observed(1500, 1))


def test_every_sample_is_in_one_cell_and_in_one_class(found):
    value = json.loads(canonical_json(found.to_json()))
    assert sum(value["four_way"][cell] for cell in ("both_right", "lost", "won", "both_wrong")) == value["n"] == 2000
    assert [row["name"] for row in value["per_class"]] == ["class 0", "class 1", "class 2", "class 3"]
    for cell in ("lost", "won"):
        assert sum(row["flips"][cell] for row in value["per_class"]) == value["four_way"][cell]
    assert value["negative_flips"] == value["four_way"]["lost"] / 2000
    assert value["churn"] >= value["negative_flips"] + value["positive_flips"]


def test_the_worst_class_has_an_interval_for_the_largest_drop(found):
    worst = max(found.classes, key=lambda group: group.drop)
    assert (found.worst_class.name, found.worst_class.drop) == (worst.name, worst.drop)
    assert found.worst_class.interval[0] < worst.interval[0]  # corrected for having been looked for
    assert found.worst_class.interval[1] >= worst.interval[1]


def test_the_harmed_slice_is_found_on_other_samples_and_confirmed(found):
    worst = found.slices[0]
    assert (worst.name, worst.status) == ("time = night", "confirmed")
    assert worst.drop == pytest.approx(worst.before - worst.after)
    assert worst.interval[0] > 10
    assert len(found.slices) <= 5
    prove = observed(2000, 0)
    assert all(prove.columns["time"][i] == "night" for i in worst.examples)
    assert all(prove.score_before[i] > prove.score_after[i] for i in worst.examples)


def test_a_slice_that_was_unlucky_by_chance_stays_exploratory():
    """Nothing differs between slices; what looked worst on one split is not shown on the other."""
    statuses = []
    for seed in range(10):
        quiet = [observed(1200, [seed, part], harmed=0.02, columns=False) for part in (0, 1)]
        statuses += [group.status for group in behaviour(*quiet).slices]
    assert statuses
    assert statuses.count("confirmed") <= 1
    alone = behaviour(observed(2000, 0))
    assert {group.status for group in alone.slices} == {"exploratory"}  # chosen on what it is judged on


def test_lost_samples_are_listed_most_certain_first(found):
    prove = observed(2000, 0)
    ids = np.array(found.negative_flip_ids)
    assert len(ids) == 32
    assert (prove.score_before[ids] > prove.score_after[ids]).all()
    top = np.sort(prove.before, axis=1)
    margins = top[:, -1] - top[:, -2]
    assert (np.diff(margins[ids]) <= 0).all()
    lost = np.flatnonzero(prove.score_before > prove.score_after)
    assert set(ids) == set(lost[np.argsort(-margins[lost])][:32])


def test_calibration_has_an_interval_of_its_change(found):
    value = found.to_json()["calibration"]
    assert value["change"] == value["after"] - value["before"] > 0
    assert value["interval"][0] < value["change"] < value["interval"][1]


def test_two_equal_models_differ_in_nothing():
    one = observed(500, 0)
    same = behaviour(Observed(one.before, one.before, one.score_before, one.score_before, one.labels))
    assert (same.flips.lost, same.flips.won, same.churn, same.slices) == (0, 0, 0.0, ())
    assert same.calibration.before == same.calibration.after
    assert same.negative_flip_ids == ()


def test_figures_in_the_metrics_own_unit_have_no_flips():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=300)
    before, after = truth + 0.1, truth + np.where(np.arange(300) < 150, 0.1, 0.6)
    half = {"half": np.arange(300) // 150}
    given = Observed(before, after, np.abs(before - truth), np.abs(after - truth), None, {}, half)
    found = behaviour(given, given, unit="", better="lower")
    assert (found.flips, found.churn, found.worst_class, found.calibration) == (None, None, None, None)
    assert found.slices[0].name == "half = 1"
    assert found.slices[0].drop == pytest.approx(0.5)
    assert canonical_json(found.to_json())


def test_images_of_decisions_have_churn_but_no_calibration():
    rng = np.random.default_rng(0)
    before = rng.normal(size=(20, 3, 4, 4))
    after = before.copy()
    after[:5] = -after[:5]
    found = behaviour(Observed(before, after, np.full(20, 0.8), np.full(20, 0.7)))
    assert (found.churn, found.flips, found.calibration) == (0.25, None, None)


def test_sides_of_different_samples_are_refused():
    with pytest.raises(DataError, match="the same samples"):
        Observed(np.zeros((3, 2)), np.zeros((4, 2)), np.zeros(3), np.zeros(3))
