"""The benchmark of planted faults runs at tiny size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_benchmark_of_planted_faults_runs(tmp_path: Path) -> None:
    out = tmp_path / "faults.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "faults.py"), "--tiny", "--runtimes", "onnxruntime"]
    done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(out.read_text(encoding="utf-8"))
    assert (report["summary"]["faults"], report["summary"]["caught"], report["summary"]["alarms"]) == (4, 1.0, 0)
    assert {row["number"] for row in report["planted"]} == {3, 18, 28, 43}
    assert len(report["clean"]) == 9
