"""Latency of one subject, and the comparison of two: is b faster than a?

Every load is a fresh process, pinned; nobody else measures meanwhile. The statistics are in ``interleave`` and
``comparison``, the processes in ``process``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gossamer.core.errors import DataError
from gossamer.core.measurement import Measurement
from gossamer.core.progress import Progress
from gossamer.metrics.comparison import (
    Comparison,
    hierarchical_interval,
    largest_difference,
    load_interval,
    speed_word,
)
from gossamer.metrics.conditions import Contention, contention, contention_doubts, contention_record
from gossamer.metrics.contestant import calls_in_leg
from gossamer.metrics.interleave import Finding, Plan, Start, compare_contestants
from gossamer.metrics.process import measuring
from gossamer.metrics.student import t_quantile
from gossamer.metrics.subject import Subject

MIN_CALLS: Mapping[int, int] = {50: 3, 90: 100, 95: 200, 99: 1000}
"""A percentile of fewer calls is refused: about ten calls should lie beyond it."""

_FEW_CALLS = 10
_FEW_INPUTS = 8
_DRIFT = 0.10


def measure_latency(
    subject: Subject,
    *,
    duration_ms: float = 1000.0,
    warmup_ms: float = 3000.0,
    batch: int = 1,
    conditions: Mapping[str, Any] | None = None,
    doubts: Sequence[str] = (),
    progress: Progress | None = None,
) -> tuple[Measurement, ...]:
    """Latency percentiles, mean and throughput of one fresh process, back to back calls.

    Its intervals describe this load only: memory placement and code alignment differ per load, so two results of this
    function are not a comparison. For that, use ``compare_latency``.

    Args:
        subject: what to measure; at least 8 inputs in rotation, or the result carries a doubt.
        duration_ms: timed calls fill this, and are at least 10 (3 where 10 would take ten times as long).
        warmup_ms: at most this long, and at most 200 calls, are spent before timing.
        batch: samples in one call, for the throughput.
        conditions: facts of the environment: machine, versions, target; kept in every Measurement.
        doubts: what already speaks against the figures.
        progress: is told who is waited for.

    Returns:
        ``latency p50``, and p90, p95, p99 where there are 100, 200, 1,000 calls; ``latency mean``; ``throughput``. The
        percentiles refused are listed under ``refused`` in the conditions.
    """
    with measuring([subject], conditions or {}, progress) as (start, facts):
        calls, seen = time_calls(lambda: start(subject), duration_ms, warmup_ms)
    half = len(calls) // 2
    drift = math.expm1(abs(math.log(float(np.median(calls[half:])) / float(np.median(calls[:half])))))
    moved = [f"a call's time changed by {drift:.0%} while it was measured"] if drift > _DRIFT else []
    return summarize([calls], batch, {**facts, "worker": seen}, (*doubts, *_worker_doubts(seen, facts), *moved))


def compare_latency(  # noqa: PLR0913 - a measurement protocol has this many settings
    a: Subject,
    b: Subject,
    *,
    loads: int | None = None,
    rounds: int = 5,
    leg_ms: float = 50.0,
    warmup_ms: float = 3000.0,
    batch: int = 1,
    seed: int = 0,
    resolution: float | None = None,
    conditions: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Compare the speed of two subjects: is b faster than a?

    A load is a fresh process of each, pinned to the same cores, of which one runs while the other waits. In it,
    ``rounds`` rounds of A B B A or B A A B by seeded coin. A leg is as many calls as fill ``leg_ms``, at least 10,
    fewer (but 3) where these would take ten times ``leg_ms``; its summary is its median. A load gives the median over
    its rounds of log(t_a / t_b), and Student's t over loads gives the interval. Before that, unless ``resolution`` is
    given, the same with a on both sides tells what the machine can resolve.

    Cost of 8 loads: 4 * loads * rounds * leg_ms, 8 s at the defaults, twice with the probe, and 4 * loads processes.

    Args:
        a: the baseline.
        b: the candidate, with as many threads, and inputs of the same shapes.
        loads: fresh loads of each, at least 2. By default looks after 8, 16 and 32, each with a third of the error,
            until the word is decided or the interval's half-width below 1 %.
        rounds: rounds in a load.
        leg_ms: length of a leg.
        warmup_ms: at most this long, and at most 200 calls, are spent before timing each load.
        batch: samples in one call, for the throughput.
        seed: of the coins and of the bootstrap.
        resolution: of an earlier probe in the same conditions (``Comparison.resolution``); skips the probe.
        conditions: facts of the environment: machine, versions, target; kept in the result.
        progress: is told every load, and who is waited for.

    Raises:
        OptionError: a setting that gives no interval, or subjects that differ in threads.
        ModelError: a process failed or took too long; an error of gossamer in it is raised as what it is.
    """
    plan = Plan(loads, rounds, leg_ms, warmup_ms, seed)
    with measuring([a, b], conditions or {}, progress) as (start, facts):
        return compare_started(
            lambda: start(a), lambda: start(b), plan, batch=batch, resolution=resolution, facts=facts, progress=progress
        )


