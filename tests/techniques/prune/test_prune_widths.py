"""Prune: budgets, allocations, selectors, what is refused, and what compensation is worth on a trained net."""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch
from torch import nn

from gossamer import flow
from gossamer.analysis.counts import count
from gossamer.core.errors import DataError, OptionError, UnknownName, UnsupportedOp
from gossamer.core.target import Target
from gossamer.program import Program
from gossamer.program.interpreter import Interpreter
from gossamer.runtimes import resolve_target
from gossamer.techniques import resolve_technique
from gossamer.techniques.prune.channels import ALLOCATIONS, Prune, Pruning
from gossamer.techniques.prune.scores import SCORES
from gossamer.techniques.recipe import Recipe

HALF = Prune(macs=0.5, score="l2", compensate=False, reestimate=False, round_to=1)


def prune(technique: Prune, program: Program, x: np.ndarray, target: Target) -> Pruning:
    return technique.prune(program, {program.signature.inputs[0].name: x}, target)


def top1(program: Program, digits: tuple[np.ndarray, np.ndarray]) -> float:
    images, labels = (part[900:] for part in digits)
    (scores,) = Interpreter(program).run({program.signature.inputs[0].name: images}).values()
    return float((scores.argmax(1) == labels).mean())


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_a_budget_of_macs_is_kept_and_used(allocation: str, digit_program, digits, target):
    found = prune(dataclasses.replace(HALF, allocation=allocation), digit_program, digits[0][:8], target)
    share = count(found.program).total / count(digit_program).total
    assert 0.35 < share <= 0.5
    assert found.macs == (count(digit_program).total, count(found.program).total)
    assert f"{share:.1%} of the MACs" in found.program.provenance[-1]


def test_a_budget_of_parameters_is_kept_and_used(digit_program, digits, target):
    found = prune(dataclasses.replace(HALF, macs=0.0, params=0.5), digit_program, digits[0][:8], target)
    assert 0.4 < found.program.parameter_count / digit_program.parameter_count <= 0.5


