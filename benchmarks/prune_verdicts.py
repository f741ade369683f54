"""What the rows of ``prune_quality`` come to: each share beside its limit, and the tables."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from entrants import Entrant, difference
from rich.console import Console
from rich.table import Table

BETTER_FROM = 0.8
"""From this share down ours must be significantly better; above, not significantly worse."""

FLOOR = {("resnet56", 0.7): (90.0, 25.0)}
"""Least accuracy in percent, and least points above the peer."""


def packed(right: np.ndarray) -> str:
    """One bit for each image, in the order of the shuffled test set, in base64."""
    return base64.b64encode(np.packbits(right.astype(bool)).tobytes()).decode()


def unpacked(entry: Mapping[str, Any]) -> np.ndarray:
    """Inverse of ``packed``, for a row; (images,)."""
    bits = np.unpackbits(np.frombuffer(base64.b64decode(entry["right"]), np.uint8), count=entry["images"])
    return bits.astype(np.float64)


def verdict(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every share beside its limit, where both sides have been judged on all images: one entry for each peer."""
    rows = list(rows)
    of_ours = {(entry["model"], entry["share"]): entry for entry in rows if entry["by"] == "ours"}
    originals = {entry["model"]: entry for entry in rows if entry["by"] == "original"}
    found = []
    for other in (entry for entry in rows if entry["by"] == "peer"):
        model, share = other["model"], other["share"]
        ours = of_ours.get((model, share))
        if ours is None or other["images"] != ours["images"]:
            continue
        a, b = (Entrant(one["by"], Path(), "onnxruntime", unpacked(one), {}) for one in (ours, other))
        gain = difference(a, b)
        low, high = gain["interval"]
        limit = "significantly better" if share <= BETTER_FROM else "not significantly worse"
        holds = low > 0 if share <= BETTER_FROM else high >= 0
        original = originals.get(model)
        room = original["top1"] - other["top1"] if original and original["images"] == ours["images"] else None
        if (model, share) in FLOOR:
            least, points = FLOOR[model, share]
            limit += f", {least:g} %, {points:g} points above"
            holds = holds and ours["top1"] >= least and gain["points"] >= points
        holds = bool(holds and other["macs"] >= ours["macs"])  # the peer keeps as much or more
        found.append(
            {
                "model": model,
                "share": share,
                "peer": other["name"],
                **gain,
                "room": room,
                "limit": limit,
                "holds": holds,
            }
        )
    return sorted(found, key=lambda entry: (entry["model"], entry["peer"], -entry["share"]))


def show(console: Console, model: str, rows: Sequence[Mapping[str, Any]], judged: Sequence[Mapping[str, Any]]) -> None:
    """Print one network: accuracy by way and share, then the verdict."""
    mine = [entry for entry in rows if entry["model"] == model]
    shares = sorted({entry["share"] for entry in mine if entry["by"] != "original"}, reverse=True)
    title = f"{model}: top-1 in %, compensated (plain), by share of the multiply-accumulates kept"
    table = Table("way", "images", *(f"{share:g}" for share in shares), title=title, title_justify="left")
    ways = dict.fromkeys(
        (entry["by"], entry["name"]) for entry in mine if entry["by"] in ("ours", "score", "depth", "peer")
    )
    for by, name in ways:
        cells = {entry["share"]: entry for entry in mine if (entry["by"], entry["name"]) == (by, name)}
        images = next((entry["images"] for entry in cells.values() if "images" in entry), 0)
        table.add_row(name, f"{images:,}", *(cell(cells.get(share)) for share in shares))
    console.print(table)
    show_verdict(console, mine, [one for one in judged if one["model"] == model])


def show_verdict(console: Console, rows: Sequence[Mapping[str, Any]], judged: Sequence[Mapping[str, Any]]) -> None:
    """Print each share of one network beside its limit."""
    columns = (
        "kept (ours, peer)",
        "peer",
        "ours",
        "peer's",
        "norms again",
        "difference",
        "original's",
        "limit",
        "",
        "setting",
    )
    table = Table(*columns, title="prune beside Torch-Pruning's best, on the same images", title_justify="left")
    by_key = {(entry["by"], entry["name"], entry["share"]): entry for entry in rows}
    for entry in judged:
        ours, other = by_key["ours", "prune", entry["share"]], by_key["peer", entry["peer"], entry["share"]]
        low, high = entry["interval"]
        table.add_row(
            f"{entry['share']:g} ({ours['macs_kept']:.3f}, {other['macs_kept']:.3f})",
            entry["peer"],
            f"{ours['top1']:.2f}",
            f"{other['top1']:.2f}",
            f"{other['top1_norms_estimated_again']:.2f}",
            f"{entry['points']:+.2f} ({low:+.2f} to {high:+.2f})",
            "" if entry["room"] is None else f"{entry['room']:+.2f}",
            entry["limit"],
            "holds" if entry["holds"] else "MISSED",
            other["setting"].rsplit(", ", 1)[0],
        )
    console.print(table)


def cell(entry: Mapping[str, Any] | None) -> str:
    """Accuracy, that of the plain cut in brackets."""
    if entry is None or "failure" in entry:
        return "-" if entry is None else "none"
    plain = entry.get("top1_plain")
    return f"{entry['top1']:.2f}" + (f" ({plain:.2f})" if plain is not None else "")


def show_latency(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the time that pruned networks take, and the layers that stay behind."""
    table = Table("network", "where", "MACs kept", "time kept", "", "layers whose time does not follow (of all time)")
    for entry in rows:
        layers = ", ".join(f"{one['layer']} {one['excess']:.1%}" for one in entry["layers_behind"][:5])
        kept = f"{entry['macs_kept']:.3f}", f"{entry['time_kept']:.3f}"
        table.add_row(entry["model"], entry["name"], *kept, entry["text"], layers or "none")
    console.print(table)
