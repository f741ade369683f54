"""A member on disk: what it holds, that its recipe replays, that a check of it notices every change."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import gossamer
from gossamer import flow
from gossamer.artifacts import Artifact
from gossamer.artifacts.manifest import Manifest, file_entry
from gossamer.core.errors import ArtifactError, DataError, ModelError, OptionError, OutputExists, UnknownName
from gossamer.core.specs import Signature
from gossamer.demo.digits import DigitNet
from gossamer.program import Program
from gossamer.program.storage import load_program
from gossamer.runtimes import open_deployed
from gossamer.search.bench import bench
from gossamer.search.front import Front
from gossamer.techniques.recipe import Recipe


@pytest.fixture
def small(digit_artifact: Path, tmp_path: Path) -> Path:
    """A copy of the artifact of this test's own."""
    return Path(shutil.copytree(digit_artifact, tmp_path / "small"))


def test_it_runs_with_the_answers_that_were_proven(digit_artifact: Path, digits, digit_front: Front):
    images, labels = digits
    with flow.load(digit_artifact) as artifact:
        scores = np.asarray(artifact(images[900:]))
    # The proving samples are about six tenths of the unseen ones; on all of them top1 is within a point or two.
    assert abs(100 * np.mean(scores.argmax(1) == labels[900:]) - (digit_front.best.metric_value or 0)) < 3


def test_it_holds_the_evidence(digit_artifact: Path, digit_front: Front):
    artifact = flow.load(digit_artifact)
    evidence = artifact.evidence
    assert evidence["status"] == "accepted"
    assert evidence["verdict"]["kind"] == "accepted"
    assert [claim["decision"] for claim in evidence["claims"]] == ["holds"]
    assert evidence["task"]["search"]["summary"] == digit_front.summary
    assert evidence["task"]["original_program"] == digit_front.baseline.candidate.program.digest
    assert set(evidence["lowering"]["kernels"]) == set(digit_front.best.kernels)
    assert next(item["name"] for item in evidence["performance"]["measurements"]) == "latency p50"
    assert load_program(digit_artifact / "program").digest == digit_front.best.candidate.program.digest


def test_its_golden_inputs_are_none_of_the_users_samples(digit_artifact: Path, digits):
    golden = flow.load(digit_artifact).golden
    assert golden is not None
    samples = {row.tobytes() for row in digits[0]}
    assert samples.isdisjoint({row.tobytes() for row in golden.inputs["x"]})


def test_two_folders_of_one_member_have_one_identity(digit_front: Front, digit_artifact: Path, tmp_path: Path):
    again = digit_front.best.save(tmp_path / "again")
    first = flow.load(digit_artifact)
    assert again.digest == first.digest
    files = [
        sorted((path.relative_to(folder), path.read_bytes()) for path in folder.rglob("*") if path.is_file())
        for folder in (digit_artifact, tmp_path / "again")
    ]
    assert files[0] == files[1]


def test_two_searches_of_one_seed_have_one_identity(digit_program, digits, digit_artifact: Path, tmp_path, measuring):
    measuring.default = 1.4  # what is measured may differ
    images, labels = digits
    data = {"data": images[:900], "eval_data": (images[900:], labels[900:])}
    front = flow.compress(digit_program, **data, target="onnxruntime:cpu,batch=8", budget="drop <= 2pt")
    again, first = front.best.save(tmp_path / "again"), flow.load(digit_artifact)
    assert again.digest == first.digest
    assert again.manifest.role_digest("deploy") == first.manifest.role_digest("deploy")
    assert again.manifest.role_digest("program") == first.manifest.role_digest("program")


def test_another_seed_is_another_recipe(digit_program, digits, digit_artifact: Path, tmp_path: Path, measuring):
    images, labels = digits
    data = {"data": images[:900], "eval_data": (images[900:], labels[900:])}
    front = flow.compress(digit_program, **data, target="onnxruntime:cpu,batch=8", seed=1)
    assert front.best.save(tmp_path / "other").digest != flow.load(digit_artifact).digest


