"""Gaps: what a runtime does not do, said with the exception and the reason, and checked in both directions.

A declared gap must fail as declared. The day it works, the test fails and says which line to delete.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import pytest

from gossamer.core.target import Target
from gossamer.runtimes import installed_version


class Disagreement(AssertionError):
    """A runtime ran something, and gave other values, dtypes or shapes than the reference."""


@dataclass(frozen=True)
class Gap:
    """One thing that a runtime does not do.

    Attributes:
        kind: ``notimpl``: gossamer does not write it yet; ``notyet``: the runtime does not run it; ``never``: it cannot
            be done.
        ops: names of operations, with blanks between: ``aten.eq.Scalar``, ``eq.Scalar``, ``eq`` for all
            overloads, or ``*`` for everything.
        raises: what happens: an error of gossamer's, or ``Disagreement`` for wrong results.
        reason: in a few words, for the support table.
        notes: only for forms whose note matches this glob; by default all of them.
        dtypes: only for these dtypes, with blanks between; by default all of them.
    """

    kind: Literal["notimpl", "notyet", "never"]
    ops: str
    raises: type[Exception] | tuple[type[Exception], ...]
    reason: str
    notes: str = "*"
    dtypes: str = ""

    def covers(self, op: str, note: str = "", dtype: str = "float32") -> bool:
        """Whether this form of an operation, in this dtype, is part of the gap."""
        names = {"*", op, op.removeprefix("aten."), op.split(".")[1] if "." in op else op}
        if self.dtypes and dtype not in self.dtypes.split():
            return False
        return not names.isdisjoint(self.ops.split()) and fnmatchcase(note, self.notes)

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason}"


def gap_of(gaps: Sequence[Gap], op: str, note: str = "", dtype: str = "float32") -> Gap | None:
    """The first gap that covers this form of an operation, if any does."""
    return next((gap for gap in gaps if gap.covers(op, note, dtype)), None)


@contextmanager
def expecting(gap: Gap | None) -> Iterator[None]:
    """The body must fail as the gap says; without a gap it must not fail."""
    if gap is None:
        yield
        return
    try:
        yield
    except gap.raises:
        return
    pytest.fail(f"{gap.ops} works now: take it out of the gap '{gap}'")


def skip_unless_installed(target: Target) -> None:
    """Skip the running test where the runtime of the target is an extra that is not there."""
    if target.facts.extra and installed_version(target.runtime).startswith("no:"):
        pytest.skip(f"{target.runtime} is not installed")
