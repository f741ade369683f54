"""Writing files so that nothing is ever left half-written."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gossamer.core.errors import OptionError, OutputExists


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: temporary name, fsync, rename."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def require_free(path: Path, *, force: bool, mark: str = "") -> None:
    """Raise if ``path`` is taken and may not be replaced, or cannot be written. Call it before any work starts.

    Args:
        path: where something will be written.
        force: it may replace what is there.
        mark: a file without which even ``force`` replaces no folder, so that a typing error costs nobody another one.

    Raises:
        OutputExists: it is taken.
        OptionError: the folder that it would lie in cannot be written to.
    """
    doing = f"preparing the output folder {path}"
    parent = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise _unwritable(doing, f"{parent}, which is {'not writable' if parent.is_dir() else 'no folder'}")
    if not path.exists():
        return
    if not force:
        raise OutputExists(
            doing,
            got="it is there already",
            expected="a path that does not exist",
            try_="another --out, or --force to replace it",
        )
    if mark and not (path / mark).is_file() and not (path.is_dir() and not any(path.iterdir())):
        raise OutputExists(
            doing,
            got=f"something there that holds no {mark}",
            expected="a free path, or a folder with it to replace",
            try_="another --out, or remove it yourself",
        )


@contextmanager
def new_folder(path: Path, *, force: bool = False) -> Iterator[Path]:
    """A folder that appears under its name only when the block ends well.

    The block writes into a temporary sibling. On any error, Ctrl-C included, the sibling is removed and what was at
    ``path`` before is still there.
    """
    require_free(path, force=force)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
    except OSError as error:  # a full disk, a folder that changed meanwhile
        raise _unwritable(f"preparing the output folder {path}", str(error)) from error
    try:
        yield temporary
        _swap(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unwritable(doing: str, got: str) -> OptionError:
    return OptionError(doing, got=got, expected="a folder that can be written to", try_="another --out")


def _swap(temporary: Path, path: Path) -> None:
    """Move ``temporary`` to ``path``; what was there is set aside first and removed last."""
    if not path.exists():
        temporary.replace(path)
        return
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.old")
    try:
        path.replace(aside)
        temporary.replace(path)
    except BaseException:
        if not path.exists():
            aside.replace(path)
        raise
    if aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside)
    else:
        aside.unlink()
