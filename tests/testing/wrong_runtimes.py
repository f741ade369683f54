"""Runtimes that are wrong in one way each, with the checks of the contract that must reject them.

Run by ``test_contracts_reject.py``; nothing here is collected by name.
"""

from __future__ import annotations

import itertools
import threading
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from gossamer.core.errors import ArtifactError, DataError, UnsupportedOp
from gossamer.core.specs import Signature
from gossamer.core.target import TargetFacts
from gossamer.testing import Disagreement, Gap, RuntimeContract
from gossamer.testing.op_matrix import fn

SQUARE = torch.arange(9.0).reshape(3, 3)
FEW = (
    fn("relu", "float", torch.relu, torch.tensor([[-1.0, 2.0], [3.0, -4.0]])),
    fn("aten.add.Tensor", "whole numbers", lambda x: x + x, torch.arange(6).reshape(2, 3)),
    fn("matmul", "not symmetric", lambda x: x @ x, SQUARE, dynamic=None),
)


class Right(RuntimeContract):
    """ONNX Runtime and a few operations; ``wrap`` may put something around what is opened."""

    target = "onnxruntime:cpu"
    cases = FEW
    rejected_by: ClassVar[set[str]] = set()
    wrap: ClassVar = None

    def open(self, path, program, threads=1, dims=None):
        opened = super().open(path, program, threads, dims)
        return type(self).wrap(opened, path) if self.wrap else opened


class Wrapper:
    """Hands everything on."""

    def __init__(self, inner, path: Path) -> None:
        self.inner, self.path = inner, path

    @property
    def specs(self):
        return self.inner.specs

    @property
    def fingerprint(self):
        return self.inner.fingerprint

    def run(self, inputs, taps=()):
        return self.inner.run(inputs, taps)

    def close(self):
        self.inner.close()


class TestRight(Right):
    wrap = Wrapper


class Transposes(Wrapper):
    def run(self, inputs, taps=()):
        return {name: value.T for name, value in self.inner.run(inputs, taps).items()}


RESULTS = {"test_sizes_may_vary", "test_dims_can_be_fixed_at_load", "test_wrong_inputs_are_refused"}
"""Checks that compare with the interpreter on the way."""

VALUES = RESULTS | {"test_operation_agrees_with_the_interpreter", "test_inputs_are_only_read"}


class TestTransposes(Right):
    wrap = Transposes
    rejected_by: ClassVar = VALUES | {"test_quantized_program_agrees"}


class Doubles(Wrapper):
    def run(self, inputs, taps=()):
        return {
            name: value.astype(np.float64) if value.dtype == np.float32 else value
            for name, value in self.inner.run(inputs, taps).items()
        }


class TestGivesAnotherDtype(Right):
    wrap = Doubles
    rejected_by: ClassVar = VALUES


class TestIgnoresFixedDims(Right):
    rejected_by: ClassVar = {"test_dims_can_be_fixed_at_load", "test_fingerprint_says_what_results_depend_on"}

    def open(self, path, program, threads=1, dims=None):
        return super().open(path, program, threads)


class TestForgetsThatItsDimsAreFixed(Right):
    rejected_by: ClassVar = {"test_fingerprint_says_what_results_depend_on"}

    def open(self, path, program, threads=1, dims=None):
        opened = super().open(path, program, threads, dims)
        opened._dims = {}
        return opened


class LeaksTaps(Wrapper):
    def run(self, inputs, taps=()):
        return {**self.inner.run(inputs, taps), "inner": np.zeros(1)}


class TestLeaksTaps(Right):
    wrap = LeaksTaps
    rejected_by: ClassVar = RESULTS | {"test_taps", "test_inputs_are_only_read"}


class IgnoresTaps(Wrapper):
    def run(self, inputs, taps=()):
        return self.inner.run(inputs)


class TestIgnoresTaps(Right):
    wrap = IgnoresTaps
    rejected_by: ClassVar = {"test_taps"}


class ReusesItsBuffers(Wrapper):
    buffers: ClassVar[dict] = {}

    def run(self, inputs, taps=()):
        results = {}
        for name, value in self.inner.run(inputs, taps).items():
            buffer = self.buffers.setdefault((name, value.shape, value.dtype), value)
            buffer[...] = value
            results[name] = buffer
        return results


class TestReusesItsBuffers(Right):
    wrap = ReusesItsBuffers
    rejected_by: ClassVar = {"test_results_belong_to_the_caller"}


class WritesToInputs(Wrapper):
    def run(self, inputs, taps=()):
        results = self.inner.run(inputs, taps)
        for array in inputs.values():
            if array.flags.writeable:
                array[...] = 0
        return results


class TestWritesToInputs(Right):
    wrap = WritesToInputs
    rejected_by: ClassVar = {
        "test_inputs_are_only_read", "test_sizes_may_vary", "test_wrong_inputs_are_refused", "test_runs_twice_the_same",
        "test_results_belong_to_the_caller", "test_quantized_program_agrees",
    }  # fmt: skip


class WantsContiguousInputs(Wrapper):
    def run(self, inputs, taps=()):
        if not all(array.flags.c_contiguous and array.flags.writeable for array in inputs.values()):
            raise DataError("running a file", got="an array with strides")
        return self.inner.run(inputs, taps)


class TestWantsContiguousInputs(Right):
    wrap = WantsContiguousInputs
    rejected_by: ClassVar = {"test_inputs_are_only_read"}


class TakesAnything(Wrapper):
    def run(self, inputs, taps=()):
        try:
            return self.inner.run(inputs, taps)
        except DataError:
            return {spec.name: np.zeros(1, np.float32) for spec in self.specs.outputs}


