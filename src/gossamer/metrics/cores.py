"""Which cores measured processes run on, and keeping everybody else of this process off them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/")


@dataclass(frozen=True)
class Cores:
    """A division of the allowed logical cores.

    Attributes:
        measured: where measured processes are pinned, one logical core a thread, each on a physical core of its own
            where there are enough; empty where the system cannot pin.
        others: logical cores that share nothing with these; the coordinator stays there, if there are any.
        physical: physical cores allowed, or 0 where unknown.
    """

    measured: tuple[int, ...]
    others: tuple[int, ...]
    physical: int


def choose_cores(threads: int, *, root: Path = _ROOT) -> Cores:
    """Cores for a process of so many threads: the last ones, since the first serve interrupts.

    Args:
        threads: that run at the same time.
        root: where /sys is found; for tests.
    """
    if not hasattr(os, "sched_getaffinity"):
        return Cores((), (), 0)
    allowed = os.sched_getaffinity(0)
    groups = sorted({tuple(sorted(_siblings(core, root) & allowed)) for core in allowed})
    if threads > len(groups):
        return Cores(tuple(sorted(allowed)), (), len(groups))
    taken = groups[-threads:]
    rest = allowed.difference(*taken)
    return Cores(tuple(group[0] for group in taken), tuple(sorted(rest)), len(groups))


@contextmanager
def stay_off(cores: Cores) -> Iterator[None]:
    """Keep the calling thread off the measured cores, where there are others."""
    if not cores.others:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores.others)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def pin(cores: tuple[int, ...]) -> tuple[int, ...]:
    """Pin this process to these cores, where the system can; gives the cores that it may use now."""
    if not hasattr(os, "sched_setaffinity"):
        return ()
    if cores:
        os.sched_setaffinity(0, cores)
    return tuple(sorted(os.sched_getaffinity(0)))


def _siblings(core: int, root: Path) -> set[int]:
    """Logical cores of the physical core that this one belongs to: ``0,4`` or ``0-1`` in the system's own words."""
    path = root / f"sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list"
    try:
        ends = [part.split("-") for part in path.read_text(encoding="ascii").strip().split(",")]
        return {core, *(one for end in ends for one in range(int(end[0]), int(end[-1]) + 1))}
    except (OSError, ValueError):
        return {core}
