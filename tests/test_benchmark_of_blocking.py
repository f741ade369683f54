"""The benchmark behind the targets' blocking: what it concludes, and that it runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import blocking

    return blocking


@pytest.mark.parametrize(
    ("costly", "expected"),
    [((16, 32, 64), 16), ((64,), 64), ((), 1), ((1, 2, 4, 8, 16, 32, 64), 1), ((4, 16, 32, 64), 16)],
)
def test_the_smallest_block_from_which_on_every_step_is_costly(script, costly: tuple[int, ...], expected: int):
    steps = [{"block": block, "interval": [1.1 if block in costly else 0.99, 1.2]} for block in script.BLOCKS]
    assert script.blocking(steps) == expected


@pytest.mark.slow
def test_it_times_every_kind_of_layer(tmp_path: Path):
    out = tmp_path / "blocking.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "blocking.py"), "--tiny", "--targets", "onnxruntime:cpu"]
    done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads(out.read_text())["results"]
    assert [row["layers"] for row in results] == ["conv 3x3", "conv 1x1", "depthwise", "linear"]
    assert all(step["interval"][0] <= step["ratio"] <= step["interval"][1] for row in results for step in row["steps"])
