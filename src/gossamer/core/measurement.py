"""A measured number with what makes it believable: unit, direction, spread, count, interval, conditions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from gossamer.core.units import format_amount


@dataclass(frozen=True)
class Measurement:
    """One measured quantity.

    Attributes:
        name: what was measured, for example ``latency p50``.
        value: the figure, in ``unit``.
        unit: ``ms``, ``B``, ``ratio``, ``1`` (a share), or the metric's own.
        better: which direction is better.
        n: number of observations behind the figure.
        interval: 95 % interval of the figure, where one is known.
        spread: relative spread of the observations (0.03 = 3 %), where there are several.
        conditions: machine, versions, threads, load: two measurements merge only where these agree.
        doubts: why the figure should not be quoted; empty for a stable one.
    """

    name: str
    value: float
    unit: str
    better: Literal["lower", "higher"]
    n: int = 1
    interval: tuple[float, float] | None = None
    spread: float | None = None
    conditions: Mapping[str, Any] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()

    @property
    def stable(self) -> bool:
        """Whether nothing speaks against quoting the figure."""
        return not self.doubts

    def __str__(self) -> str:
        text = f"{self.name} {format_amount(self.value, self.unit)}"
        if self.interval:
            low, high = self.interval
            text += f" [{format_amount(low, self.unit)}, {format_amount(high, self.unit)}]"
        text += f", n={self.n}"
        if self.spread is not None:
            text += f"; spread {self.spread:.0%}"
        if self.doubts:
            text += f"; unstable: {', '.join(self.doubts)}"
        return text

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value; ``from_json`` reads it back."""
        return {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "better": self.better,
            "n": self.n,
            "interval": list(self.interval) if self.interval else None,
            "spread": self.spread,
            "conditions": dict(self.conditions),
            "doubts": list(self.doubts),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Measurement:
        """Inverse of ``to_json``."""
        interval = value["interval"]
        return cls(
            **{
                **value,
                "interval": (interval[0], interval[1]) if interval else None,
                "doubts": tuple(value["doubts"]),
            }
        )
