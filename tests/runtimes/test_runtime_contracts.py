"""Every runtime against its contract: operations, models, files, sessions, facts."""

from __future__ import annotations

from gossamer.program.dialect import TARGETS
from gossamer.testing import RuntimeContract
from gossamer.testing.runtime import CASES
from gossamer.testing.runtime_gaps import RUNTIME_GAPS


class TestOnnxRuntime(RuntimeContract):
    target = "onnxruntime:cpu"
    gaps = RUNTIME_GAPS["onnxruntime:cpu"]


class TestOpenVino(RuntimeContract):
    target = "openvino:cpu"
    gaps = RUNTIME_GAPS["openvino:cpu"]


def test_every_operation_of_the_dialect_has_a_case():
    assert {case.covers for case in CASES} == set(TARGETS)
