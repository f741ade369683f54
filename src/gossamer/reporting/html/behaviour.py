"""What changed behind the average: answers lost and won, classes, slices, calibration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from gossamer.core.units import format_amount
from gossamer.reporting.html.texts import percent, ranged, typeset

_PICTURE = re.compile(r"data:image/png;base64,[A-Za-z0-9+/]+={0,2}")
"""The only form of picture that is put into the page: nothing that a browser would fetch."""

_CELLS = ("both_right", "lost", "won", "both_wrong")


def behaviour(evidence: Mapping[str, Any], metric: Mapping[str, Any]) -> dict[str, Any]:
    """Rows for the section on behaviour; each part is empty where there is no evidence for it."""
    found = evidence.get("behaviour") or {}
    four_way = found.get("four_way") or (evidence.get("verdict") or {}).get("flips")
    counts = {name: int(four_way[name]) for name in _CELLS} if four_way else {}
    worst, calibration = found.get("worst_class"), found.get("calibration")
    parts = {
        "four_way": _four_way(counts),
        "flips": _flips(counts, found.get("churn")),
        "classes": [_group(row, metric) for row in found.get("per_class", [])],
        "worst": _group(worst, metric) if worst else None,
        "slices": [_group(row, metric) for row in found.get("slices", [])],
        "calibration": _calibration(calibration) if calibration else [],
        "pictures": [_picture(sample) for sample in evidence.get("lost_samples", []) if _shows(sample)],
        "lost": [str(row) for row in found.get("negative_flip_ids", [])],
    }
    return {**parts, "any": any(parts.values())}


def _four_way(counts: Mapping[str, int]) -> dict[str, dict[str, str]]:
    n = sum(counts.values()) or 1
    return {name: {"count": str(count), "share": percent(count / n)} for name, count in counts.items()}


def _flips(counts: Mapping[str, int], churn: float | None) -> list[tuple[str, str]]:
    n = sum(counts.values()) or 1
    rows = [
        ("Negative flips: right before, wrong now", counts["lost"] / n if counts else None),
        ("Positive flips: wrong before, right now", counts["won"] / n if counts else None),
        ("Churn: another answer, right or wrong", churn),
    ]
    return [(label, percent(share)) for label, share in rows if share is not None]


def _group(row: Mapping[str, Any], metric: Mapping[str, Any]) -> dict[str, str]:
    """A class or a slice: its samples, the metric before and after, and the drop with its interval."""
    unit = metric["unit"]
    return {
        "name": typeset(row["name"]),
        "note": str(row["note"]),
        "n": str(row["n"]),
        "before": format_amount(row["before"], unit),
        "after": format_amount(row["after"], unit),
        "drop": ranged(row["drop"], row["interval"], "pt" if unit == "%" else unit),
    }


def _calibration(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    interval = [100 * bound for bound in found["interval"] or ()]
    return [
        ("Calibration error before", percent(found["before"])),
        ("Calibration error now", percent(found["after"])),
        ("Its change", ranged(100 * found["change"], interval, "pt")),
    ]


def _shows(sample: Mapping[str, Any]) -> bool:
    return bool(_PICTURE.fullmatch(str(sample["picture"])))


def _picture(sample: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(sample[key]) for key in ("picture", "label", "before", "after")}
