"""The manifest of an artifact: every file with its digest, read as if an enemy had written it.

The layout of the folder and of ``manifest.json`` is in docs/formats/artifact.md. Nothing is opened, not even a path
formed, before the text has passed every rule here.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from gossamer.core.digest import Digest, canonical_json, digest_json
from gossamer.core.errors import ArtifactError
from gossamer.core.specs import NUMPY_DTYPES, Signature, TensorSpec

FORMAT = "gossamer-artifact"
FORMAT_VERSION = 1

MANIFEST_FILE = "manifest.json"
RECIPE_FILE = "recipe.toml"
EVIDENCE_FILE = "evidence/evidence.json"
GOLDEN_FILE = "evidence/golden.npz"

MAX_MANIFEST_BYTES = 4 * 2**20
MAX_ENTRIES = 4096
"""Most files, targets, inputs, outputs or dims that a manifest may list."""
MAX_FILE_BYTES = 2**40
MAX_TEXT = 200
MAX_DEPTH = 16

Role = Literal["deploy", "program", "recipe", "evidence"]
"""What a file is for. Evidence is measured, so it may differ between two runs that made the same artifact."""

_PART = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._+-]{0,98}[A-Za-z0-9_+-])?")
"""One part of a path. Leaves no room for absolute paths, "..", drive letters, backslashes, blanks or NUL."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DAMAGED = "copy the folder again from where it came, or pack it anew"


@dataclass(frozen=True)
class FileEntry:
    """One file of an artifact; ``sha256sum`` prints the same digits."""

    sha256: Digest
    size_bytes: int
    role: Role

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value."""
        return {"sha256": self.sha256, "bytes": self.size_bytes, "role": self.role}


@dataclass(frozen=True)
class TargetEntry:
    """What one ``deploy/<folder>/`` was made for.

    Attributes:
        target: the target's text, ``onnxruntime:cpu,threads=1,batch=1``.
        runtime: as in the text.
        device: as in the text.
        file: name of the model file in the folder.
        precision: ``float32``, ``int8``, ``mixed``.
        options: what else the lowering was told; texts, numbers and truth values by name.
    """

    target: str
    runtime: str
    device: str
    file: str
    precision: str
    options: Mapping[str, str | int | float | bool]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value."""
        return {
            "target": self.target,
            "runtime": self.runtime,
            "device": self.device,
            "file": self.file,
            "precision": self.precision,
            "options": dict(self.options),
        }


