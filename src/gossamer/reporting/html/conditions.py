"""Under which conditions figures were measured, how to make the artifact again, and what identifies it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gossamer.reporting.html.texts import DASH, percent, ratio, value, word

_TABLES = {"contention": "How busy the machine was", "workers": "The timed processes"}
_TIMES = ("before", "during", "after")
_AGAIN = "gossamer apply MODEL --recipe recipe.toml --data CALIBRATION_DATA --out again/"


def conditions_view(evidence: Mapping[str, Any], comparison: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Groups of facts, and tables for what was noted several times."""
    environment = evidence.get("environment", {})
    groups: list[dict[str, Any]] = []
    if comparison:
        own = {
            key: found for key, found in comparison["conditions"].items() if key not in {*environment, "environment"}
        }
        protocol = {
            "Fresh loads of each": str(comparison["n"]),
            "Resolution (a file against itself)": percent(comparison["resolution"]),
            "Rounds disturbed": percent(comparison["flagged_rounds"]),
            "Bootstrap interval": " to ".join(ratio(bound) for bound in comparison["bootstrap_interval"]),
            **{word(key): value(key, found) for key, found in own.items() if key not in _TABLES},
        }
        groups.append({"title": "How it was timed", "facts": list(protocol.items())})
        groups += [_table(key, own[key], str(evidence.get("member", ""))) for key in _TABLES if key in own]
    facts = [(word(key), value(key, found)) for key, found in environment.items() if not key.endswith("_digest")]
    return [*groups, {"title": "Machine and versions", "facts": facts}] if facts else groups


def _table(key: str, columns: Mapping[str, Mapping[str, Any]], subject: str) -> dict[str, Any]:
    """A fact a row, as it was at each time or in each process."""
    columns = {name: columns[name] for name in (*_TIMES, *columns) if name in columns}
    names = dict.fromkeys(name for column in columns.values() for name in column)
    rows = [[word(name), *(value(name, column.get(name)) for column in columns.values())] for name in names]
    titles = {"a": "original", "b": subject} if key == "workers" else {}
    return {
        "title": _TABLES[key],
        "columns": [titles.get(column, column) for column in columns],
        "rows": [row for row in rows if set(row[1:]) != {DASH}],
    }


def replay_view(facts: Mapping[str, Any], evidence: Mapping[str, Any]) -> dict[str, Any]:
    """The command that made it, the one that replays its recipe, and what was done to the model."""
    counts = evidence.get("task", {}).get("data", {}).get("counts", [])
    steps = [str(step) for step in evidence.get("provenance", [])]
    replays = "[[step]]" in facts["recipe"] and not any(step.startswith("fine-tuned") for step in steps)
    parts = zip(("to calibrate", "to choose", "to prove"), counts, strict=False)
    return {
        "made": str(evidence.get("command", "")),
        "again": _AGAIN if replays else "",
        "recipe": str(facts["recipe"]),
        "samples": ", ".join(f"{count} {part}" for part, count in parts),
        "steps": steps,
    }


def digests_view(facts: Mapping[str, Any], evidence: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What identifies the artifact, the original and the data."""
    found = {word(key): str(digest) for key, digest in facts["digests"].items()}
    task = evidence.get("task", {})
    if "original_program" in task:
        found["Original program"] = str(task["original_program"])
    comparison = evidence.get("performance", {}).get("against_baseline") or {}
    if "environment" in comparison.get("conditions", {}):
        found["Environment of the timing"] = str(comparison["conditions"]["environment"])
    data = task.get("data", {})
    found |= {f"Data to {part}": str(data[part]) for part in ("calibrate", "choose", "prove") if part in data}
    return list(found.items())
