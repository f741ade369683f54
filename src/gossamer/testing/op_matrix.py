"""The operation matrix: what a case is, how one is captured, and how a runtime is compared with the interpreter."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gossamer.core.runnable import Executable
from gossamer.frontends.torch_module import capture
from gossamer.program.dialect import NAMES, TARGETS
from gossamer.program.interpreter import Interpreter
from gossamer.program.program import Program
from gossamer.program.values import DTYPE_NAMES, TORCH_DTYPES
from gossamer.testing.gaps import Disagreement, Gap, gap_of

BOUNDS: Mapping[str, float] = {
    # The same float32 operations in another order. Sums of n terms differ by about sqrt(n) roundoffs of 6e-8; n < 1000.
    "float32": 1e-5,
    # One rounding of the result to 11 bits on each side: 2 * 2^-11 of the largest value.
    "float16": 2.0**-10,
    # bfloat16 leaves the interpreter widened to float32, whose bound then applies; 8 bits: 2 * 2^-8.
    "bfloat16": 2.0**-7,
    "float64": 1e-12,
}
"""Largest difference from the interpreter by dtype, as a share of the largest value."""


@dataclass(frozen=True, eq=False)
class Part:
    """A function or layer with its inputs; one output of a model, or several.

    Attributes:
        note: which form of the operation it shows.
        make: the function or layer.
        inputs: example inputs.
        own_bound: a bound other than that of the dtype, with its reason where it is given.
        roundings: how often a result is rounded on the way, where an operation runs in steps; counts in half precision.
        own_dtype: what the form is about, where that is not the first float input's dtype, else the first input's.
    """

    note: str
    make: Callable[[], Callable[..., Any]]
    inputs: tuple[Tensor, ...]
    own_bound: float | None = None
    roundings: int = 1
    own_dtype: str = ""

    @property
    def bound(self) -> float:
        """The largest difference allowed, as a share of the largest value."""
        if self.own_bound is not None:
            return self.own_bound
        given = {DTYPE_NAMES[x.dtype] for x in self.inputs}
        bound = max((BOUNDS[dtype] for dtype in given if dtype in BOUNDS), default=BOUNDS["float32"])
        return bound * self.roundings if given & {"float16", "bfloat16"} else bound

    @property
    def dtype(self) -> str:
        """The dtype that the form is about."""
        return (
            self.own_dtype or DTYPE_NAMES[next((x for x in self.inputs if x.is_floating_point()), self.inputs[0]).dtype]
        )


@dataclass(frozen=True, eq=False)
class Case:
    """A model and the operation that capture must make of it.

    Attributes:
        covers: name of the operation in the dialect.
        parts: what the model computes.
        dynamic: which dims vary; the inputs are called x, y, z, w, a, b, c in order.
    """

    covers: str
    parts: tuple[Part, ...]
    dynamic: Any = "batch"

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The example inputs of all parts, each a tensor of its own."""
        return tuple(x.clone() for part in self.parts for x in part.inputs)

    def __str__(self) -> str:
        return f"{self.covers}: {'; '.join(part.note for part in self.parts)}"

    def gap(self, gaps: Sequence[Gap]) -> Gap | None:
        """The gap that one of the parts falls into."""
        found = (gap_of(gaps, self.covers, part.note, part.dtype) for part in self.parts)
        return next((gap for gap in found if gap is not None), None)


class Model(nn.Module):
    """The parts of a case as one module."""

    def __init__(self, parts: Sequence[Part]) -> None:
        super().__init__()
        self.parts = [(part.make(), len(part.inputs)) for part in parts]
        self.layers = nn.ModuleList([made for made, _ in self.parts if isinstance(made, nn.Module)])

    def forward(self, x, y=None, z=None, w=None, a=None, b=None, c=None):
        """One result, or several, for each part."""
        inputs = iter((x, y, z, w, a, b, c))
        return tuple(function(*itertools.islice(inputs, count)) for function, count in self.parts)


MOST_INPUTS = 7
"""Inputs that the forward of ``Model`` takes."""


def layer(covers: str, note: str, make: Callable[[], Any], *inputs: Tensor, **options: Any) -> Case:
    """A case of a layer; ``covers`` without a dot is short for ``aten.<covers>.default``."""
    part = Part(note, make, inputs, options.pop("bound", None), options.pop("roundings", 1))
    return Case(covers if covers in TARGETS else f"aten.{covers}.default", (part,), **options)


def fn(covers: str, note: str, function: Callable[..., Any], *inputs: Tensor, **options: Any) -> Case:
    """A case of a function."""
    return layer(covers, note, lambda: function, *inputs, **options)


def joined(cases: Sequence[Case], gaps: Sequence[Gap] = ()) -> list[Case]:
    """The cases with plain ones of one operation made one model, which saves most of the exports.

    A case that falls into a gap stands alone, since the others in its model would fail with it.
    """
    plain, rest = [], []
    for case in cases:
        is_plain = case.dynamic == "batch" and all(x.shape[:1] == (2,) for x in case.inputs)
        (plain if is_plain and case.gap(gaps) is None else rest).append(case)
    models: list[Case] = []
    for case in sorted(plain, key=lambda case: case.covers):
        last = models[-1] if models else None
        if last and last.covers == case.covers and len(last.inputs) + len(case.inputs) <= MOST_INPUTS:
            models[-1] = Case(case.covers, (*last.parts, *case.parts))
        else:
            models.append(case)
    return models + rest


FLOATS = tuple(name for name, dtype in TORCH_DTYPES.items() if dtype.is_floating_point)
_DTYPES = {
    "gossamer.quantize": FLOATS, "gossamer.dequantize": FLOATS, "aten.to.dtype": (), "aten.where.Scalar": (),
}  # fmt: skip
"""Dtypes of interest, where not all are: quantizers read floats, masks are bools, a conversion has its own forms."""


