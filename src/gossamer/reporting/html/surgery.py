"""Surgery: what was cut, what stays whole and why, what was proven, and whether time followed the MACs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gossamer.core.units import format_amount
from gossamer.reporting.html.texts import DASH, percent


def surgery_view(found: Mapping[str, Any]) -> dict[str, Any]:
    """Rows for the section; every part is empty where there is no evidence for it."""
    rows = surgery_layers(found)
    return {
        "facts": [("MACs", _change(*found["macs"])), ("Parameters", _change(*found["parameters"]))],
        "lagging": [
            f"{row['layer']} ({percent(row['macs_kept'])} of its MACs, {percent(row['time_kept'])} of its time)"
            for row in rows
            if row["layer"] in found["not_followed"]
        ],
        "layers": [_layer(row) for row in rows],
        "steps": [_step(step) for step in found["steps"]],
    }


def surgery_layers(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The layers with the share that each keeps of its MACs and of its time; ``None`` where that is not known."""
    return [{**row, "macs_kept": _kept(*row["macs"]), "time_kept": _kept(*row["us"])} for row in found["layers"]]


def score_rows(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Groups with the quantiles of their scores as shares of the largest: 0, 25, 50, 75 and 100 of 100."""
    rows = []
    for group in (group for step in found["steps"] for group in step.get("groups", [])):
        quantiles = [float(value) for value in group.get("score_quantiles") or []]
        top = max(map(abs, quantiles), default=0.0)
        if top > 0:
            ends = [quantiles[0], *((quantiles[at] + quantiles[at + 1]) / 2 for at in (2, 7)), quantiles[-1]]
            low, q1, q3, high = (value / top for value in ends)
            spread = {"low": low, "q1": q1, "median": quantiles[5] / top, "q3": q3, "high": high}
            rows.append({"layer": group["name"], **spread})
    return rows


def _kept(before: float | None, after: float | None) -> float | None:
    return after / before if before and after is not None else None


def _change(before: float, after: float) -> str:
    return f"{before:,} before, {after:,} now: {percent(after / before)}" if before else f"{after:,}"


def _layer(row: Mapping[str, Any]) -> dict[str, Any]:
    (width, width_now), (macs, macs_now), (us, us_now) = row["width"], row["macs"], row["us"]
    return {
        "layer": str(row["layer"]),
        "op": str(row["op"]),
        "width": str(width),
        "width_now": str(width_now) if width_now else "gone",
        "macs": f"{macs:,}",
        "macs_now": f"{macs_now:,}",
        "time": _time(us),
        "time_now": _time(us_now),
        "macs_kept": _share(row["macs_kept"]),
        "time_kept": _share(row["time_kept"]),
    }


def _time(us: float | None) -> str:
    return DASH if us is None else format_amount(us / 1e3, "ms")


def _share(share: float | None) -> str:
    return DASH if share is None else percent(share)


def _step(step: Mapping[str, Any]) -> dict[str, Any]:
    groups: Sequence[Mapping[str, Any]] = step.get("groups", [])
    facts = [("MACs", _change(*step["macs"])), ("Parameters", _change(*step["parameters"]))]
    if step["dropped"]:
        facts.append(("Blocks left out", ", ".join(map(str, step["dropped"]))))
    repair, proof = step.get("repair"), step.get("proof")
    return {
        "technique": str(step["technique"]),
        "facts": facts + (_repair(repair) if repair else []),
        "proof": _proof(proof) if proof else [],
        "refuted": [f"{name}: {reason}" for name, reason in proof["refuted"].items()] if proof else [],
        "groups": [_group(group) for group in groups if not group["frozen"]],
        "frozen": [
            {"name": str(group["name"]), "size": f"{group['size']} {group['kind']}", "why": str(group["frozen"])}
            for group in groups
            if group["frozen"]
        ],
        "unknown": [str(place) for place in step.get("unknown", [])],
    }


def _group(group: Mapping[str, Any]) -> dict[str, str]:
    kept = group.get("score_kept")
    return {
        "name": str(group["name"]),
        "note": "renormalising" if group["renormalising"] else "",
        "kind": str(group["kind"]),
        "size": str(group["size"]),
        "kept": str(group["kept"]),
        "score": _share(kept),
    }


def _repair(repair: Mapping[str, Any]) -> list[tuple[str, str]]:
    fits = repair["fits"]
    taken = [fit for fit in fits if fit["applied"]]
    facts = [("Layers fitted anew", f"{len(taken)} of {len(fits)}, on {repair['samples']} samples")]
    if taken:
        worst = max(taken, key=lambda fit: fit["error"])
        text = f"{percent(worst['error'])} of its variance in {worst['layer']}, {percent(worst['sliced_error'])} as cut"
        facts.append(("Largest error left", text))
    names = (("left", "Layers left as cut"), ("norms", "Batch norms estimated anew"))
    return facts + [(label, ", ".join(map(str, repair[key]))) for key, label in names if repair[key]]


def _proof(proof: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        ("Cuts proven", f"{proof['cuts'] - len(proof['refuted'])} of {proof['cuts']}, {proof['run']} of them run"),
        ("Largest deviation in float64", f"{proof['deviation']:.1e}, bound {proof['bound']:.0e}"),
        ("The same in float32, which decides nothing", f"{proof['deviation_fp32']:.1e}"),
        *([("Equal to the masked norm", str(proof["renormalising"]))] if proof["renormalising"] else []),
    ]
