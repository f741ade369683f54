"""The benchmark of pruning runs at tiny size, and holds the figures against their limits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from gossamer.analysis.coupling import couple
from gossamer.core.errors import ModelError
from gossamer.frontends.torch_module import capture

ROOT = Path(__file__).parents[1]
ASSETS = ROOT.parent / "shared" / "assets"
COMMAND = [sys.executable, str(ROOT / "benchmarks" / "prune_quality.py")]

needs_assets = pytest.mark.skipif(not ASSETS.is_dir(), reason=f"the assets folder is not beside the checkout: {ASSETS}")


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import prune_quality

    return prune_quality


@pytest.fixture
def verdicts(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import prune_verdicts

    return prune_verdicts


def run(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *options], capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.slow
@needs_assets
def test_widths_blocks_and_scores(tmp_path: Path) -> None:
    out = tmp_path / "quality.json"
    done = run("--tiny", "--no-peer", "--models", "resnet20", "--scores", "random", "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(out.read_text(encoding="utf-8"))["results"]
    assert {(row["by"], row["name"], row["share"]) for row in rows if row["by"] != "original"} == {
        (by, name, share)
        for share in (0.7, 0.5)
        for by, name in (
            ("ours", "prune"), ("score", "fisher"), ("score", "random"),
            ("depth", "drop_blocks"), ("depth", "drop_blocks, then prune"),
        )
    }  # fmt: skip
    assert all(row["macs_kept"] <= row["share"] for row in rows)
    top1 = {(row["name"], row["share"]): row["top1"] for row in rows if row["by"] != "score"}
    assert top1["original", 1.0] - top1["prune", 0.7] < 12  # of 300 images, fitted on 64
    assert all(row["top1"] > row["top1_plain"] for row in rows if row["by"] in ("ours", "score"))


@pytest.mark.slow
@needs_assets
def test_latency_names_the_layers_that_stay_behind(tmp_path: Path) -> None:
    out = tmp_path / "quality.json"
    done = run("--tiny", "--latency", "--models", "resnet20", "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(out.read_text(encoding="utf-8"))["results"]
    where = [f"{runtime}, batch {batch}" for runtime in ("onnxruntime", "openvino") for batch in (1, 32)]
    assert [row["name"] for row in rows] == where
    for row in rows:
        original, pruned = row["layer_us"]
        assert original.keys() == pruned.keys() >= {"layer1.0.conv1", "layer3.2.conv2"}
        assert row["comparison"]["n"] == 2


def test_an_unknown_network_is_refused() -> None:
    done = run("--models", "resnet21")
    assert done.returncode != 0
    assert "model 'resnet21'" in done.stderr


def figures(verdicts: ModuleType, by: str, name: str, share: float, right: int, macs: int = 100) -> dict[str, Any]:
    """A row of 1,000 images of which the first ``right`` are right."""
    hits = np.arange(1000) < right
    row = {"model": "resnet56", "by": by, "name": name, "share": share, "images": 1000, "macs": macs}
    return {**row, "top1": right / 10, "right": verdicts.packed(hits)}


@pytest.mark.parametrize(
    ("share", "ours", "peer", "peer_macs", "holds"),
    [
        (0.9, 900, 900, 100, True),
        (0.9, 890, 900, 100, False),
        (0.8, 900, 900, 100, False),
        (0.8, 910, 900, 100, True),
        (0.8, 910, 900, 99, False),
        (0.7, 910, 600, 100, True),
        (0.7, 910, 670, 100, False),
        (0.7, 890, 600, 100, False),
    ],
    ids=[
        "equal at first", "worse", "equal later", "better", "peer is smaller", "far above", "not far enough above",
        "not accurate enough",
    ],
)  # fmt: skip
def test_each_share_is_held_against_its_limit(
    verdicts: ModuleType, share: float, ours: int, peer: int, peer_macs: int, holds: bool
) -> None:
    rows = [
        figures(verdicts, "peer", "everywhere", share, peer, peer_macs),
        figures(verdicts, "ours", "prune", share, ours),
    ]
    (entry,) = verdicts.verdict(rows)
    assert entry["holds"] is holds
    assert entry["points"] == pytest.approx((ours - peer) / 10)


def test_networks_judged_on_other_images_are_not_compared(verdicts: ModuleType) -> None:
    rows = [figures(verdicts, "ours", "prune", 0.9, 900), figures(verdicts, "peer", "everywhere", 0.9, 800)]
    rows[1]["images"] = 500
    assert verdicts.verdict(rows) == []


def test_the_images_that_are_right_are_kept(verdicts: ModuleType) -> None:
    right = np.random.default_rng(0).integers(0, 2, 1003).astype(np.float64)
    entry = {"images": 1003, "right": verdicts.packed(right)}
    np.testing.assert_array_equal(verdicts.unpacked(entry), right)


def test_a_layer_whose_time_does_not_follow_its_multiply_accumulates_is_named(benchmark: ModuleType) -> None:
    network = torch.nn.Sequential(*(torch.nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))).eval()
    program = capture(network, (torch.zeros(2, 8, 6, 6),), name="chain")
    coupling = couple(program)
    small = coupling.cut({coupling.free[0].name: range(4)})  # between "0" and "1": either keeps half
    before = {"0": 100.0, "1": 100.0, "2": 100.0}
    (behind,) = benchmark.layers_behind(program, small, before, {"0": 50.0, "1": 80.0, "2": 130.0})
    assert behind == {"layer": "1", "macs_kept": 0.5, "time_kept": 0.8, "excess_us": 30.0, "excess": 0.1}


def test_norms_are_estimated_again_in_a_copy(benchmark: ModuleType) -> None:
    norm = torch.nn.BatchNorm2d(2).eval()
    images = np.random.default_rng(0).normal(3.0, 2.0, (256, 2, 4, 4)).astype(np.float32)
    again = benchmark.renormed(torch.nn.Sequential(norm), benchmark.Samples({"x": images}, np.zeros(256, np.int64)))
    np.testing.assert_allclose(again[0].running_mean, images.mean((0, 2, 3)), rtol=1e-5)
    assert norm.running_mean.abs().sum() == 0
    assert not again.training


def test_a_peer_that_dies_is_no_result(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    data = benchmark.Samples({"x": np.zeros((2, 3, 8, 8), np.float32)}, np.zeros(2, np.int64))
    program = capture(network.eval(), (torch.zeros(2, 3, 8, 8),), name="small")
    job = benchmark.Job("small", network, program, data, data, tmp_path, None, 2)
    monkeypatch.setattr(benchmark.peer, "prepare_environment", lambda folder: Path("/bin/false"))
    options = benchmark.Options([], [], [], [], 2, None, tmp_path, tmp_path, tmp_path, tiny=True)
    with pytest.raises(ModelError, match="0 of 4 results"):
        benchmark.run_peer(job, {0.5: {"macs": 10}}, benchmark.TINY, options, lambda row: None)
