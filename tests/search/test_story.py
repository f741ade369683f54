"""What a search leaves for its report: figures of all members, layers, and pictures that only leave on request."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import gossamer
from gossamer import flow
from gossamer.program import Program
from gossamer.program.fold import fold_batch_norms
from gossamer.program.interpreter import Interpreter
from gossamer.search.front import Front, Member
from gossamer.search.story import LAYER_SAMPLES, LOST_SAMPLES, layer_rows, lost_samples, tell
from gossamer.search.task import Task
from gossamer.search.thumbnails import LARGEST, png, thumbnails
from gossamer.techniques.quantize.placement import weighted_sites
from gossamer.techniques.recipe import Recipe, apply_recipe


@pytest.fixture
def at_the_end(digit_program, digits, measuring, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Front]:
    """Run a search that does something else where it would tell its story, while its files are still there."""
    images, labels = digits

    def run(instead: Callable[[Task, Front], None], **changes: Any) -> Front:
        monkeypatch.setattr("gossamer.search.compress.tell", instead)
        options = {"target": "onnxruntime:cpu,batch=8"} | changes
        return flow.compress(digit_program, images[:300], (images[900:], labels[900:]), **options)

    return run


def test_the_members_stand_side_by_side(digit_front: Front):
    story = digit_front.best.evidence["story"]
    assert story["metric"] == {"name": "top1", "unit": "%", "better": "higher"}
    assert story["best"] == "int8"
    before, after = story["members"]
    assert (before["name"], before["status"]) == ("fp32", "baseline")
    assert after["size_bytes"] == digit_front.best.size_bytes
    assert after["speed"] == {"speedup": 1.3, "interval": [1.3 * 0.98, 1.3 * 1.02], "word": "faster"}
    assert [item["name"] for item in after["measurements"]] == [item.name for item in digit_front.best.measurements]
    assert digit_front.baseline.evidence["story"] == story


def test_the_bytes_of_layers_are_those_of_their_stored_tensors(digit_front: Front):
    rows = {row["layer"]: row for row in digit_front.best.evidence["layers"]}
    assert list(rows) == list(weighted_sites(digit_front.best.candidate.program))
    # Weight and bias in float32; then int8 weight with a scale and a zero point a channel, int32 bias with the same.
    shapes = {"stem.0": (8, 1 * 3 * 3), "blocks1.0.conv1": (8, 8 * 3 * 3), "head": (10, 16)}
    for name, (out, inner) in shapes.items():
        assert rows[name]["bytes_before"] == 4 * (out * inner + out)
        assert rows[name]["bytes_after"] == out * inner + out * (4 + 1) + out * (4 + 4 + 4)
    assert rows["head"]["op"] == "linear"
    assert rows["stem.0"]["precision"] == "int8"
    assert rows["stem.0"]["kernel"] == "QLinearConv"


def test_the_error_of_a_layer_is_the_distance_of_its_output(at_the_end):
    seen: dict[str, Any] = {}

    def instead(task: Task, front: Front) -> None:
        seen["rows"] = layer_rows(task, front.best)
        seen["samples"] = task.choose.shuffled(task.seed).take(slice(0, LAYER_SAMPLES)).inputs
        seen["program"] = front.best.candidate.program
        float_steps = [step for step in front.best.candidate.recipe.steps if step.family != "precision"]
        seen["original"] = apply_recipe(task.program, Recipe(tuple(float_steps)), task.calibrate.inputs, task.target)

    at_the_end(instead)
    original, compressed = fold_batch_norms(seen["original"]), seen["program"]
    assert len(seen["samples"]["x"]) == LAYER_SAMPLES
    for row in seen["rows"]:
        nodes = [weighted_sites(program)[row["layer"]].name for program in (original, compressed)]
        before, after = (
            Interpreter(program).run(seen["samples"], taps=[node])[node].astype(np.float64)
            for program, node in zip((original, compressed), nodes, strict=True)
        )
        expected = np.linalg.norm(before - after) / np.linalg.norm(before)
        assert 0 < expected < 0.2
        # Batches of four against one of 64: float32 sums in another order, 1e-7 of outputs that differ by 1e-2.
        assert row["error"] == pytest.approx(expected, rel=1e-4)


def test_the_original_differs_from_itself_by_nothing(at_the_end):
    rows: list[dict[str, Any]] = []

    def instead(task: Task, front: Front) -> None:
        original = fold_batch_norms(task.program)
        candidate = replace(front.best.candidate, program=original, recipe=Recipe())
        member = replace(front.best, candidate=candidate)
        rows.extend(layer_rows(task, member))

    at_the_end(instead)
    assert len(rows) == 11
    assert all(row["error"] == 0 and row["bytes_before"] == row["bytes_after"] for row in rows)
    assert {row["precision"] for row in rows} == {"float32"}


def test_a_layer_without_a_counterpart_has_no_error(at_the_end, tmp_path: Path):
    rows: list[dict[str, Any]] = []

    def instead(task: Task, front: Front) -> None:
        flow.save(task.program, tmp_path / "program")
        renamed = flow.capture(tmp_path / "program")
        for node in renamed.graph.nodes:
            if node.meta.get("module") == "head":
                node.meta["module"] = "other"
        rows.extend(layer_rows(replace(task, program=renamed), front.best))

    at_the_end(instead)
    found = {row["layer"]: row for row in rows}
    assert (found["other"]["bytes_after"], found["other"]["error"]) == (None, None)
    assert (found["head"]["bytes_before"], found["head"]["error"]) == (None, None)


def test_past_the_time_limit_no_layers_are_looked_at(at_the_end):
    assert "layers" not in at_the_end(tell, time="0.001s").best.evidence
    assert "layers" in at_the_end(tell).best.evidence


def lost(task: Task, member: Member, rows: list[int]) -> list[dict[str, Any]]:
    member.evidence["behaviour"] = {"negative_flip_ids": rows}
    return lost_samples(task, member, member)


def test_pictures_show_the_samples_and_what_both_models_answered(at_the_end):
    def instead(task: Task, front: Front) -> None:
        front.best.evidence["behaviour"] = {"negative_flip_ids": [5, 2]}
        rows = lost_samples(task, front.baseline, front.best)
        assert [row["row"] for row in rows] == [5, 2]
        assert task.prove.labels is not None
        assert [row["label"] for row in rows] == task.prove.labels[[5, 2]].tolist()
        for side, member in (("before", front.baseline), ("after", front.best)):
            scores = member.candidate.program(task.prove.inputs["x"][[5, 2]])
            assert [row[side] for row in rows] == np.asarray(scores).argmax(1).tolist()
        assert len(lost(task, front.best, list(range(100)))) == LOST_SAMPLES
        assert lost(task, front.best, []) == []

    at_the_end(instead)


def test_no_sample_leaves_unless_it_is_asked_for(at_the_end, digits, tmp_path: Path):
    def instead(task: Task, front: Front) -> None:
        front.best.evidence["behaviour"] = {"negative_flip_ids": [0]}
        tell(task, front)

    front = at_the_end(instead)
    (sample,) = front.best.evidence["lost_samples"]
    for keep in (False, True):
        artifact = front.best.save(tmp_path / f"small{keep}", with_samples=keep)
        assert (artifact.evidence.get("lost_samples") == [sample]) is keep
        everything = b"".join(path.read_bytes() for path in artifact.folder.rglob("*") if path.is_file())
        assert (sample["picture"].encode() in everything) is keep
        page = gossamer.report(front, tmp_path / "live.html", with_samples=keep).read_text()
        assert (sample["picture"] in page) is keep
        page = gossamer.report(artifact, tmp_path / "stored.html").read_text()
        assert (sample["picture"] in page) is keep
    assert json.loads(json.dumps(front.to_json()))["best"] == "int8"
    assert sample["picture"] not in json.dumps(front.to_json())


def pixels(uri: str) -> np.ndarray:
    content = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    with Image.open(io.BytesIO(content)) as image:
        image.verify()
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image)


@pytest.mark.parametrize("shape", [(5, 7, 1), (5, 7, 3), (1, 1, 3)])
def test_a_png_is_read_back_by_pillow(shape: tuple[int, ...]):
    original = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    with Image.open(io.BytesIO(png(original))) as image:
        assert image.mode == ("RGB" if shape[2] == 3 else "L")
        np.testing.assert_array_equal(np.asarray(image).reshape(shape), original)


def test_images_are_scaled_together_from_black_to_white():
    images = np.stack([np.full((1, 4, 6), -2.0), np.zeros((1, 4, 6)), np.full((1, 4, 6), 2.0)]).astype(np.float32)
    uris = thumbnails(images)
    assert uris is not None
    assert [pixels(uri)[0, 0] for uri in uris] == [0, 128, 255]
    assert pixels(uris[0]).shape == (4, 6)


@pytest.mark.parametrize(
    ("shape", "seen"),
    [
        ((2, 3, 8, 8), (8, 8, 3)),
        ((2, 8, 9, 3), (8, 9, 3)),
        ((2, 8, 9), (8, 9)),
        ((2, 3, 200, 100), (50, 25, 3)),
    ],
)
def test_the_layouts_of_images(shape: tuple[int, ...], seen: tuple[int, ...]):
    uris = thumbnails(np.random.default_rng(0).random(shape))
    assert uris is not None
    assert pixels(uris[0]).shape == seen
    assert max(seen[:2]) <= LARGEST


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 40), np.float32),
        np.zeros((2, 3, 3, 3), np.float32),
        np.zeros((2, 5, 8, 8), np.float32),
        np.zeros((2, 8, 8), bool),
        np.full((2, 8, 8), np.nan, np.float32),
    ],
    ids=["vectors", "small", "channels", "truth", "nan"],
)
def test_what_is_no_image_has_no_picture(images: np.ndarray):
    assert thumbnails(images) is None


def test_token_ids_have_no_pictures(reader_program: Program, reader_ids: np.ndarray, measuring, monkeypatch):
    def instead(task: Task, front: Front) -> None:
        front.best.evidence["behaviour"] = {"negative_flip_ids": [0, 1]}
        assert lost_samples(task, front.baseline, front.best) == []

    monkeypatch.setattr("gossamer.search.compress.tell", instead)
    labels = np.asarray(reader_program(reader_ids)).argmax(1)
    flow.compress(reader_program, reader_ids[:60], (reader_ids[60:], labels[60:]))