class TestTakesAnything(Right):
    wrap = TakesAnything
    rejected_by: ClassVar = {"test_wrong_inputs_are_refused", "test_dims_can_be_fixed_at_load"}


class RaisesItsOwnErrors(Wrapper):
    def run(self, inputs, taps=()):
        try:
            return self.inner.run(inputs, taps)
        except DataError as error:
            raise RuntimeError(str(error)) from error


class TestRaisesItsOwnErrors(Right):
    wrap = RaisesItsOwnErrors
    rejected_by: ClassVar = {"test_wrong_inputs_are_refused", "test_dims_can_be_fixed_at_load"}


class TestOpensWithItsOwnErrors(Right):
    rejected_by: ClassVar = {"test_damaged_file_is_refused"}

    def open(self, path, program, threads=1, dims=None):
        try:
            return super().open(path, program, threads, dims)
        except ArtifactError as error:
            raise RuntimeError(str(error)) from error


class RunsAfterClosing(Wrapper):
    def close(self):
        pass


class TestRunsAfterClosing(Right):
    wrap = RunsAfterClosing
    rejected_by: ClassVar = {"test_closing"}


class ClosesOnce(Wrapper):
    def close(self):
        del self.inner


class TestClosesOnce(Right):
    wrap = ClosesOnce
    rejected_by: ClassVar = {"test_closing"}


class HasAFingerprintOfItsOwn(Wrapper):
    def __init__(self, inner, path):
        super().__init__(inner, path)
        self.number = next(NUMBERS)

    @property
    def fingerprint(self):
        return f"{self.inner.fingerprint} session={self.number}"


NUMBERS = itertools.count()


class TestHasAFingerprintOfItsOwn(Right):
    wrap = HasAFingerprintOfItsOwn
    rejected_by: ClassVar = {"test_fingerprint_says_what_results_depend_on"}


class Caches(Wrapper):
    def run(self, inputs, taps=()):
        self.path.with_suffix(".cache").touch()
        return self.inner.run(inputs, taps)


class TestLeavesFilesBehind(Right):
    wrap = Caches
    rejected_by: ClassVar = {"test_leaves_no_files_behind"}


class Noisy(Wrapper):
    def run(self, inputs, taps=()):
        noise = np.float32(1 + next(NUMBERS) % 7 * 1e-7)
        return {
            name: value * noise if value.dtype == np.float32 else value
            for name, value in self.inner.run(inputs, taps).items()
        }


class TestIsNotDeterministic(Right):
    wrap = Noisy
    rejected_by: ClassVar = {"test_runs_twice_the_same", "test_results_belong_to_the_caller"}


class Pool(Wrapper):
    """Runs everything a second and third time, in threads that live on."""

    def __init__(self, inner, path):
        super().__init__(inner, path)
        self.work = [threading.Semaphore(0) for _ in range(2)]
        self.done = threading.Semaphore(0)
        self.inputs = None
        for semaphore in self.work:
            threading.Thread(target=self.serve, args=(semaphore,), daemon=True).start()

    def serve(self, semaphore):
        while True:
            semaphore.acquire()
            try:
                self.inner.run(self.inputs)
            except Exception:  # noqa: BLE001 - the caller's own thread raises it as well
                pass
            finally:
                self.done.release()

    def run(self, inputs, taps=()):
        self.inputs = inputs
        for semaphore in self.work:
            semaphore.release()
            self.done.acquire()
        return self.inner.run(inputs, taps)


class TestUsesMoreThreads(Right):
    wrap = Pool
    rejected_by: ClassVar = {"test_uses_no_more_threads_than_allowed"}


class SmallBatches(Wrapper):
    def run(self, inputs, taps=()):
        if len(next(iter(inputs.values()))) > 8:
            raise DataError("running a file", got="a large batch")
        return self.inner.run(inputs, taps)


class TestTakesSmallBatchesOnly(Right):
    wrap = SmallBatches
    rejected_by: ClassVar = {"test_sizes_may_vary", "test_quantized_program_agrees"}


class OtherSpecs(Wrapper):
    @property
    def specs(self):
        return Signature((), ())


class TestLosesItsSignature(Right):
    wrap = OtherSpecs
    rejected_by: ClassVar = {"test_is_an_executable"}


class TestLowersAtRandom(Right):
    rejected_by: ClassVar = {"test_equal_programs_give_equal_bytes"}

    def lower(self, program):
        import onnx

        model = onnx.load_from_string(super().lower(program))
        model.doc_string = str(next(NUMBERS))
        return model.SerializeToString()


class TestHasAGapItDoesNotDeclare(Right):
    rejected_by: ClassVar = {"test_operation_agrees_with_the_interpreter"}

    def lower(self, program):
        if any("relu" in node.name for node in program.call_nodes) and len(program.call_nodes) == 1:
            raise UnsupportedOp("lowering", got="relu")
        return super().lower(program)


class TestDeclaresThatGap(TestHasAGapItDoesNotDeclare):
    gaps = (Gap("notimpl", "relu", UnsupportedOp, "left out on purpose"),)
    rejected_by: ClassVar = set()


class TestDeclaresAGapThatWorks(Right):
    gaps = (Gap("never", "matmul", UnsupportedOp, "long forgotten"),)
    rejected_by: ClassVar = {"test_operation_agrees_with_the_interpreter"}


class TestDeclaresAnotherError(TestHasAGapItDoesNotDeclare):
    gaps = (Gap("notyet", "relu", Disagreement, "fails otherwise than it says"),)
    rejected_by: ClassVar = {"test_operation_agrees_with_the_interpreter"}


class TestHasFactsThatContradictEachOther(Right):
    rejected_by: ClassVar = {"test_facts_fit_the_dialect"}

    def resolve(self):
        return replace(super().resolve(), facts=TargetFacts(precisions=("float32", "int8")))
