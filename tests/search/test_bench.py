"""Benches of an artifact: scenarios, earlier figures, and what is refused before anything runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gossamer import cli, flow
from gossamer.core.errors import DataError, OptionError, UnknownName
from gossamer.search import bench as benches
from gossamer.search.bench import Bench


def named(result: Bench) -> dict[str, Any]:
    return {item.name: item for item in result.measurements}


def test_a_server_is_measured_from_the_arrivals(digit_artifact: Path, hasty):
    result = flow.measure(digit_artifact, scenario="server", rate=200.0, bound="10ms", seconds=0.4)
    found = named(result)
    assert list(found)[:3] == ["response p50", "missed deadlines", "goodput"]
    assert found["goodput"].n == 80
    assert found["response p50"].conditions["scenario"] == "server, 200/s, due in 10 ms"
    assert found["response p50"].conditions["refused"][0] == "p90: 80 of 100 calls"
    assert 0 < found["response p50"].conditions["utilization"] < 1
    assert "peak memory" in found


def test_a_batch_is_measured_for_its_throughput(digit_artifact: Path, hasty):
    found = named(flow.measure(digit_artifact, scenario="batch", target="onnxruntime:cpu,batch=16"))
    assert list(found)[:2] == ["latency mean", "throughput"]
    assert found["throughput"].conditions["target"] == "onnxruntime:cpu,threads=1,batch=16"


def test_noise_is_on_record_and_an_unusable_machine_casts_doubt(digit_artifact: Path, hasty, monkeypatch):
    quiet = benches.noise_probe()
    monkeypatch.setattr(benches, "noise_probe", lambda: replace(quiet, word="unusable"))
    result = flow.measure(digit_artifact)
    assert result.conditions["noise"]["word"] == "unusable"
    assert any("unusable for timing" in doubt for doubt in named(result)["latency p50"].doubts)


def test_earlier_figures_are_set_beside_those_of_now(digit_artifact: Path, tmp_path: Path, hasty):
    earlier = tmp_path / "earlier.json"
    first = flow.measure(digit_artifact)
    earlier.write_text(json.dumps(first.to_json()))
    now = flow.measure(digit_artifact, earlier=earlier)
    assert [line.partition(":")[0] for line in now.earlier] == [
        item.name for item in now.measurements if item.name in named(first)
    ]
    assert now.earlier[[item.name for item in now.measurements].index("size")].endswith(" now")
    with pytest.raises(DataError, match=r"comparing two figures[\s\S]*target onnxruntime\S+batch=8 and \S+batch=2"):
        flow.measure(digit_artifact, target="onnxruntime:cpu,batch=2", earlier=earlier)


@pytest.mark.parametrize("content", ["", "[]", '{"measurements": [{"name": "size"}]}'])
def test_an_earlier_result_that_is_none(digit_artifact: Path, tmp_path: Path, content: str):
    (tmp_path / "earlier.json").write_text(content)
    with pytest.raises(DataError, match=r"reading the earlier result[\s\S]*gossamer bench --json"):
        flow.measure(digit_artifact, earlier=tmp_path / "earlier.json")


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"scenario": "sever"}, UnknownName, "server"),
        ({"scenario": "server", "rate": 5.0}, OptionError, "no bound"),
        ({"scenario": "server", "rate": 5.0, "bound": "soon"}, OptionError, "reading the bound"),
        ({"seconds": 5.0}, OptionError, "calls are back to back"),
    ],
)
def test_settings_that_make_no_sense_are_refused_before_anything_runs(digit_artifact: Path, settings, error, message):
    with pytest.raises(error, match=message):
        flow.measure(digit_artifact, **settings)


def test_only_calls_back_to_back_are_compared(digit_artifact: Path):
    with pytest.raises(OptionError, match=r"the scenario paced, 5/s, due in 200 ms[\s\S]*measure each alone"):
        flow.measure(digit_artifact, digit_artifact, scenario="paced", rate=5.0)


def test_the_command_line_has_the_same_options(digit_artifact: Path, tmp_path: Path, hasty, monkeypatch, capsys):
    def run(*arguments: object) -> str:
        monkeypatch.setattr("sys.argv", ["gossamer", "bench", str(digit_artifact), *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code
        return capsys.readouterr().out

    schedule = ("--scenario", "server", "--rate", 200, "--bound", "10ms", "--seconds", 0.4)
    (tmp_path / "earlier.json").write_text(run(*schedule, "--json"))
    text = run(*schedule, "--earlier", tmp_path / "earlier.json")
    assert "  response p50 " in text
    assert "  goodput: " in text
    assert " then, " in text