def cases_in_other_dtypes(cases: Sequence[Case]) -> list[Case]:
    """The first form of each operation in all dtypes that PyTorch has it in, but the one that it is written for.

    Operations on sizes are left out: what the tensors around them hold does not matter.
    """
    first: dict[str, Case] = {}
    for case in cases:
        if not case.covers.startswith("size.") and case.covers not in ("aten.sym_size.int", "getitem"):
            first.setdefault(case.covers, case)
    variants = (
        _cast(case, dtype)
        for name, case in first.items()
        for dtype in _DTYPES.get(name, TORCH_DTYPES)
        if case.parts[0].dtype != dtype
    )
    return [case for case in variants if _runs_in_pytorch(case)]


def _cast(case: Case, dtype: str) -> Case:
    (part,) = case.parts
    old, new = TORCH_DTYPES[part.dtype], TORCH_DTYPES[dtype]

    def make() -> Any:
        made = part.make()
        return made.to(new) if isinstance(made, nn.Module) and new.is_floating_point else made

    inputs = tuple(_converted(x, old, new) for x in part.inputs)
    return Case(case.covers, (Part(dtype, make, inputs, None, part.roundings, dtype),), case.dynamic)


def _converted(x: Tensor, old: torch.dtype, new: torch.dtype) -> Tensor:
    """For integers whole numbers from -3 to 3 without 0: they may be divisors, and powers of them must not overflow."""
    if x.dtype != old or new == old:
        return x
    if new.is_floating_point:
        return x.to(new)
    whole = (x * 2).round().clamp(-3, 3) if old.is_floating_point else x
    if new == torch.bool:
        return whole > 0
    whole = torch.where(whole == 0, 1, whole)
    return (whole.abs() if new == torch.uint8 else whole).to(new)


def _runs_in_pytorch(case: Case) -> bool:
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Model(case.parts)(*case.inputs)
    except Exception:  # noqa: BLE001 - whatever PyTorch raises: it does not have the operation in this dtype
        return False
    return True


_PROGRAMS: dict[tuple[tuple[Part, ...], str], Program] = {}


def program_of(case: Case) -> Program:
    """The case, captured: once a process, whatever runs it."""
    key = (case.parts, repr(case.dynamic))
    if key not in _PROGRAMS:
        torch.manual_seed(0)
        program = capture(Model(case.parts), case.inputs, dynamic=case.dynamic)
        assert case.covers in {NAMES[node.target] for node in program.call_nodes}, case
        _PROGRAMS[key] = program
    return _PROGRAMS[key]


def compare(case: Case, open_program: Callable[[Program], Executable]) -> None:
    """Open the captured case in a runtime, and compare with the interpreter at several sizes.

    Raises:
        Disagreement: the runtime gives other values, dtypes or shapes.
    """
    program = program_of(case)
    executable = open_program(program)
    arrays = [(x.float() if x.dtype == torch.bfloat16 else x).numpy() for x in case.inputs]
    example = {spec.name: array for spec, array in zip(program.signature.inputs, arrays, strict=True)}
    for inputs in _varied(program, example):
        expected, got = Interpreter(program).run(inputs), executable.run(inputs)
        for spec in program.signature.outputs:  # output_1, or output_1_0 where part 1 has several results
            part = case.parts[int(spec.name.split("_")[1])]
            require_close(f"{case.covers}, {part.note}", got[spec.name], expected[spec.name], part.bound)
    executable.close()


def _varied(program: Program, inputs: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
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


def require_close(name: str, got: np.ndarray, expected: np.ndarray, bound: float) -> None:
    """Whole numbers and bools are equal; floats differ by at most ``bound`` times the largest of them.

    Raises:
        Disagreement: they are not; says by how much.
    """
    if (got.dtype, got.shape) != (expected.dtype, expected.shape):
        raise Disagreement(f"{name}: got {got.dtype}{list(got.shape)}, expected {expected.dtype}{list(expected.shape)}")
    if expected.dtype.kind != "f":
        if not np.array_equal(got, expected):
            raise Disagreement(f"{name}: {np.mean(got != expected):.0%} of the values differ")
        return
    finite = np.isfinite(expected)
    if not np.array_equal(got[~finite], expected[~finite], equal_nan=True):
        raise Disagreement(f"{name}: other values where NaN or infinity is expected")
    scale = np.abs(expected[finite], dtype=np.float64).max(initial=0.0)
    difference = np.abs(got[finite].astype(np.float64) - expected[finite]).max(initial=0.0)
    if not difference <= bound * scale:
        raise Disagreement(f"{name}: differs by {difference:.3g} at a scale of {scale:.3g}, allowed {bound:.1g} of it")


_generator = torch.Generator().manual_seed(0)


def r(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Normally distributed values."""
    return torch.randn(shape, generator=_generator).to(dtype)


def pos(*shape: int) -> Tensor:
    """Values between 0.1 and 1.1."""
    return torch.rand(shape, generator=_generator) + 0.1


def ints(*shape: int, low: int = -9, high: int = 10, dtype: torch.dtype = torch.int64) -> Tensor:
    """Whole numbers from ``low`` up to, not including, ``high``."""
    return torch.randint(low, high, shape, generator=_generator, dtype=dtype)


def flags(*shape: int) -> Tensor:
    """Bools, three of five true."""
    return torch.rand(shape, generator=_generator) > 0.4


def index(*shape: int, size: int) -> Tensor:
    """Places in an axis of this size."""
    return ints(*shape, low=0, high=size)
