"""Layer by layer: bytes, time and error, before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gossamer.core.units import format_amount
from gossamer.reporting.html.texts import DASH, percent


def merged_layers(evidence: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The layers in the order of the network, with what the scan of each layer alone found, where there was one."""
    scanned = {row["layer"]: row for row in evidence.get("sensitivity") or []}
    nothing = dict.fromkeys(("harm", "float_us", "int8_us"))
    return [{**nothing, **scanned.get(row["layer"], {}), **row} for row in evidence.get("layers", [])]


def layers_view(rows: Sequence[Mapping[str, Any]], size_before: int | None, size_after: int) -> list[dict[str, str]]:
    """One row a layer, and a last one for whatever else is in the file."""
    if not rows:
        return []
    shown = [
        {
            "layer": str(row["layer"]),
            "op": str(row["op"]),
            "kernel": str(row["kernel"]),
            "precision": str(row["precision"]),
            "before": _amount(row["bytes_before"]),
            "after": _amount(row["bytes_after"]),
            "float_time": _amount(row["float_us"], "ms", 1e-3),
            "int8_time": _amount(row["int8_us"], "ms", 1e-3),
            "error": _share(row["error"]),
            "alone": _share(row["harm"]),
        }
        for row in rows
    ]
    rest = dict.fromkeys(shown[0], "") | {"layer": "the rest of the file"}
    for side, key, size in (("before", "bytes_before", size_before), ("after", "bytes_after", size_after)):
        other = -1 if size is None else size - sum(row[key] or 0 for row in rows)
        rest[side] = _amount(other if other >= 0 else None)
    return [*shown, rest]


def _amount(figure: float | None, unit: str = "B", scale: float = 1.0) -> str:
    return DASH if figure is None else format_amount(scale * figure, unit)


def _share(share: float | None) -> str:
    return DASH if share is None else percent(share)
