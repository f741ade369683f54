"""The interleaved comparison: loads, rounds, looks, and what speaks against it. Knows no process and no clock."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from gossamer.core.errors import OptionError
from gossamer.core.progress import Progress, Silent
from gossamer.metrics.comparison import UNFIT_RESOLUTION, load_interval, speed_word
from gossamer.metrics.conditions import Contention, contention
from gossamer.metrics.contestant import Contestant, calls_in_leg

Start = Callable[[], Contestant]
"""Gives a fresh contestant that is not open yet."""

LOOKS = (8, 16, 32)
"""Loads after which the data are looked at, unless the number of loads is fixed; each look has a third of the error."""

ERROR = 0.05
ENOUGH = 0.01
"""Half-width of the interval at which no more loads are added."""

_FLAGGED_SHARE = 0.2
_DRIFT = 0.10
_OUTLIER = math.log(1.5)
"""A leg this far from the median leg of its side and load was disturbed: somebody else had a third of the core."""


@dataclass(frozen=True)
class Plan:
    """Settings of a comparison.

    Attributes:
        loads: fresh loads of each side; ``None`` for looks after 8, 16 and 32.
        rounds: in a load.
        leg_ms: length of a leg.
        warmup_ms: at most this long, and at most 200 calls, before timing each load.
        seed: of the coins and of the bootstrap.
    """

    loads: int | None = None
    rounds: int = 5
    leg_ms: float = 50.0
    warmup_ms: float = 3000.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("loads", 2), ("rounds", 1), ("leg_ms", 0), ("warmup_ms", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise OptionError("planning a latency comparison", got=f"{name}={value}", expected=f">= {least}")

    @property
    def looks(self) -> tuple[int, ...]:
        """Numbers of loads after which the data are looked at."""
        return LOOKS if self.loads is None else (self.loads,)

    @property
    def confidence(self) -> float:
        """Of the interval at each look, so that all looks together err in 5 % of the cases at most."""
        return 1 - ERROR / len(self.looks)


@dataclass(frozen=True)
class Trace:
    """What an interleaved run recorded.

    Attributes:
        legs_ms: median call of every leg, shape (loads, rounds, side, leg): sides a and b, two legs each in a round.
        calls_ms: by side and load, all timed calls.
        switches: involuntary context switches in each round, shape (loads, rounds).
        facts: of each side, from its first load.
    """

    legs_ms: np.ndarray
    calls_ms: tuple[list[np.ndarray], list[np.ndarray]]
    switches: np.ndarray
    facts: tuple[dict[str, Any], dict[str, Any]]

    def __add__(self, later: Trace) -> Trace:
        return Trace(
            np.concatenate([self.legs_ms, later.legs_ms]),
            (self.calls_ms[0] + later.calls_ms[0], self.calls_ms[1] + later.calls_ms[1]),
            np.concatenate([self.switches, later.switches]),
            self.facts,
        )

    @property
    def log_ratios(self) -> np.ndarray:
        """log(t_a / t_b) of every round, shape (loads, rounds)."""
        logs = np.log(self.legs_ms).mean(axis=3)
        return logs[..., 0] - logs[..., 1]

    @property
    def flagged_rounds(self) -> float:
        """Share of rounds interrupted more than three times as often as the median one, or with a disturbed leg."""
        interrupted = self.switches > 3 * max(1.0, float(np.median(self.switches)))
        logs = np.log(self.legs_ms)
        usual = np.median(logs, axis=(1, 3), keepdims=True)
        disturbed = (np.abs(logs - usual) > _OUTLIER).any(axis=(2, 3))
        return float(np.mean(interrupted | disturbed))

    @property
    def drift(self) -> float:
        """Largest relative change of the times of both sides together, from the loads before to those after a point."""
        loads = np.median(np.log(self.legs_ms), axis=(1, 3)).mean(axis=1)
        steps = [float(np.median(loads[k:]) - np.median(loads[:k])) for k in range(1, len(loads))]
        return math.expm1(max(abs(step) for step in steps))

    @property
    def instabilities(self) -> list[str]:
        """Why the run cannot say which side is faster; empty if it can."""
        found = []
        if self.flagged_rounds > _FLAGGED_SHARE:
            found.append(f"{self.flagged_rounds:.0%} of the rounds were disturbed far more than the usual one")
        if self.drift > _DRIFT:
            found.append(f"the machine's speed changed by {self.drift:.0%} during the comparison")
        return found


@dataclass(frozen=True)
class Finding:
    """What the looks at a comparison came to.

    Attributes:
        trace: of the comparison.
        resolution: of the machine, from the A/A probe or as given.
        snapshots: of contention: before, after each load, and so at the end.
        instabilities: why there is no claim; empty if there may be one.
    """

    trace: Trace
    resolution: float
    snapshots: tuple[Contention, ...]
    instabilities: tuple[str, ...]


def compare_contestants(
    a: Start,
    b: Start,
    plan: Plan,
    rng: np.random.Generator,
    *,
    resolution: float | None = None,
    progress: Progress | None = None,
    watch: Callable[[], Contention] = contention,
) -> Finding:
    """Probe with a on both sides, then add loads until the word is decided, the interval narrow, or all looks are done.

    Args:
        a: gives a fresh contestant; once a load, and twice a load for the probe. Everything started is closed.
        b: the same of the candidate.
        plan: settings.
        rng: of the coins.
        resolution: of an earlier probe in the same conditions; skips the probe.
        progress: is told every load.
        watch: takes a snapshot of the machine.
    """
    tell = progress or Silent()
    snapshots = [watch()]
    if resolution is None:
        probe = _run_loads((a, a), plan, rng, plan.looks[0], lambda load: tell.advance(f"A/A load {load}"))
        _, bounds = load_interval(probe.log_ratios)
        resolution = math.expm1(max(abs(math.log(bound)) for bound in bounds))
    trace: Trace | None = None
    for look in plan.looks:
        done = 0 if trace is None else len(trace.legs_ms)

        def watched(load: int, done: int = done) -> None:
            tell.advance(f"load {done + load}")
            snapshots.append(watch())

        new = _run_loads((a, b), plan, rng, look - done, watched)
        trace = new if trace is None else trace + new
        if (
            resolution > UNFIT_RESOLUTION
            or trace.instabilities
            or is_settled(trace.log_ratios, plan.confidence, resolution)
        ):
            break  # more loads would not make an unfit machine fit
    assert trace is not None
    unfit = [f"not-publishable: the same file measured against itself differs by {resolution:.1%}"]
    instabilities = (unfit if resolution > UNFIT_RESOLUTION else []) + trace.instabilities
    return Finding(trace, resolution, tuple(snapshots), tuple(instabilities))


def is_settled(log_ratios: np.ndarray, confidence: float, resolution: float) -> bool:
    """Whether more loads would change nothing: the word is decided, or the interval narrow; ratios (loads, rounds)."""
    speedup, interval = load_interval(log_ratios, confidence)
    narrow = math.log(interval[1] / interval[0]) / 2 < math.log1p(ENOUGH)
    return narrow or speed_word(speedup, interval, resolution) in ("faster", "slower")


def _run_loads(
    starts: tuple[Start, Start], plan: Plan, rng: np.random.Generator, loads: int, done: Callable[[int], None]
) -> Trace:
    """So many fresh loads of both sides; ``done`` is told each one, counted from 1."""
    legs = np.empty((loads, plan.rounds, 2, 2))
    switches = np.empty((loads, plan.rounds))
    calls: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    facts: list[dict[str, Any]] = []
    for load in range(loads):
        with ExitStack() as stack:
            sides: list[Contestant] = []
            for start in starts:
                sides.append(start())
                stack.callback(sides[-1].close)
            for side in sides:
                side.open()
            counts = [calls_in_leg(side.warm_up(plan.warmup_ms), plan.leg_ms) for side in sides]
            gathered: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
            for turn in range(plan.rounds):
                switches[load, turn] = _run_round(sides, counts, rng, legs[load, turn], gathered)
            facts = facts or [dict(side.facts) for side in sides]
        for side in (0, 1):
            calls[side].append(np.concatenate(gathered[side]))
        done(load + 1)
    return Trace(legs, calls, switches, (facts[0], facts[1]))


def _run_round(
    sides: Sequence[Contestant],
    counts: Sequence[int],
    rng: np.random.Generator,
    medians_ms: np.ndarray,
    gathered: tuple[list[np.ndarray], list[np.ndarray]],
) -> int:
    """A B B A or B A A B by coin; fills in the medians (side, leg), gathers the calls, gives the switches."""
    seen, switches = [0, 0], 0
    for side in (0, 1, 1, 0) if rng.random() < 0.5 else (1, 0, 0, 1):
        leg = sides[side].leg(counts[side])
        medians_ms[side, seen[side]] = np.median(leg.calls_ms)
        gathered[side].append(leg.calls_ms)
        seen[side] += 1
        switches += leg.switches
    return switches