@dataclass(frozen=True)
class Manifest:
    """What an artifact holds.

    Attributes:
        name: of the model.
        signature: of the model, and of every deployed file.
        targets: by folder name under ``deploy/``.
        files: every file but ``manifest.json`` itself, by path relative to the folder, with ``/``.
    """

    name: str
    signature: Signature
    targets: Mapping[str, TargetEntry]
    files: Mapping[str, FileEntry]

    @property
    def digest(self) -> Digest:
        """Identity of the artifact: name, signature, targets and all files except evidence, which is measured."""
        files = {path: entry.to_json() for path, entry in self.files.items() if entry.role != "evidence"}
        return digest_json({**self._head(), "files": files})

    def role_digest(self, role: Role) -> Digest:
        """Digest of the files of one role: their paths and contents."""
        return digest_json({path: entry.sha256 for path, entry in self.files.items() if entry.role == role})

    def role_bytes(self, role: Role) -> int:
        """Bytes on disk of the files of one role."""
        return sum(entry.size_bytes for entry in self.files.values() if entry.role == role)

    def deploy_path(self, folder_name: str) -> str:
        """Relative path of a target's model file."""
        return f"deploy/{folder_name}/{self.targets[folder_name].file}"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value, the digests included; ``parse_manifest`` reads its canonical text."""
        return {
            **self._head(),
            "files": {path: entry.to_json() for path, entry in self.files.items()},
            "digests": {
                "artifact": self.digest,
                "deploy": self.role_digest("deploy"),
                "program": self.role_digest("program"),
                "evidence": self.role_digest("evidence"),
            },
        }

    def to_bytes(self) -> bytes:
        """Content of ``manifest.json``: canonical, without times, so equal artifacts have equal bytes."""
        return canonical_json(self.to_json()).encode()

    def _head(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "name": self.name,
            "signature": self.signature.to_json(),
            "targets": {folder: entry.to_json() for folder, entry in self.targets.items()},
        }


def role_of(path: str) -> Role | None:
    """The role that a path has by its first part; ``None`` if it may not be in an artifact."""
    if path == RECIPE_FILE:
        return "recipe"
    folders: tuple[Role, ...] = ("deploy", "program", "evidence")
    return next((role for role in folders if path.startswith(f"{role}/")), None)


def read_manifest(folder: Path) -> Manifest:
    """Read and check ``manifest.json`` of an artifact folder; no other file is touched.

    Raises:
        ArtifactError: this is no artifact, or its manifest breaks a rule; says which.
    """
    doing = f"reading the artifact {folder}"
    path = folder / MANIFEST_FILE
    if not folder.is_dir():
        got = "a file" if folder.exists() else "nothing there"
        holder = folder.parent if folder.name == MANIFEST_FILE and folder.exists() else None
        raise ArtifactError(
            doing, got=got, expected="a folder written by gossamer", try_=f"the folder {holder}" if holder else ""
        )
    if not path.exists() and not path.is_symlink():
        inner = sorted(entry.parent for entry in folder.glob(f"*/{MANIFEST_FILE}"))
        raise ArtifactError(
            doing,
            got=f"a folder without {MANIFEST_FILE}",
            expected="a folder written by gossamer",
            try_=", ".join(str(entry) for entry in inner[:3]),
        )
    try:
        facts = path.lstat()
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > MAX_MANIFEST_BYTES:
            got = f"{MANIFEST_FILE} of {facts.st_size} bytes" if stat.S_ISREG(facts.st_mode) else "a link or device"
            raise ArtifactError(
                doing, got=got, expected=f"a plain {MANIFEST_FILE} of at most {MAX_MANIFEST_BYTES} bytes"
            )
        content = path.read_bytes()
    except OSError as error:
        raise ArtifactError(doing, got=str(error), expected=f"a readable {MANIFEST_FILE}") from error
    return parse_manifest(content, doing)


def parse_manifest(content: bytes, doing: str = "reading manifest.json") -> Manifest:
    """The manifest that ``content`` holds.

    Raises:
        ArtifactError: it breaks a rule of docs/formats/artifact.md; says which.
    """
    reader = _Reader(doing)
    try:
        value = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        reader.fail(f"{MANIFEST_FILE} that is not JSON: {error}", "canonical JSON")
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        reader.fail("another format", f"format {FORMAT!r}")
    if value.get("version") != FORMAT_VERSION:
        got = f"version {value.get('version')!r:.40}"
        reader.fail(got, f"version {FORMAT_VERSION}", "the gossamer that wrote it, or a newer one")
    reader.limit_depth(value)
    value = reader.fields(
        value, "the manifest", "format", "version", "name", "signature", "targets", "files", "digests"
    )
    manifest = Manifest(
        reader.text(value["name"], "the name"),
        _signature(reader, value["signature"]),
        {folder: _target(reader, folder, entry) for folder, entry in reader.table(value["targets"], "targets").items()},
        {path: _file(reader, path, entry) for path, entry in reader.table(value["files"], "files").items()},
    )
    _check_whole(reader, manifest)
    try:
        same_digests, canonical = manifest.to_json()["digests"] == value["digests"], manifest.to_bytes()
    except ValueError as error:
        reader.fail(f"a number that JSON does not have: {error}", "canonical JSON")
    if not same_digests:
        reader.fail("digests that do not follow from the file table", "the digests written at packing", _DAMAGED)
    if canonical != content:
        reader.fail(f"{MANIFEST_FILE} changed after packing: keys twice, or other spacing", "canonical JSON", _DAMAGED)
    return manifest


def check_files(folder: Path, manifest: Manifest) -> None:
    """Compare an artifact folder with its manifest, byte by byte.

    Raises:
        ArtifactError: a file is missing, not listed, a link, of another size or content; names up to five.
    """
    doing = f"checking the artifact {folder}"
    try:
        found = set(_walk(folder, "", doing, manifest))
        problems = [f"{path} is missing" for path in sorted(manifest.files.keys() - found)]
        for path in sorted(found):
            problem = _difference(folder / path, manifest.files[path])
            problems += [f"{path} {problem}"] if problem else []
    except OSError as error:
        raise ArtifactError(doing, got=str(error), expected="readable files", try_=_DAMAGED) from error
    if problems:
        more = [f"and {len(problems) - 5} more"] if len(problems) > 5 else []
        got = "\n       ".join([*problems[:5], *more])
        raise ArtifactError(doing, got=got, expected=f"the files that {MANIFEST_FILE} lists", try_=_DAMAGED)


def file_entry(path: Path, role: Role) -> FileEntry:
    """Digest and size of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileEntry(digest, path.stat().st_size, role)


