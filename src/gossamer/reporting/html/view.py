"""From evidence to what the page shows: texts, rows and marks, nothing left for the template to compute.

Evidence is read as it is in an artifact, which a stranger may have written: every text is escaped by the template, and
groups that are absent leave their section out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gossamer.core.units import format_amount
from gossamer.reporting.html.behaviour import behaviour
from gossamer.reporting.html.conditions import conditions_view, digests_view, replay_view
from gossamer.reporting.html.layers import layers_view, merged_layers
from gossamer.reporting.html.proof import claim_view, parity_view, processors_view
from gossamer.reporting.html.surgery import surgery_view
from gossamer.reporting.html.texts import DASH, NBSP, amount, badge, percent, points, ratio, span, typeset, word

_CLAIMS = ("faster", "slower")
"""Words of a comparison that claim something."""

_NOTABLE = 1.005
"""Ratios nearer to 1 are not worth a word in the headline."""

_MEASURED = {
    "latency p50": "Latency, median",
    "latency p90": "Latency, p90",
    "latency p95": "Latency, p95",
    "latency p99": "Latency, p99",
    "latency mean": "Latency, mean",
    "throughput": "Throughput",
    "load": "Load time",
    "load cold": "Load time, cold cache",
    "first inference": "First inference",
    "peak memory": "Peak memory",
}


def build_view(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that the template shows, by section; absent evidence gives an empty section."""
    evidence = facts["evidence"]
    story = evidence.get("story", {})
    search = evidence.get("task", {}).get("search", {})
    members = story.get("members", [])
    before = next((member for member in members if member["status"] == "baseline"), None)
    subject = evidence.get("member", "")
    after = next((member for member in members if member["name"] == subject), None)
    status = str(evidence.get("status", ""))
    comparison = evidence.get("performance", {}).get("against_baseline")
    metric = story.get("metric") or {"name": search.get("metric", "metric"), "unit": "", "better": "higher"}
    pair = _Pair(facts, before, after, metric, comparison)
    return {
        "name": str(facts["name"]),
        "badge_": badge("original kept" if status == "baseline" else status),
        "title": _title(pair, status, search),
        "lead": _lead(status, search),
        "budget": search.get("budget", ""),
        "targets": [f"{entry['target']} · {entry['precision']}" for entry in facts["targets"]],
        "cards": [card for card in (_size_card(pair), _latency_card(pair), _metric_card(pair)) if card],
        "doubts": list(comparison["doubts"]) if comparison else [],
        "hazards": ", ".join(str(name) for name in (evidence.get("other_processors") or {}).get("hazards", [])),
        "only": pair.is_original,
        "subject": subject,
        "metric": metric,
        "rows": _rows(pair),
        "surgery": surgery_view(surgery) if (surgery := evidence.get("surgery")) else None,
        "layers": layers_view(merged_layers(evidence), pair.size_before, pair.size_after),
        "behaviour": behaviour(evidence, metric),
        "parity": parity_view(parity) if (parity := (evidence.get("verdict") or {}).get("parity")) else None,
        "claims": [claim_view(claim) for claim in evidence.get("claims", [])],
        "processors": processors_view(audit, metric) if (audit := evidence.get("other_processors")) else [],
        "proven": evidence.get("verdict") is not None,
        "members": [_member(member, metric, str(story.get("best", ""))) for member in members],
        "notes": [typeset(note) for note in search.get("notes", [])],
        "conditions": conditions_view(evidence, comparison),
        "replay": replay_view(facts, evidence),
        "digests": digests_view(facts, evidence),
    }


class _Pair:
    """The original and the member that the report is about."""

    def __init__(
        self,
        facts: Mapping[str, Any],
        before: Mapping[str, Any] | None,
        after: Mapping[str, Any] | None,
        metric: Mapping[str, Any],
        comparison: Mapping[str, Any] | None,
    ) -> None:
        evidence = facts["evidence"]
        self.name = str(facts["name"])
        self.metric = metric
        self.comparison = comparison
        self.is_original = evidence.get("status") == "baseline"
        measured = evidence.get("performance", {}).get("measurements", [])
        self.after = {item["name"]: item for item in measured if item["name"] != "size"}
        # Beside a candidate the original counts as it was measured interleaved with it.
        items = [*(before["measurements"] if before else []), *(comparison["a"] if comparison else [])]
        self.before = {} if self.is_original else {item["name"]: item for item in items}
        self.size_after = int(facts["size_bytes"])
        self.size_before = before["size_bytes"] if before and not self.is_original else None
        self.value_after = evidence.get("metric_value")
        self.value_before = before["metric_value"] if before and not self.is_original else None
        self.drop = _drop_of(evidence, after)

    @property
    def size_word(self) -> str:
        """How many times smaller, or larger; empty where it is neither, or not known."""
        shrunk = self.size_before / self.size_after if self.size_before and self.size_after else 1.0
        if max(shrunk, 1 / shrunk) < _NOTABLE:
            return ""
        return f"{ratio(max(shrunk, 1 / shrunk))}{NBSP}{'smaller' if shrunk > 1 else 'larger'}"


def _drop_of(evidence: Mapping[str, Any], after: Mapping[str, Any] | None) -> str:
    return str(evidence.get("task", {}).get("drop", "")) or str((after or {}).get("drop", ""))


def _title(pair: _Pair, status: str, search: Mapping[str, Any]) -> str:
    if pair.is_original:
        return "Nothing beats the original" if search.get("outcome") != "missed" else "The budget is missed"
    speed = _times(pair.comparison) if pair.comparison and pair.comparison["word"] in _CLAIMS else ""
    gain = ", ".join(filter(None, (pair.size_word, speed)))
    ends = {"accepted": "the budget holds" if search.get("budget") else "", "undecided": "not proven"}
    end = ends.get(status, "the budget is missed" if status == "rejected" and search.get("budget") else "")
    title = f"{gain}; {end}" if gain and end else gain or end or pair.name
    return title[:1].upper() + title[1:]


