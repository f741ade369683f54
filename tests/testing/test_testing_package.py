"""The package of contracts from outside: what it imports, who imports it, and that its own errors are said well."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import gossamer.testing
from gossamer.core import extras
from gossamer.core.errors import ArtifactError, DataError, MissingExtra
from gossamer.runtimes import resolve_target
from gossamer.testing import Disagreement, Gap
from gossamer.testing.gaps import expecting, gap_of, skip_unless_installed
from gossamer.testing.op_matrix import require_close

PACKAGE = Path(gossamer.testing.__file__).parents[1]


def test_importing_the_package_brings_neither_pytest_nor_torch():
    code = "import sys, gossamer, gossamer.testing; assert not {'pytest', 'torch', 'hypothesis'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_nothing_outside_of_tests_imports_it():
    users = [
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if path.parent.name != "testing"
        and re.search(r"^\s*(from|import) gossamer\.testing", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert users == []


def test_the_names_are_those_that_it_announces():
    assert all(hasattr(gossamer.testing, name) for name in gossamer.testing.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Contract'"):
        _ = gossamer.testing.Contract


def test_without_pytest_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(extras, "find_spec", lambda module: None)
    with pytest.raises(MissingExtra, match=r'importing Gap[\s\S]*pip install "gossamer\[dev\]"'):
        gossamer.testing.__getattr__("Gap")


CONV = "aten.conv2d.default"
GAP = Gap("notyet", "conv2d eq.Scalar", DataError, "no kernel", notes="stride *", dtypes="float64 int8")


@pytest.mark.parametrize(
    ("cell", "covered"),
    [
        ((CONV, "stride 2", "float64"), True),
        ((CONV, "stride 2", "float32"), False),
        ((CONV, "plain", "float64"), False),
        (("aten.eq.Scalar", "stride 2", "int8"), True),
        (("aten.eq.Tensor", "stride 2", "int8"), False),
        (("aten.conv3d.default", "stride 2", "int8"), False),
    ],
)
def test_a_gap_covers_what_it_names(cell: tuple[str, str, str], covered: bool):
    assert GAP.covers(*cell) == covered
    assert gap_of([GAP], *cell) == (GAP if covered else None)


def test_a_gap_must_fail_as_it_says():
    with expecting(GAP):
        raise DataError("running")
    with pytest.raises(ArtifactError), expecting(GAP):
        raise ArtifactError("loading")
    with (
        pytest.raises(pytest.fail.Exception, match="works now: take it out of the gap 'notyet: no kernel'"),
        expecting(GAP),
    ):
        pass
    with pytest.raises(DataError), expecting(None):
        raise DataError("running")


def test_a_disagreement_says_how_large_it_is():
    import numpy as np

    ones = np.ones(4, np.float32)
    require_close("same", ones, ones, 0)
    for got, message in [
        (ones[:3], r"got float32\[3\], expected float32\[4\]"),
        (ones.astype(np.float64), r"got float64\[4\]"),
        (ones * np.float32(1.5), "differs by 0.5 at a scale of 1, allowed 0.1 of it"),
        (ones * np.nan, "differs by nan"),
    ]:
        with pytest.raises(Disagreement, match=message):
            require_close("ones", got, ones, 0.1)
    with pytest.raises(Disagreement, match="other values where NaN"):
        require_close("nan", ones, ones * np.nan, 0.1)
    with pytest.raises(Disagreement, match="25% of the values differ"):
        require_close("whole", np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5]), 0.1)


def test_what_needs_a_runtime_that_is_not_there_is_skipped(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gossamer.testing.gaps.installed_version", lambda runtime: f"no: pip install {runtime}")
    skip_unless_installed(resolve_target("onnxruntime:cpu"))
    with pytest.raises(pytest.skip.Exception, match="openvino is not installed"):
        skip_unless_installed(resolve_target("openvino:cpu"))
