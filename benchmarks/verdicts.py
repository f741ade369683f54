"""What the measured rows come to: each beside its limit, kept by model and runtime in one file, and printed.

A row passes where the data show it, and an unstable comparison shows nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from gossamer.core.files import write_atomic
from gossamer.core.units import format_amount

LARGE = 10_000
"""Test samples from which on the narrow limit of accuracy holds."""

POINTS = {True: -0.5, False: -2.0}
"""What the paired 95 % lower bound against the better peer may be, on large and on small test sets."""

DIVERGENCE = 1.1
"""On small sets: how much further from fp32 than the better peer's the outputs may be."""

TIME = 1.05
"""Upper bound of time beside the fastest peer, as a ratio."""

ROWS_A_WIN = 3
"""Ours must be faster in one of so many latency rows."""


def accuracy_row(gain: Mapping[str, Any], divergence: float, peer_divergence: float) -> dict[str, Any]:
    """The limit of accuracy against the better peer.

    Args:
        gain: ``entrants.difference`` of ours to the peer.
        divergence: of ours from fp32.
        peer_divergence: of the peer from fp32.
    """
    large = gain["n"] >= LARGE
    near = large or divergence <= DIVERGENCE * peer_divergence
    return {
        "peer": gain["to"],
        "lower_bound": gain["interval"][0],
        "limit": POINTS[large],
        "divergence": divergence,
        "divergence_limit": None if large else DIVERGENCE * peer_divergence,
        "pass": bool(gain["interval"][0] >= POINTS[large] and near),
    }


def latency_row(peer: str, comparison: Mapping[str, Any]) -> dict[str, Any]:
    """The limit of latency against the fastest peer, from a ``Comparison`` of the peer (a) with ours (b) as JSON."""
    low, high = comparison["interval"]
    stable = comparison["word"] != "unstable"
    return {
        "peer": peer,
        "ratio": 1 / comparison["speedup"],
        "interval": [1 / high, 1 / low],
        "limit": TIME,
        "stable": stable,
        "pass": stable and 1 / low <= TIME,
        "faster": comparison["word"] == "faster",
    }


def merged(path: Path, results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The results stored so far with these in place of those of the same model, runtime and batch."""
    stored = json.loads(path.read_text(encoding="utf-8")).get("results", []) if path.exists() else []
    by_key = {(entry["model"], entry["runtime"], entry["batch"]): dict(entry) for entry in (*stored, *results)}
    return [by_key[key] for key in sorted(by_key)]


def store(path: Path, results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Write results into the file, beside those of other models and runtimes; gives all that it then holds."""
    every = merged(path, results)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps({"results": every}, indent=1).encode())
    return every


def show_result(console: Console, result: Mapping[str, Any]) -> None:
    """Print one network on one runtime: a line for each file that was timed, and the comparisons."""
    batch = result["batch"]
    title = f"{result['model']} on {result['runtime']}, batch {batch}, {result['test_samples']} test samples"
    table = Table(title=title, title_justify="left")
    for column in (
        "file",
        "top-1",
        "against fp32 [95 %]",
        "divergence",
        "size",
        "int8 layers",
        "ms",
    ):
        table.add_column(column, justify="left" if column == "file" else "right")
    peers = {peer["name"]: peer for peer in result["peers"]}
    names = dict.fromkeys((result["better_peer"], result["fastest_peer"]))
    for entry in (*result["floats"], *(peers[name] for name in names), *filter(None, [result["ours"]])):
        layers = next(iter(entry["layers"].values()), {"int8": 0, "float": 0})
        table.add_row(
            entry["name"],
            format_amount(entry["top1"], "%"),
            points(entry["against_fp32"]),
            f"{entry['divergence']:.4f}",
            format_amount(entry["bytes"], "B"),
            f"{layers['int8']} of {sum(layers.values())}",
            f"{entry['quick_ms'][batch]:.3f}",
        )
    console.print(table)
    for item in result["latency"]:
        console.print(f"{item['of']} against {item['to']}: {item['text']}", highlight=False)
    for item in result["peers_failed"]:
        console.print(f"peer without a figure: {item['name']}: {item['failure']}", style="dim", highlight=False)
    if result["baseline_reproduced"] is False:
        console.print(f"[bold red]the fp32 baseline is not the stated {result['stated_top1']} %[/]")


def show_verdict(console: Console, results: Sequence[Mapping[str, Any]]) -> None:
    """Print every row beside its limit, and what they come to."""
    compared = [result for result in results if result["ours"]]
    table = Table(title="ours beside the better peer", title_justify="left")
    for column in (
        "network",
        "runtime",
        "batch",
        "accuracy: peer",
        "lower bound",
        "divergence",
        "latency: peer",
        "time",
    ):
        table.add_column(column)
    for result in compared:
        row = result["accuracy"]
        limit = "" if row["divergence_limit"] is None else f" (limit {row['divergence_limit']:.4f})"
        timed = result["speed"]
        low, high = timed["interval"]
        word = "pass, faster" if timed["faster"] else _mark(timed["pass"]) if timed["stable"] else "unstable"
        table.add_row(
            result["model"],
            result["runtime"],
            str(result["batch"]),
            row["peer"],
            f"{_mark(row['pass'])} {row['lower_bound']:+.2f} pt (limit {row['limit']:+g}{_beside_original(result)})",
            f"{row['divergence']:.4f}{limit}",
            timed["peer"],
            f"{word} {timed['ratio']:.3f}x ({low:.3f} to {high:.3f})",
        )
    console.print(table)
    speed = [result["speed"] for result in compared]
    passed, faster = sum(row["pass"] for row in speed), sum(row["faster"] for row in speed)
    needed = math.ceil(len(speed) / ROWS_A_WIN)
    console.print(f"accuracy: {sum(result['accuracy']['pass'] for result in compared)} of {len(compared)} rows pass")
    console.print(f"latency: {passed} of {len(speed)} rows at most {TIME}x the fastest peer")
    console.print(f"faster than the fastest peer: {faster} of {len(speed)} rows, {needed} needed")


def points(gain: Mapping[str, Any]) -> str:
    """A difference in accuracy with its interval."""
    low, high = gain["interval"]
    return f"{gain['points']:+.2f} pt ({low:+.2f} to {high:+.2f})" if gain["lost"] or gain["won"] else ""


def _beside_original(result: Mapping[str, Any]) -> str:
    """The original's own bound where ours misses: the best of twenty peers on few samples may be so by chance."""
    original = result.get("original_against_better_peer")
    return "" if result["accuracy"]["pass"] or not original else f", original {original['interval'][0]:+.2f}"


def _mark(passed: bool) -> str:
    return "pass" if passed else "FAIL"