def compare_started(  # noqa: PLR0913 - as compare_latency
    a: Start,
    b: Start,
    plan: Plan,
    *,
    batch: int = 1,
    resolution: float | None = None,
    facts: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    watch: Callable[[], Contention] = contention,
) -> Comparison:
    """``compare_latency`` for contestants of any kind: simulated ones in tests.

    Args:
        a: gives a fresh contestant of the baseline.
        b: the same of the candidate.
        plan: settings.
        batch: samples in one call.
        resolution: of an earlier probe.
        facts: kept in the result.
        progress: is told every load.
        watch: takes a snapshot of the machine.
    """
    rng = np.random.default_rng(plan.seed)
    found = compare_contestants(a, b, plan, rng, resolution=resolution, progress=progress, watch=watch)
    trace = found.trace
    speedup, interval = load_interval(trace.log_ratios, plan.confidence)
    conditions = {**(facts or {}), **_run_facts(plan, found)}
    of_workers = [doubt for side in trace.facts for doubt in _worker_doubts(side, conditions)]
    doubts = tuple(dict.fromkeys([*of_workers, *contention_doubts(found.snapshots), *found.instabilities]))
    return Comparison(
        speedup=speedup,
        interval=interval,
        bootstrap_interval=hierarchical_interval(trace.log_ratios, rng, confidence=plan.confidence),
        resolution=found.resolution,
        word="unstable" if found.instabilities else speed_word(speedup, interval, found.resolution),
        within=largest_difference(interval, found.resolution),
        n=len(trace.legs_ms),
        a=summarize(trace.calls_ms[0], batch, conditions, doubts),
        b=summarize(trace.calls_ms[1], batch, conditions, doubts),
        flagged_rounds=trace.flagged_rounds,
        doubts=doubts,
        conditions=conditions,
        quantiles_ms={"a": _quantiles(trace.calls_ms[0]), "b": _quantiles(trace.calls_ms[1])},
    )


def _run_facts(plan: Plan, found: Finding) -> dict[str, Any]:
    """How the comparison went, for its conditions; no part of the environment."""
    return {
        "leg_ms": plan.leg_ms,
        "rounds": plan.rounds,
        "seed": plan.seed,
        "looks": list(plan.looks),
        "confidence": plan.confidence,
        "workers": {"a": found.trace.facts[0], "b": found.trace.facts[1]},
        "contention": contention_record(found.snapshots),
    }


