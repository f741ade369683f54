"""Artifacts are written whole, with equal bytes for equal content, and never over something else."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gossamer.artifacts import DeployFile, Golden, load_artifact, read_manifest
from gossamer.artifacts.golden import golden_bytes, read_golden
from gossamer.artifacts.manifest import file_entry, role_of
from gossamer.artifacts.pack import identity_of
from gossamer.core.errors import ArtifactError, InternalError, OutputExists
from gossamer.core.target import Target


def never(*_):
    raise AssertionError("opened")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_layout_is_the_documented_one(small):
    assert sorted(contents(small)) == [
        "deploy/onnxruntime-cpu/model.onnx",
        "evidence/evidence.json",
        "evidence/golden.npz",
        "manifest.json",
        "program/graph.json",
        "program/tensors.safetensors",
        "recipe.toml",
    ]
    page = (Path(__file__).parents[2] / "docs" / "formats" / "artifact.md").read_text()
    assert [path for path in contents(small) if path.split("/")[-1] not in page] == []


def test_reading_gives_what_was_packed(small, make, signature, tmp_path):
    manifest = make(tmp_path / "again")
    assert read_manifest(small) == manifest
    artifact = load_artifact(str(small), opener=never)
    assert (artifact.name, artifact.signature, artifact.recipe) == ("tiny", signature, "version = 1\n")
    assert artifact.evidence["parity"] == {"verdict": "exact"}
    golden = artifact.golden
    assert golden is not None
    np.testing.assert_array_equal(golden.outputs["y"], [[3, 5, 7], [3, 5, 7]])
    target = manifest.targets["onnxruntime-cpu"]
    assert (target.target, target.precision, target.options) == (str(Target("onnxruntime")), "float32", {"opset": 23})


def test_parts_may_be_left_out(make, tmp_path):
    make(tmp_path / "bare", program_writer=None, golden=None)
    artifact = load_artifact(tmp_path / "bare", opener=never)
    assert artifact.golden is None
    assert {entry.role for entry in artifact.manifest.files.values()} == {"deploy", "recipe", "evidence"}


def test_digests_are_plain_sha256(small):
    value = json.loads((small / "manifest.json").read_bytes())
    for path, entry in value["files"].items():
        content = (small / path).read_bytes()
        assert (entry["sha256"], entry["bytes"]) == (hashlib.sha256(content).hexdigest(), len(content))


def test_equal_content_gives_equal_bytes(make, tmp_path, monkeypatch):
    make(tmp_path / "one")
    monkeypatch.setattr("time.time", lambda: 4e9)
    make(tmp_path / "two", evidence={"parity": {"verdict": "exact"}})
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_golden_bytes_depend_on_values_alone():
    x, y = np.arange(6.0).reshape(2, 3), np.float32(1)
    one = golden_bytes(Golden({"b": x, "a": x}, {"y": y}))
    assert one == golden_bytes(Golden({"a": np.asfortranarray(x), "b": x[::-1][::-1]}, {"y": y}))
    assert one != golden_bytes(Golden({"a": x, "b": x + 1}, {"y": y}))


def test_only_what_changed_changes_its_digest(make, tmp_path):
    def changed(**changes):
        manifest = make(tmp_path / "other", force=True, **changes).to_json()["digests"]
        return {name for name, digest in manifest.items() if digest != base[name]}

    base = make(tmp_path / "base").to_json()["digests"]
    assert set(base) == {"artifact", "deploy", "program", "evidence"}
    assert changed() == set()
    assert changed(evidence={"performance": {"p50_ms": 0.4}}) == {"evidence"}
    assert changed(golden=None) == {"evidence"}
    # The evidence names the artifact that it is about, so it changes along.
    assert changed(recipe="version = 1 # another\n") == {"artifact", "evidence"}
    assert changed(name="other") == {"artifact", "evidence"}
    assert changed(program_writer=None) == {"artifact", "program", "evidence"}
    deploys = [DeployFile(Target("onnxruntime"), b"another model", "int8")]
    assert changed(deploys=deploys) == {"artifact", "deploy", "evidence"}


def test_evidence_of_another_artifact_is_noticed(small, make, tmp_path):
    make(tmp_path / "other", recipe="version = 1 # another\n")
    path = small / "evidence" / "evidence.json"
    path.write_bytes((tmp_path / "other" / "evidence" / "evidence.json").read_bytes())
    manifest = read_manifest(small)
    forged = replace(manifest, files={**manifest.files, "evidence/evidence.json": file_entry(path, "evidence")})
    (small / "manifest.json").write_bytes(forged.to_bytes())
    artifact = load_artifact(small, opener=never)
    with pytest.raises(ArtifactError, match="evidence of another artifact"):
        _ = artifact.evidence
    with pytest.raises(ArtifactError, match="evidence of another artifact"):
        artifact.verify_integrity()


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b'{"identity": 3}', b"\xff", b"[" * 100_000])
def test_evidence_that_does_not_read(small, content):
    path = small / "evidence" / "evidence.json"
    path.write_bytes(content)
    manifest = read_manifest(small)
    forged = replace(manifest, files={**manifest.files, "evidence/evidence.json": file_entry(path, "evidence")})
    (small / "manifest.json").write_bytes(forged.to_bytes())
    with pytest.raises(ArtifactError, match="JSON with an identity group"):
        _ = load_artifact(small, opener=never).evidence


def test_the_identity_group_is_completed(make, tmp_path):
    manifest = make(tmp_path / "small", evidence={"identity": {"source": "abc"}})
    identity = load_artifact(tmp_path / "small", opener=never).evidence["identity"]
    assert identity == {"source": "abc", **identity_of(manifest)}
    assert identity["artifact"] == manifest.digest


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, OSError])
@pytest.mark.parametrize("was_there", [False, True])
def test_an_interrupted_packing_leaves_what_was_there(make, tmp_path, was_there, interruption):
    if was_there:
        make(tmp_path / "small", name="old")
    before = contents(tmp_path)

    def interrupted(folder: Path) -> None:
        (folder / "graph.json").write_text("half")
        raise interruption

    with pytest.raises(interruption):
        make(tmp_path / "small", force=True, program_writer=interrupted)
    assert contents(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == (["small"] if was_there else [])


def test_force_replaces_artifacts_only(make, small, tmp_path):
    with pytest.raises(OutputExists, match="--force"):
        make(small)
    make(small, force=True, name="new", program_writer=None)
    assert read_manifest(small).name == "new"
    assert not (small / "program").exists()

    home = tmp_path / "home"
    home.mkdir()
    make(home, force=True)  # empty: nothing to lose
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "manifest.json").write_text('{"format": "something else"}')
    for path in (thesis, thesis / "manifest.json"):
        with pytest.raises(OutputExists, match="not an artifact"):
            make(path, force=True)
    assert contents(thesis) == {"manifest.json": b'{"format": "something else"}'}


def test_a_damaged_artifact_can_be_replaced(make, small):
    content = (small / "manifest.json").read_bytes()
    (small / "manifest.json").write_bytes(content.replace(b'"version":1', b'"version":9')[:-1])
    (small / "recipe.toml").unlink()
    make(small, force=True)
    load_artifact(small, opener=never).verify_integrity()


def test_packing_into_the_current_folder(make, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    make(Path(), force=True)
    monkeypatch.chdir(tmp_path)
    assert read_manifest(Path("here")).name == "tiny"


def bad_writer(name):
    def write(folder):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")

    return write


def linking_writer(folder):
    (folder / "graph.json").symlink_to("/etc/hostname")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"name": ""}, ArtifactError, "the name ''"),
        ({"name": "red \x1b[31m"}, ArtifactError, "printable"),
        ({"deploys": []}, ArtifactError, "no targets"),
        ({"deploys": [DeployFile(Target("onnxruntime"), b"", "int8")] * 2}, InternalError, "one file for each target"),
        ({"deploys": [DeployFile(Target("onnxruntime"), b"", "int8", "a b")]}, ArtifactError, "file 'a b'"),
        ({"evidence": {"p50": float("nan")}}, InternalError, "all numbers finite"),
        ({"evidence": {"p50": object()}}, InternalError, "JSON values"),
        ({"golden": Golden({"x": np.array([{}])}, {})}, InternalError, "input 'x' of dtype object"),
        ({"program_writer": bad_writer("my file")}, ArtifactError, "my file"),
        ({"program_writer": bad_writer("/".join("abcdefghijklmnopqrst"))}, ArtifactError, "folders deep"),
        ({"program_writer": linking_writer}, ArtifactError, "a link or device"),
    ],
)
def test_what_could_not_be_read_back_is_not_written(make, tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        make(tmp_path / "small", **changes)
    assert list(tmp_path.iterdir()) == []


def test_roles_come_from_paths():
    paths = ["recipe.toml", "deploy/a/b", "program/x", "evidence/x", "recipe/x", "deploy", "other/x", "x"]
    assert [role_of(path) for path in paths] == ["recipe", "deploy", "program", "evidence", None, None, None, None]


@pytest.mark.parametrize("damage", ["cut", "flip", "pickle", "npy", "compressed", "key", "huge"])
def test_damaged_golden_data(tmp_path, damage):
    path = tmp_path / "golden.npz"
    content = golden_bytes(Golden({"x": np.arange(100.0)}, {"y": np.arange(3)}))
    match damage:
        case "cut":
            path.write_bytes(content[:-60])
        case "flip":
            path.write_bytes(content[:300] + bytes([content[300] ^ 1]) + content[301:])
        case "pickle":
            np.savez(path, **{"inputs/x": np.array([{"a": 1}], dtype=object)})
        case "npy":
            with path.open("wb") as file:
                np.save(file, np.arange(3))
        case "compressed":
            np.savez_compressed(path, **{"inputs/x": np.zeros(10**6)})
        case "key":
            np.savez(path, x=np.arange(3))
        case "huge":
            path.write_bytes(huge_npz())
    with pytest.raises(ArtifactError, match="golden data"):
        read_golden(path)


def huge_npz() -> bytes:
    """An array of 10**17 numbers by its header, and none in the file."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive, archive.open("inputs/x.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (10**17,)})
    return content.getvalue()
