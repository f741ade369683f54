"""Writing an artifact: a folder that appears whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gossamer.artifacts.golden import Golden, golden_bytes
from gossamer.artifacts.manifest import (
    EVIDENCE_FILE,
    FORMAT,
    GOLDEN_FILE,
    MANIFEST_FILE,
    MAX_MANIFEST_BYTES,
    RECIPE_FILE,
    FileEntry,
    Manifest,
    TargetEntry,
    check_files,
    file_entry,
    parse_manifest,
    role_of,
)
from gossamer.core.digest import canonical_json
from gossamer.core.errors import ArtifactError, InternalError, OutputExists
from gossamer.core.files import new_folder, require_free, write_atomic
from gossamer.core.specs import Signature
from gossamer.core.target import Target

EVIDENCE_VERSION = 1


@dataclass(frozen=True)
class DeployFile:
    """A model file for one target.

    Attributes:
        target: what it was lowered for; names its folder.
        content: the file's bytes.
        precision: ``float32``, ``int8``, ``mixed``.
        file_name: its name in the folder.
        options: what else the lowering was told.
    """

    target: Target
    content: bytes = field(repr=False)
    precision: str
    file_name: str = "model.onnx"
    options: Mapping[str, str | int | float | bool] = field(default_factory=dict)

    def entry(self) -> TargetEntry:
        """What the manifest says about it."""
        target = self.target
        return TargetEntry(
            str(target), target.runtime, target.device, self.file_name, self.precision, dict(self.options)
        )


def pack(  # noqa: PLR0913 - each argument is one part of the artifact
    folder: Path,
    *,
    name: str,
    signature: Signature,
    deploys: Sequence[DeployFile],
    recipe: str,
    evidence: Mapping[str, Any],
    program_writer: Callable[[Path], None] | None = None,
    golden: Golden | None = None,
    force: bool = False,
) -> Manifest:
    """Write an artifact folder. Equal content gives equal bytes in every file: nothing holds a time of packing.

    Args:
        folder: where it will appear, once everything is written and has passed the checks of reading.
        name: of the model.
        signature: of the model and of every deployed file.
        deploys: one file for each target, at least one.
        recipe: TOML text that replays the compression.
        evidence: JSON groups of the evidence file. Its ``identity`` group is completed here with the digests of this
            artifact, so that evidence of another one is noticed.
        program_writer: writes the program into the empty folder that it is given.
        golden: inputs and reference outputs to replay.
        force: replace an artifact that is there already. Anything else at ``folder`` is never replaced.

    Raises:
        OutputExists: there is something at ``folder``, and no ``force``, or it is not an artifact.
        ArtifactError: a name or size that the format does not allow.
        InternalError: evidence that is not JSON, two files for one target, arrays that are not numbers.
    """
    require_replaceable(folder, force=force)
    targets = {deploy.target.folder_name: deploy.entry() for deploy in deploys}
    if len(targets) < len(deploys):
        got = ", ".join(deploy.target.folder_name for deploy in deploys)
        raise InternalError(f"packing {name}", got=got, expected="one file for each target")
    _evidence_bytes(evidence)
    contents = {RECIPE_FILE: recipe.encode()}
    contents |= {f"deploy/{deploy.target.folder_name}/{deploy.file_name}": deploy.content for deploy in deploys}
    contents |= {GOLDEN_FILE: golden_bytes(golden)} if golden else {}
    with new_folder(folder.absolute(), force=force) as new:  # '.' has no name to put a temporary beside
        for path, content in contents.items():
            _write(new, path, content)
        if program_writer:
            (new / "program").mkdir()
            program_writer(new / "program")
        # The digests do not cover evidence, so they are known before the evidence that repeats them.
        identity = identity_of(Manifest(name, signature, targets, dict(_file_table(new))))
        _write(new, EVIDENCE_FILE, _evidence_bytes(evidence, identity))
        manifest = Manifest(name, signature, targets, dict(_file_table(new)))
        doing = f"packing {name} into {folder}"
        content = manifest.to_bytes()
        if len(content) > MAX_MANIFEST_BYTES:
            raise ArtifactError(doing, got=f"{len(content)} bytes", expected=f"at most {MAX_MANIFEST_BYTES}")
        manifest = parse_manifest(content, doing)
        check_files(new, manifest)
        _write(new, MANIFEST_FILE, content)
    return manifest


def identity_of(manifest: Manifest) -> dict[str, Any]:
    """What the ``identity`` group of the evidence must say about its artifact."""
    return {
        "schema": EVIDENCE_VERSION,
        "artifact": manifest.digest,
        "deploy": manifest.role_digest("deploy"),
        "program": manifest.role_digest("program"),
        "recipe": manifest.files[RECIPE_FILE].sha256,
    }


def require_replaceable(folder: Path, *, force: bool) -> None:
    """Raise ``OutputExists`` unless ``folder`` is free, or ``force`` may replace the artifact there.

    Call it before any work starts.
    """
    require_free(folder, force=force)
    if not folder.exists() or _is_artifact(folder) or (folder.is_dir() and not any(folder.iterdir())):
        return
    raise OutputExists(
        f"preparing the output folder {folder}",
        got="something there that is not an artifact",
        expected="a free path, or an artifact to replace",
        try_="another --out, or remove it yourself",
    )


def _is_artifact(folder: Path) -> bool:
    """Whether a folder says that it is an artifact; it may be damaged or of another version."""
    try:
        with (folder / MANIFEST_FILE).open("rb") as file:
            return f'"{FORMAT}"'.encode() in file.read(MAX_MANIFEST_BYTES)
    except OSError:
        return False


def _evidence_bytes(evidence: Mapping[str, Any], identity: Mapping[str, Any] | None = None) -> bytes:
    try:
        content = {**evidence, "identity": {**evidence.get("identity", {}), **(identity or {})}}
        return canonical_json(content).encode()
    except (TypeError, ValueError) as error:
        raise InternalError("packing evidence", got=str(error), expected="JSON values, all numbers finite") from error


def _write(folder: Path, path: str, content: bytes) -> None:
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / path, content)


def _file_table(folder: Path) -> Iterator[tuple[str, FileEntry]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            relative = path.relative_to(folder).as_posix()
            role = role_of(relative)
            assert role is not None, relative
            yield relative, file_entry(path, role)
