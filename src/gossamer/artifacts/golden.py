"""Golden data: inputs and the outputs that the reference gave for them, to be replayed on any machine."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gossamer.core.errors import ArtifactError, InternalError

_SIDES = ("inputs", "outputs")


@dataclass(frozen=True, eq=False)
class Golden:
    """Arrays by name. Inputs are synthetic unless the user chose to store samples."""

    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]


def golden_bytes(golden: Golden) -> bytes:
    """An uncompressed ``.npz`` with entries ``inputs/<name>`` and ``outputs/<name>``; equal arrays give equal bytes."""
    arrays: dict[str, np.ndarray] = {}
    for side, named in zip(_SIDES, (golden.inputs, golden.outputs), strict=True):
        for name in sorted(named):
            array = np.array(named[name], order="C")  # a transposed array would be stored in another order
            if array.dtype.kind not in "biufc":
                got = f"{side[:-1]} {name!r} of dtype {array.dtype}"
                raise InternalError("packing golden data", got=got, expected="numbers")
            arrays[f"{side}/{name}"] = array
    content = io.BytesIO()
    np.savez(content, **arrays)  # pyright: ignore[reportArgumentType] - the keys hold a slash, so none is an option
    return content.getvalue()


def read_golden(path: Path) -> Golden:
    """Read a golden file without unpickling or unpacking anything.

    Raises:
        ArtifactError: it is damaged, compressed (it might unpack to any size), or holds something else.
    """
    doing = f"reading the golden data {path}"
    sides: dict[str, dict[str, np.ndarray]] = {side: {} for side in _SIDES}
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
        if packed:
            raise ArtifactError(doing, got=f"{packed[0]!r:.80}, compressed", expected="arrays stored as they are")
        with np.load(path, allow_pickle=False) as stored:
            for key in stored.files:
                side, _, name = key.partition("/")
                sides[side][name] = stored[key]
    except (OSError, ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        if isinstance(error, ArtifactError):
            raise
        got = f"{type(error).__name__}: {error!s:.200}"
        raise ArtifactError(doing, got=got, expected="arrays named inputs/... and outputs/...") from error
    return Golden(sides["inputs"], sides["outputs"])