def _lead(status: str, search: Mapping[str, Any]) -> str:
    """One sentence below the title."""
    summary = str(search.get("summary", ""))
    if status == "baseline" and search.get("outcome") == "met":
        return "Every candidate was measured against the original and none was better, so the original is what you get."
    if status == "accepted":
        if not search.get("budget"):
            return "No budget was given; it is better than the original by measurement."
        return "It keeps every limit of the budget, by measurement and by test on samples kept for that."
    return typeset(summary[:1].upper() + summary[1:] + ("." if summary and not summary.endswith(".") else ""))


def _size_card(pair: _Pair) -> dict[str, str]:
    before = format_amount(pair.size_before, "B") if pair.size_before else ""
    after = format_amount(pair.size_after, "B")
    return {"label": "Size", "before": before, "after": after, "note": pair.size_word, "span": ""}


def _latency_card(pair: _Pair) -> dict[str, str] | None:
    latency = pair.after.get("latency p50")
    if latency is None:
        return None
    before = pair.before.get("latency p50")
    return {
        "label": "Latency, median",
        "before": amount(before) if before else "",
        "after": amount(latency),
        "note": _speed_note(pair.comparison) if pair.comparison else "",
        "span": f"95 % interval {span(latency)}" if span(latency) else "",
    }


def _speed_note(comparison: Mapping[str, Any]) -> str:
    claim = str(comparison["word"])
    if claim == "no measurable difference":
        return f"{claim} within {percent(comparison['within'])}"
    if claim not in _CLAIMS:
        return f"{claim}: no claim about speed"
    low, high = comparison["interval"]
    ends = (low, high) if comparison["speedup"] >= 1 else (1 / high, 1 / low)
    return f"{_times(comparison)} [{ends[0]:.2f}, {ends[1]:.2f}]"


def _times(comparison: Mapping[str, Any]) -> str:
    speedup = comparison["speedup"]
    return f"{ratio(max(speedup, 1 / speedup))}{NBSP}{comparison['word']}"


def _metric_card(pair: _Pair) -> dict[str, str] | None:
    if pair.value_after is None:
        return None
    unit = pair.metric["unit"]
    before = "" if pair.value_before is None else format_amount(pair.value_before, unit)
    estimate, _, interval = pair.drop.rstrip("]").partition(" [")
    note = "" if pair.is_original or not estimate else typeset(f"drop {estimate}")
    low, _, high = interval.partition(", ")
    return {
        "label": str(pair.metric["name"]),
        "before": before,
        "after": format_amount(pair.value_after, unit),
        "note": note,
        "span": typeset(f"interval {low} to {high}") if note and high else "",
    }


def _rows(pair: _Pair) -> list[dict[str, str]]:
    """The before/after table."""
    rows = [_row("Size", pair.size_before, pair.size_after, "B")]
    known = pair.comparison["doubts"] if pair.comparison else ()  # said above the table already
    names = [
        *(name for name in _MEASURED if name in pair.after),
        *(name for name in pair.after if name not in _MEASURED),
    ]
    for name in names:
        item, old = pair.after[name], pair.before.get(name)
        row = _row(_MEASURED.get(name) or word(name), old["value"] if old else None, item["value"], item["unit"])
        row |= {"before_span": span(old) if old else "", "after_span": span(item)}
        row["doubt"] = "; ".join(doubt for doubt in item.get("doubts", ()) if doubt not in known)
        rows.append(row)
    if pair.value_after is not None:
        row = _row(str(pair.metric["name"]), pair.value_before, pair.value_after, pair.metric["unit"])
        if pair.value_before is not None and pair.metric["unit"] == "%":
            row["change"] = points(pair.value_after - pair.value_before).replace(" ", NBSP)
        rows.append(row)
    return rows


def _row(label: str, before: float | None, after: float, unit: str) -> dict[str, str]:
    change = typeset(f"{100 * (after / before - 1):+.1f}{NBSP}%") if before else ""
    return {
        "label": label,
        "before": DASH if before is None else format_amount(before, unit),
        "after": format_amount(after, unit),
        "change": change,
        "before_span": "",
        "after_span": "",
        "doubt": "",
    }


def _member(member: Mapping[str, Any], metric: Mapping[str, Any], best: str) -> dict[str, Any]:
    latency = next((item for item in member["measurements"] if item["name"] == "latency p50"), None)
    score, speed = member["metric_value"], member["speed"]
    low, high = speed["interval"] if speed else (1.0, 1.0)
    drop, _, interval = typeset(member["drop"]).rstrip("]").partition(" [")
    return {
        "name": member["name"],
        "badge": badge(member["status"]),
        "best": member["name"] == best,
        "figures": [
            {"label": "size", "text": format_amount(member["size_bytes"], "B"), "span": ""},
            {
                "label": "latency",
                "text": amount(latency) if latency else DASH,
                "span": span(latency) if latency else "",
            },
            {
                "label": "speed",
                "text": ratio(speed["speedup"]) if speed else DASH,
                "span": f"{low:.2f} to {high:.2f}" + (", unstable" if speed["word"] == "unstable" else "")
                if speed
                else "",
            },
            {
                "label": metric["name"],
                "text": DASH if score is None else format_amount(score, metric["unit"]),
                "span": "",
            },
            {"label": "drop", "text": drop or DASH, "span": interval.replace(", ", " to ")},
        ],
        "reasons": [typeset(reason) for reason in member["reasons"]],
    }
