"""Latency of an executable, and the interleaved comparison of two, in one process.

Time is read from a clock that is passed in, so that the protocol itself can be tested on simulated time.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from gossamer.core.errors import DataError, OptionError
from gossamer.core.measurement import Measurement
from gossamer.core.runnable import Executable
from gossamer.metrics.comparison import (
    UNFIT_RESOLUTION,
    Comparison,
    hierarchical_interval,
    largest_difference,
    load_interval,
    speed_word,
)
from gossamer.metrics.conditions import involuntary_switches
from gossamer.metrics.student import t_quantile

Inputs = Mapping[str, np.ndarray]
Clock = Callable[[], int]
"""Monotonic time in nanoseconds."""

MIN_CALLS: Mapping[int, int] = {50: 3, 90: 100, 95: 200, 99: 1000}
"""A percentile of fewer calls is refused: about ten calls should lie beyond it."""

_FEW_CALLS = 10
_FEW_INPUTS = 8
_FLAGGED_SHARE = 0.2
_DRIFT = 0.10


@dataclass(frozen=True)
class _Plan:
    loads: int
    rounds: int
    leg_ms: float
    warmup_ms: float
    clock: Clock
    switches: Callable[[], int]

    def __post_init__(self) -> None:
        for name, least in (("loads", 2), ("rounds", 1), ("leg_ms", 0), ("warmup_ms", 0)):
            if getattr(self, name) < least:
                raise OptionError(
                    "planning a latency comparison", got=f"{name}={getattr(self, name)}", expected=f">= {least}"
                )


@dataclass(frozen=True)
class _Trace:
    """What an interleaved run recorded.

    Attributes:
        legs_ms: median call of every leg, shape (loads, rounds, side, leg): sides a and b, two legs each in a round.
        calls_ms: by side and load, all timed calls.
        switches: involuntary context switches in each round, shape (loads, rounds).
    """

    legs_ms: np.ndarray
    calls_ms: tuple[list[np.ndarray], list[np.ndarray]]
    switches: np.ndarray

    @property
    def log_ratios(self) -> np.ndarray:
        """log(t_a / t_b) of every round, shape (loads, rounds)."""
        logs = np.log(self.legs_ms).mean(axis=3)
        return logs[..., 0] - logs[..., 1]

    @property
    def flagged_rounds(self) -> float:
        """Share of rounds interrupted more than three times as often as the median one."""
        return float(np.mean(self.switches > 3 * max(1.0, float(np.median(self.switches)))))

    @property
    def drift(self) -> float:
        """Relative change of a call's time, both sides together, from the first half of the loads to the second."""
        loads = np.log(self.legs_ms).mean(axis=(2, 3))
        half = len(loads) // 2
        return math.expm1(abs(float(np.median(loads[-half:]) - np.median(loads[:half]))))


def measure_latency(
    open_executable: Callable[[], Executable],
    inputs: Sequence[Inputs],
    *,
    duration_ms: float = 1000.0,
    warmup_ms: float = 3000.0,
    batch: int = 1,
    clock: Clock = time.perf_counter_ns,
    conditions: Mapping[str, Any] | None = None,
) -> tuple[Measurement, ...]:
    """Latency percentiles, mean and throughput of one fresh load, back to back calls.

    Its intervals describe this load only: memory placement and code alignment differ per load, so two results of this
    function are not a comparison. For that, use ``compare_latency``.

    Args:
        open_executable: opens a fresh one; it is closed before returning.
        inputs: real inputs, prepared beforehand, called in rotation; at least 8, or the result carries a doubt.
        duration_ms: timed calls fill this, and are at least 10 (3 where 10 would take ten times as long).
        warmup_ms: at most this long, and at most 200 calls, are spent before timing.
        batch: samples in one call, for the throughput.
        clock: monotonic nanoseconds.
        conditions: machine, versions, threads; kept in every Measurement.

    Returns:
        ``latency p50``, and p90, p95, p99 where there are 100, 200, 1,000 calls; ``latency mean``; ``throughput``. The
        percentiles refused are listed under ``refused`` in the conditions.
    """
    rotation = _rotation(inputs)
    executable = open_executable()
    try:
        _warm_up(executable, rotation, clock, warmup_ms)
        calls: list[float] = []
        elapsed = 0.0
        while not _enough(len(calls), elapsed, duration_ms):
            calls.append(_call_ms(executable, next(rotation), clock))
            elapsed += calls[-1]
    finally:
        executable.close()
    facts = {"inputs": len(inputs), "clock_overhead_ms": _clock_overhead_ms(clock), **(conditions or {})}
    return _summary([np.array(calls)], batch, facts, _input_doubts(inputs))


