"""Content digests: the identity of programs, data and artifacts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

Digest = str
"""Sixty-four hexadecimal digits of SHA-256. Two things with one digest have the same content."""


def canonical_json(value: Any) -> str:
    """JSON text with sorted keys and no spare blanks: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest_bytes(*parts: bytes) -> Digest:
    """Digest of several byte strings; where one ends and the next begins counts."""
    hasher = hashlib.sha256()
    for part in parts:
        hasher.update(len(part).to_bytes(8, "little"))
        hasher.update(part)
    return hasher.hexdigest()


def digest_json(value: Any) -> Digest:
    """Digest of a JSON value, whatever the order of its keys."""
    return digest_bytes(canonical_json(value).encode())


def digest_arrays(arrays: Mapping[str, np.ndarray]) -> Digest:
    """Digest of named arrays: names, dtypes, shapes and bytes, whatever the order of the mapping."""
    parts: list[bytes] = []
    for name in sorted(arrays):
        array = np.asarray(arrays[name])  # ascontiguousarray would make (1,) of a scalar's ()
        parts += [f"{name}:{array.dtype.str}:{array.shape}".encode(), array.tobytes()]
    return digest_bytes(*parts)
