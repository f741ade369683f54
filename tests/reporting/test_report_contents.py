"""What the page says: the figures of the evidence, section after section, for each kind of verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from report_pages import Page, render

import gossamer
from gossamer import flow
from gossamer.core.units import format_amount
from gossamer.reporting.html import artifact_facts, write_report
from gossamer.reporting.html.charts import MAX_LAYERS, build_charts
from gossamer.reporting.html.texts import typeset
from gossamer.search.front import Front

METRIC = {"name": "top1", "unit": "%", "better": "higher"}


def test_the_first_screen_answers_what_was_gained(facts: dict[str, Any], digit_front: Front, tmp_path: Path):
    top = render(facts, tmp_path).text("top")
    before, best = digit_front.baseline, digit_front.best
    shrunk = f"{before.size_bytes / best.size_bytes:.2f}×"  # noqa: RUF001
    assert f"{shrunk} smaller, 1.30× faster; the budget holds" in top  # noqa: RUF001
    assert "DigitNet , as int8" in top
    assert "✓ accepted Budget: top1 drop <= 2pt" in top
    for amount in (format_amount(before.size_bytes, "B"), *format_amount(best.size_bytes, "B").split()):
        assert amount in top
    assert "1.00 ms before, now" in top or "1 ms before, now" in top
    assert "1.30× faster [1.27, 1.33]" in top  # noqa: RUF001
    assert f"{before.metric_value:.2f} % before, now" in top
    estimate = best.evidence["drop"].partition(" [")[0]
    assert typeset(f"drop {estimate}") in top


def test_the_sections_come_in_their_order(rich: dict[str, Any], tmp_path: Path):
    page = render(rich, tmp_path)
    assert page.sections == ["table", "latency", "layers", "behaviour", "claims", "tried", "conditions", "replay"]
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert links == [f"#{section}" for section in page.sections]


def test_before_and_after_in_one_table(facts: dict[str, Any], digit_front: Front, tmp_path: Path):
    table = render(facts, tmp_path).text("table")
    change = 100 * (digit_front.best.size_bytes / digit_front.baseline.size_bytes - 1)
    assert f"{typeset(f'{change:+.1f}')} %" in table
    assert "Latency, median 1 ms 0.98 to 1.02 ms 0.769 ms" in table
    assert "Load time 5 ms 5 ms +0.0 %" in table


def test_the_layers_add_up_to_the_file(facts: dict[str, Any], digit_front: Front, tmp_path: Path):
    page = render(facts, tmp_path)
    layers = facts["evidence"]["layers"]
    text = page.text("layers")
    assert f"All {len(layers)} layers" in text
    before = digit_front.baseline.size_bytes - sum(row["bytes_before"] for row in layers)
    after = digit_front.best.size_bytes - sum(row["bytes_after"] for row in layers)
    assert before > 0
    assert after > 0
    assert f"the rest of the file {format_amount(before, 'B')} {format_amount(after, 'B')}" in text
    assert all(row["layer"] in text for row in layers)
    figures = page.figures
    assert figures["layer_bytes"]["data"][1]["x"] == [round(row["bytes_after"] / 1e3, 3) for row in layers]
    assert figures["layer_errors"]["data"][0]["x"] == [round(100 * row["error"], 4) for row in layers]


def test_behaviour_shows_what_there_is(rich: dict[str, Any], tmp_path: Path):
    text = render(rich, tmp_path).text("behaviour")
    assert "was right 480 89.9 % 9 lost, 1.69 %" in text
    assert "was wrong 5 won, 0.936 % 40 7.49 %" in text
    assert "Worst class: class 8 , 94.00 % before, 91.00 % now, drop +3.00 pt [−0.50 pt, +6.50 pt], 58 samples" in text  # noqa: RUF001
    assert "brightness below 0.2 exploratory 58 90.00 % 88.50 % +1.50 pt [" in text
    assert "Calibration error before 3.1 % Calibration error now 3.4 % Its change +0.30 pt" in text
    assert "is 8 now read as 3" in text
    assert "3, 14, 159" in text


def test_without_behaviour_the_flips_of_the_verdict_are_shown(facts: dict[str, Any], tmp_path: Path):
    facts["evidence"].pop("behaviour", None)
    flips = facts["evidence"]["verdict"]["flips"]
    text = render(facts, tmp_path).text("behaviour")
    assert f"was right {flips['both_right']}" in text
    assert f"{flips['lost']} lost" in text


def test_each_certificate_is_spelled_out(facts: dict[str, Any], tmp_path: Path):
    page = render(facts, tmp_path)
    text = page.text("claims")
    certificate = facts["evidence"]["claims"][0]["certificate"]
    assert "top1 drop <= 2pt ✓ holds" in text
    assert f"Test {certificate['test']}, one-sided level 5 %" in text
    assert f"Looks at the data {certificate['looks_used']} of {certificate['looks_planned']} planned" in text
    assert f"Samples {certificate['n']}" in text
    assert "The file computes what was validated ✓ equivalent" in text
    rect, line = (next(a for tag, a in page.tags if a.get("class") == name) for name in ("interval", "limit"))
    assert float(rect["x"].rstrip("%")) + float(rect["width"].rstrip("%")) < float(line["x1"].rstrip("%"))  # it holds


def test_a_claim_about_the_worst_class_lists_the_classes(facts: dict[str, Any], tmp_path: Path):
    (claim,) = facts["evidence"]["claims"]
    part = claim["certificate"] | {"n": 58, "estimate": 1.72, "interval": [-2.9, 6.4], "decision": "undecided"}
    claim["certificate"] |= {"parts": {"class 0": part, "class 1": part}, "available": 900}
    text = render(facts, tmp_path).text("claims")
    assert "class 1 ? undecided 58 +1.72 pt [−2.90 pt, +6.40 pt]" in text  # noqa: RUF001
    assert f"Samples {claim['certificate']['n']} of 900" in text


def test_what_was_tried_is_listed_with_its_reasons(kept: Front, tmp_path: Path):
    page = Page(gossamer.report(kept, tmp_path / "page.html").read_text(encoding="utf-8"))
    tried = page.text("tried")
    assert "fp32 returned" in tried
    assert "○ baseline" in tried
    assert "✕ rejected" in tried
    assert typeset(kept.tried[0].reasons[0]) in tried
    assert all(typeset(note) in tried for note in kept.notes)


def test_a_report_in_which_nothing_beats_the_original_reads_well(kept: Front, tmp_path: Path):
    page = Page(gossamer.report(kept, tmp_path / "page.html").read_text(encoding="utf-8"))
    top = page.text("top")
    assert "Nothing beats the original" in top
    assert "none was better, so the original is what you get" in top
    assert "before, now" not in top
    assert "None" not in page.text()
    assert page.sections == ["table", "claims", "tried", "conditions", "replay"]
    assert "No budget was given, so nothing had to be proven." in page.text("claims")
    assert "original" not in page.text("table").split("Size")[1]  # one column of figures


def test_each_verdict_looks_different(facts: dict[str, Any], tmp_path: Path):
    seen = {}
    for status in ("accepted", "undecided", "rejected"):
        facts["evidence"]["status"] = status
        page = render(facts, tmp_path)
        seen[status] = (page.badges()[0], page.text("top").partition("Budget:")[0])
    assert [badge for badge, _ in seen.values()] == ["badge good large", "badge open large", "badge bad large"]
    assert "not proven" in seen["undecided"][1]
    assert "the budget is missed" in seen["rejected"][1]
    assert "holds" not in seen["undecided"][1] + seen["rejected"][1]


def test_a_candidate_that_was_set_aside_says_that_nothing_was_proven(facts: dict[str, Any], tmp_path: Path):
    facts["evidence"] |= {"verdict": None, "status": "rejected", "metric_value": None}
    facts["evidence"]["performance"] = {"measurements": [], "against_baseline": None}
    page = render(facts, tmp_path)
    assert "set aside on the samples for choosing" in page.text("claims")
    assert "latency" not in page.sections


@pytest.mark.parametrize(
    ("word", "speedup", "expected"),
    [
        ("slower", 0.8, "1.25× slower [1.23, 1.28]"),  # noqa: RUF001
        ("no measurable difference", 1.004, "no measurable difference within 2.4 %"),
        ("unstable", 1.3, "unstable: no claim about speed"),
    ],
)
def test_no_word_of_speed_beyond_what_was_measured(
    facts: dict[str, Any], tmp_path: Path, word: str, speedup: float, expected: str
):
    comparison = facts["evidence"]["performance"]["against_baseline"]
    comparison |= {"word": word, "speedup": speedup, "interval": [speedup * 0.98, speedup * 1.02], "within": 0.024}
    top = render(facts, tmp_path).text("top")
    assert expected in top
    assert "faster" not in top


def test_a_larger_file_is_called_larger(facts: dict[str, Any], tmp_path: Path):
    facts["size_bytes"] = 2 * facts["evidence"]["story"]["members"][0]["size_bytes"]
    top = render(facts, tmp_path).text("top")
    assert "2.00× larger" in top  # noqa: RUF001
    assert "smaller" not in top


def test_doubts_about_the_timing_stand_above_everything(facts: dict[str, Any], tmp_path: Path):
    doubts = ["the machine's speed changed by 20%"]
    facts["evidence"]["performance"]["against_baseline"]["doubts"] = doubts
    facts["evidence"]["performance"]["measurements"][0]["doubts"] = [*doubts, "only 3 inputs in rotation"]
    page = render(facts, tmp_path)
    assert "Unstable timing, not to be quoted. the machine's speed changed by 20%." in page.text("top")
    assert "unstable: only 3 inputs in rotation" in page.text("table")


def test_it_says_how_to_replay(rich: dict[str, Any], digit_front: Front, tmp_path: Path):
    text = render(rich, tmp_path).text("replay")
    assert "Made by gossamer compress net.py:net --data calib.npz --out small" in text
    assert " ".join(digit_front.best.candidate.recipe.to_toml().split()) in text
    assert rich["digests"]["artifact"] in text
    assert digit_front.baseline.candidate.program.digest in text


def test_the_same_artifact_gives_the_same_bytes(digit_artifact: Path, tmp_path: Path):
    pages = [gossamer.report(digit_artifact, tmp_path / name).read_bytes() for name in ("one.html", "two.html")]
    assert pages[0] == pages[1]


def test_a_search_and_its_artifact_tell_the_same(digit_front: Front, digit_artifact: Path, tmp_path: Path):
    live, stored = (
        Page(gossamer.report(source, tmp_path / "page.html").read_text(encoding="utf-8"))
        for source in (digit_front, digit_artifact)
    )
    assert live.text("top") == stored.text("top")
    assert live.text("claims") == stored.text("claims")
    assert live.figures == stored.figures


def test_an_artifact_with_little_evidence(facts: dict[str, Any], tmp_path: Path):
    facts["evidence"] = {"identity": facts["evidence"]["identity"]}
    page = render(facts, tmp_path)
    assert page.figures == {}
    assert "text/plain" not in page.scripts  # no charts, so nothing to draw them with
    assert "None" not in page.text()


def test_the_figures_are_valid_plotly(rich: dict[str, Any]):
    import plotly.graph_objects as go

    charts = build_charts(rich["evidence"], METRIC)
    assert set(charts) == {"latency", "layer_bytes", "layer_times", "layer_errors", "classes"}
    for chart in charts.values():
        go.Figure(data=chart["data"], layout=chart["layout"])  # raises on an unknown property or a wrong value


def test_the_scan_of_single_layers_stands_beside_their_errors(facts: dict[str, Any], tmp_path: Path):
    evidence = facts["evidence"]
    first = evidence["layers"][0]["layer"]
    evidence["sensitivity"] = [{"layer": first, "harm": 0.0123, "float_us": 70.0, "int8_us": 158.5}]
    page = render(facts, tmp_path)
    assert "70 us 0.159 ms" in page.text("layers")
    assert "1.23 %" in page.text("layers")
    assert page.figures["layer_times"]["data"][1]["x"] == [0.159]
    harms = page.figures["layer_errors"]["data"][1]["x"]
    assert harms == [1.23, *[None] * (len(evidence["layers"]) - 1)]


def test_other_processors_are_listed_and_simulated_ones_say_so(facts: dict[str, Any], tmp_path: Path):
    layers = [{"site": "head", "affected": 0.01}, {"site": "stem.0", "affected": 0.0}]
    avx2 = {"profile": "avx2", "status": "hazard", "layers": layers, "layer_count": 11, "divergence": 0.0183}
    claim = {"clause": "top1 drop <= 1pt", "found": "drop -0.10 pt", "decision": "holds", "certificate": None}
    vnni = avx2 | {"profile": "vnni", "status": "audited", "simulated": False, "value": 98.0, "claim": claim}
    profiles = [avx2 | {"simulated": True, "value": None, "claim": None}, vnni]
    facts["evidence"]["other_processors"] = {"profiles": profiles, "hazards": ["avx2"]}
    page = render(facts, tmp_path)
    assert "Not for every processor. On avx2 the same file may answer otherwise" in page.text("top")
    text = page.text("claims")
    assert "avx2 simulated ! hazard 1 of 11 1.83 % –" in text  # noqa: RUF001
    assert "vnni top1 drop <= 1pt: drop −0.10 pt ✓ audited 1 of 11 1.83 % 98.00 %" in text  # noqa: RUF001


def test_conditions_that_were_noted_several_times_are_tables(facts: dict[str, Any], tmp_path: Path):
    comparison = facts["evidence"]["performance"]["against_baseline"]
    busy = {
        time: {"load": load, "throttles": None} for time, load in (("after", 3.0), ("before", 2.0), ("during", 1.0))
    }
    comparison["conditions"] = {
        "environment": "f7a2",
        "contention": busy,
        "workers": {"a": {"load_ms": 18.7, "cores": [1]}, "b": {"load_ms": 20.5, "cores": [1]}},
        "confidence": 0.95,
        "leg_ms": 30.0,
    }
    page = render(facts, tmp_path)
    text = page.text("conditions")
    assert "How busy the machine was before during after Load 2 1 3 The timed processes" in text
    assert "original int8 Load 18.7 ms 20.5 ms Cores 1 1" in text
    assert "Confidence 95 %" in text
    assert "Leg of a round 30 ms" in text
    assert "Environment of the timing f7a2" in page.text("replay")


def test_a_measurement_without_a_name_of_its_own_is_shown_by_its_key(facts: dict[str, Any], tmp_path: Path):
    item = {"name": "load cold_start", "value": 12.0, "unit": "ms", "interval": None, "doubts": []}
    facts["evidence"]["performance"]["measurements"].append(item)
    assert "Load cold start" in render(facts, tmp_path).text("table")


def test_long_names_are_shortened_beside_the_axis_only():
    names = [f"encoder.layers.{i}.attention.self.query" for i in (1, 2)]
    rows = [{"layer": name, "bytes_before": 4, "bytes_after": 1, "error": None} for name in names]
    chart = build_charts({"layers": rows}, METRIC)["layer_bytes"]
    axis = chart["layout"]["yaxis"]
    assert chart["data"][0]["y"] == axis["tickvals"] == names
    assert axis["ticktext"] == ["….attention.self.query"] * 2


def test_a_deep_network_is_drawn_by_its_largest_layers_in_order():
    rows = [
        {"layer": f"layer{i}", "bytes_before": 4 * (i + 1), "bytes_after": i + 1, "error": 0.01} for i in range(100)
    ]
    chart = build_charts({"layers": rows}, METRIC)["layer_bytes"]
    assert chart["data"][0]["y"] == [f"layer{i}" for i in range(100 - MAX_LAYERS, 100)]


def test_artifact_facts_hold_the_folder(digit_artifact: Path):
    artifact = flow.load(digit_artifact)
    facts = artifact_facts(artifact)
    assert facts["digests"]["artifact"] == artifact.digest
    assert facts["size_bytes"] == artifact.size_bytes
    assert facts["targets"] == [{"target": "onnxruntime:cpu,threads=1,batch=8", "precision": "int8"}]


def test_typeset_changes_minus_signs_only():
    text = "drop -0.53 pt [-1.5, 1e-3], int-8, a - b, --out"
    assert typeset(text) == text.replace("-0.53", "\N{MINUS SIGN}0.53").replace("-1.5", "\N{MINUS SIGN}1.5")


def test_the_charts_of_a_page_have_their_places(rich: dict[str, Any], tmp_path: Path):
    path = write_report(rich, tmp_path / "page.html")
    page = Page(path.read_text(encoding="utf-8"))
    places = {str(a["id"]).removeprefix("chart-") for _, a in page.tags if a.get("class") == "chart"}
    assert places == set(page.figures)
