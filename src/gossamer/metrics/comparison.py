"""The result of comparing the speed of two executables, and the statistics behind its word."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from gossamer.core.errors import DataError
from gossamer.core.measurement import Measurement
from gossamer.metrics.student import t_quantile

SpeedWord = Literal["faster", "slower", "no measurable difference", "unstable"]
"""``unstable``: the machine was unfit, so there is no claim in any direction."""

UNFIT_RESOLUTION = 0.05
"""A machine on which a file differs this much from itself is unfit: nothing is claimed on it."""

_PASSING = frozenset({
    "environment", "contention", "worker", "workers", "refused",
    "loads", "looks", "confidence", "leg_ms", "rounds", "seed", "utilization",
})  # fmt: skip
"""Conditions that differ from run to run and say nothing about the environment."""


@dataclass(frozen=True)
class Comparison:
    """How fast b is beside a, measured interleaved.

    Attributes:
        speedup: t_a / t_b; above 1 means that b is faster.
        interval: 95 % interval of ``speedup``, Student's t over loads; 98.3 % where up to three looks were planned, so
            that all of them together err in 5 % of the cases at most (``confidence`` in the conditions).
        bootstrap_interval: the same resampling loads, then rounds: wider, stored beside it.
        resolution: largest relative difference that a measured against itself leaves open (0.01 = 1 %).
        word: of b: ``faster`` or ``slower`` only if the interval excludes 1 and the ratio exceeds the resolution;
            ``unstable`` where the machine was unfit: it does not resolve 5 %, or was disturbed, or its speed changed.
        within: with no measurable difference, the relative difference that cannot be excluded.
        n: loads of each side.
        a: latency percentiles, mean and throughput of a, from the same interleaved run.
        b: the same of b.
        flagged_rounds: share of rounds that were interrupted or disturbed far more than the usual one.
        doubts: why the result should not be quoted.
        conditions: machine, versions, threads and cores with their digest (``environment``); settings; what each side
            said of itself (``workers``); how busy the machine was before, during and after (``contention``).
        quantiles_ms: by side, ``a`` and ``b``, the 0th to the 100th percentile of all timed calls: for a picture of
            them, not for claims.
    """

    speedup: float
    interval: tuple[float, float]
    bootstrap_interval: tuple[float, float]
    resolution: float
    word: SpeedWord
    within: float
    n: int
    a: tuple[Measurement, ...]
    b: tuple[Measurement, ...]
    flagged_rounds: float = 0.0
    doubts: tuple[str, ...] = ()
    conditions: Mapping[str, Any] = field(default_factory=dict)
    quantiles_ms: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def publishable(self) -> bool:
        """Whether nothing speaks against quoting the result."""
        return not self.doubts

    def __str__(self) -> str:
        low, high = self.interval
        within = f"no measurable difference within {self.within:.1%}"
        word = {"no measurable difference": within, "unstable": "unstable, no claim"}.get(self.word, self.word)
        text = (
            f"{word}: {self.speedup:.3f}x [{low:.3f}, {high:.3f}], n={self.n} loads, resolution {self.resolution:.1%}"
        )
        return f"{text}; doubts: {', '.join(self.doubts)}" if self.doubts else text

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value; ``from_json`` reads it back."""
        return {
            "speedup": self.speedup,
            "interval": list(self.interval),
            "bootstrap_interval": list(self.bootstrap_interval),
            "resolution": self.resolution,
            "word": self.word,
            "within": self.within,
            "n": self.n,
            "a": [measurement.to_json() for measurement in self.a],
            "b": [measurement.to_json() for measurement in self.b],
            "flagged_rounds": self.flagged_rounds,
            "doubts": list(self.doubts),
            "conditions": dict(self.conditions),
            "quantiles_ms": {side: list(values) for side, values in self.quantiles_ms.items()},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Comparison:
        """Inverse of ``to_json``."""
        return cls(
            **{
                **value,
                "interval": (value["interval"][0], value["interval"][1]),
                "bootstrap_interval": (value["bootstrap_interval"][0], value["bootstrap_interval"][1]),
                "a": tuple(Measurement.from_json(entry) for entry in value["a"]),
                "b": tuple(Measurement.from_json(entry) for entry in value["b"]),
                "doubts": tuple(value["doubts"]),
                "quantiles_ms": {side: tuple(values) for side, values in value["quantiles_ms"].items()},
            }
        )


def load_interval(log_ratios: np.ndarray, confidence: float = 0.95) -> tuple[float, tuple[float, float]]:
    """Ratio and Student t interval from log ratios (loads, rounds): a load counts once, as its median round."""
    per_load = np.median(log_ratios, axis=1)
    centre = float(per_load.mean())
    reach = t_quantile((1 + confidence) / 2, len(per_load) - 1) * float(per_load.std(ddof=1)) / math.sqrt(len(per_load))
    return math.exp(centre), (math.exp(centre - reach), math.exp(centre + reach))


def hierarchical_interval(
    log_ratios: np.ndarray, rng: np.random.Generator, *, resamples: int = 2000, confidence: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of the ratio, resampling loads and then rounds within each; log ratios (loads, rounds)."""
    loads, rounds = log_ratios.shape
    drawn = rng.integers(loads, size=(resamples, loads, 1))
    inner = rng.integers(rounds, size=(resamples, loads, rounds))
    means = np.median(log_ratios[drawn, inner], axis=2).mean(axis=1)
    low, high = np.quantile(means, ((1 - confidence) / 2, (1 + confidence) / 2))
    return math.exp(low), math.exp(high)


def speed_word(speedup: float, interval: tuple[float, float], resolution: float) -> SpeedWord:
    """``faster`` or ``slower`` if the interval excludes 1 and the ratio exceeds what a fit machine resolves."""
    if resolution > UNFIT_RESOLUTION:
        return "unstable"
    if abs(math.log(speedup)) > math.log1p(resolution):
        if interval[0] > 1:
            return "faster"
        if interval[1] < 1:
            return "slower"
    return "no measurable difference"


def largest_difference(interval: tuple[float, float], resolution: float) -> float:
    """The relative difference that the measurement cannot exclude: 0.02 for 2 %."""
    return max(resolution, *(math.expm1(abs(math.log(bound))) for bound in interval))


def require_comparable(one: Measurement, other: Measurement) -> None:
    """Raise unless two figures may be held against each other: the same quantity in the same environment.

    Raises:
        DataError: another quantity or unit, or another machine, version, target, number of threads or pinning.
    """
    doing = f"comparing two figures of {one.name}"
    if (one.name, one.unit) != (other.name, other.unit):
        raise DataError(doing, got=f"{other.name} in {other.unit}", expected=f"{one.name} in {one.unit}")
    if one.conditions.get("environment") == other.conditions.get("environment"):
        return
    names = sorted({*one.conditions, *other.conditions} - _PASSING)
    differing = [name for name in names if one.conditions.get(name) != other.conditions.get(name)]
    shown = [f"{name} {one.conditions.get(name)} and {other.conditions.get(name)}" for name in differing[:4]]
    raise DataError(
        doing,
        got="; ".join(shown) or "figures of which one does not say its environment",
        expected="the same machine, versions, target, threads and pinning",
        try_="measure both again, here and interleaved: gossamer bench ONE --against OTHER",
    )
