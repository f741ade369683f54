"""Every operation of the dialect, captured, written as ONNX, run in ONNX Runtime and compared with the interpreter."""

from __future__ import annotations

import op_cases_layers
import op_cases_tensors
import pytest
from op_matrix import check, joined

from gossamer.program.dialect import TARGETS

CASES = [*op_cases_layers.CASES, *op_cases_tensors.CASES]


@pytest.mark.parametrize("case", [case.param for case in joined(CASES)])
def test_operation_agrees_with_the_interpreter(case, tmp_path):
    check(case, tmp_path / "model.onnx")


def test_every_operation_of_the_dialect_has_a_case():
    assert {case.covers for case in CASES} == set(TARGETS)
