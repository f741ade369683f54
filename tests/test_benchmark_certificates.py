"""The simulation of certificates at tiny size, so that it cannot rot."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "certificates.py"


@pytest.mark.slow
def test_tests_of_a_budget_on_simulated_candidates(tmp_path: Path) -> None:
    out = tmp_path / "certificates.json"
    command = [sys.executable, str(SCRIPT), "--tiny", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode in (0, 1), done.stderr  # of so few candidates too many may pass
    report = json.loads(out.read_text())
    rows = {(row["test"], row["true_drop_pt"] / row["limit_pt"]): row for row in report["tests"]}
    assert len(rows) == 24
    for (_, ratio), row in rows.items():
        assert 0 < row["samples_used"] <= row["samples"]
        assert (row["bound"] is not None) == (ratio == 1.0)
    assert rows["fixed size", 0.0]["accepted"] > rows["fixed size", 1.5]["accepted"]
    assert rows["5 looks", 0.0]["samples_saved"] > 0
    for row in report["selection"]:
        assert row["accepted_on_choose"] > row["accepted_on_prove"]
    assert "luckiest of 20 at the limit" in done.stdout
