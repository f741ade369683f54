"""The section on surgery: widths, scores, what stays whole, the proof, and the layers whose time did not follow."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from report_pages import Page, render

import gossamer
from gossamer import flow
from gossamer.core.errors import ArtifactError
from gossamer.reporting.html import artifact_facts
from gossamer.reporting.html.charts import build_charts
from gossamer.reporting.html.texts import percent

METRIC = {"name": "top1", "unit": "%", "better": "higher"}


@pytest.fixture
def cut(pruned_artifact: Path) -> dict[str, Any]:
    """What its report is written from; a copy to change."""
    with flow.load(pruned_artifact) as artifact:
        return copy.deepcopy(artifact_facts(artifact))


def test_the_section_stands_before_the_layers(cut: dict[str, Any], tmp_path: Path):
    page = render(cut, tmp_path)
    assert page.sections.index("surgery") == page.sections.index("layers") - 1
    assert "#surgery" in [attributes.get("href") for tag, attributes in page.tags if tag == "a"]


def test_it_says_what_went_and_what_was_proven(cut: dict[str, Any], tmp_path: Path):
    text = render(cut, tmp_path).text("surgery")
    told = cut["evidence"]["surgery"]
    dropping, pruning = told["steps"]
    assert "drop_blocks{count=1}" in text
    assert f"Blocks left out {dropping['dropped'][0]}" in text
    assert "prune{score=l2,macs=0.5}" in text
    before, after = told["macs"]
    assert f"MACs {before:,} before, {after:,} now: {percent(after / before)}" in text
    proof = pruning["proof"]
    assert f"Cuts proven {proof['cuts']} of {proof['cuts']}" in text
    assert "1e-10" in text
    (head,) = [group for group in pruning["groups"] if group["frozen"]]
    assert f"head {head['size']} {head['kind']} {head['frozen']}" in text
    assert f"Layers fitted anew {len(pruning['repair']['fits'])} of" in text


def test_its_charts_hold_the_figures(cut: dict[str, Any], tmp_path: Path):
    page = render(cut, tmp_path)
    told, figures = cut["evidence"]["surgery"], page.figures
    rows = [row for row in told["layers"] if row["macs"][0] != row["macs"][1]]
    widths = figures["surgery_widths"]["data"]
    assert widths[0]["y"] == [row["layer"] for row in rows]
    assert [trace["x"] for trace in widths] == [[row["width"][side] for row in rows] for side in (0, 1)]
    kept, times = (trace["x"] for trace in figures["surgery_times"]["data"])
    timed = [row for row in rows if row["us"][0] and row["us"][1] is not None]
    assert kept == [round(100 * row["macs"][1] / row["macs"][0], 3) for row in timed]
    assert times == [round(100 * row["us"][1] / row["us"][0], 3) for row in timed]
    (box,) = figures["surgery_scores"]["data"]
    assert len(box["y"]) == sum("score_quantiles" in group for group in told["steps"][1]["groups"])
    assert all(low <= mid <= 100 for low, mid in zip(box["lowerfence"], box["median"], strict=True))
    assert {f"chart-{name}" for name in figures if name.startswith("surgery")} <= {
        attributes.get("id") for _, attributes in page.tags
    }


def test_layers_whose_time_did_not_follow_are_named(cut: dict[str, Any], tmp_path: Path):
    told = cut["evidence"]["surgery"]
    told["not_followed"] = []
    assert "Time did not follow" not in render(cut, tmp_path).text("surgery")
    row = next(row for row in told["layers"] if row["layer"] == "blocks2.0.conv1")
    row |= {"macs": [200, 100], "us": [10.0, 9.0]}
    told["not_followed"] = ["blocks2.0.conv1"]
    text = render(cut, tmp_path).text("surgery")
    assert "Time did not follow the MACs in blocks2.0.conv1 (50 % of its MACs, 90 % of its time)." in text


def test_what_was_refuted_or_unknown_is_said(cut: dict[str, Any], tmp_path: Path):
    pruning = cut["evidence"]["surgery"]["steps"][1]
    pruning["unknown"] = ["cumsum cumsum_1 in 'head'"]
    pruning["proof"]["refuted"] = {"down.0": "proof failed: add add_3 differs first"}
    text = render(cut, tmp_path).text("surgery")
    assert "No rule for cumsum cumsum_1 in 'head': all it touches stays whole." in text
    assert "Refuted, so left whole: down.0: proof failed: add add_3 differs first" in text
    assert f"Cuts proven {pruning['proof']['cuts'] - 1} of {pruning['proof']['cuts']}" in text


def test_a_runtime_that_tells_no_times(cut: dict[str, Any], tmp_path: Path):
    cut["evidence"]["surgery"]["not_followed"] = []
    for row in cut["evidence"]["surgery"]["layers"]:
        row["us"] = [None, None]
    page = render(cut, tmp_path)
    assert "surgery_times" not in page.figures
    assert "None" not in page.text("surgery")


def test_the_figures_are_valid_plotly(cut: dict[str, Any]):
    import plotly.graph_objects as go

    charts = build_charts(cut["evidence"], METRIC)
    assert {"surgery_widths", "surgery_times", "surgery_scores"} <= set(charts)
    for chart in charts.values():
        go.Figure(data=chart["data"], layout=chart["layout"])


def test_hostile_names_are_text(cut: dict[str, Any], tmp_path: Path):
    hostile = "<img src=x onerror=alert(1)>"
    told = cut["evidence"]["surgery"]
    for row in told["layers"]:
        row["layer"] = hostile
    for group in told["steps"][1]["groups"]:
        group |= {"name": hostile, "frozen": hostile if group["frozen"] else ""}
    page = render(cut, tmp_path)
    assert "img" not in [tag for tag, _ in page.tags]
    assert hostile in page.text("surgery")


def test_evidence_of_another_form_is_refused(cut: dict[str, Any], tmp_path: Path):
    del cut["evidence"]["surgery"]["steps"][1]["proof"]["cuts"]
    with pytest.raises(ArtifactError, match="breaks its form"):
        render(cut, tmp_path)


def test_a_result_without_a_budget_misses_none(cut: dict[str, Any], tmp_path: Path):
    cut["evidence"] |= {"status": "rejected"}
    assert "the budget is missed" not in render(cut, tmp_path).text("top")


def test_a_fine_tuned_one_names_the_command_alone(cut: dict[str, Any], tmp_path: Path):
    assert "Made again by" in render(cut, tmp_path).text("replay")
    cut["evidence"]["provenance"].append("fine-tuned for 3 steps of adamw")
    assert "Made again by" not in render(cut, tmp_path).text("replay")


def test_it_is_the_same_written_from_python(pruned_artifact: Path, tmp_path: Path):
    page = Page(gossamer.report(pruned_artifact, tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "surgery" in page.sections