def _difference(path: Path, entry: FileEntry) -> str:
    size = path.stat().st_size
    if size != entry.size_bytes:
        return f"has {size} bytes, not {entry.size_bytes}"
    if file_entry(path, entry.role).sha256 != entry.sha256:
        return "changed: its sha256 is another"
    return ""


def _walk(folder: Path, prefix: str, doing: str, manifest: Manifest) -> Iterator[str]:
    """Relative paths of the plain files; the first thing that has no business there is an error."""
    with os.scandir(folder) as entries:
        for entry in entries:
            path = f"{prefix}{entry.name}"
            if prefix.count("/") > MAX_DEPTH:
                raise ArtifactError(doing, got=f"{path!r}", expected=f"at most {MAX_DEPTH} folders deep")
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(folder / entry.name, f"{path}/", doing, manifest)
            elif not entry.is_file(follow_symlinks=False):
                raise ArtifactError(doing, got=f"{path!r}, a link or device", expected="plain files", try_=_DAMAGED)
            elif path in manifest.files:
                yield path
            elif path != MANIFEST_FILE:
                got = f"{path!r}, which {MANIFEST_FILE} does not list"
                raise ArtifactError(doing, got=got, expected="listed files only", try_="move it out of the artifact")


@dataclass(frozen=True)
class _Reader:
    """Checks on JSON values; every refusal says what was being read."""

    doing: str

    def fail(self, got: str, expected: str, try_: str = "") -> NoReturn:
        raise ArtifactError(self.doing, got=got, expected=expected, try_=try_)

    def limit_depth(self, value: Any, depth: int = 0) -> None:
        if depth > MAX_DEPTH:
            self.fail(f"{MANIFEST_FILE} nested deeper than {MAX_DEPTH}", "a flat manifest")
        if isinstance(value, dict | list):
            for item in value.values() if isinstance(value, dict) else value:
                self.limit_depth(item, depth + 1)

    def fields(self, value: Any, what: str, *names: str) -> dict[str, Any]:
        if not isinstance(value, dict) or sorted(value) != sorted(names):
            got = ", ".join(sorted(value)[:12]) if isinstance(value, dict) else type(value).__name__
            self.fail(f"{what} with {got!r:.200}", f"exactly {', '.join(names)}")
        return value

    def table(self, value: Any, what: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            self.fail(f"{what}: {type(value).__name__}", "an object")
        self.limit(value, what)
        return value

    def limit(self, value: Sequence[Any] | Mapping[str, Any], what: str) -> None:
        if len(value) > MAX_ENTRIES:
            self.fail(f"{len(value)} {what}", f"at most {MAX_ENTRIES}")

    def text(self, value: Any, what: str) -> str:
        if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT or not value.isprintable():
            self.fail(f"{what} {value!r:.80}", f"1 to {MAX_TEXT} printable characters")
        return value

    def part(self, value: Any, what: str) -> str:
        if not isinstance(value, str) or not _PART.fullmatch(value):
            self.fail(f"{what} {value!r:.120}", "1 to 100 letters, digits and ._+- between them")
        return value

    def count(self, value: Any, what: str, most: int) -> int:
        if type(value) is not int or not 0 <= value <= most:
            self.fail(f"{what} {value!r:.80}", f"a whole number from 0 to {most}")
        return value


def _file(reader: _Reader, path: str, value: Any) -> FileEntry:
    parts = path.split("/")
    if len(parts) > MAX_DEPTH + 1:
        reader.fail(f"file {path!r:.120}", f"at most {MAX_DEPTH} folders deep")
    for part in parts:
        reader.part(part, f"file {path!r:.120}, part")
    value = reader.fields(value, f"file {path!r}", "sha256", "bytes", "role")
    role = role_of(path)
    if role is None or value["role"] != role:
        reader.fail(
            f"file {path!r} with role {value['role']!r:.40}",
            f"role {role}" if role else f"{RECIPE_FILE}, or a file in deploy/, program/ or evidence/",
        )
    sha256 = value["sha256"]
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        reader.fail(f"file {path!r} with sha256 {sha256!r:.80}", "64 hexadecimal digits")
    return FileEntry(sha256, reader.count(value["bytes"], f"file {path!r} with bytes", MAX_FILE_BYTES), role)


def _target(reader: _Reader, folder: str, value: Any) -> TargetEntry:
    what = f"target {reader.part(folder, 'target folder')!r}"
    value = reader.fields(value, what, "target", "runtime", "device", "file", "precision", "options")
    options = reader.table(value["options"], f"{what} options")
    for name, option in options.items():
        reader.text(name, f"{what} option")
        if isinstance(option, str):
            reader.text(option, f"{what} option {name}")
        elif not isinstance(option, bool | int | float):
            reader.fail(f"{what} option {name}: {type(option).__name__}", "a text, number or truth value")
    entry = TargetEntry(
        reader.text(value["target"], f"{what} text"),
        reader.part(value["runtime"], f"{what} runtime"),
        reader.part(value["device"], f"{what} device"),
        reader.part(value["file"], f"{what} file"),
        reader.text(value["precision"], f"{what} precision"),
        options,
    )
    if folder != f"{entry.runtime}-{entry.device}" or entry.target.split(",")[0] != f"{entry.runtime}:{entry.device}":
        reader.fail(f"{what} for {entry.target!r}", "a folder named after the runtime and device of its target")
    return entry


def _signature(reader: _Reader, value: Any) -> Signature:
    try:
        signature = Signature.from_json(value)
        same = signature.to_json() == value
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        reader.fail(f"a signature that does not read: {type(error).__name__}: {error!s:.120}", "inputs, outputs, dims")
    if not same:
        reader.fail("a signature with fields of other types", "inputs, outputs, dims")
    for side, specs in (("input", signature.inputs), ("output", signature.outputs)):
        reader.limit(specs, f"{side}s")
        if len({spec.name for spec in specs}) < len(specs):
            reader.fail(f"two {side}s of one name", f"a name of its own for each {side}")
        for spec in specs:
            _check_spec(reader, side, spec)
    reader.limit(signature.dims, "dims")
    for name, (low, high) in signature.dims.items():
        reader.text(name, "dim")
        reader.count(low, f"lower end of dim {name}", MAX_FILE_BYTES)
        if high is not None and reader.count(high, f"upper end of dim {name}", MAX_FILE_BYTES) < low:
            reader.fail(f"dim {name} from {low} to {high}", "a range of sizes")
    return signature


def _check_spec(reader: _Reader, side: str, spec: TensorSpec) -> None:
    reader.text(spec.name, f"{side} name")
    if spec.dtype not in NUMPY_DTYPES:
        reader.fail(f"{side} {spec.name} of dtype {spec.dtype!r:.40}", f"one of: {', '.join(NUMPY_DTYPES)}")
    reader.limit(spec.shape, f"dims of {side} {spec.name}")
    for dim in spec.shape:
        if isinstance(dim, str):
            reader.text(dim, f"{side} {spec.name}, dim")
        else:
            reader.count(dim, f"{side} {spec.name}, dim", MAX_FILE_BYTES)


def _check_whole(reader: _Reader, manifest: Manifest) -> None:
    """Rules that take more than one entry to break."""
    known: dict[str, str] = {}
    for path in manifest.files:
        first = known.setdefault(path.casefold(), path)
        if first != path:
            reader.fail(f"files {first!r} and {path!r}", "names that differ by more than case: some disks ignore it")
    for path in (RECIPE_FILE, EVIDENCE_FILE, *(manifest.deploy_path(folder) for folder in manifest.targets)):
        if path not in manifest.files:
            reader.fail(f"no file {path!r}", f"{path} among the files", _DAMAGED)
    if not manifest.targets:
        reader.fail("no targets", "at least one")
    for path, entry in manifest.files.items():
        if entry.role == "deploy" and path.split("/")[1] not in manifest.targets:
            reader.fail(f"file {path!r}", f"deploy files in the folders of {', '.join(sorted(manifest.targets))}")
