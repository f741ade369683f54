"""The strategies make what they say, and small random programs survive the street."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import find, given, settings

from gossamer.program import Interpreter, load_program, save_program
from gossamer.runtimes import lower_for, open_executable, resolve_target
from gossamer.testing import strategies
from gossamer.verification.inputs import parity_cases
from gossamer.verification.parity import compare_runnables
from gossamer.verification.policies import FP32

FEATURES = {
    "zeros": lambda array: not array.any(),
    "denormals": lambda array: bool(((array != 0) & (np.abs(array) < strategies.SMALLEST_NORMAL)).any()),
    "an outlier": lambda array: array.size > 3 and np.abs(array).max() > 1e3 * np.median(np.abs(array)) > 0,
    "the largest": lambda array: np.abs(array).max() == 1e4,
    "odd sizes": lambda array: array.ndim > 1 and all(side % 2 for side in array.shape) and array.size > 8,
    "sides of one": lambda array: array.ndim == 4 and 1 in array.shape,
}


@pytest.mark.parametrize("feature", FEATURES)
def test_tensors_have_what_breaks_numerics(feature: str):
    found = find(strategies.arrays(), FEATURES[feature], settings=settings(database=None, max_examples=2000))
    assert found.dtype == np.float32


@given(strategies.code_ranges())
def test_codes_fit_into_a_byte(codes: tuple[int, int]):
    low, high = codes
    assert (0 <= low < high <= 255) or (-128 <= low < high <= 127)


@settings(max_examples=12, deadline=None)
@given(strategies.programs())
def test_small_programs_are_saved_lowered_and_run(made):
    program, inputs = made
    target = resolve_target("onnxruntime:cpu")
    with tempfile.TemporaryDirectory() as folder:
        save_program(program, Path(folder))
        assert load_program(Path(folder)).digest == program.digest
        path = Path(folder) / "model.onnx"
        path.write_bytes(lower_for(target, program).model)
        executable = open_executable(path, program.signature, target)
        parity = compare_runnables(Interpreter(program), executable, parity_cases(program.signature, inputs), FP32)
    assert parity.verdict in ("exact", "equivalent"), f"{program}\n{parity}"
