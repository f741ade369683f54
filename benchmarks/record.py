"""What a file of results says about the run behind it."""

from __future__ import annotations

import datetime
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gossamer.metrics.conditions import machine_fingerprint


def conditions(libraries: Sequence[str], **more: Any) -> dict[str, Any]:
    """Where, when and from which commit the figures come, with versions of the libraries, and more."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "uncommitted_files": len((_git("status", "--porcelain") or "").splitlines()),
        "machine": machine_fingerprint(libraries=("gossamer", *libraries)),
        **more,
    }


def commit() -> str | None:
    """The commit that is checked out, or None outside of a repository."""
    return _git("rev-parse", "HEAD")


def _git(*arguments: str) -> str | None:
    """Output of a reading git command in this repository, or None outside of one."""
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None
