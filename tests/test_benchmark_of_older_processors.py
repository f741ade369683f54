"""The benchmark of older processors runs at tiny size, and its verdict is that of the audit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gossamer.core.isa import host_profile
from gossamer.testing.older_cpu import why_not

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "cross_cpu.py"


@pytest.mark.slow
@pytest.mark.skipif(bool(why_not()), reason=why_not())
@pytest.mark.skipif(host_profile() != "vnni", reason="this processor is an older one itself")
def test_older_kernels_beside_the_audit(tmp_path: Path) -> None:
    out = tmp_path / "cross_cpu.json"
    command = [sys.executable, str(SCRIPT), "--tiny", "--models", "planted", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    (report,) = json.loads(out.read_text())["models"]
    assert report["audit"]["hazards"] == ["avx2", "avx512"]
    assert report["repair"]["audit"]["hazards"] == []
    for profile, measured in report["files"]["int8"].items():
        assert (measured["interval"][1] < -20) == (profile in ("avx2", "avx512"))
        assert report["files"]["repaired"][profile]["interval"][0] > -10
        assert report["emulator"][profile]["same_decisions"] > 0.95
