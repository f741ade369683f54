"""A recipe of the user's: applied, judged beside the original, and told with what its surgery did."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import gossamer
from gossamer import flow
from gossamer.analysis.counts import count
from gossamer.analysis.depth import drop_block, residual_blocks
from gossamer.core.errors import DataError, ModelError, OptionError, UnknownName
from gossamer.core.target import Target
from gossamer.program import Program
from gossamer.search.front import Front
from gossamer.search.surgery_story import dropped_blocks, surgery_story
from gossamer.techniques.recipe import Recipe, apply_steps

HALF = "prune{score=l2,macs=0.5}"
TARGET = "onnxruntime:cpu,batch=8"


@pytest.fixture
def halved(digit_program: Program, digits, measuring) -> Front:
    images, labels = digits
    return flow.try_recipe(
        digit_program, HALF, images[:200], eval_data=(images[900:1300], labels[900:1300]), target=TARGET
    )


def test_a_recipe_is_judged_beside_the_original(halved: Front, digit_program: Program, digits):
    member = halved.best
    assert (halved.outcome, halved.improved, member.status) == ("met", True, "accepted")
    assert member.metric_value is not None
    assert halved.baseline.metric_value is not None
    assert member.comparison is not None
    assert member.size_bytes < 0.8 * halved.baseline.size_bytes
    assert member.candidate.program.digest == gossamer.apply(digit_program, HALF, digits[0][:200]).digest


def test_its_artifact_replays_and_runs(halved: Front, digit_program: Program, digits, tmp_path: Path):
    images = digits[0]
    with halved.best.save(tmp_path / "pruned") as artifact:
        assert artifact.evidence["surgery"] == json.loads(json.dumps(halved.best.evidence["surgery"]))
        assert [entry.precision for entry in artifact.manifest.targets.values()] == ["float32"]
        assert np.asarray(artifact(images[:3])).shape == (3, 10)
        again = gossamer.apply(digit_program, artifact.recipe, images[:200])
    inner = gossamer.capture(tmp_path / "pruned")
    assert inner.digest == again.digest == halved.best.candidate.program.digest


def test_what_surgery_tells(halved: Front, digit_program: Program):
    told = halved.best.evidence["surgery"]
    before, after = count(digit_program), count(halved.best.candidate.program)
    assert told["macs"] == [before.total, after.total]
    assert told["parameters"] == [before.parameters, after.parameters]
    assert after.total <= 0.5 * before.total
    (step,) = told["steps"]
    assert step["technique"] == HALF
    assert step["proof"]["cuts"] == 6
    assert step["proof"]["deviation"] <= step["proof"]["bound"]
    groups = {group["name"]: group for group in step["groups"]}
    assert groups["head"]["frozen"].startswith("output")
    tensors = halved.best.candidate.program.tensors
    for row in told["layers"]:
        if row["layer"] in groups:
            assert row["width"] == [groups[row["layer"]]["size"], groups[row["layer"]]["kept"]]
            assert row["width"][1] == len(tensors[f"{row['layer']}.weight"])
    cut = [group for group in groups.values() if group["kept"] < group["size"]]
    assert cut
    for group in cut:
        assert group["score_kept"] >= group["kept"] / group["size"]  # the best were kept
        assert group["score_quantiles"] == sorted(group["score_quantiles"])
    assert all(time > 0 for row in told["layers"] if row["op"] == "conv" for time in row["us"])


def test_without_data_for_it_nothing_is_said_of_the_metric(digit_program: Program, digits, measuring):
    front = flow.try_recipe(digit_program, HALF, digits[0][:200])
    assert front.target == "onnxruntime:cpu,threads=1,batch=1"
    assert front.best.metric_value is front.baseline.metric_value is None
    assert not {"drop", "behaviour"} & front.best.evidence.keys()
    assert front.best.evidence["search"]["summary"].startswith("prune beside the original: ")


def test_a_result_that_is_no_gain_is_told_and_kept(digit_program: Program, digits, measuring):
    measuring.default = 0.7
    front = flow.try_recipe(digit_program, HALF, digits[0][:200], target=TARGET)
    assert (front.outcome, front.improved, front.best.status) == ("met", False, "rejected")
    assert "no gain over the baseline" in front.best.reasons[0]
    assert front.best.name == "prune"


def test_a_budget_that_is_missed(digit_program: Program, digits, measuring):
    front = flow.try_recipe(digit_program, HALF, digits[0][:200], target=TARGET, budget="size <= 1kB")
    assert front.outcome == "missed"


def test_steps_in_a_row(digit_program: Program, digits, measuring):
    """Of the evidence of surgery int8 is no part; the artifact is int8 all the same."""
    front = flow.try_recipe(digit_program, f"drop_blocks{{count=1}} | {HALF} | int8", digits[0][:200], target=TARGET)
    assert front.best.name == "drop_blocks, prune, int8"
    told = front.best.evidence["surgery"]
    assert [step["technique"] for step in told["steps"]] == ["drop_blocks{count=1}", HALF]
    (gone,) = told["steps"][0]["dropped"]
    assert gone in {block.name for block in residual_blocks(digit_program)}
    rows = {row["layer"]: row for row in told["layers"]}
    assert rows[f"{gone}.conv1"]["width"][1] == rows[f"{gone}.conv1"]["macs"][1] == 0
    assert any("quantize" in node.name for node in front.best.candidate.program.call_nodes)


def test_without_a_cut_there_is_no_surgery(digit_program: Program, digits, measuring):
    front = flow.try_recipe(digit_program, "int8", digits[0][:200], target=TARGET)
    assert "surgery" not in front.best.evidence


def test_fine_tuning_changes_the_weights_that_are_left(digit_program: Program, digits, measuring):
    images, labels = digits
    recipe = f"{HALF} | int8"
    plain = flow.try_recipe(digit_program, recipe, (images[:200], labels[:200]), target=TARGET).best
    tuned = flow.try_recipe(digit_program, recipe, (images[:200], labels[:200]), target=TARGET, fine_tune=3).best
    assert tuned.name == "prune, int8, fine-tuned"
    provenance = tuned.candidate.program.provenance
    assert [line for line in provenance if line.startswith("fine-tuned for 3 steps")]
    assert provenance[-1].startswith("int8")
    before, after = (member.candidate.program.tensors["head.weight"] for member in (plain, tuned))
    assert before.shape == after.shape
    assert (before != after).any()


@pytest.mark.parametrize(
    ("recipe", "asked", "error", "message"),
    [
        (HALF, {"fine_tune": 3}, DataError, "computing fine-tuning[\\s\\S]*samples without labels"),
        ("int8", {"fine_tune": 3}, OptionError, "fine-tuning behind int8[\\s\\S]*a step that cuts"),
        (HALF, {"budget": "drop <= 1pt"}, OptionError, "without data[\\s\\S]*--eval"),
        ('version = 1\ntarget = "onnxruntime:cpu"', {}, OptionError, "no step"),
        ("prun{macs=0.5}", {}, UnknownName, "technique 'prun'[\\s\\S]*'prune'"),
        ("nowhere/recipe", {}, OptionError, "steps in one line: prune"),
    ],
)
def test_what_cannot_be_tried(digit_program: Program, digits, recipe: str, asked: dict, error: type, message: str):
    with pytest.raises(error, match=message):
        flow.try_recipe(digit_program, recipe, digits[0][:50], **asked)


def test_other_floats_are_refused_before_any_work(digit_program: Program, digits, tmp_path: Path):
    tensors = {name: one.half() if one.is_floating_point() else one for name, one in digit_program.tensors.items()}
    half = Program(digit_program.name, digit_program.graph, tensors, digit_program.roles, digit_program.signature, ())
    with pytest.raises(ModelError, match="float16"):
        flow.try_recipe(half, HALF, digits[0][:50])


def test_an_inner_block_that_went_with_its_outer_one_is_not_named(reader_program: Program):
    blocks = residual_blocks(reader_program)
    for block in blocks:
        gone = dropped_blocks(reader_program, drop_block(reader_program, block))
        assert gone == [block.name]


def test_layers_whose_time_did_not_follow_are_named(digit_program: Program, target: Target, digits):
    (step,) = apply_steps(digit_program, Recipe.from_line(HALF), {"x": digits[0][:100]}, target)
    rows = surgery_story([step], digit_program, step.after, {"batch": 1}, ({}, {}))["layers"]
    kept = {row["layer"]: row["macs"][1] / row["macs"][0] for row in rows}
    before = dict.fromkeys(kept, 100.0)
    slow, tiny = "blocks1.0.conv2", "head"
    after = {name: 100 * share for name, share in kept.items()} | {slow: 100 * kept[slow] + 15.1}
    told = surgery_story([step], digit_program, step.after, {"batch": 1}, (before, after))
    assert told["not_followed"] == [slow]
    before[tiny], after[tiny] = 1.0, 9.0  # below a hundredth of the whole nothing is worth naming
    told = surgery_story([step], digit_program, step.after, {"batch": 1}, (before, after))
    assert told["not_followed"] == [slow]