def test_a_taken_folder_is_refused_and_left_alone(digit_front: Front, small: Path, tmp_path: Path):
    before = (small / "manifest.json").read_bytes()
    with pytest.raises(OutputExists, match="--force"):
        digit_front.best.save(small)
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputExists, match="not an artifact"):
        digit_front.best.save(other, force=True)
    assert (other / "thesis.tex").exists()
    assert (small / "manifest.json").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"small", "mine"}


def test_force_replaces_an_artifact(digit_front: Front, small: Path):
    digit_front.baseline.save(small, force=True)
    assert flow.load(small).digest != flow.load(small).manifest.role_digest("deploy")
    assert not list(small.parent.glob(".*"))
    assert "int8" not in flow.load(small).recipe


@pytest.mark.parametrize("labelled", [False, True])
def test_its_recipe_replays_from_the_data_of_then(digit_program, digits, digit_artifact: Path, labelled: bool):
    """900 samples were given, 512 of them drawn to calibrate on; labels play no part."""
    artifact = flow.load(digit_artifact)
    images, labels = digits
    data = (images[:900], labels[:900]) if labelled else images[:900]
    program = gossamer.apply(digit_program, artifact.recipe, data)
    assert program.digest == load_program(digit_artifact / "program").digest
    assert program.digest == gossamer.apply(digit_program, digit_artifact / "recipe.toml", data).digest


def test_a_recipe_replays_from_data_that_were_split(digit_program, digits, measuring):
    images, labels = digits
    front = flow.compress(digit_program, (images, labels), target="onnxruntime:cpu,batch=8")
    recipe = front.best.candidate.recipe
    assert recipe.data_digest
    assert gossamer.apply(digit_program, recipe, (images, labels)).digest == front.best.candidate.program.digest


def test_a_recipe_refuses_other_data_unless_it_names_none(digit_program, digits, digit_artifact: Path):
    images, _ = digits
    recipe = flow.load(digit_artifact).recipe
    with pytest.raises(DataError, match=r"other than it was made with[\s\S]*take data_digest out of the recipe"):
        gossamer.apply(digit_program, recipe, images[900:])
    free = "\n".join(line for line in recipe.splitlines() if not line.startswith("data_digest"))
    assert gossamer.apply(digit_program, free, images[900:]).digest != digit_program.digest


@pytest.mark.parametrize(
    ("recipe", "target", "error", "message"),
    [
        (Recipe(), "", OptionError, "no target"),
        ("nowhere.toml", "", OptionError, "reading a recipe\n  got: .*nowhere"),
        ("version = 1\nstep = 1", "", OptionError, "another type"),
        (Recipe(target="onnxruntime:tpu"), "", UnknownName, "device 'tpu'"),
    ],
)
def test_a_recipe_that_cannot_be_applied(digit_program, digits, recipe: Any, target: str, error: Any, message: str):
    with pytest.raises(error, match=message):
        gossamer.apply(digit_program, recipe, digits[0][:50], target=target)


def test_checking_an_artifact_replays_its_golden_outputs(digit_artifact: Path):
    verdict = flow.verify(digit_artifact)
    assert verdict.kind in ("exact", "equivalent")
    assert verdict.passed
    assert verdict.certificates == ()


def test_a_file_that_is_not_its_program_is_rejected_with_the_node(digit_front: Front, tmp_path: Path):
    """What a wrong lowering, or another processor, would look like: one bias of the deployed file was changed."""
    member = digit_front.best
    model = onnx.load_from_string(member.candidate.lowered.model)
    (bias,) = (tensor for tensor in model.graph.initializer if tensor.name.startswith("down.0.bias"))
    values = onnx.numpy_helper.to_array(bias)
    bias.CopyFrom(onnx.numpy_helper.from_array(values + 20000, bias.name))
    wrong = replace(member.candidate.lowered, model=model.SerializeToString())
    with replace(member, candidate=replace(member.candidate, lowered=wrong)).save(tmp_path / "wrong") as artifact:
        verdict = flow.verify(artifact)
    assert verdict.kind == "rejected"
    assert "the file is not what lowering gives now" in str(verdict)


