"""Figures as the page writes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from gossamer.core.units import format_amount

NBSP = "\N{NO-BREAK SPACE}"

DASH = "–"  # noqa: RUF001 - what a table shows for nothing


MARKS = {
    "accepted": "✓",
    "exact": "✓",
    "equivalent": "✓",
    "holds": "✓",
    "undecided": "?",
    "rejected": "✕",
    "fails": "✕",
    "baseline": "○",
    "proven safe": "✓",
    "audited": "✓",
    "hazard": "!",
}
"""The sign beside each word, so that colour is never all that tells them apart."""

_TONES = {"✓": "good", "?": "open", "!": "open", "✕": "bad", "○": "plain"}


def badge(word: str) -> dict[str, str]:
    """A verdict as its word, its sign and its tone."""
    mark = MARKS.get(word, "○")
    return {"word": word or "not judged", "mark": mark, "tone": _TONES[mark]}


def amount(item: Mapping[str, Any]) -> str:
    """The figure of a measurement with its unit."""
    return format_amount(item["value"], item["unit"])


def span(item: Mapping[str, Any]) -> str:
    """The interval of a measurement, its unit written once where both bounds have the same."""
    if not item.get("interval"):
        return ""
    low, high = (format_amount(bound, item["unit"]) for bound in item["interval"])
    figure, _, unit = low.partition(" ")
    return f"{figure} to {high}" if unit and high.endswith(f" {unit}") else f"{low} to {high}"


def ranged(figure: float, interval: Any, unit: str) -> str:
    """A figure with its interval, if it has one: ``+1.72 pt [−2.90 pt, +6.40 pt]``."""  # noqa: RUF002
    text, *ends = (format_amount(one, unit) for one in (figure, *(interval or ())))
    return typeset(f"{text} [{', '.join(ends)}]" if ends else text)


def percent(share: float) -> str:
    """A share with three significant digits: ``0.00631`` as ``0.631 %``."""
    return f"{100 * share:.3g} %" if abs(share) < 1 else f"{100 * share:.0f} %"


def points(value: float) -> str:
    """A difference of percentages, signed."""
    return typeset(format_amount(value, "pt"))


def typeset(text: Any) -> str:
    """A text with true minus signs before figures, which hang on no letter or digit: ``[-0.5, 1e-3]``, ``int-8``."""
    return re.sub(r"(?<![\w.-])-(?=\.?\d)", "−", str(text))  # noqa: RUF001


def ratio(value: float) -> str:
    """``2.77×``."""  # noqa: RUF002
    return f"{value:.2f}×" if value < 100 else f"{value:.0f}×"  # noqa: RUF001


_UNIT = re.compile(r"_(ms|us|bytes|mhz)$")
_SHARES = {"confidence", "pressure", "memory_pressure"}
_UNITS = {"ms": (1.0, "ms"), "us": (1e-3, "ms"), "bytes": (1.0, "B"), "mhz": (1.0, "MHz")}


def word(key: str) -> str:
    """A key of the evidence, ``cores_allowed`` or ``load_ms``, as people write it; the unit stands with the figure."""
    text = _UNIT.sub("", str(key))
    text = re.sub(r"[_\s]+", " ", text).strip()
    return _WORDS.get(text, text[:1].upper() + text[1:])


_WORDS = {
    "cpu": "CPU",
    "libc": "C library",
    "mcnemar p": "McNemar p",
    "z": "z",
    "leg": "Leg of a round",
    "peak rss": "Peak memory",
    "base rss": "Memory before loading",
}


def value(key: str, found: Any) -> str:
    """What stands under a key, with the unit that the key ends in."""
    if isinstance(found, Mapping):
        return ", ".join(f"{name} {value(name, item)}" for name, item in found.items())
    if isinstance(found, list):
        return ", ".join(value(key, item) for item in found)
    if not isinstance(found, int | float) or isinstance(found, bool):
        return DASH if found is None else str(found)
    if key in _SHARES:
        return percent(found)
    unit = _UNIT.search(key)
    scale, name = _UNITS[unit[1]] if unit else (1.0, "")
    return format_amount(scale * found, name) if name or isinstance(found, float) else str(found)
