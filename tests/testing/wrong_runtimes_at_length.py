"""Runtimes that are wrong where only the slow checks of the contract look: other dtypes, whole models, stale gaps.

Run by ``test_contracts_reject.py``, slow checks included; nothing here is collected by name.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch

from gossamer.core.errors import UnsupportedOp
from gossamer.testing import Disagreement, Gap, RuntimeContract
from gossamer.testing.models import MODELS
from gossamer.testing.op_matrix import fn

FEW = (
    fn("aten.add.Tensor", "float", lambda x: x + x, torch.arange(6.0).reshape(2, 3)),
    fn("tanh", "float", torch.tanh, torch.arange(6.0).reshape(2, 3)),
)
BFLOAT16 = Gap("notyet", "*", Exception, "no kernels", dtypes="bfloat16")


class Few(RuntimeContract):
    """ONNX Runtime on two operations and three models, one of which cannot be captured."""

    target = "onnxruntime:cpu"
    cases = FEW
    gaps = (BFLOAT16,)
    models: ClassVar = {name: MODELS[name] for name in ("bilinear", "experts", "branch on a value")}
    rejected_by: ClassVar[set[str]] = set()


class TestRight(Few):
    pass


class TestDeclaresAGapOfNothing(Few):
    gaps = (BFLOAT16, Gap("never", "conv9d", UnsupportedOp, "no such operation"))
    rejected_by: ClassVar = {"test_every_gap_covers_something"}


class TestDeclaresAModelThatWorks(Few):
    gaps = (BFLOAT16, Gap("notimpl", "model", Disagreement, "long forgotten", notes="experts"))
    rejected_by: ClassVar = {"test_model_has_a_verdict"}


class TestDoesNotDeclareADtype(Few):
    gaps = ()
    rejected_by: ClassVar = {"test_operation_in_other_dtypes"}


class WrongOnDoubles:
    """Loses what float64 has more than float32."""

    def __init__(self, inner):
        self.inner, self.specs, self.fingerprint, self.close = inner, inner.specs, inner.fingerprint, inner.close

    def run(self, inputs, taps=()):
        found = self.inner.run(inputs, taps)
        return {
            name: value.astype(np.float32).astype(value.dtype) if value.dtype == np.float64 else value
            for name, value in found.items()
        }


class TestComputesDoublesInFloats(Few):
    rejected_by: ClassVar = {"test_operation_in_other_dtypes"}

    def open(self, path, program, threads=1, dims=None):
        return WrongOnDoubles(super().open(path, program, threads, dims))


class TestMixesItsExperts(Few):
    rejected_by: ClassVar = {"test_model_has_a_verdict"}

    def lower(self, program):
        return super().lower(self.program_with_other_weights(program) if "topk" in str(program) else program)

    def program_with_other_weights(self, program):
        module = program.module()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(1.01)
        return program.with_tensors_of(module, "other weights")