def compare_latency(  # noqa: PLR0913 - a measurement protocol has this many settings
    open_a: Callable[[], Executable],
    open_b: Callable[[], Executable],
    inputs: Sequence[Inputs],
    *,
    loads: int = 8,
    rounds: int = 5,
    leg_ms: float = 50.0,
    warmup_ms: float = 3000.0,
    batch: int = 1,
    seed: int = 0,
    resolution: float | None = None,
    clock: Clock = time.perf_counter_ns,
    switches: Callable[[], int] = involuntary_switches,
    conditions: Mapping[str, Any] | None = None,
) -> Comparison:
    """Compare the speed of two executables: is b faster than a?

    Per fresh load of both, ``rounds`` rounds of A B B A or B A A B by seeded coin. A leg is as many calls as fill
    ``leg_ms``, at least 10, fewer (but 3) where these would take ten times ``leg_ms``; its summary is its median. A
    load gives the median over its rounds of log(t_a / t_b), and Student's t over loads gives the interval. Before that,
    unless ``resolution`` is given, the same with a on both sides tells what the machine can resolve.

    Cost: 4 * loads * rounds * leg_ms, 8 s at the defaults, twice with the probe, and 4 * loads loads and warm-ups.

    Args:
        open_a: opens the baseline; called once a load, and twice a load for the probe. Everything opened is closed.
        open_b: opens the candidate.
        inputs: real inputs of the same shapes for both, called in rotation.
        loads: fresh loads of each, at least 2.
        rounds: rounds in a load.
        leg_ms: length of a leg.
        warmup_ms: at most this long, and at most 200 calls, are spent before timing each load.
        batch: samples in one call, for the throughput.
        seed: of the coins and of the bootstrap.
        resolution: of an earlier probe in the same conditions (``Comparison.resolution``); skips the probe.
        clock: monotonic nanoseconds.
        switches: count of involuntary context switches so far.
        conditions: machine, versions, threads; kept in the result.
    """
    plan = _Plan(loads, rounds, leg_ms, warmup_ms, clock, switches)
    _rotation(inputs)
    rng = np.random.default_rng(seed)
    facts = {"inputs": len(inputs), "leg_ms": leg_ms, "rounds": rounds, "seed": seed, **(conditions or {})}
    if resolution is None:
        _, probe = load_interval(_interleave(open_a, open_a, inputs, plan, rng).log_ratios)
        resolution = math.expm1(max(abs(math.log(bound)) for bound in probe))
    trace = _interleave(open_a, open_b, inputs, plan, rng)
    speedup, interval = load_interval(trace.log_ratios)
    doubts = (*_input_doubts(inputs), *_trace_doubts(trace, resolution))
    return Comparison(
        speedup=speedup,
        interval=interval,
        bootstrap_interval=hierarchical_interval(trace.log_ratios, rng),
        resolution=resolution,
        word=speed_word(speedup, interval, resolution),
        within=largest_difference(interval, resolution),
        n=loads,
        a=_summary(trace.calls_ms[0], batch, facts, doubts),
        b=_summary(trace.calls_ms[1], batch, facts, doubts),
        flagged_rounds=trace.flagged_rounds,
        doubts=doubts,
        conditions=facts,
    )


def percentile(calls_ms: np.ndarray, rank: int) -> tuple[float, tuple[float, float]]:
    """A percentile and its 95 % interval from order statistics, which assumes nothing about the distribution.

    Raises:
        DataError: too few calls for this percentile; it is refused, not extrapolated.
    """
    n = len(calls_ms)
    if n < MIN_CALLS[rank]:
        raise DataError(f"computing latency p{rank}", got=f"{n} calls", expected=f"at least {MIN_CALLS[rank]}")
    ordered = np.sort(calls_ms)
    share = rank / 100
    reach = 1.96 * math.sqrt(n * share * (1 - share))
    low, high = max(math.floor(n * share - reach) - 1, 0), min(math.ceil(n * share + reach), n - 1)
    return float(np.quantile(ordered, share)), (float(ordered[low]), float(ordered[high]))


def _interleave(
    open_a: Callable[[], Executable],
    open_b: Callable[[], Executable],
    inputs: Sequence[Inputs],
    plan: _Plan,
    rng: np.random.Generator,
) -> _Trace:
    """All loads and rounds of one comparison."""
    legs = np.empty((plan.loads, plan.rounds, 2, 2))
    switches = np.empty((plan.loads, plan.rounds))
    calls: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for load in range(plan.loads):
        with ExitStack() as stack:
            sides: list[Executable] = []
            for opener in (open_a, open_b):
                executable = opener()
                stack.callback(executable.close)
                sides.append(executable)
            rotations = [_rotation(inputs) for _ in sides]
            counts = [
                _calls_in_leg(_warm_up(side, rotation, plan.clock, plan.warmup_ms), plan.leg_ms)
                for side, rotation in zip(sides, rotations, strict=True)
            ]
            gathered: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
            for turn in range(plan.rounds):
                before = plan.switches()
                seen = [0, 0]
                for side in (0, 1, 1, 0) if rng.random() < 0.5 else (1, 0, 0, 1):
                    leg = np.array(
                        [_call_ms(sides[side], next(rotations[side]), plan.clock) for _ in range(counts[side])]
                    )
                    legs[load, turn, side, seen[side]] = np.median(leg)
                    gathered[side].append(leg)
                    seen[side] += 1
                switches[load, turn] = plan.switches() - before
        for side in (0, 1):
            calls[side].append(np.concatenate(gathered[side]))
    return _Trace(legs, calls, switches)


