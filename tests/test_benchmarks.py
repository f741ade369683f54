"""Benchmarks run at tiny size, so that they cannot rot. What they print of speed means nothing at this size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ASSETS = ROOT.parent / "shared" / "assets"


@pytest.mark.slow
@pytest.mark.skipif(not ASSETS.is_dir(), reason=f"the assets folder is not beside the checkout: {ASSETS}")
@pytest.mark.parametrize("model", ["resnet20", "vit"])
def test_post_training_quantization_beside_the_peer(model: str, tmp_path: Path) -> None:
    out = tmp_path / "ptq.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "ptq.py"), "--tiny", "--models", model, "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    (report,) = json.loads(out.read_text())["models"]
    (ours,) = report["ours"]
    (difference,) = report["ours_against_peer"]
    assert report["model"] == model
    assert difference["interval"][1] > -2.0  # of 300 samples: not significantly below the peer by two points
    for layers in ours["layers"].values():
        assert layers["int8"]
        assert not layers["float"]


@pytest.mark.slow
def test_older_kernels_beside_the_audit(tmp_path: Path) -> None:
    out = tmp_path / "cross_cpu.json"
    script = str(ROOT / "benchmarks" / "cross_cpu.py")
    command = [sys.executable, script, "--tiny", "--models", "planted", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    (report,) = json.loads(out.read_text())["models"]
    assert report["audit"]["hazards"] == ["avx2", "avx512"]
    assert report["repair"]["audit"]["hazards"] == []
    for profile, measured in report["files"]["int8"].items():
        assert (measured["interval"][1] < -20) == (profile in ("avx2", "avx512"))
        assert report["files"]["repaired"][profile]["interval"][0] > -10
        assert report["emulator"][profile]["same_decisions"] > 0.95