def time_calls(start: Start, duration_ms: float, warmup_ms: float) -> tuple[np.ndarray, dict[str, Any]]:
    """Times of calls back to back in a fresh contestant, ms, and its facts; it is closed before returning."""
    contestant = start()
    try:
        contestant.open()
        call_ms = contestant.warm_up(warmup_ms)
        calls = np.empty(0)
        while not _enough(len(calls), float(calls.sum()), duration_ms):
            calls = np.concatenate([calls, contestant.leg(calls_in_leg(call_ms, duration_ms)).calls_ms])
        return calls, dict(contestant.facts)
    finally:
        contestant.close()


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


def summarize(
    loads_ms: Sequence[np.ndarray], batch: int, conditions: Mapping[str, Any], doubts: tuple[str, ...]
) -> tuple[Measurement, ...]:
    """``latency`` percentiles and mean, and ``throughput``, of calls grouped by load; a load counts once."""
    entries = list(percentiles("latency", loads_ms, conditions, doubts))
    groups = loads_ms if len(loads_ms) > 1 else np.array_split(loads_ms[0], min(10, len(loads_ms[0])))
    mean, (low, high) = geometric_mean([float(group.mean()) for group in groups])
    entries.append(replace(entries[0], name="latency mean", value=mean, interval=(low, high)))
    rate = {"unit": "samples/s", "better": "higher", "interval": (1e3 * batch / high, 1e3 * batch / low)}
    entries.append(replace(entries[0], name="throughput", value=1e3 * batch / mean, **rate))
    return tuple(entries)


def percentiles(
    name: str, loads_ms: Sequence[np.ndarray], conditions: Mapping[str, Any], doubts: tuple[str, ...]
) -> tuple[Measurement, ...]:
    """``name p50``, p90, p95, p99 of times grouped by load, as far as there are enough of them.

    Of one load, with order statistics as the interval; of several, the geometric mean over loads with Student's t, so
    that a load counts once, however many calls were made in it.
    """
    times = np.concatenate(loads_ms)
    n = len(times)
    if n < _FEW_CALLS:
        doubts = (*doubts, f"only {n} calls")
    spread = float(np.subtract(*np.quantile(times, (0.75, 0.25))) / np.median(times))
    refused = [f"p{rank}: {n} of {least} calls" for rank, least in MIN_CALLS.items() if n < least]
    facts = {**conditions, "loads": len(loads_ms), **({"refused": refused} if refused else {})}
    entries = []
    for rank in (rank for rank, least in MIN_CALLS.items() if n >= least):
        value, interval = percentile(times, rank)
        if len(loads_ms) > 1:
            value, interval = geometric_mean([float(np.quantile(load, rank / 100)) for load in loads_ms])
        entries.append(Measurement(f"{name} p{rank}", value, "ms", "lower", n, interval, spread, facts, doubts))
    return tuple(entries)


def geometric_mean(values: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """Geometric mean of positive values and its 95 % interval, Student's t of their logarithms."""
    logs = np.log(values)
    reach = t_quantile(0.975, len(logs) - 1) * float(logs.std(ddof=1)) / math.sqrt(len(logs))
    centre = float(logs.mean())
    return math.exp(centre), (math.exp(centre - reach), math.exp(centre + reach))


def _quantiles(loads_ms: Sequence[np.ndarray]) -> tuple[float, ...]:
    """The 0th to the 100th percentile of all calls, to a nanosecond."""
    return tuple(np.quantile(np.concatenate(loads_ms), np.linspace(0, 1, 101)).round(6).tolist())


def _enough(calls: int, elapsed_ms: float, duration_ms: float) -> bool:
    return (calls >= _FEW_CALLS and elapsed_ms >= duration_ms) or (calls >= 3 and elapsed_ms >= 10 * duration_ms)


def _worker_doubts(seen: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    """What speaks against figures of a contestant that says this of itself."""
    count, busy, asked = seen["inputs"], seen.get("threads_busy"), facts.get("threads")
    doubts = [f"only {count} inputs in rotation"] if count < _FEW_INPUTS else []
    if busy is not None and asked is not None and busy > asked:
        doubts.append(f"{busy} threads worked where {asked} should")
    return doubts
