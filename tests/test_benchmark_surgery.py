"""The benchmark of structured pruning runs at tiny size, and its zoo is what it says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_benchmark_of_surgery_runs(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    out = tmp_path / "surgery.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "surgery.py"), "--no-peer", "--out", str(out)]
    done = subprocess.run([*command, "--tiny"], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(out.read_text(encoding="utf-8"))
    assert [row["model"] for row in report["results"] if row["misses"]] == []
    assert all(row["free"] >= 0.8 and row["macs_kept"] <= 0.6 and not row["refuted"] for row in report["results"])
    assert report["summary"]["covered"]["value"] == 6
    again = subprocess.run([*command, "--models", "own-lstm"], capture_output=True, text=True, timeout=120, check=False)
    assert again.returncode == 0, again.stdout + again.stderr
    kept = json.loads(out.read_text(encoding="utf-8"))
    assert [row["model"] for row in kept["results"]] == [row["model"] for row in report["results"]]


def test_an_unknown_architecture_is_refused_with_the_nearest() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "surgery.py"), "--models", "own-resnet21"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert "architecture 'own-resnet21'" in done.stderr
    assert "own-resnet20" in done.stderr


def test_the_zoo_has_every_family(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from zoo import ZOO

    families = {architecture.family for architecture in ZOO.values()}
    wanted = "cnn vit hybrid encoder decoder encoder-decoder audio detection segmentation multi-modal recurrent other"
    assert families == set(wanted.split())
    assert len(ZOO) >= 64
    assert all(name == architecture.name for name, architecture in ZOO.items())


def test_an_architecture_is_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from zoo import ZOO

    (first, given), (second, other) = (ZOO["own-shufflenet"].build() for _ in range(2))
    assert not first.training
    assert all((a == b).all() for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True))
    assert all((given[name] == other[name]).all() for name in given)