def test_a_share_of_units_is_kept_in_every_group(digit_program, digits, target):
    found = prune(dataclasses.replace(HALF, macs=0.0, keep=0.5), digit_program, digits[0][:8], target)
    sizes = {group.name: group.size for group in found.coupling.free}
    assert {name: len(kept) for name, kept in found.keep.items()} == {name: size // 2 for name, size in sizes.items()}


@pytest.mark.parametrize("score", SCORES)
def test_a_smaller_budget_keeps_a_subset(score: str, digit_program, digits, target):
    """One ranking a group: what is kept of less is kept of more."""
    technique = dataclasses.replace(HALF, score=score)
    kept = [
        prune(dataclasses.replace(technique, macs=share), digit_program, digits[0][:64], target).keep
        for share in (0.4, 0.6, 0.8)
    ]
    for less, more in itertools.pairwise(kept):
        assert all(set(less[name]) <= set(more[name]) for name in more if name in less)
        assert set(more) <= set(less)


def test_widths_are_multiples(digit_program, digits, target):
    found = prune(dataclasses.replace(HALF, macs=0.7, round_to=4), digit_program, digits[0][:8], target)
    assert {len(kept) % 4 for kept in found.keep.values()} == {0}
    facts = dataclasses.replace(target.facts, blocking={"channels": 2})
    by_target = dataclasses.replace(HALF, macs=0.7, round_to=0)
    found = prune(by_target, digit_program, digits[0][:8], dataclasses.replace(target, facts=facts))
    assert {len(kept) % 2 for kept in found.keep.values()} == {0}
    without = prune(by_target, digit_program, digits[0][:8], Target("another"))
    assert any(len(kept) % 2 for kept in without.keep.values())


def test_globs_pick_groups(digit_program, digits, target):
    names = Prune(macs=0.5).sites(digit_program, target)
    only = dataclasses.replace(HALF, macs=0.0, keep=0.5, only=(names[0], names[1]))
    assert set(prune(only, digit_program, digits[0][:8], target).keep) == set(names[:2])
    both = dataclasses.replace(only, skip=(names[0],))
    assert set(prune(both, digit_program, digits[0][:8], target).keep) == {names[1]}


def test_dimensions_inside_heads_stay_unless_asked_for(reader_program, reader_ids, target):
    plain, inside = Prune(keep=0.5, round_to=1), Prune(keep=0.5, head_dim=True, round_to=1)
    more = set(inside.sites(reader_program, target)) - set(plain.sites(reader_program, target))
    assert {name.rpartition(":")[2] for name in more} == {"head_dim", "value_dim"}
    cut = [set(prune(one, reader_program, reader_ids[:32], target).keep) for one in (plain, inside)]
    assert cut[1] - cut[0] == more


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no budget"),
        ({"macs": 0.5, "keep": 0.5}, "macs=0.5, keep=0.5"),
        ({"macs": 1.5}, "macs=1.5"),
        ({"params": -0.1}, "params=-0.1"),
        ({"macs": 0.5, "round_to": -1}, "round_to=-1"),
        ({"macs": 0.5, "allocation": "power_law", "p": 2.0}, "p=2.0"),
        ({"macs": 0.5, "p": 0.5}, "p=0.5, which nothing reads"),
        ({"keep": 0.5, "allocation": "global"}, "allocation=global, which nothing reads"),
        ({"macs": 0.5, "score": "l2", "loss": "predictions"}, "loss=predictions, which nothing reads"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict, message: str):
    with pytest.raises(OptionError, match=message):
        Prune(**options)


@pytest.mark.parametrize(("option", "near"), [("score", "taylor"), ("allocation", "global"), ("loss", "outputs")])
def test_unknown_choices_offer_the_nearest(option: str, near: str):
    with pytest.raises(UnknownName, match=f"try: '{near}'"):
        Prune(**{"macs": 0.5, option: near[:-1]})


def test_keeping_everything_is_no_result(digit_program, digits, target):
    for technique in (Prune(macs=1.0), Prune(params=1.0), Prune(keep=1.0)):
        with pytest.raises(OptionError, match="nothing to cut at prune"):
            prune(technique, digit_program, digits[0][:8], target)


def test_a_budget_below_one_block_in_each_group_is_refused(digit_program, digits, target):
    with pytest.raises(OptionError, match="is left"):
        prune(dataclasses.replace(HALF, macs=0.01, round_to=4), digit_program, digits[0][:8], target)


def test_what_cannot_be_pruned_is_refused_with_the_reason(target):
    lonely = flow.capture(nn.Linear(4, 3), torch.randn(2, 4))
    with pytest.raises(UnsupportedOp, match=r"no group that can be cut[\s\S]*output"):
        prune(Prune(keep=0.5), lonely, np.ones((8, 4), np.float32), target)
    flat = flow.capture(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(2, 4))
    with pytest.raises(UnsupportedOp, match="1 groups for which the score spectral is not defined"):
        prune(Prune(keep=0.5, score="spectral"), flat, np.ones((8, 4), np.float32), target)
    with pytest.raises(UnsupportedOp, match="every group excluded"):
        prune(Prune(keep=0.5, skip=("*",)), flat, np.ones((8, 4), np.float32), target)


def test_data_are_needed_where_they_are_read(digit_program, target):
    with pytest.raises(DataError, match="no samples"):
        Prune(macs=0.5).apply(digit_program, {}, target)
    with pytest.raises(DataError, match="no samples"):
        dataclasses.replace(HALF, score="fisher").apply(digit_program, {}, target)
    assert HALF.apply(digit_program, {}, target).parameter_count < digit_program.parameter_count


@pytest.mark.slow
def test_compensation_repairs_what_pruning_did(digit_program, digits, target):
    """On unseen images: nearer to the original in the median over scores, and at least as accurate in the mean."""
    name = digit_program.signature.inputs[0].name
    (was,) = Interpreter(digit_program).run({name: digits[0][900:]}).values()

    def moved(program: Program) -> float:
        (now,) = Interpreter(program).run({name: digits[0][900:]}).values()
        return float(np.square(now - was).sum() / np.square(was).sum())

    ratios, gains = [], []
    for score in ("random", "l2", "taylor", "fisher", "removal_cost"):
        plain = Prune(macs=0.6, score=score, allocation="uniform", compensate=False, reestimate=False, round_to=1)
        fitted = dataclasses.replace(plain, compensate=True)
        before, after = (prune(one, digit_program, digits[0][:512], target).program for one in (plain, fitted))
        ratios.append(moved(after) / moved(before))
        gains.append(top1(after, digits) - top1(before, digits))
    assert np.median(ratios) < 0.5
    assert np.mean(gains) >= 0
    assert max(ratios) < 1


def test_the_default_keeps_the_accuracy_of_a_trained_net(digit_program, digits, target):
    found = prune(Prune(macs=0.6, round_to=1), digit_program, digits[0][:512], target)
    assert top1(found.program, digits) > top1(digit_program, digits) - 0.04


def test_how_it_came_about_is_plain_json(digit_program, digits, target):
    found = prune(Prune(macs=0.6, round_to=1), digit_program, digits[0][:128], target)
    written = json.loads(json.dumps(found.to_json()))
    widths = {group["name"]: (group["size"], group["kept"], bool(group["frozen"])) for group in written["groups"]}
    assert {name for name, (size, kept, _) in widths.items() if kept < size} == set(found.keep)
    assert any(frozen for *_, frozen in widths.values())
    assert written["macs_after"] < written["macs_before"]
    assert written["repair"]["samples"] == 128
    assert written["proof"]["program"] == digit_program.digest
    assert prune(HALF, digit_program, digits[0][:8], target).to_json()["repair"] is None


def test_a_recipe_prunes_from_the_command_line_of_a_user(digit_program, digits, tmp_path):
    recipe = Recipe((resolve_technique("prune{score=taylor,macs=0.5,round_to=1}"),), target="onnxruntime:cpu,batch=8")
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    (tmp_path / "prune.toml").write_text(recipe.to_toml())
    changed = flow.apply(digit_program, tmp_path / "prune.toml", digits[0][:128])
    again = flow.apply(digit_program, recipe.to_toml(), digits[0][:128])
    assert changed.digest == again.digest
    assert count(changed).total <= 0.5 * count(digit_program).total


def test_pruned_then_quantized(digit_program, digits):
    recipe = Recipe((Prune(macs=0.6, round_to=1), resolve_technique("int8")), target="onnxruntime:cpu,batch=8")
    changed = flow.apply(digit_program, recipe, digits[0][:256])
    assert top1(changed, digits) > top1(digit_program, digits) - 0.06


@pytest.mark.parametrize("text", ["onnxruntime:cpu", "openvino:cpu"])
def test_widths_for_a_known_target_are_whole_blocks(text: str, digits):
    """Of narrow groups a quarter, which keeps four widths to choose from."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 36, 16), nn.ReLU(), nn.Linear(16, 10)]
    program = flow.capture(nn.Sequential(*layers).eval(), torch.from_numpy(digits[0][:2]))
    technique = dataclasses.replace(HALF, macs=0.0, keep=0.7, round_to=0)
    found = prune(technique, program, digits[0][:8], resolve_target(text))
    assert {found.coupling.group(name).size: len(kept) for name, kept in found.keep.items()} == {32: 24, 16: 12}
