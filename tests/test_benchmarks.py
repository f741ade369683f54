"""Benchmarks run at tiny size, so that they cannot rot. What they print of speed means nothing at this size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
ASSETS = ROOT.parent / "shared" / "assets"
GAIN = {"to": "peer", "points": 0.0, "interval": [-0.4, 0.4], "lost": 30, "won": 30, "n": 10_000}

needs_assets = pytest.mark.skipif(not ASSETS.is_dir(), reason=f"the assets folder is not beside the checkout: {ASSETS}")


@pytest.fixture
def verdicts(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import verdicts

    return verdicts


@pytest.mark.slow
@needs_assets
@pytest.mark.parametrize(
    ("model", "runtimes"), [("resnet20", "onnxruntime"), ("vit", "openvino"), ("keywords", "onnxruntime,openvino")]
)
def test_post_training_quantization_beside_the_peers(model: str, runtimes: str, tmp_path: Path) -> None:
    out, home = tmp_path / "ptq.json", tmp_path / "home"
    home.mkdir()
    command = [sys.executable, str(ROOT / "benchmarks" / "ptq.py"), "--tiny", "--models", model]
    command += ["--runtimes", runtimes, "--out", str(out)]
    environment = {**os.environ, "HOME": str(home)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    results = json.loads(out.read_text())["results"]
    assert [(result["runtime"], result["batch"]) for result in results] == [
        (runtime, batch) for runtime in runtimes.split(",") for batch in (1, 32)
    ]
    for result in results:
        check(result)
    assert not list(home.rglob("*telemetry*")) + list(home.rglob("intel*"))  # nobody reports home


def check(result: dict[str, Any]) -> None:
    difference = result["against_better_peer"]
    assert difference["interval"][1] > -2.0  # of 300 samples: not significantly below the peer by two points
    peers = [peer["name"] for peer in result["peers"]]
    assert result["better_peer"] in peers
    assert {"nncf" in peer for peer in peers} == {True, False}  # both quantizers take part
    assert result["speed"]["peer"] == result["fastest_peer"]
    if result["model"] == "resnet20":  # elsewhere int8 need not be faster, and then a layer keeps its floats
        for layers in result["ours"]["layers"].values():
            assert layers["int8"]
            assert not layers["float"]


@pytest.mark.parametrize(
    ("low", "n", "ours", "peer", "passes"),
    [
        (-0.4, 10_000, 0.3, 0.1, True),  # on large sets divergence is no limit
        (-0.6, 10_000, 0.1, 0.1, False),
        (-1.9, 808, 0.11, 0.1, True),
        (-1.9, 808, 0.12, 0.1, False),
        (-2.1, 808, 0.1, 0.1, False),
        (-1.9, 808, 0.0, 0.0, True),  # neither differs from fp32
        (-1.9, 808, 0.1, 0.0, False),
    ],
)
def test_accuracy_is_held_against_the_limit_of_its_test_set(
    verdicts: ModuleType, low: float, n: int, ours: float, peer: float, passes: bool
) -> None:
    row = verdicts.accuracy_row({**GAIN, "interval": [low, 1.0], "n": n}, ours, peer)
    assert row["pass"] is passes


@pytest.mark.parametrize(
    ("interval", "word", "passes", "faster"),
    [
        ([0.96, 1.00], "no measurable difference", True, False),  # at most 1/0.96 = 1.042 of the peer's time
        ([0.95, 1.10], "no measurable difference", False, False),  # 1.053
        ([1.02, 1.10], "faster", True, True),
        ([1.02, 1.10], "unstable", False, False),
    ],
)
def test_time_is_held_against_the_upper_bound(
    verdicts: ModuleType, interval: list[float], word: str, passes: bool, faster: bool
) -> None:
    row = verdicts.latency_row("peer", {"interval": interval, "speedup": sum(interval) / 2, "word": word})
    assert (row["pass"], row["faster"]) == (passes, faster)
    assert row["interval"] == [pytest.approx(1 / interval[1]), pytest.approx(1 / interval[0])]


def test_results_of_a_row_replace_only_that_row(verdicts: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "results" / "ptq.json"
    verdicts.store(path, [{"model": "b", "runtime": "openvino", "batch": 1, "figure": 1}])
    verdicts.store(
        path,
        [
            {"model": "b", "runtime": "onnxruntime", "batch": 1, "figure": 2},
            {"model": "a", "runtime": "openvino", "batch": 1},
        ],
    )
    every = verdicts.store(path, [{"model": "b", "runtime": "openvino", "batch": 1, "figure": 3}])
    assert [(entry["model"], entry["runtime"], entry.get("figure")) for entry in every] == [
        ("a", "openvino", None),
        ("b", "onnxruntime", 2),
        ("b", "openvino", 3),
    ]
    assert json.loads(path.read_text())["results"] == every


@pytest.mark.slow
@needs_assets
def test_minilm_classifies_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from assets import calibration_and_test, load_network
    from check_baselines import accuracy

    given, test = calibration_and_test("minilm", 32, ASSETS)
    part = test.shuffled(64, 0)
    assert given.inputs["input_ids"].shape == (32, 128)
    assert accuracy(load_network("minilm", ASSETS), part, batch=16) > 70.0  # stated 81.1 %, chance 50 %


@pytest.mark.slow
@needs_assets
def test_calibration_samples_are_not_test_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from assets import HELD_OUT, calibration_and_test, load_samples

    given, test = calibration_and_test("keywords", 512, ASSETS)
    assert (len(given), len(test)) == (HELD_OUT, 1000 - HELD_OUT)
    rows = [row.tobytes() for samples in (given, test) for row in samples.inputs["x"]]
    assert sorted(rows) == sorted(row.tobytes() for row in load_samples("keywords", "test", ASSETS).inputs["x"])
