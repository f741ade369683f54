"""Charts as Plotly figures: plain JSON that the page draws, with its own colours by name, so they follow its theme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape, unescape
from typing import Any

from gossamer.reporting.html.layers import merged_layers
from gossamer.reporting.html.surgery import score_rows, surgery_layers

MAX_LAYERS = 40
"""More bars than this are unreadable: the chart shows the largest, the table below it all."""

_LONGEST = 22
"""Letters of a name beside an axis."""

_BEFORE, _AFTER = "var(--before)", "var(--after)"
_BYTES, _TIMES = ("bytes_before", "bytes_after", 1e3), ("float_us", "int8_us", 1e3)


def build_charts(evidence: Mapping[str, Any], metric: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Figures by the name of their place in the page; a figure without evidence is absent.

    Plotly reads a little HTML in its texts, links included, so names are escaped here as well.
    """
    subject = escape(str(evidence.get("member", "compressed")))
    comparison = evidence.get("performance", {}).get("against_baseline")
    layers = [row for row in merged_layers(evidence) if row["bytes_before"] or row["bytes_after"]]
    largest = sorted(layers, key=lambda row: -(row["bytes_before"] or row["bytes_after"]))[:MAX_LAYERS]
    shown = [row for row in layers if row in largest]
    timed = [row for row in shown if row["float_us"] is not None and row["int8_us"] is not None]
    erring = [row for row in shown if row["error"] is not None]
    classes = (evidence.get("behaviour") or {}).get("per_class", [])
    figures = {
        "latency": _latency((comparison or {}).get("quantiles_ms") or {}, subject),
        "layer_bytes": _bars(shown, _BYTES, "weights and biases (kB)", ("original", subject)),
        "layer_times": _bars(timed, _TIMES, "time inside the model (ms)", ("in float", "in int8")),
        "layer_errors": _layer_errors(erring),
        "classes": _classes(classes, metric, subject),
    }
    figures |= _surgery(evidence.get("surgery"))
    return {name: figure for name, figure in figures.items() if figure}


def _surgery(found: Mapping[str, Any] | None) -> dict[str, dict[str, Any] | None]:
    """Widths, the shares of MACs and time that layers keep, and scores; the layers that were cut most, if too many."""
    if not found:
        return {}
    rows = [
        {**row, "before": row["width"][0], "after": row["width"][1]}
        for row in surgery_layers(found)
        if row["macs"][0] and row["macs"] != row["macs"][::-1]
    ]
    most = sorted(rows, key=lambda row: row["macs"][1] - row["macs"][0])[:MAX_LAYERS]
    shown = [row for row in rows if row in most]
    timed = [row for row in shown if row["time_kept"] is not None]
    scores = sorted(score_rows(found), key=lambda row: row["median"])[:MAX_LAYERS]
    return {
        "surgery_widths": _bars(shown, ("before", "after", 1), "width", ("original", "now")),
        "surgery_times": _bars(timed, ("macs_kept", "time_kept", 0.01), "kept (%)", ("of its MACs", "of its time")),
        "surgery_scores": _spreads(scores),
    }


def _spreads(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """A box a group: from the least score over the quarters to the largest."""
    names = _names(rows)
    keys = {"lowerfence": "low", "q1": "q1", "median": "median", "q3": "q3", "upperfence": "high"}
    trace = {
        "type": "box",
        "orientation": "h",
        "name": "scores",
        "y": names,
        **{field: [round(100 * row[key], 3) for row in rows] for field, key in keys.items()},
        "marker": {"color": _AFTER},
        "line": {"width": 1.5},
        "showlegend": False,
    }
    layout = _listed(names, "score (% of largest)")
    return {"data": [trace], "layout": layout, "height": _height(rows)} if rows else None


def _latency(quantiles_ms: Mapping[str, Sequence[float]], subject: str) -> dict[str, Any] | None:
    """Share of calls by the time they took, for both; the slowest hundredth is left out, as it would set the scale."""
    if not {"a", "b"} <= set(quantiles_ms):
        return None
    traces = []
    for side, name, colour in (("a", "original", _BEFORE), ("b", subject, _AFTER)):
        times = [round(float(value), 4) for value in quantiles_ms[side]]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": name,
                "x": times[:-1],
                "y": list(range(len(times) - 1)),
                "line": {"color": colour, "width": 3, "dash": "solid" if side == "b" else "4px,3px"},
                "hovertemplate": "%{y} % of calls take at most %{x:.3g} ms<extra>" + name + "</extra>",
            }
        )
    layout = {
        "xaxis": {"title": {"text": "time of one call (ms)"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": "calls done by then (%)"}, "range": [0, 101], "dtick": 25},
        "legend": {"orientation": "h", "y": 1.12, "x": 0},
    }
    return {"data": traces, "layout": layout, "height": 300}


def _bars(
    rows: Sequence[Mapping[str, Any]], keys: tuple[str, str, float], title: str, sides: tuple[str, str]
) -> dict[str, Any] | None:
    """Two bars a layer; ``keys`` are those of the two figures, and what they are divided by."""
    names, scale = _names(rows), keys[2]
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": side,
            "y": names,
            "x": [None if row[key] is None else round(row[key] / scale, 3) for row in rows],
            "marker": {"color": colour},
            "hovertemplate": "%{y}: %{x:.3g}<extra>" + side + "</extra>",
        }
        for key, side, colour in ((keys[0], sides[0], _BEFORE), (keys[1], sides[1], _AFTER))
    ]
    bars = {"barmode": "group", "bargap": 0.35, "bargroupgap": 0}
    return {"data": traces, "layout": {**_listed(names, title), **bars}, "height": _height(rows)} if rows else None


