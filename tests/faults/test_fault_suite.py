"""Planted faults are caught and named, and nothing is where there is none.

Twelve faults by default; all of them on both runtimes, and two hundred clean pairs, in the slow suite. The benchmark
``faults.py`` prints the table.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from nets import ALL, NETS, QUANTIZED, net
from outside_faults import ONE_INPUT, WAYS, Branching, HiddenBranch, frozen_batch, frozen_branch, trained, wrong_data
from suite import FAULTS, check_clean, check_fault, plan

from gossamer.core.target import Target
from gossamer.runtimes import resolve_target

SEEDS = 12
"""Draws of weights: with nine nets and two runtimes 216 clean pairs."""

DEFAULT = {3: "mixer", 8: "residual", 10: "flat", 13: "residual", 18: "mixer", 21: "flat", 27: "flat", 28: "mixer int8",
           34: "residual int8", 35: "residual int8", 37: "flat", 40: "mixer"}  # fmt: skip
"""Fault and net of the default run."""

MISSED_BY_RANDOM_INPUTS = {18, 21, 37}
"""Of the default ones: an epsilon, an overflow and a saturation that only inputs of another size show."""


@pytest.fixture(scope="module", params=["onnxruntime:cpu", "openvino:cpu"])
def runtime(request: pytest.FixtureRequest) -> Target:
    target = resolve_target(request.param)
    pytest.importorskip(target.runtime)
    return target


@pytest.fixture(scope="module")
def onnxruntime() -> Target:
    return resolve_target("onnxruntime:cpu")


def test_every_fault_of_the_table_is_there():
    assert {fault.number for fault in FAULTS} == set(range(1, 41))
    assert {*NETS, *QUANTIZED} == set(ALL)


@pytest.mark.parametrize("number", DEFAULT)
def test_a_planted_fault_is_caught_and_named(number: int, onnxruntime: Target):
    chosen = [fault for fault in FAULTS if fault.number == number]
    fault, one, site = next(plan(onnxruntime, chosen, [DEFAULT[number]]))
    result = check_fault(fault, one, site, onnxruntime)
    assert result.caught
    assert result.named, result.diagnosis
    assert result.compilations <= 40
    assert result.random_gate is (number not in MISSED_BY_RANDOM_INPUTS)


@pytest.mark.parametrize("name", ["flat", "mixer", "mixer int8"])
def test_nothing_is_found_where_nothing_is_wrong(name: str, onnxruntime: Target):
    found = check_clean(name, onnxruntime, seed=1)
    assert (found.alarm, found.named) == ("", "")


def test_a_frozen_batch_and_frozen_branches_are_caught_at_capture(onnxruntime: Target):
    frozen = frozen_batch("flat", onnxruntime)
    assert (frozen.caught, frozen.named, frozen.random_gate) == (True, True, False)
    seen, hidden = frozen_branch(Branching), frozen_branch(HiddenBranch)
    assert (seen.caught, seen.named) == (True, True)
    assert hidden.caught  # by comparing with the model on other inputs, which knows no source line


@pytest.mark.parametrize("way", WAYS)
def test_what_no_file_is_to_blame_for_is_found_by_the_metric(way: str, onnxruntime: Target, tmp_path: Path):
    result = wrong_data(way, onnxruntime, tmp_path)
    assert result.caught
    assert result.named, result.diagnosis
    assert not result.random_gate
    assert trained().stated > 80


@pytest.mark.slow
@pytest.mark.parametrize("first", [1, 11, 21, 31])
def test_all_planted_faults_are_caught_and_nine_of_ten_named(first: int, runtime: Target):
    numbers = range(first, first + 10)
    planned = plan(runtime, [fault for fault in FAULTS if fault.number in numbers])
    results = [check_fault(fault, one, site, runtime) for fault, one, site in planned]
    assert [result for result in results if not result.caught] == []
    assert np.mean([result.named for result in results]) >= 0.9
    assert max(result.compilations for result in results) <= 40
    # Only ONNX Runtime ignores the scale of a bias; codes seldom tie where nothing is quantized before the addition;
    # two products of signed codes, 127 * 127 each, never saturate in 16 bits.
    not_there = {32, 34, 36} if runtime.runtime == "openvino" else set()
    assert set(numbers) - {result.number for result in results} <= not_there


@pytest.mark.slow
def test_all_frozen_decisions_and_wrong_data_are_caught(runtime: Target, tmp_path: Path):
    results = [frozen_batch(name, runtime) for name in ONE_INPUT]
    results += [frozen_branch(model) for model in (Branching, HiddenBranch)]
    results += [wrong_data(way, runtime, tmp_path) for way in WAYS]
    assert [result for result in results if not result.caught] == []
    assert np.mean([result.named for result in results]) >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_no_alarm_on_clean_pairs(name: str, runtime: Target):
    found = [check_clean(name, runtime, seed) for seed in range(1, SEEDS + 1)]
    assert [pair for pair in found if pair.alarm or pair.named] == []


def test_the_drawn_weights_are_others_for_another_seed(onnxruntime: Target):
    one, other = (net("flat", onnxruntime, seed).program for seed in (1, 2))
    assert one.digest != other.digest
