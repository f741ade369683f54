import json

import numpy as np
import pytest

from gossamer.core.digest import canonical_json
from gossamer.verification.attribution import attribute, noise
from gossamer.verification.policies import FP32, INT8
from gossamer.verification.steps import NO_STEPS, count_steps

RNG = np.random.default_rng(0)
CODES = RNG.integers(0, 256, (40, 8, 5))
STEP = np.float32(0.037)
VALUES = (CODES * STEP).astype(np.float32)


def off_by(*amounts):
    codes = CODES.copy().ravel()
    codes[: len(amounts)] += np.array(amounts)
    return (codes.reshape(CODES.shape) * STEP).astype(np.float32)


def test_steps_are_counted_exactly():
    found = count_steps(VALUES, off_by(1, -1, 2, 5, -700), STEP, None)
    assert found.counts == (1595, 2, 1, 2)
    assert found.largest == 700
    assert found.share == pytest.approx(5 / 1600)
    assert str(found) == "0.31% of 1600 codes differ, by at most 700 steps"
    assert count_steps(VALUES, VALUES, STEP, None).counts == (1600, 0, 0, 0)


def test_every_channel_has_its_own_step():
    steps = np.array([0.01, 0.1, 1, 2, 3, 4, 5, 7], np.float32)
    values = (CODES * steps[None, :, None]).astype(np.float32)
    moved = values + np.float32(1) * (np.arange(8) == 2)[None, :, None]
    for axis in (1, -2):
        assert count_steps(values, moved, steps, axis).counts == (1400, 200, 0, 0)


def test_a_value_between_two_codes_counts_as_the_farther():
    assert count_steps(VALUES, VALUES + STEP * np.float32(0.3), STEP, None).counts == (0, 1600, 0, 0)
    assert count_steps(VALUES, VALUES * np.float32(1 + 1e-7), STEP, None).counts == (1600, 0, 0, 0)


def test_what_is_not_finite_is_as_far_off_as_can_be():
    broken = VALUES.copy()
    broken[0, 0, 0] = np.nan
    found = count_steps(VALUES, broken, STEP, None)
    assert (found.counts[3], found.largest) == (1, np.inf)
    assert json.loads(canonical_json(found.to_json()))["largest"] == "inf"


def test_the_int8_policy_allows_one_step_on_half_a_thousandth():
    one = count_steps(VALUES, off_by(1), STEP, None)
    assert one.share < 1e-3
    assert one.beyond(INT8) == ""
    assert "the policy allows 1 on 0.05%" in count_steps(VALUES, off_by(2), STEP, None).beyond(INT8)
    # 0.05 % of 1600 codes are 0.8, and that many by chance have a standard error of 0.9.
    assert count_steps(VALUES, off_by(*[1] * 3), STEP, None).beyond(INT8) == ""
    assert "0.25% of 1600 codes" in count_steps(VALUES, off_by(*[1] * 4), STEP, None).beyond(INT8)
    assert count_steps(VALUES, off_by(2), STEP, None).beyond(FP32) == ""


def test_histograms_add_up():
    total = NO_STEPS + count_steps(VALUES, off_by(1), STEP, None) + count_steps(VALUES, off_by(4), STEP, None)
    assert (total.counts, total.largest) == ((3198, 1, 0, 1), 4)


def test_independent_errors_add_up_in_the_noise():
    reference = {"y": RNG.standard_normal(20_000).astype(np.float32)}
    errors = {name: share * RNG.standard_normal(20_000) for name, share in (("a", 0.03), ("b", 0.01), ("c", 0.0))}
    whole = {"y": reference["y"] + sum(errors.values())}
    found = attribute(reference, whole, {name: {"y": reference["y"] + error} for name, error in errors.items()})
    assert found.total == pytest.approx(0.03**2 + 0.01**2, rel=0.05)
    assert list(found.parts) == ["a", "b", "c"]
    assert found.explained == pytest.approx(1, abs=0.03)  # twice the cosine of two random vectors: 2 / sqrt(20,000)
    assert found.accumulates
    assert "a 90%, b 10%" in str(found)
    assert json.loads(canonical_json(found.to_json()))["total"] == found.total


def test_an_error_that_no_part_makes_does_not_accumulate():
    reference = {"y": np.ones(10), "label": np.arange(3)}
    found = attribute(reference, {"y": np.full(10, 1.5), "label": np.arange(3)}, {"a": reference})
    assert (found.explained, found.accumulates) == (0.0, False)
    assert attribute(reference, reference, {"a": reference}).explained == 0.0
    assert "explain 0%" in str(found)


def test_noise_leaves_out_what_cannot_be_compared():
    wanted = {"y": np.array([1.0, np.inf, 2.0]), "n": np.arange(3)}
    assert noise(wanted, {"y": np.array([1.0, 0.0, 3.0]), "n": np.arange(3) + 1}) == pytest.approx(1 / 5)
    assert noise(wanted, {"y": np.ones(4), "n": np.arange(3)}) == 0.0
    assert noise({"y": np.zeros(2)}, {"y": np.ones(2)}) == 2.0
