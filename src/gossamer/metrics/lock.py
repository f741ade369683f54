"""One measurement at a time: a lock that all gossamer processes of a user on a machine share.

Two measurements at the same time measure each other. The lock is a file ``gossamer-measuring-UID.lock`` in the folder
for temporary files, held with ``flock``: the kernel gives it back when its holder ends, however that happens. Processes
with another ``TMPDIR`` or of another user, and systems without ``flock`` (Windows), do not take part.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from gossamer.core.errors import OptionError
from gossamer.core.progress import Progress, Silent

_HERE = threading.RLock()
"""Threads of one process: flock does not keep them apart, and would shut a thread out of what it holds itself."""

_HELD: list[IO[str]] = []
"""The locked file, while this process holds it."""

_POLL_S = 0.1


def lock_path() -> Path:
    """The file that is locked."""
    user = os.getuid() if hasattr(os, "getuid") else "all"
    return Path(tempfile.gettempdir()) / f"gossamer-measuring-{user}.lock"


@contextmanager
def measuring_alone(progress: Progress | None = None) -> Iterator[None]:
    """Wait until nobody else measures, and keep others from it; a thread that has the lock may take it again.

    Args:
        progress: is told who is waited for.

    Raises:
        OptionError: the file cannot be opened.
    """
    with _HERE:
        if _HELD or sys.platform == "win32":
            yield
            return
        with _open() as file:
            _wait(file, progress or Silent())
            _HELD.append(file)
            try:
                yield
            finally:
                _HELD.pop()


def holder() -> str:
    """Who measures now, as ``pid 12 (gossamer bench small/)``; empty if nobody does, or where nobody can tell."""
    if sys.platform == "win32":
        return ""
    if _HELD:
        return f"pid {os.getpid()}, this process"
    with _open() as file:
        return "" if _try(file) else _note(file)


def _open() -> IO[str]:
    path = lock_path()
    try:
        return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600), "r+")
    except OSError as error:
        raise OptionError(
            f"opening the lock of measurements {path}",
            got=str(error),
            expected="a file of your own in the folder for temporary files",
            try_="set TMPDIR to a folder that you can write to",
        ) from error


def _wait(file: IO[str], progress: Progress) -> None:
    told = None
    while not _try(file):
        note = _note(file)
        if note != told:
            progress.stage(f"waiting for another measurement: {note}")
            told = note
        time.sleep(_POLL_S)
    if told is not None:
        progress.stage("measuring")
    file.seek(0)
    file.truncate()
    file.write(f"pid {os.getpid()} ({' '.join(sys.argv)[:80]})")
    file.flush()


def _try(file: IO[str]) -> bool:
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _note(file: IO[str]) -> str:
    file.seek(0)
    return file.read().strip() or "of unknown name"
