"""Bytes on disk."""

from __future__ import annotations

from pathlib import Path

from gossamer.core.errors import ArtifactError


def folder_bytes(path: Path) -> int:
    """Sum of the sizes of all files below ``path``, or the size of the file it is. Links are not followed.

    Raises:
        ArtifactError: there is nothing at ``path``.
    """
    if path.is_file():
        return path.stat().st_size
    if not path.is_dir():
        raise ArtifactError(f"measuring the size of {path}", got="nothing there", expected="a file or a folder")
    return sum(entry.lstat().st_size for entry in path.rglob("*") if entry.is_file() and not entry.is_symlink())
