"""What the measurement protocols time: something that warms up and runs legs of calls.

``LocalContestant`` runs in this process, on a clock that is passed in; a measured process holds one, and tests hold
several on simulated time. ``gossamer.metrics.process.WorkerProcess`` is the same thing at the other end of a pipe.
"""

from __future__ import annotations

import gc
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final

import numpy as np

from gossamer.core.errors import DataError
from gossamer.core.runnable import Executable
from gossamer.metrics.counters import busy_threads, involuntary_switches, thread_times_ns

Inputs = Mapping[str, np.ndarray]
Clock = Callable[[], int]
"""Monotonic time in nanoseconds."""

_SPIN_MS = 1.0
"""Before a scheduled arrival the clock is watched this long: sleeping overshoots by up to a scheduler tick."""


@dataclass(frozen=True)
class Leg:
    """Calls back to back.

    Attributes:
        calls_ms: time of each, shape (calls,).
        switches: involuntary context switches of the process meanwhile.
    """

    calls_ms: np.ndarray
    switches: int


@dataclass(frozen=True)
class Served:
    """Calls made for requests that arrived on a schedule, one after the other; ms since the schedule began.

    Attributes:
        arrivals_ms: when each should have begun, shape (requests,).
        starts_ms: when it began: never before its arrival, and not before the one before it was done.
        ends_ms: when its outputs were there.
    """

    arrivals_ms: np.ndarray
    starts_ms: np.ndarray
    ends_ms: np.ndarray


class Contestant(Protocol):
    """A loaded model whose calls can be timed."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the run should remember: inputs in rotation, threads that worked, cores."""
        ...

    def open(self) -> None:
        """Load; before anything else."""
        ...

    def warm_up(self, limit_ms: float) -> float:
        """Call until the times are steady, at most ``limit_ms`` and 200 calls; ms of a call."""
        ...

    def leg(self, calls: int) -> Leg:
        """So many calls back to back."""
        ...

    def serve(self, arrivals_ms: np.ndarray) -> Served:
        """One call an arrival, in order, never before it."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...


@final
class LocalContestant:
    """An executable in this process.

    Args:
        open_executable: opens a fresh one.
        inputs: prepared beforehand, called in rotation.
        clock: monotonic nanoseconds.
        switches: count of involuntary context switches so far.
        sleep: waits so many seconds.

    Raises:
        DataError: no inputs.
    """

    def __init__(
        self,
        open_executable: Callable[[], Executable],
        inputs: Sequence[Inputs],
        *,
        clock: Clock = time.perf_counter_ns,
        switches: Callable[[], int] = involuntary_switches,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not inputs:
            raise DataError("measuring latency", got="no inputs", expected="at least one, better 8 different ones")
        self._open = open_executable
        self._rotation = itertools.cycle(inputs)
        self._clock, self._switches, self._sleep = clock, switches, sleep
        self._executable: Executable | None = None
        self.facts: dict[str, Any] = {"inputs": len(inputs), "clock_overhead_ms": _clock_overhead_ms(clock)}

    def open(self) -> None:
        """Load the model."""
        self._executable = self._open()

    def warm_up(self, limit_ms: float) -> float:
        """Call until the median of the last 5 windows of 10 calls changes by less than 2 %; ms of a call.

        Ends after 200 calls or ``limit_ms``, whichever is first, and always makes one call.
        """
        before = thread_times_ns()
        times: list[float] = []
        medians: list[float] = []
        previous = math.inf
        elapsed = 0.0
        while len(times) < 200 and (not times or elapsed < limit_ms):
            times.append(self._call_ms())
            elapsed += times[-1]
            if len(times) % 10:
                continue
            medians.append(float(np.median(times[-10:])))
            current = float(np.median(medians[-5:]))
            if len(medians) > 5 and abs(current - previous) < 0.02 * previous:
                break
            previous = current
        self.facts["threads_busy"] = busy_threads(before, thread_times_ns())
        return float(np.median(times[-10:]))

    def leg(self, calls: int) -> Leg:
        """Time so many calls; the garbage collector waits."""
        collecting = gc.isenabled()
        gc.disable()
        try:
            before = self._switches()
            times = np.array([self._call_ms() for _ in range(calls)])
            return Leg(times, self._switches() - before)
        finally:
            if collecting:
                gc.enable()

    def serve(self, arrivals_ms: np.ndarray) -> Served:
        """Call at each arrival, or as soon as the call before it is done."""
        starts, ends = np.empty(len(arrivals_ms)), np.empty(len(arrivals_ms))
        origin = self._clock()
        for index, arrival in enumerate(arrivals_ms):
            while (left := arrival - (self._clock() - origin) / 1e6) > 0:
                self._sleep(max(left - _SPIN_MS, 0) / 1e3)
            starts[index] = (self._clock() - origin) / 1e6
            self._call_ms()
            ends[index] = (self._clock() - origin) / 1e6
        return Served(arrivals_ms, starts, ends)

    def close(self) -> None:
        """Close the executable, if it was opened."""
        if self._executable is not None:
            self._executable.close()
            self._executable = None

    def _call_ms(self) -> float:
        assert self._executable is not None, "open() comes first"
        inputs = next(self._rotation)
        start = self._clock()
        for array in self._executable.run(inputs).values():
            if array.size:
                array.item(0)  # a lazy runtime computes when a value is read
        return max(self._clock() - start, 1) / 1e6


def calls_in_leg(call_ms: float, leg_ms: float) -> int:
    """As many calls as fill the leg, at least 10; fewer, but 3, where 10 would take ten times as long."""
    fill = math.ceil(leg_ms / call_ms)
    return min(max(fill, min(10, int(10 * leg_ms / call_ms)), 3), 1_000_000)


def _clock_overhead_ms(clock: Clock) -> float:
    """Median time between two readings of the clock: what an empty call costs."""
    readings = [clock() for _ in range(101)]
    return float(np.median(np.diff(readings))) / 1e6