def test_checking_against_the_original_proves_the_drop_again(digit_artifact: Path, digit_net, digits):
    images, labels = digits
    verdict = flow.verify(digit_artifact, digit_net, (images[900:], labels[900:]))
    assert verdict.kind == "accepted"
    (certificate,) = verdict.certificates
    assert certificate.claim == "top1 drop <= 2pt"
    assert certificate.available == 897
    assert verdict.flips is not None


def stranger(digits, name: str = "x") -> tuple[Program, np.ndarray]:
    """An untrained network, and its own answers on the unseen digits as labels."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    images = torch.from_numpy(digits[0])
    program = flow.capture(Renamed(net) if name == "x" else net, images[:2])
    return program, net(images[900:]).argmax(1).numpy()


class Renamed(nn.Module):
    """The network with its input called x."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


def test_another_original_is_rejected(digit_artifact: Path, digits):
    program, answers = stranger(digits)
    verdict = flow.verify(digit_artifact, program, (digits[0][900:], answers))
    assert verdict.kind == "rejected"
    assert "fails" in verdict.reasons[0]
    assert "not the original" in verdict.reasons[-1]


def test_an_original_with_other_weights_leaves_the_question_open(digit_artifact: Path, digits):
    images, labels = digits
    torch.manual_seed(1)
    verdict = flow.verify(digit_artifact, DigitNet(width=8).eval(), (images[900:], labels[900:]))
    assert verdict.kind == "undecided"
    assert not verdict.passed
    assert verdict.reasons[0].startswith("this is not the original that the artifact was made from; try: its --weights")


def test_an_original_of_other_inputs_is_refused(digit_artifact: Path, digits):
    program, answers = stranger(digits, "input")
    with pytest.raises(ModelError, match=r"got: input: f32[\s\S]*expected: x: f32"):
        flow.verify(digit_artifact, program, (digits[0][900:], answers))


@pytest.mark.parametrize(
    ("budget", "kind"),
    [
        ("negative flips <= 5%", "accepted"),
        ("drop <= 2pt; size <= 1B", "accepted"),
        ("size <= 1MB", "undecided"),
    ],
)
def test_other_limits_can_be_tested_on_the_original(digit_artifact: Path, digit_net, digits, budget: str, kind: str):
    images, labels = digits
    verdict = flow.verify(digit_artifact, digit_net, (images[900:], labels[900:]), budget=budget)
    assert verdict.kind == kind
    if budget.startswith("size"):
        assert "limits nothing about top1" in verdict.reasons[0]


def test_too_few_samples_leave_the_question_open(digit_artifact: Path, digit_net, digits):
    images, labels = digits
    verdict = flow.verify(digit_artifact, digit_net, (images[900:930], labels[900:930]))
    assert verdict.kind == "undecided"
    assert not verdict.passed


def test_flips_of_another_original_are_rejected(digit_artifact: Path, digits):
    program, answers = stranger(digits)
    verdict = flow.verify(digit_artifact, program, (digits[0][900:], answers), budget="flips <= 5%")
    assert verdict.kind == "rejected"
    assert verdict.reasons[0].startswith("flips <= 5%: ")


@pytest.mark.parametrize(
    ("against", "data", "options"),
    [("model.py:net", None, {}), (None, "x.npz", {}), (None, None, {"wieghts": "w.pt"})],
)
def test_half_a_question_is_refused(digit_artifact: Path, against: Any, data: Any, options: dict[str, Any]):
    with pytest.raises(OptionError, match="verifying an artifact"):
        flow.verify(digit_artifact, against, data, **options)


def test_a_changed_byte_is_found(small: Path):
    model = small / "deploy" / "onnxruntime-cpu" / "model.onnx"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"model\.onnx"):
        flow.verify(small)


def test_a_missing_file_is_found(small: Path):
    (small / "program" / "graph.json").unlink()
    with pytest.raises(ArtifactError, match=r"graph\.json"):
        flow.verify(small)


def test_a_change_after_loading_is_found(small: Path):
    artifact = flow.load(small)
    (small / "recipe.toml").write_text("version = 1\n")
    with pytest.raises(ArtifactError, match=r"recipe\.toml"):
        flow.verify(artifact)


