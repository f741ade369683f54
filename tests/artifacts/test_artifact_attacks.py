"""A manifest and a folder made by an enemy: each rule of docs/formats/artifact.md is broken once, and named."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gossamer.artifacts import load_artifact, parse_manifest, read_manifest
from gossamer.artifacts.manifest import MAX_ENTRIES, MAX_MANIFEST_BYTES, check_files
from gossamer.core.digest import canonical_json
from gossamer.core.errors import ArtifactError

SHA = "0" * 64
MODEL = "deploy/onnxruntime-cpu/model.onnx"


def never(*_):
    raise AssertionError("opened")


def entry(role="program", **changes):
    return {"sha256": SHA, "bytes": 1, "role": role} | changes


def file(path, value=None):
    """An attack that adds a file to the table."""

    def attack(manifest):
        manifest["files"][path] = value or entry()

    return attack


def put(*path, value):
    """An attack that sets one field."""

    def attack(manifest):
        for key in path[:-1]:
            manifest = manifest[key]
        manifest[path[-1]] = value

    return attack


def drop(*path):
    def attack(manifest):
        for key in path[:-1]:
            manifest = manifest[key]
        del manifest[path[-1]]

    return attack


def many_files(manifest):
    manifest["files"] |= {f"program/{index}": entry() for index in range(MAX_ENTRIES)}


def nested(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


TARGET = ("targets", "onnxruntime-cpu")
INPUT = ("signature", "inputs", 0)

ATTACKS = {
    # paths that lead elsewhere
    "absolute": (file("/etc/passwd"), "'/etc/passwd'"),
    "parent": (file("program/../../x"), "part '..'"),
    "only parent": (file(".."), "part '..'"),
    "here": (file("program/./x"), "part '.'"),
    "backslash": (file("program\\..\\x"), "part "),
    "drive": (file("C:/x"), "part 'C:'"),
    "stream": (file("program/x:y"), "part 'x:y'"),
    "NUL": (file("program/x\0y"), "part "),
    "newline": (file("program/x\n"), "part "),
    "empty part": (file("program//x"), "part ''"),
    "empty": (file(""), "part ''"),
    "trailing dot": (file("program/x."), "part 'x.'"),
    "hidden": (file("program/.x"), "part '.x'"),
    "look-alike": (file("program/\u0455"), "part "),
    "escape codes": (file("program/\x1b[2J"), "part "),
    "long part": (file("program/" + "x" * 101), "part "),
    "deep": (file("program/" + "x/" * 40 + "x"), "folders deep"),
    "other case": (file("program/GRAPH.json"), "differ by more than case"),
    "outside the folders": (file("setup.py"), "recipe.toml, or a file in"),
    "manifest in itself": (file("manifest.json"), "recipe.toml, or a file in"),
    "deploy file of no target": (file("deploy/other/model.onnx", entry("deploy")), "deploy files in the folders of"),
    "loose deploy file": (file("deploy/x", entry("deploy")), "deploy files in the folders of"),
    # fields of a file
    "role of another folder": (file("program/x", entry("deploy")), "role program"),
    "unhashable role": (file("program/x", entry(role=[])), "role program"),
    "negative size": (file("program/x", entry(bytes=-1)), "bytes -1"),
    "size of 2**70": (file("program/x", entry(bytes=2**70)), "whole number"),
    "fractional size": (file("program/x", entry(bytes=1.0)), "whole number"),
    "true as size": (file("program/x", entry(bytes=True)), "whole number"),
    "short digest": (file("program/x", entry(sha256="abc")), "64 hexadecimal"),
    "upper case digest": (file("program/x", entry(sha256="A" * 64)), "64 hexadecimal"),
    "digest of another type": (file("program/x", entry(sha256=7)), "64 hexadecimal"),
    "unknown field": (file("program/x", entry(mode="0777")), "exactly sha256, bytes, role"),
    "file that is a list": (file("program/x", [1]), "exactly sha256, bytes, role"),
    "too many files": (many_files, f"at most {MAX_ENTRIES}"),
    # the whole
    "another format": (put("format", value="gossamer-program"), "another format"),
    "a newer version": (put("version", value=2), "version 2[\\s\\S]*try: the gossamer that wrote it"),
    "version true": (put("version", value=True), "canonical"),
    "unknown key": (put("run_on_load", value="rm"), "exactly format"),
    "missing key": (drop("digests"), "exactly format"),
    "files not a table": (put("files", value=[]), "files: list"),
    "no recipe": (drop("files", "recipe.toml"), "no file 'recipe.toml'"),
    "no evidence": (drop("files", "evidence/evidence.json"), "no file 'evidence/evidence.json'"),
    "nested": (put("digests", value=nested(100)), "nested deeper"),
    "forged digest": (put("digests", "artifact", value=SHA), "digests that do not follow"),
    "digests of another type": (put("digests", value=3), "digests that do not follow"),
    "name with escape codes": (put("name", value="\x1b]0;x\x07"), "printable"),
    "name of 1 MB": (put("name", value="x" * 2**20), "1 to 200"),
    "name of another type": (put("name", value=None), "the name None"),
    # targets
    "no targets": (put("targets", value={}), "no targets|deploy files"),
    "target without its file": (drop("files", MODEL), "no file"),
    "file elsewhere": (put(*TARGET, "file", value="../../x"), "file '../../x'"),
    "file of another target": (put(*TARGET, "file", value="other.onnx"), "no file .*other.onnx"),
    "target of another device": (put(*TARGET, "device", value="gpu"), "a folder named after"),
    "text of another runtime": (put(*TARGET, "target", value="evil:cpu"), "a folder named after"),
    "folder name": (lambda m: m["targets"].update({"../x": m["targets"]["onnxruntime-cpu"]}), "target folder '../x'"),
    "options not a table": (put(*TARGET, "options", value=[]), "options: list"),
    "option that is a list": (put(*TARGET, "options", "a", value=[]), "a text, number or truth value"),
    "option with escape codes": (put(*TARGET, "options", "a", value="\x1b"), "printable"),
    "infinite option": (put(*TARGET, "options", "a", value=float("inf")), "JSON"),
    "target with extra field": (put(*TARGET, "command", value="sh"), "exactly target"),
    # signature
    "signature not a table": (put("signature", value=[]), "does not read"),
    "signature with extra field": (put("signature", "x", value=1), "other types"),
    "unknown dtype": (put(*INPUT, "dtype", value="object"), "one of: float64"),
    "shape that is a text": (put(*INPUT, "shape", value="ab"), "other types"),
    "negative dim": (put(*INPUT, "shape", value=[-1]), "whole number"),
    "true as dim": (put(*INPUT, "shape", value=[True]), "whole number"),
    "fractional dim": (put(*INPUT, "shape", value=[1.5]), "whole number"),
    "dim with escape codes": (put(*INPUT, "shape", value=["\x1b"]), "printable"),
    "endless shape": (put(*INPUT, "shape", value=[1] * (MAX_ENTRIES + 1)), "at most"),
    "two inputs of one name": (lambda m: m["signature"]["inputs"].append(m["signature"]["inputs"][0]), "of one name"),
    "range upside down": (put("signature", "dims", "batch", value=[2, 1]), "a range of sizes"),
    "range below zero": (put("signature", "dims", "batch", value=[-2, 1]), "whole number"),
    "endless range": (put("signature", "dims", "batch", value=[1, 10**40]), "whole number"),
    "range of three": (put("signature", "dims", "batch", value=[1, 2, 3]), "other types"),
    "range of texts": (put("signature", "dims", "batch", value=["a", "b"]), "does not read"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_hostile_manifest_is_refused_before_any_file_is_touched(small: Path, name: str, monkeypatch):
    attack, message = ATTACKS[name]
    manifest = json.loads((small / "manifest.json").read_bytes())
    attack(manifest)
    hostile = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    (small / "manifest.json").write_bytes(hostile.encode("utf-8", "surrogatepass"))
    monkeypatch.setattr("gossamer.artifacts.artifact.check_files", never)
    with pytest.raises(ArtifactError, match=message):
        load_artifact(small, opener=never)


RAW = {
    "empty": (lambda _: b"", "not JSON"),
    "not UTF-8": (lambda _: b"\xff\xfe", "not JSON"),
    "cut": (lambda content: content[:-1], "not JSON"),
    "a list": (lambda _: b"[]", "another format"),
    "nested for ever": (lambda _: b"[" * 200_000, "not JSON|another format"),
    "a number of 10000 digits": (
        lambda content: content.replace(b'"version":1', b'"version":' + b"9" * 10_000),
        "JSON",
    ),
    "NaN": (lambda content: content.replace(b'"opset":23', b'"opset":NaN'), "JSON does not have"),
    "a key twice": (lambda content: content.replace(b'"version":1', b'"version":2,"version":1'), "keys twice"),
    "blanks": (lambda content: content.replace(b'":', b'": '), "other spacing"),
    "newline": (lambda content: content + b"\n", "other spacing"),
    "byte order mark": (lambda content: b"\xef\xbb\xbf" + content, "not JSON"),
    "lone surrogate": (lambda content: content.replace(b'"tiny"', b'"\\ud800"'), "printable"),
    "oversized": (lambda content: content + b" " * MAX_MANIFEST_BYTES, "at most"),
}


@pytest.mark.parametrize("name", RAW)
def test_hostile_bytes(small: Path, name: str):
    change, message = RAW[name]
    path = small / "manifest.json"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ArtifactError, match=message):
        read_manifest(small)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_changed_byte_of_the_manifest_is_noticed(small: Path, data: st.DataObject):
    content = (small / "manifest.json").read_bytes()
    index = data.draw(st.integers(0, len(content) - 1))
    changed = content[:index] + bytes([content[index] ^ data.draw(st.integers(1, 255))]) + content[index + 1 :]
    # The size of an evidence file is the one thing that no digest covers: there only the file itself tells.
    with pytest.raises(ArtifactError):
        check_files(small, parse_manifest(changed))


# Damage to the folder, the manifest being honest


def test_every_file_is_hashed(small: Path):
    for path in read_manifest(small).files:
        content = (small / path).read_bytes()
        (small / path).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(ArtifactError, match=rf"{path} changed: its sha256[\s\S]*try: copy"):
            load_artifact(small, opener=never)
        (small / path).write_bytes(content + b"x")
        with pytest.raises(ArtifactError, match=f"{path} has {len(content) + 1} bytes, not {len(content)}"):
            load_artifact(small, opener=never)
        (small / path).unlink()
        with pytest.raises(ArtifactError, match=f"{path} is missing"):
            load_artifact(small, opener=never)
        (small / path).write_bytes(content)
    load_artifact(small, opener=never)


def test_several_faults_are_named_together(small: Path):
    for path in read_manifest(small).files:
        (small / path).unlink()
    with pytest.raises(ArtifactError, match=r"model\.onnx is missing[\s\S]*and 1 more"):
        load_artifact(small, opener=never)


@pytest.mark.parametrize("name", ["extra.txt", ".DS_Store", "deploy/onnxruntime-cpu/model.onnx.data", "new/deep/x"])
def test_a_file_that_is_not_listed(small: Path, name: str):
    (small / name).parent.mkdir(parents=True, exist_ok=True)
    (small / name).write_text("x")
    with pytest.raises(ArtifactError, match=rf"'{name}', which manifest.json does not list[\s\S]*try: move it"):
        load_artifact(small, opener=never)


def link_to_file(small, path):
    outside = small.parent / "outside"
    path.rename(outside)
    path.symlink_to(outside)


def link_to_folder(small, path):
    outside = small.parent / "outside"
    path.parent.rename(outside)
    path.parent.symlink_to(outside)


def pipe(small, path):
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("replace", [link_to_file, link_to_folder, pipe])
@pytest.mark.parametrize("name", [MODEL, "evidence/golden.npz"])
def test_links_and_pipes_are_refused(small: Path, name: str, replace):
    replace(small, small / name)
    with pytest.raises(ArtifactError, match="a link or device"):
        load_artifact(small, opener=never)


@pytest.mark.parametrize("replace", [link_to_file, pipe])
def test_a_manifest_that_is_a_link_or_pipe(small: Path, replace):
    replace(small, small / "manifest.json")
    with pytest.raises(ArtifactError, match="a link or device"):
        load_artifact(small, opener=never)


def test_a_file_in_place_of_a_folder_and_back(small: Path):
    (small / MODEL).unlink()
    (small / MODEL).mkdir()
    with pytest.raises(ArtifactError, match=r"model\.onnx is missing"):
        load_artifact(small, opener=never)


def test_folders_without_end(small: Path):
    (small / "/".join("x" * 40)).mkdir(parents=True)
    with pytest.raises(ArtifactError, match="folders deep"):
        load_artifact(small, opener=never)


def test_a_wrong_path_is_explained(small: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    cases = {
        tmp_path / "none": "nothing there",
        small / "recipe.toml": "got: a file",
        small / "manifest.json": f"try: the folder {small}",
        tmp_path / "empty": "a folder without manifest.json",
        tmp_path: f"without manifest.json[\\s\\S]*try: {small}",
    }
    for path, message in cases.items():
        with pytest.raises(ArtifactError, match=message):
            load_artifact(path, opener=never)


def test_the_honest_manifest_reads(small: Path):
    content = (small / "manifest.json").read_bytes()
    assert parse_manifest(content).to_bytes() == content
    assert canonical_json(json.loads(content)).encode() == content
