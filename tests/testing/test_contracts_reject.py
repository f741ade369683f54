"""Each contract is run on implementations that are wrong in one way, and on right ones: who fails, and by what."""

from __future__ import annotations

import functools
from collections import defaultdict
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FILES = ("wrong_techniques.py", "wrong_runtimes.py", "wrong_runtimes_at_length.py", "wrong_metrics.py")
OPTIONS = (
    "-c", "/dev/null", "--rootdir", str(HERE), "--import-mode=importlib", "-o", "markers=slow",
    "-q", "--capture=no", "--tb=no", "--no-header", "--no-summary", "--noconftest",
    *(f"-pno:{name}" for name in ("randomly", "xdist", "cacheprovider", "faulthandler", "hypothesispytest")),
    "-pno:warnings",
)  # fmt: skip
"""Without the configuration of this project: a stranger's tests have none of it."""


class Outcomes:
    """What a run of pytest found: the classes with what they expect, and their failed checks."""

    def __init__(self) -> None:
        self.expected: dict[str, set[str]] = {}
        self.failed: dict[str, set[str]] = defaultdict(set)
        self.passed: dict[str, int] = defaultdict(int)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        self.expected = {item.cls.__name__: item.cls.rejected_by for item in items}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        _, kind, check = report.nodeid.split("::")
        if report.failed:
            self.failed[kind].add(check.partition("[")[0])
        elif report.passed and report.when == "call":
            self.passed[kind] += 1


@functools.cache
def outcomes(file: str) -> Outcomes:
    """Run the contracts of one file, in this process, as anybody's tests would be."""
    found = Outcomes()
    chosen = [] if "at_length" in file else ["-m", "not slow"]
    pytest.main([*OPTIONS, *chosen, str(HERE / file)], plugins=[found])
    return found


@pytest.mark.parametrize("file", FILES)
def test_each_wrong_implementation_is_rejected_by_the_checks_named(file: str, capsys: pytest.CaptureFixture[str]):
    found = outcomes(file)
    capsys.readouterr()  # the dots of the inner run
    assert found.failed == {kind: checks for kind, checks in found.expected.items() if checks}


@pytest.mark.parametrize("file", FILES)
def test_right_implementations_pass(file: str, capsys: pytest.CaptureFixture[str]):
    found = outcomes(file)
    capsys.readouterr()
    right = [kind for kind, checks in found.expected.items() if not checks]
    assert right
    assert all(found.passed[kind] >= 10 for kind in right)