def repack(folder: Path, artifact: Artifact) -> None:
    """Make manifest and evidence agree with the files, as an author of such a folder could."""
    from gossamer.artifacts.pack import identity_of

    def table() -> dict[str, Any]:
        return {path: file_entry(folder / path, entry.role) for path, entry in artifact.manifest.files.items()}

    manifest = artifact.manifest
    evidence = json.loads((folder / "evidence/evidence.json").read_text())
    changed = Manifest(manifest.name, manifest.signature, manifest.targets, table())
    evidence["identity"] |= identity_of(changed)
    (folder / "evidence/evidence.json").write_text(json.dumps(evidence, sort_keys=True, separators=(",", ":")))
    changed = Manifest(manifest.name, manifest.signature, manifest.targets, table())
    (folder / "manifest.json").write_bytes(changed.to_bytes())


def test_the_model_of_another_network_is_rejected_however_well_packed(small: Path, digits):
    artifact = flow.load(small)
    artifact.deploy_file().write_bytes(flow.lower(stranger(digits)[0]).model)
    repack(small, artifact)
    verdict = flow.verify(small)
    assert verdict.kind == "rejected"
    assert not verdict.passed


def test_an_artifact_without_golden_data_cannot_be_replayed(small: Path):
    artifact = flow.load(small)
    files = {path: entry for path, entry in artifact.manifest.files.items() if path != "evidence/golden.npz"}
    (small / "evidence/golden.npz").unlink()
    manifest = artifact.manifest
    (small / "manifest.json").write_bytes(
        Manifest(manifest.name, manifest.signature, manifest.targets, files).to_bytes()
    )
    with pytest.raises(ArtifactError, match="no golden data"):
        flow.verify(small)


def test_measuring_an_artifact(digit_artifact: Path, hasty):
    result = flow.measure(digit_artifact)
    names = [item.name for item in result.measurements]
    assert names[0] == "latency p50"
    assert set(names) >= {"latency mean", "throughput", "size", "load", "first inference", "peak memory"}
    assert result.comparison is None
    assert result.conditions["target"] == "onnxruntime:cpu,threads=1,batch=8"
    json.dumps(result.to_json(), allow_nan=False)


def test_a_fixed_batch_is_measured_as_what_it_is(digit_artifact: Path, hasty):
    artifact = flow.load(digit_artifact)
    (x,) = artifact.signature.inputs
    fixed = Signature((replace(x, shape=(2, *x.shape[1:])),), artifact.signature.outputs, artifact.signature.dims)
    result = bench(Artifact(artifact.folder, replace(artifact.manifest, signature=fixed), open_deployed))
    assert result.conditions["target"] == "onnxruntime:cpu,threads=1,batch=2"
    figures = {item.name: item.value for item in result.measurements}
    assert figures["throughput"] == pytest.approx(2e3 / figures["latency mean"])


def test_measuring_two_artifacts_side_by_side(digit_front: Front, digit_artifact: Path, tmp_path: Path, hasty):
    baseline = digit_front.baseline.save(tmp_path / "before")
    result = flow.measure(digit_artifact, baseline, target="onnxruntime:cpu,batch=2")
    assert result.comparison is not None
    assert result.comparison.speedup > 0
    assert result.conditions["target"] == "onnxruntime:cpu,threads=1,batch=2"


def test_artifacts_of_different_inputs_are_not_compared(
    digit_artifact: Path, reader_program, reader_ids, tmp_path, hasty
):
    front = flow.compress(reader_program, {"ids": reader_ids}, metric="agreement")
    with pytest.raises(DataError, match="different inputs"):
        flow.measure(digit_artifact, front.best.save(tmp_path / "reader"))


def test_a_reader_of_dynamic_length_is_measured_too(reader_program, reader_ids, tmp_path: Path, hasty):
    front = flow.compress(reader_program, {"ids": reader_ids}, metric="agreement")
    result = flow.measure(front.best.save(tmp_path / "reader"))
    assert result.measurements[0].value > 0


def test_an_unknown_target_is_refused(digit_artifact: Path):
    with pytest.raises(UnknownName, match="device 'gpu'"):
        flow.measure(digit_artifact, target="onnxruntime:gpu")
