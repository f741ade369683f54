"""Amounts with units: ``5ms``, ``2 MB``, ``1pt``. kB and MB are decimal, KiB and MiB binary."""

from __future__ import annotations

from collections.abc import Mapping

TIME_MS: Mapping[str, float] = {"us": 1e-3, "ms": 1.0, "s": 1e3}
BYTES: Mapping[str, float] = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20}
COUNTS: Mapping[str, float] = {"M": 1e6, "G": 1e9}


_FORMATS: Mapping[str, tuple[str, str]] = {
    "%": (".2f", " %"),
    "pt": ("+.2f", " pt"),
    "ratio": (".2f", "x"),
    "x": (".2f", "x"),
    "": (".4g", ""),
    "1": (".4g", ""),
}
"""Unit -> format of the figure, and what stands behind it."""


def format_amount(value: float, unit: str) -> str:
    """A figure with three significant digits and a fitting unit: ``0.412 ms``, ``1.09 MB``, ``91.73 %``."""
    if unit == "ms":
        return f"{_figure(value * 1e3)} us" if value < 0.1 else f"{_figure(value)} ms"
    if unit == "B":
        for name in ("GB", "MB", "kB"):
            if value >= BYTES[name]:
                return f"{_figure(value / BYTES[name])} {name}"
        return f"{value:.0f} B"
    figure, after = _FORMATS.get(unit, (".4g", f" {unit}"))
    return f"{value:{figure}}{after}"


def _figure(value: float) -> str:
    """Three significant digits, and no exponent where these digits do not reach the decimal point."""
    return f"{value:.0f}" if abs(value) >= 999.5 else f"{value:.3g}"
