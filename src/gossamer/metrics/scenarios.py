"""Latency as those see it who wait: requests that arrive on a schedule, whatever the model is doing then.

The response to a request is counted from its scheduled arrival to its outputs, so waiting behind others counts. There
is one worker and one queue in the order of arrival; a call takes the target's batch. Timing calls back to back hides
the queue, and timing each call from its own start would hide it too ("coordinated omission").
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from gossamer.core.errors import OptionError
from gossamer.core.measurement import Measurement
from gossamer.core.names import require_known
from gossamer.core.progress import Progress, Silent
from gossamer.core.units import TIME_MS
from gossamer.metrics.contestant import Served
from gossamer.metrics.interleave import Start
from gossamer.metrics.latency import percentiles
from gossamer.metrics.process import measuring
from gossamer.metrics.student import t_quantile
from gossamer.metrics.subject import Subject

KINDS: Mapping[str, str] = {
    "stream": "calls back to back",
    "batch": "the same for throughput: what counts are samples per second at the target's batch",
    "paced": "calls at a fixed rate; each is due before the next one, or within the bound",
    "server": "calls that arrive at random at a mean rate (Poisson); each is due within the bound",
}

_SECONDS = 10.0
_OVERLOAD = 0.98
"""Share of the time at work from which on a queue grows as long as it is given to."""


@dataclass(frozen=True)
class Scenario:
    """When calls are made, and when they count as late.

    Attributes:
        kind: one of ``KINDS``.
        rate: calls a second, for ``paced`` and ``server``.
        bound_ms: longest response that is in time; needed by ``server``, for ``paced`` by default the time to the next.
        seconds: of arrivals, all loads together, for ``paced`` and ``server``; 10 by default.

    Raises:
        UnknownName: no such kind.
        OptionError: something missing, not positive, or not for this kind.
    """

    kind: str = "stream"
    rate: float | None = None
    bound_ms: float | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        doing = f"planning the scenario {self.kind}"
        require_known(self.kind, KINDS, "scenario", doing)
        given = {"rate": self.rate, "bound": self.bound_ms, "seconds": self.seconds}
        needed = {"paced": ("rate",), "server": ("rate", "bound")}.get(self.kind, ())
        for name in needed:
            if given[name] is None:
                raise OptionError(doing, got=f"no {name}", expected="; ".join(f"a {one}" for one in needed))
        if not self.scheduled and any(value is not None for value in given.values()):
            raise OptionError(doing, got="a rate, bound or seconds", expected="none of them: calls are back to back")
        for name, value in given.items():
            if value is not None and not (math.isfinite(value) and value > 0):
                raise OptionError(doing, got=f"{name} {value:g}", expected="more than 0")

    def __str__(self) -> str:
        due = f", {self.rate:g}/s, due in {self.due_ms:g} ms" if self.scheduled else ""
        return self.kind + due

    @property
    def scheduled(self) -> bool:
        """Whether calls wait for arrivals."""
        return self.kind in ("paced", "server")

    @property
    def due_ms(self) -> float:
        """Longest response that is in time."""
        assert self.rate is not None
        return self.bound_ms if self.bound_ms is not None else 1e3 / self.rate

    def arrivals_ms(self, seconds: float, rng: np.random.Generator) -> np.ndarray:
        """Arrivals in so many seconds, at least one: evenly spaced, or with exponential times between them."""
        assert self.rate is not None
        count = max(round(self.rate * seconds), 1)
        if self.kind == "paced":
            return np.arange(count) * 1e3 / self.rate
        return np.cumsum(rng.exponential(1e3 / self.rate, count))


def measure_scenario(
    subject: Subject,
    scenario: Scenario,
    *,
    loads: int = 4,
    warmup_ms: float = 3000.0,
    seed: int = 0,
    conditions: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> tuple[Measurement, ...]:
    """How a subject keeps up with a schedule: percentiles of its responses, and what came in time.

    Args:
        subject: what to measure.
        scenario: of kind ``paced`` or ``server``.
        loads: fresh processes, each with its share of the seconds; the intervals are Student's t over them, since
            responses behind each other in a queue are not independent.
        warmup_ms: at most this long, and at most 200 calls, are spent before each.
        seed: of the arrivals.
        conditions: facts of the environment: machine, versions, target.
        progress: is told every load.

    Returns:
        ``response p50``, and p90, p95, p99 where there are enough; ``missed deadlines`` (a share); ``goodput``, calls
        in time per second. The share of the time at work is under ``utilization`` in the conditions.

    Raises:
        OptionError: fewer than 2 loads.
    """
    if loads < 2:
        raise OptionError("measuring a scenario", got=f"loads={loads}", expected=">= 2")
    tell = progress or Silent()
    environment = {**(conditions or {}), "scenario": str(scenario)}
    with measuring([subject], environment, progress) as (start, facts):
        served = serve_loads(lambda: start(subject), scenario, loads, warmup_ms, seed, tell.advance)
    return summarize_served(scenario, served, facts)


def serve_loads(
    start: Start, scenario: Scenario, loads: int, warmup_ms: float, seed: int, tell: Callable[[str], None]
) -> list[Served]:
    """Fresh contestants one after the other, each with its own arrivals."""
    rng = np.random.default_rng(seed)
    served = []
    for load in range(loads):
        arrivals_ms = scenario.arrivals_ms((scenario.seconds or _SECONDS) / loads, rng)
        contestant = start()
        try:
            contestant.open()
            contestant.warm_up(warmup_ms)
            served.append(contestant.serve(arrivals_ms))
        finally:
            contestant.close()
        tell(f"load {load + 1} of {loads}")
    return served


def summarize_served(scenario: Scenario, served: Sequence[Served], facts: Mapping[str, Any]) -> tuple[Measurement, ...]:
    """Measurements of what was served, load by load."""
    responses = [one.ends_ms - one.arrivals_ms for one in served]
    missed = [float(np.mean(response > scenario.due_ms)) for response in responses]
    seconds = [float(one.ends_ms[-1]) / 1e3 for one in served]
    goodput = [
        float(np.sum(response <= scenario.due_ms)) / span for response, span in zip(responses, seconds, strict=True)
    ]
    work = sum(float(np.sum(one.ends_ms - one.starts_ms)) for one in served) / 1e3
    utilization = work / sum(seconds)
    facts = {**facts, "utilization": utilization}
    doubts = ("more arrives than it can do: the queue grew, and responses depend on how long was measured",)
    doubts = doubts if utilization > _OVERLOAD else ()
    quantiles = percentiles("response", responses, facts, doubts)

    def entry(name: str, per_load: list[float], unit: str, better: Literal["lower", "higher"]) -> Measurement:
        low, high = _interval(per_load)
        n = sum(map(len, responses))
        return Measurement(name, float(np.mean(per_load)), unit, better, n, (low, high), None, facts, doubts)

    return (
        *quantiles,
        entry("missed deadlines", missed, "1", "lower"),
        entry("goodput", goodput, "calls/s", "higher"),
    )


def read_milliseconds(text: str) -> float:
    """Milliseconds of ``10ms``, ``500us`` or ``1.5s``.

    Raises:
        OptionError: it is no such text.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(us|ms|s)\s*", text)
    if not found:
        raise OptionError(f"reading the bound {text!r}", got=text, expected="a number and us, ms or s", try_="10ms")
    return float(found[1]) * TIME_MS[found[2]]


def _interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean of figures that cannot be negative."""
    reach = t_quantile(0.975, len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    centre = float(np.mean(values))
    return max(centre - reach, 0.0), centre + reach
