"""What the kernel counts about this process. Light to import: measured processes do."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

_STATUS = Path("/proc/self/status")
_TASKS = Path("/proc/self/task")


def involuntary_switches() -> int:
    """Times the system took the core away from this process since it began; 0 where it does not say (Windows)."""
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def peak_rss_bytes() -> int:
    """High-water mark of this process's resident memory; 0 where the system does not say (Windows)."""
    # Linux hands getrusage's mark on through exec: a child of a process that once held 1 GB starts with 1 GB.
    # VmHWM belongs to the address space, and so starts anew.
    if _STATUS.exists():
        found = re.search(r"^VmHWM:\s+(\d+) kB$", _STATUS.read_text(encoding="ascii", errors="replace"), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def thread_times_ns() -> dict[int, int]:
    """Time that each thread of this process has had a core, by its number; empty where the system does not say.

    The kernel brings the caller's own figure up to date only now and then, so that one comes from its clock.
    """
    times = {}
    for task in _TASKS.iterdir() if _TASKS.exists() else ():
        try:
            times[int(task.name)] = int((task / "schedstat").read_text(encoding="ascii").split()[0])
        except (OSError, ValueError):  # it ended meanwhile, or the kernel keeps no such figures
            continue
    return {**times, threading.get_native_id(): time.thread_time_ns()} if times else {}


def busy_threads(before: Mapping[int, int], after: Mapping[int, int]) -> int | None:
    """Threads that worked between two readings of ``thread_times_ns``: at least a tenth as long as the busiest."""
    worked = [now - before.get(thread, 0) for thread, now in after.items()]
    return sum(one >= 0.1 * max(worked) for one in worked) if worked else None