def _warm_up(executable: Executable, rotation: Iterator[Inputs], clock: Clock, limit_ms: float) -> float:
    """Call until the median of the last 5 windows of 10 calls changes by less than 2 %; returns ms of a call.

    Ends after 200 calls or ``limit_ms``, whichever is first, and always makes one call.
    """
    times: list[float] = []
    medians: list[float] = []
    previous = math.inf
    elapsed = 0.0
    while len(times) < 200 and (not times or elapsed < limit_ms):
        times.append(_call_ms(executable, next(rotation), clock))
        elapsed += times[-1]
        if len(times) % 10:
            continue
        medians.append(float(np.median(times[-10:])))
        current = float(np.median(medians[-5:]))
        if len(medians) > 5 and abs(current - previous) < 0.02 * previous:
            break
        previous = current
    return float(np.median(times[-10:]))


def _call_ms(executable: Executable, inputs: Inputs, clock: Clock) -> float:
    start = clock()
    for array in executable.run(inputs).values():
        if array.size:
            array.item(0)  # a lazy runtime computes when a value is read
    return max(clock() - start, 1) / 1e6


def _calls_in_leg(call_ms: float, leg_ms: float) -> int:
    fill = math.ceil(leg_ms / call_ms)
    return min(max(fill, min(10, int(10 * leg_ms / call_ms)), 3), 1_000_000)


def _enough(calls: int, elapsed_ms: float, duration_ms: float) -> bool:
    return (calls >= _FEW_CALLS and elapsed_ms >= duration_ms) or (calls >= 3 and elapsed_ms >= 10 * duration_ms)


def _summary(
    loads_ms: Sequence[np.ndarray], batch: int, conditions: Mapping[str, Any], doubts: tuple[str, ...]
) -> tuple[Measurement, ...]:
    """Percentiles, mean and throughput of calls grouped by load; with several loads, intervals are t over loads."""
    calls = np.concatenate(loads_ms)
    n = len(calls)
    if n < _FEW_CALLS:
        doubts = (*doubts, f"only {n} calls")
    spread = float(np.subtract(*np.quantile(calls, (0.75, 0.25))) / np.median(calls))
    refused = [f"p{rank}: {n} of {least} calls" for rank, least in MIN_CALLS.items() if n < least]
    facts = {**conditions, "loads": len(loads_ms), **({"refused": refused} if refused else {})}

    def entry(name: str, value: float, interval: tuple[float, float] | None, unit: str = "ms") -> Measurement:
        better = "lower" if unit == "ms" else "higher"
        return Measurement(name, value, unit, better, n, interval, spread, facts, doubts)

    entries = []
    for rank in (rank for rank, least in MIN_CALLS.items() if n >= least):
        value, interval = percentile(calls, rank)
        if len(loads_ms) > 1:
            interval = _t_interval([float(np.quantile(load, rank / 100)) for load in loads_ms])
        entries.append(entry(f"latency p{rank}", value, interval))
    groups = loads_ms if len(loads_ms) > 1 else np.array_split(calls, min(10, n))
    low, high = _t_interval([float(group.mean()) for group in groups])
    mean = float(calls.mean())
    entries.append(entry("latency mean", mean, (low, high)))
    entries.append(entry("throughput", 1e3 * batch / mean, (1e3 * batch / high, 1e3 * batch / low), "samples/s"))
    return tuple(entries)


def _t_interval(values_ms: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the geometric mean of positive values."""
    logs = np.log(values_ms)
    reach = t_quantile(0.975, len(logs) - 1) * float(logs.std(ddof=1)) / math.sqrt(len(logs))
    centre = float(logs.mean())
    return math.exp(centre - reach), math.exp(centre + reach)


def _rotation(inputs: Sequence[Inputs]) -> Iterator[Inputs]:
    if not inputs:
        raise DataError("measuring latency", got="no inputs", expected="at least one, better 8 different ones")
    return itertools.cycle(inputs)


def _input_doubts(inputs: Sequence[Inputs]) -> tuple[str, ...]:
    return (f"only {len(inputs)} inputs in rotation",) if len(inputs) < _FEW_INPUTS else ()


def _clock_overhead_ms(clock: Clock) -> float:
    """Median time between two readings of the clock: what an empty call costs."""
    readings = [clock() for _ in range(101)]
    return float(np.median(np.diff(readings))) / 1e6


def _trace_doubts(trace: _Trace, resolution: float) -> list[str]:
    doubts = []
    if resolution > UNFIT_RESOLUTION:
        doubts.append(f"not-publishable: the same file measured against itself differs by {resolution:.1%}")
    if trace.flagged_rounds > _FLAGGED_SHARE:
        doubts.append(f"{trace.flagged_rounds:.0%} of the rounds were interrupted far more than the median round")
    if trace.drift > _DRIFT:
        doubts.append(f"the machine's speed changed by {trace.drift:.0%} during the comparison")
    return doubts
