"""The harness of the operation matrix: what a case is, and how one is captured, written, run and compared."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gossamer.core.target import Target
from gossamer.frontends.torch_module import capture
from gossamer.lowering import lower_to_onnx
from gossamer.program.dialect import NAMES, TARGETS
from gossamer.program.interpreter import Interpreter
from gossamer.runtimes.onnxruntime.runtime import OnnxRuntimeExecutable

torch.set_num_threads(1)

BOUNDS = {
    # The same float32 operations in another order. Sums of n terms differ by about sqrt(n) roundoffs of 6e-8; n < 1000.
    "float32": 1e-5,
    # One rounding of the result to 11 bits on each side: 2 * 2^-11 of the largest value.
    "float16": 2.0**-10,
    # bfloat16 leaves the interpreter widened to float32, whose bound then applies; 8 bits: 2 * 2^-8.
    "bfloat16": 2.0**-7,
    "float64": 1e-12,
}


@dataclass(frozen=True)
class Part:
    """A function or layer with its inputs; one output of a model.

    Attributes:
        note: which form of the operation it shows.
        make: the function or layer.
        inputs: example inputs.
        own_bound: a bound other than that of the dtype, with its reason where it is given.
    """

    note: str
    make: Callable[[], Callable[..., Any]]
    inputs: tuple[Tensor, ...]
    own_bound: float | None = None

    @property
    def bound(self) -> float:
        """The largest difference allowed, as a share of the largest value."""
        if self.own_bound is not None:
            return self.own_bound
        given = {str(x.dtype).removeprefix("torch.") for x in self.inputs}
        return max((BOUNDS[dtype] for dtype in given if dtype in BOUNDS), default=BOUNDS["float32"])


@dataclass(frozen=True)
class Case:
    """A model and the operation that capture must make of it.

    Attributes:
        covers: name of the operation in the dialect.
        parts: what the model computes.
        dynamic: which dims vary; the inputs are called x, y, z, w, a, b, c in order.
        gap: kind (``notimpl`` in the runtime, ``notyet`` in the writer, ``never``), exception and reason of what fails.
    """

    covers: str
    parts: tuple[Part, ...]
    dynamic: Any = "batch"
    gap: tuple[str, type[Exception], str] | None = None

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The example inputs of all parts, each a tensor of its own."""
        return tuple(x.clone() for part in self.parts for x in part.inputs)

    @property
    def param(self) -> Any:
        """The case for ``parametrize``; a gap must fail as it says."""
        marks = []
        if self.gap is not None:
            kind, raises, reason = self.gap
            assert kind in ("notimpl", "notyet", "never")
            marks = [pytest.mark.xfail(strict=True, raises=raises, reason=f"{kind}: {reason}")]
        return pytest.param(self, id=f"{self.covers}: {'; '.join(part.note for part in self.parts)}", marks=marks)


class Model(nn.Module):
    """The parts of a case as one module with an output each."""

    def __init__(self, parts: Sequence[Part]) -> None:
        super().__init__()
        self.parts = [(part.make(), len(part.inputs)) for part in parts]
        self.layers = nn.ModuleList([made for made, _ in self.parts if isinstance(made, nn.Module)])

    def forward(self, x, y=None, z=None, w=None, a=None, b=None, c=None):
        inputs = iter((x, y, z, w, a, b, c))
        return tuple(function(*itertools.islice(inputs, count)) for function, count in self.parts)


MOST_INPUTS = 7


def layer(covers: str, note: str, make: Callable[[], Any], *inputs: Tensor, **options: Any) -> Case:
    """A case of a layer; ``covers`` without a dot is short for ``aten.<covers>.default``."""
    part = Part(note, make, inputs, options.pop("bound", None))
    return Case(covers if covers in TARGETS else f"aten.{covers}.default", (part,), **options)


def fn(covers: str, note: str, function: Callable[..., Any], *inputs: Tensor, **options: Any) -> Case:
    """A case of a function."""
    return layer(covers, note, lambda: function, *inputs, **options)


def joined(cases: Sequence[Case]) -> list[Case]:
    """The cases with plain ones of one operation made one model, which saves most of the exports."""
    rest = [case for case in cases if not _is_plain(case)]
    models: list[Case] = []
    for case in sorted((case for case in cases if _is_plain(case)), key=lambda case: case.covers):
        last = models[-1] if models else None
        if last and last.covers == case.covers and len(last.inputs) + len(case.inputs) <= MOST_INPUTS:
            models[-1] = Case(case.covers, (*last.parts, *case.parts))
        else:
            models.append(case)
    return models + rest


def _is_plain(case: Case) -> bool:
    return case.dynamic == "batch" and case.gap is None and all(x.shape[:1] == (2,) for x in case.inputs)


_generator = torch.Generator().manual_seed(0)


def r(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=_generator).to(dtype)


def pos(*shape: int) -> Tensor:
    return torch.rand(shape, generator=_generator) + 0.1


def ints(*shape: int, low: int = -9, high: int = 10, dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.randint(low, high, shape, generator=_generator, dtype=dtype)


def flags(*shape: int) -> Tensor:
    return torch.rand(shape, generator=_generator) > 0.4


def index(*shape: int, size: int) -> Tensor:
    return ints(*shape, low=0, high=size)


def varied(program: Any, inputs: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """The inputs at three settings of the dims that vary, each between 1 and 3 or at the low end of its range."""
    dims = program.signature.dims
    settings = []
    for shift in range(3 if dims else 1):
        sizes = {
            name: low if low > 3 else max(low, 1 + (shift + i) % 3) for i, (name, (low, _)) in enumerate(dims.items())
        }
        resized = dict(inputs)
        for spec in program.signature.inputs:
            for axis, dim in enumerate(spec.shape):
                if isinstance(dim, str):
                    array = resized[spec.name]
                    resized[spec.name] = np.take(array, np.arange(sizes[dim]) % array.shape[axis], axis)
        settings.append(resized)
    return settings


def assert_close(name: str, got: np.ndarray, expected: np.ndarray, bound: float) -> None:
    """Whole numbers and bools are equal; floats differ by at most ``bound`` times the largest of them."""
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape), name
    if expected.dtype.kind != "f":
        assert np.array_equal(got, expected), name
        return
    finite = np.isfinite(expected)
    assert np.array_equal(got[~finite], expected[~finite], equal_nan=True), name
    scale = np.abs(expected[finite], dtype=np.float64).max(initial=0.0)
    assert np.abs(got[finite].astype(np.float64) - expected[finite]).max(initial=0.0) <= bound * scale, name


def check(case: Case, path: Path) -> None:
    """Capture, write to ``path``, load, and compare with the interpreter at several sizes."""
    torch.manual_seed(0)
    program = capture(Model(case.parts), case.inputs, dynamic=case.dynamic)
    assert case.covers in {NAMES[node.target] for node in program.call_nodes}
    path.write_bytes(lower_to_onnx(program).model)
    executable = OnnxRuntimeExecutable(path, program.signature, Target("onnxruntime"))
    arrays = [(x.float() if x.dtype == torch.bfloat16 else x).numpy() for x in case.inputs]
    example = {spec.name: array for spec, array in zip(program.signature.inputs, arrays, strict=True)}
    for inputs in varied(program, example):
        expected, got = Interpreter(program).run(inputs), executable.run(inputs)
        for spec in program.signature.outputs:  # output_1, or output_1_0 where part 1 has several results
            part = case.parts[int(spec.name.split("_")[1])]
            assert_close(part.note, got[spec.name], expected[spec.name], part.bound)
