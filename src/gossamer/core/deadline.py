"""A time limit for a whole run: ``20m``, ``90s``, ``1h``."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from gossamer.core.errors import OptionError

_SECONDS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def parse_duration(text: str) -> float:
    """Seconds of a text such as ``90s``, ``20m`` or ``1.5h``."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|m|min|h)\s*", text) if isinstance(text, str) else None
    if match is None or float(match[1]) <= 0:
        raise OptionError(
            "reading a time limit", got=repr(text), expected="a positive number and s, m or h", try_="20m"
        )
    return float(match[1]) * _SECONDS[match[2]]


@dataclass(frozen=True)
class Deadline:
    """The instant at which optional work stops.

    Attributes:
        seconds: the whole limit; ``None`` for no limit.
        start: reading of ``clock`` when the run began.
        clock: seconds, monotonic.
    """

    seconds: float | None
    start: float
    clock: Callable[[], float] = time.monotonic

    @classmethod
    def after(cls, seconds: float | None, clock: Callable[[], float] = time.monotonic) -> Deadline:
        """A deadline that begins now."""
        return cls(seconds, clock(), clock)

    @property
    def passed(self) -> bool:
        """Whether the limit is used up."""
        return self.seconds is not None and self.clock() - self.start >= self.seconds