def _layer_errors(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Errors with those of all layers before, and, where layers were scanned, what each alone does to the output."""
    names = _names(rows)
    traces: list[dict[str, Any]] = [_dots(names, [row["error"] for row in rows], "layer's output", "circle")]
    traces[0] |= {"mode": "lines+markers", "line": {"color": _AFTER, "width": 1}}
    if any(row["harm"] is not None for row in rows):
        harms = [row["harm"] for row in rows]
        traces.append(_dots(names, harms, "model's, this layer alone", "diamond-open"))
    layout = _listed(names, "relative error (%)")
    layout["xaxis"]["rangemode"] = "tozero"
    return {"data": traces, "layout": layout, "height": _height(rows)} if rows else None


def _dots(names: list[str], shares: Sequence[float | None], name: str, symbol: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "y": names,
        "x": [None if share is None else round(100 * share, 4) for share in shares],
        "marker": {"color": _AFTER, "size": 8, "symbol": symbol},
        "hovertemplate": "%{y}: %{x:.3g} %<extra>" + name + "</extra>",
    }


def _classes(rows: Sequence[Mapping[str, Any]], metric: Mapping[str, Any], subject: str) -> dict[str, Any] | None:
    """Two dots a class, joined: a line that runs to the left is a loss."""
    names = [escape(str(row["name"])) for row in rows]
    joins: dict[str, list[Any]] = {"x": [], "y": []}
    for name, row in zip(names, rows, strict=True):
        joins["x"] += [row["before"], row["after"], None]
        joins["y"] += [name, name, None]
    line = {"color": "var(--muted)", "width": 2}
    traces: list[dict[str, Any]] = [
        {"type": "scatter", "mode": "lines", **joins, "line": line, "hoverinfo": "skip", "showlegend": False}
    ]
    for key, name, colour, symbol in (
        ("before", "original", _BEFORE, "circle-open"),
        ("after", subject, _AFTER, "circle"),
    ):
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": name,
                "x": [row[key] for row in rows],
                "y": names,
                "marker": {"color": colour, "size": 10, "symbol": symbol, "line": {"width": 2}},
                "hovertemplate": "%{y}: %{x:.4g}" + f" {escape(str(metric['unit']))}<extra>{name}</extra>",
            }
        )
    unit = metric["unit"]
    layout = _listed(names, escape(f"{metric['name']} by class{unit and f' ({unit})'}"))
    return {"data": traces, "layout": layout, "height": _height(rows)} if rows else None


def _listed(names: list[str], title: str) -> dict[str, Any]:
    """Layout of a chart that lists names from top to bottom; long ones are shown by their ends."""
    short = [name if len(name) <= _LONGEST else "…" + name[1 - _LONGEST :] for name in map(unescape, names)]
    return {
        "xaxis": {"title": {"text": title}},
        "yaxis": {
            "type": "category",
            "autorange": "reversed",
            "automargin": True,
            "showgrid": False,
            "tickmode": "array",
            "tickvals": names,
            "ticktext": [escape(name) for name in short],
        },
        "legend": {"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
    }


def _names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [escape(str(row["layer"])) for row in rows]


def _height(rows: Sequence[Any]) -> int:
    return 110 + 24 * len(rows)
