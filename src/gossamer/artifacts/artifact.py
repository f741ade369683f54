"""A packed model: checked when loaded, run in its runtime, opened when first called."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Self, final

import numpy as np

from gossamer.artifacts.golden import Golden, read_golden
from gossamer.artifacts.manifest import (
    EVIDENCE_FILE,
    GOLDEN_FILE,
    RECIPE_FILE,
    Manifest,
    check_files,
    read_manifest,
)
from gossamer.artifacts.pack import identity_of
from gossamer.core.digest import Digest
from gossamer.core.errors import ArtifactError, OptionError
from gossamer.core.names import require_known
from gossamer.core.runnable import Executable
from gossamer.core.specs import Signature
from gossamer.core.units import format_amount

Opener = Callable[[Path, Signature, str, Mapping[str, int] | None], Executable]
"""Opens a model file: path, signature, target text, and sizes to fix at load (``None``: all stay dynamic)."""


def load_artifact(path: Path | str, *, opener: Opener) -> Artifact:
    """Load an artifact folder: every file is hashed before any is opened, then it runs like a function.

    Args:
        path: the folder.
        opener: from a target text to a runtime.

    Raises:
        ArtifactError: not an artifact, damaged, or of an unknown version; names the file.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    return Artifact(folder, manifest, opener)


@final
class Artifact:
    """A model that was packed; call it with arrays. Made by ``load_artifact``.

    >>> small = gossamer.load("small/")        # doctest: +SKIP
    >>> small(images)                          # array (batch, classes), or a dict if there are several outputs

    Attributes:
        folder: where it lies.
        manifest: what it holds.
    """

    def __init__(self, folder: Path, manifest: Manifest, opener: Opener) -> None:
        self.folder = folder
        self.manifest = manifest
        self._opener = opener
        self._executable: Executable | None = None

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.manifest.name

    @property
    def signature(self) -> Signature:
        """Inputs, outputs and named dims."""
        return self.manifest.signature

    @property
    def digest(self) -> Digest:
        """Identity of the content; evidence does not count, since it is measured."""
        return self.manifest.digest

    @property
    def size_bytes(self) -> int:
        """Bytes of the deployed files: what ``size`` counts."""
        return self.manifest.role_bytes("deploy")

    @cached_property
    def recipe(self) -> str:
        """TOML text that replays the compression."""
        return self._read(RECIPE_FILE).decode("utf-8")

    @cached_property
    def evidence(self) -> dict[str, Any]:
        """Groups of the evidence file: parity, certificates, measurements and their conditions.

        Raises:
            ArtifactError: it is not JSON, or belongs to another artifact.
        """
        doing = f"reading the evidence of {self.folder}"
        try:
            evidence = json.loads(self._read(EVIDENCE_FILE))
            claimed = {key: evidence["identity"][key] for key in identity_of(self.manifest)}
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            got = f"{type(error).__name__}: {error!s:.200}"
            raise ArtifactError(doing, got=got, expected="JSON with an identity group") from error
        if claimed != identity_of(self.manifest):
            got = "evidence of another artifact, or of another version"
            raise ArtifactError(doing, got=got, expected=f"evidence of artifact {self.digest}")
        return evidence

    @cached_property
    def golden(self) -> Golden | None:
        """Inputs with reference outputs, if the artifact has them."""
        return read_golden(self.folder / GOLDEN_FILE) if GOLDEN_FILE in self.manifest.files else None

    def deploy_file(self, target: str | None = None) -> Path:
        """Path of the model file for a target: a plain file for any stack that reads its format.

        Args:
            target: ``onnxruntime:cpu``, ``onnxruntime`` or the folder's name; the only one if ``None``.

        Raises:
            UnknownName: not packed for this target.
            OptionError: packed for several, and none given.
        """
        return self.folder / self.manifest.deploy_path(self._folder_name(target))

    def open(self, target: str | None = None, *, dims: Mapping[str, int] | None = None) -> Executable:
        """A session of its own, which the caller closes.

        Args:
            target: as for ``deploy_file``; options in it (``onnxruntime:cpu,threads=4``) replace the packed ones.
            dims: sizes to fix; a session for one batch size can be faster, and takes this size only.
        """
        folder_name = self._folder_name(target)
        text = target if target and "," in target else self.manifest.targets[folder_name].target
        path = self.folder / self.manifest.deploy_path(folder_name)
        return self._opener(path, self.signature, text, dims)

    def __call__(self, *args: Any, **kwargs: Any) -> np.ndarray | dict[str, np.ndarray]:
        """Run the model on arrays by position, by name, or in one mapping; any batch size in the declared range.

        Returns:
            The output; a dict by name where there are several.

        Raises:
            DataError: the arrays do not fit the signature.
        """
        inputs = self.signature.bind(*args, **kwargs)
        if self._executable is None:
            self._executable = self.open()
        outputs = self._executable.run(inputs)
        return outputs if len(self.signature.outputs) != 1 else outputs[self.signature.outputs[0].name]

    def verify_integrity(self) -> None:
        """Hash every file again, and check that the evidence speaks of this artifact.

        This finds damage. It does not prove who wrote the artifact: whoever can change a file can change the manifest.

        Raises:
            ArtifactError: something changed since loading; names it.
        """
        if read_manifest(self.folder) != self.manifest:
            got = "another manifest than when it was loaded"
            raise ArtifactError(f"checking the artifact {self.folder}", got=got, try_="load it again")
        check_files(self.folder, self.manifest)
        _ = self.evidence, self.golden

    def close(self) -> None:
        """Give the session's memory back; a later call opens it again."""
        if self._executable is not None:
            self._executable.close()
            self._executable = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        targets = ", ".join(sorted(self.manifest.targets))
        return f"<Artifact {self.name}: {targets}, {format_amount(self.size_bytes, 'B')}, {self.digest[:12]}>"

    def __str__(self) -> str:
        specs = self.signature
        lines = [
            f"{self.name}  {self.digest[:12]}  {format_amount(self.size_bytes, 'B')}  {self.folder}",
            f"  {'; '.join(map(str, specs.inputs))} -> {'; '.join(map(str, specs.outputs))}",
        ]
        lines += [f"  {entry.target}  {entry.precision}" for _, entry in sorted(self.manifest.targets.items())]
        return "\n".join(lines)

    def _folder_name(self, target: str | None) -> str:
        targets = self.manifest.targets
        if target is None:
            if len(targets) == 1:
                return next(iter(targets))
            got, expected = "no target", f"one of: {', '.join(sorted(targets))}"
            raise OptionError(f"choosing a file of {self.folder}", got=got, expected=expected)
        runtime, _, device = target.partition(",")[0].strip().partition(":")
        name = runtime if runtime in targets else f"{runtime}-{device or 'cpu'}"
        require_known(name, targets, "target", f"choosing a file of {self.folder}")
        return name

    def _read(self, path: str) -> bytes:
        try:
            return (self.folder / path).read_bytes()
        except OSError as error:
            raise ArtifactError(f"reading {path} of {self.folder}", got=str(error)) from error
