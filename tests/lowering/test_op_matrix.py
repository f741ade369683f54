"""Every operation of the dialect, captured, written as ONNX, run in ONNX Runtime and compared with the interpreter."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gossamer.core.errors import ArtifactError, UnsupportedOp
from gossamer.core.specs import TensorSpec
from gossamer.core.target import Target
from gossamer.frontends.torch_module import capture
from gossamer.lowering import lower_to_onnx
from gossamer.program.dialect import NAMES, TARGETS
from gossamer.program.interpreter import Interpreter
from gossamer.program.program import Program
from gossamer.runtimes.onnxruntime.runtime import OnnxRuntimeExecutable

torch.set_num_threads(1)
aten, ours = torch.ops.aten, torch.ops.gossamer

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
class Case:
    """A model, its example inputs, and the operation that capture must make of it.

    Attributes:
        covers: name of the operation in the dialect.
        notes: one for each output of a model made of functions, else one in all.
        functions: what the model is made of, if it is made of functions; each takes the next inputs.
        gap: kind (``notimpl`` in the runtime, ``notyet`` in the writer, ``never``), exception and reason of what fails.
    """

    covers: str
    notes: tuple[str, ...]
    make: Callable[[], nn.Module]
    inputs: tuple[Tensor, ...]
    functions: tuple[tuple[Callable[..., Any], int], ...] = ()
    dynamic: Any = "batch"
    gap: tuple[str, type[Exception], str] | None = None

    @property
    def param(self) -> Any:
        marks = []
        if self.gap is not None:
            kind, raises, reason = self.gap
            assert kind in ("notimpl", "notyet", "never")
            marks = [pytest.mark.xfail(strict=True, raises=raises, reason=f"{kind}: {reason}")]
        return pytest.param(self, id=f"{self.covers}: {'; '.join(self.notes)}", marks=marks)

    def fits_behind(self, other: Case) -> bool:
        """Whether two cases of an operation can be two outputs of one model: that saves an export."""
        plain = all(
            case.functions and case.dynamic == "batch" and case.gap is None and {len(x) for x in case.inputs} == {2}
            for case in (self, other)
        )
        return plain and self.covers == other.covers and len(self.inputs) + len(other.inputs) <= MOST_INPUTS


class Functions(nn.Module):
    """Functions as a module with one output each."""

    def __init__(self, *functions: tuple[Callable[..., Any], int]) -> None:
        super().__init__()
        self.functions = functions

    def forward(self, x, y=None, z=None, w=None, a=None, b=None, c=None):
        inputs = iter((x, y, z, w, a, b, c))
        return tuple(function(*itertools.islice(inputs, count)) for function, count in self.functions)


MOST_INPUTS = 7


def joined(cases: list[Case]) -> list[Case]:
    """The cases with neighbours that fit together made one."""
    result: list[Case] = []
    for case in cases:
        if result and case.fits_behind(result[-1]):
            before = result.pop()
            functions = (*before.functions, *case.functions)
            result.append(
                _of_functions(case.covers, (*before.notes, *case.notes), functions, (*before.inputs, *case.inputs))
            )
        else:
            result.append(case)
    return result


def _of_functions(
    covers: str, notes: tuple[str, ...], functions: Any, inputs: tuple[Tensor, ...], **options: Any
) -> Case:
    return Case(covers, notes, lambda: Functions(*functions), inputs, functions, **options)


def _target(name: str) -> str:
    return name if name in TARGETS else f"aten.{name}.default"


def layer(covers: str, note: str, make: Callable[[], nn.Module], *inputs: Tensor, **options: Any) -> Case:
    return Case(_target(covers), (note,), make, inputs, **options)


def fn(covers: str, note: str, function: Callable[..., Any], *inputs: Tensor, **options: Any) -> Case:
    return _of_functions(_target(covers), (note,), ((function, len(inputs)),), inputs, **options)


# fmt: off
# One case a line.
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


IMAGE = r(2, 3, 7, 9)
BATCH_SEQ = {"x": {0: "batch", 1: "seq"}}
BATCH_SEQ_2 = {"x": {0: "batch", 1: "seq"}, "y": {0: "batch", 1: "seq"}}
half, bf16 = torch.float16, torch.bfloat16

WEIGHTED = [
    layer("conv1d", "stride 2, odd length", lambda: nn.Conv1d(3, 4, 3, stride=2, padding=1), r(2, 3, 11)),
    layer("conv1d", "padding same, even kernel", lambda: nn.Conv1d(3, 4, 4, padding="same"), r(2, 3, 11)),
    layer("conv1d", "length that varies", lambda: nn.Conv1d(3, 4, 3, stride=2), r(2, 3, 11),
       dynamic={"x": {2: "length=5..20"}}),
    layer("conv2d", "plain", lambda: nn.Conv2d(3, 5, 3), IMAGE),
    layer("conv2d", "stride 2, odd size", lambda: nn.Conv2d(3, 5, 3, stride=2, padding=1, bias=False), IMAGE),
    layer("conv2d", "stride and kernel by axis", lambda: nn.Conv2d(3, 5, (1, 3), stride=(2, 1), padding=(0, 1)), IMAGE),
    layer("conv2d", "dilation 2", lambda: nn.Conv2d(3, 5, 3, dilation=2, padding=2), IMAGE),
    layer("conv2d", "groups", lambda: nn.Conv2d(4, 6, 3, groups=2), r(2, 4, 7, 7)),
    layer("conv2d", "depthwise", lambda: nn.Conv2d(4, 4, 3, groups=4, padding=1), r(2, 4, 7, 7)),
    layer("conv2d", "depthwise with multiplier", lambda: nn.Conv2d(4, 8, 3, groups=4), r(2, 4, 7, 7)),
    layer("conv2d", "padding same, odd kernel", lambda: nn.Conv2d(3, 5, 3, padding="same"), IMAGE),
    layer("conv2d", "padding same, even kernel, dilation",
       lambda: nn.Conv2d(3, 5, (2, 4), padding="same", dilation=(1, 3)), IMAGE),
    layer("conv2d", "padding valid", lambda: nn.Conv2d(3, 5, 3, padding="valid"), IMAGE),
    layer("conv2d", "padding mode reflect", lambda: nn.Conv2d(3, 5, 3, padding=1, padding_mode="reflect"), IMAGE),
    layer("conv2d", "padding mode circular", lambda: nn.Conv2d(3, 5, 3, padding=1, padding_mode="circular"), IMAGE),
    layer("conv2d", "float16", lambda: nn.Conv2d(3, 5, 3).half(), IMAGE.half()),
    fn("conv2d", "computed weight", F.conv2d, IMAGE, r(5, 3, 3, 3), dynamic=None),
    layer("conv3d", "stride 2, padding", lambda: nn.Conv3d(2, 3, 3, stride=2, padding=1), r(2, 2, 5, 6, 7)),
    layer("conv_transpose1d", "output padding",
       lambda: nn.ConvTranspose1d(3, 4, 3, stride=2, padding=1, output_padding=1), r(2, 3, 7)),
    layer("aten.conv_transpose2d.input", "stride 2, output padding",
       lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1), r(2, 4, 5, 6)),
    layer("aten.conv_transpose2d.input", "groups, dilation",
       lambda: nn.ConvTranspose2d(4, 6, 3, groups=2, dilation=2, bias=False), r(2, 4, 5, 6)),
    layer("linear", "rank 2", lambda: nn.Linear(6, 5), r(2, 6)),
    layer("linear", "rank 3, batch and seq vary", lambda: nn.Linear(6, 5), r(2, 4, 6), dynamic=BATCH_SEQ),
    layer("linear", "rank 4, no bias", lambda: nn.Linear(6, 5, bias=False), r(2, 3, 4, 6)),
    layer("linear", "one feature", lambda: nn.Linear(6, 1), r(2, 6)),
    layer("linear", "float16", lambda: nn.Linear(6, 5).half(), r(2, 6, dtype=half)),
    layer("linear", "bfloat16", lambda: nn.Linear(6, 5).bfloat16(), r(2, 6, dtype=bf16),
       gap=("notimpl", ArtifactError, "ONNX Runtime has no bfloat16 Gemm on the CPU")),
    layer("linear", "float64", lambda: nn.Linear(6, 5).double(), r(2, 6).double()),
    layer("linear", "vector", lambda: nn.Linear(6, 5), r(6), dynamic=None,
       gap=("never", UnsupportedOp, "Gemm needs rows; unsqueeze first")),
    fn("matmul", "rank 2", lambda x, y: x @ y, r(2, 4), r(4, 3), dynamic={"x": {0: "batch"}}),
    fn("matmul", "batched, broadcast", lambda x, y: x @ y, r(2, 1, 3, 4), r(5, 4, 3), dynamic={"x": {0: "batch"}}),
    fn("matmul", "matrix and vector", lambda x, y: x @ y, r(2, 3, 4), r(4), dynamic={"x": {0: "batch"}}),
    fn("matmul", "addmm with alpha and beta", lambda x, y, z: torch.addmm(x, y, z, beta=0.5, alpha=2.0), r(3), r(2, 4),
       r(4, 3), dynamic=None),
    fn("matmul", "whole numbers", lambda x, y: x @ y, ints(2, 4), ints(4, 3), dynamic=None),
    layer("embedding", "padding index", lambda: nn.Embedding(7, 4, padding_idx=0), index(2, 5, size=7),
       dynamic=BATCH_SEQ),
    layer("embedding", "int32 indices", lambda: nn.Embedding(7, 4), index(2, 5, size=7).int()),
]

Q, K, V = r(2, 4, 5, 8), r(2, 4, 7, 8), r(2, 4, 7, 8)
sdpa = F.scaled_dot_product_attention
SDPA = "scaled_dot_product_attention"


class Heads(nn.Module):
    """Attention as models write it: projections, split into heads, attention, merge."""

    def __init__(self, kv_heads: int = 4) -> None:
        super().__init__()
        self.kv_heads = kv_heads
        self.q, self.k, self.v, self.o = (nn.Linear(16, n) for n in (16, 4 * kv_heads, 4 * kv_heads, 16))

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        q = self.q(x).view(batch, tokens, 4, 4).transpose(1, 2)
        k, v = (part(x).view(batch, tokens, self.kv_heads, 4).transpose(1, 2) for part in (self.k, self.v))
        mixed = sdpa(q, k, v, enable_gqa=self.kv_heads != 4)
        return self.o(mixed.transpose(1, 2).reshape(batch, tokens, 16))


ATTENTION = [
    fn(SDPA, "rank 4", sdpa, Q, K, V),
    fn(SDPA, "rank 4, value of another size", sdpa, Q, K, r(2, 4, 7, 6)),
    fn(SDPA, "rank 3", sdpa, r(2, 5, 8), r(2, 7, 8), r(2, 7, 8)),
    fn(SDPA, "rank 3, causal", lambda q, k, v: sdpa(q, k, v, is_causal=True), r(2, 5, 8), r(2, 7, 8), r(2, 7, 8)),
    fn(SDPA, "rank 3, mask", lambda q, k, v, m: sdpa(q, k, v, m), r(2, 5, 8), r(2, 7, 8), r(2, 7, 8), r(2, 5, 7)),
    fn(SDPA, "rank 2", sdpa, r(5, 8), r(7, 8), r(7, 8), dynamic=None),
    fn(SDPA, "rank 5", sdpa, r(2, 3, 2, 5, 8), r(2, 3, 2, 5, 8), r(2, 3, 2, 5, 8),
       gap=("notyet", UnsupportedOp, "merge the leading axes")),
    fn(SDPA, "causal", lambda x: sdpa(x, x, x, is_causal=True), Q),
    fn(SDPA, "causal, fewer queries than keys", lambda q, k, v: sdpa(q, k, v, is_causal=True), Q, K, V),
    fn(SDPA, "causal, more queries than keys", lambda q, k, v: sdpa(q, k, v, is_causal=True), K, Q, r(2, 4, 5, 8)),
    fn(SDPA, "custom scale", lambda q, k, v: sdpa(q, k, v, scale=0.7), Q, K, V),
    fn(SDPA, "grouped queries", lambda q, k, v: sdpa(q, k, v, enable_gqa=True), Q, r(2, 2, 7, 8), r(2, 2, 7, 8)),
    fn(SDPA, "bool mask", lambda q, k, v, m: sdpa(q, k, v, m), Q, K, V, flags(2, 1, 5, 7)),
    fn(SDPA, "bool mask over keys only", lambda q, k, v, m: sdpa(q, k, v, m), Q, K, V, flags(2, 1, 1, 7)),
    fn(SDPA, "bool mask, a query without keys", lambda q, k, v, m: sdpa(q, k, v, m), Q, K, V,
       flags(2, 4, 5, 7) & (torch.arange(5) != 2)[:, None]),
    fn(SDPA, "bool mask of rank 2", lambda q, k, v: sdpa(q, k, v, torch.ones(5, 7, dtype=torch.bool).tril(1)), Q, K, V),
    fn(SDPA, "float mask", lambda q, k, v, m: sdpa(q, k, v, m), Q, K, V, r(2, 4, 5, 7)),
    fn(SDPA, "float mask over queries only", lambda q, k, v, m: sdpa(q, k, v, m), Q, K, V, r(2, 4, 5, 1)),
    fn(SDPA, "float mask, batch and both lengths vary", lambda q, k, v, m: sdpa(q, k, v, m), Q, K, V, r(2, 1, 1, 7),
       dynamic={"x": {0: "batch", 2: "queries"}, "y": {0: "batch", 2: "keys"}, "z": {0: "batch", 2: "keys"},
          "w": {0: "batch", 3: "keys"}}),
    fn(SDPA, "float16", sdpa, Q.half(), K.half(), V.half()),
    layer(SDPA, "packed heads", Heads, r(2, 5, 16), dynamic=BATCH_SEQ),
    layer(SDPA, "packed heads, grouped queries", lambda: Heads(2), r(2, 5, 16), dynamic=BATCH_SEQ),
    fn("aten.softmax.int", "last axis", lambda x: x.softmax(-1), r(2, 3, 5)),
    fn("aten.softmax.int", "middle axis, another dtype", lambda x: x.softmax(1, dtype=torch.float32),
       r(2, 3, 5, dtype=half)),
    fn("aten.log_softmax.int", "first axis", lambda x: x.log_softmax(0), r(2, 3, 5), dynamic={"x": {1: "n"}}),
]

NORMS = [
    layer("batch_norm", "images", lambda: _used(nn.BatchNorm2d(3)), IMAGE),
    layer("batch_norm", "without weight and bias", lambda: _used(nn.BatchNorm2d(3, affine=False)), IMAGE),
    layer("batch_norm", "rank 2", lambda: _used(nn.BatchNorm1d(6)), r(2, 6)),
    layer("layer_norm", "last axis", lambda: nn.LayerNorm(5), r(2, 3, 5)),
    layer("layer_norm", "two axes", lambda: nn.LayerNorm((3, 5)), r(2, 3, 5)),
    layer("layer_norm", "without weight", lambda: nn.LayerNorm(5, elementwise_affine=False, eps=1e-3), r(2, 3, 5)),
    layer("layer_norm", "without bias", lambda: nn.LayerNorm(5, bias=False), r(2, 3, 5)),
    layer("layer_norm", "float16", lambda: nn.LayerNorm(5).half(), r(2, 3, 5, dtype=half)),
    layer("group_norm", "two groups", lambda: nn.GroupNorm(2, 4), r(2, 4, 5, 6)),
    layer("group_norm", "sequences, without weight", lambda: nn.GroupNorm(2, 4, affine=False), r(2, 4, 5)),
    layer("group_norm", "instance norm", lambda: nn.InstanceNorm2d(3, affine=True), IMAGE),
    layer("rms_norm", "own eps", lambda: nn.RMSNorm(5, eps=1e-3), r(2, 3, 5)),
    layer("rms_norm", "default eps, without weight", lambda: nn.RMSNorm(5, elementwise_affine=False), r(2, 3, 5)),
]


def _used(norm: nn.Module) -> nn.Module:
    """A batch norm with statistics other than 0 and 1."""
    with torch.no_grad():
        for name, tensor in norm.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=torch.Generator().manual_seed(len(name))) + 0.5)
    return norm


WIDE = torch.cat([r(2, 3, 4) * 4, torch.tensor([[[0.0, -0.0, 0.5, 25.0]]]).expand(2, 1, 4)], 1)
COUNTS = ints(2, 3, 4)
ACTIVATIONS = [
    *(fn(name, "float", getattr(F, name, None) or getattr(torch, name), WIDE) for name in ["relu", "gelu", "silu",
       "sigmoid", "tanh", "hardswish", "hardsigmoid", "leaky_relu", "elu", "softplus", "mish"]),
    fn("relu", "whole numbers", F.relu, COUNTS.int()),
    fn("relu", "float16", F.relu, WIDE.half()),
    fn("gelu", "tanh form", lambda x: F.gelu(x, approximate="tanh"), WIDE),
    fn("gelu", "float16", F.gelu, WIDE.half()),
    fn("sigmoid", "whole numbers", torch.sigmoid, COUNTS),
    fn("hardtanh", "relu6", F.relu6, WIDE),
    fn("hardtanh", "own bounds", lambda x: F.hardtanh(x, -0.5, 2.0), WIDE),
    fn("leaky_relu", "own slope", lambda x: F.leaky_relu(x, 0.3), WIDE),
    fn("elu", "own alpha", lambda x: F.elu(x, 0.4), WIDE),
    fn("softplus", "beta", lambda x: F.softplus(x, 2.0), WIDE),
    fn("softplus", "low threshold", lambda x: F.softplus(x, 1.0, 1.0), WIDE),
    layer("prelu", "one slope", nn.PReLU, WIDE),
    layer("prelu", "slope by channel", lambda: nn.PReLU(4, 0.1), WIDE),
    layer("prelu", "slope by channel, rank 2", lambda: nn.PReLU(5, 0.1), r(2, 5)),
    fn("clamp", "both bounds", lambda x: x.clamp(-1, 2.5), WIDE),
    fn("clamp", "lower bound only", lambda x: x.clamp(min=0.2), WIDE),
    fn("clamp", "upper bound only", lambda x: x.clamp_max(1.0), WIDE),
    fn("clamp", "whole numbers", lambda x: x.clamp(-3, 4), COUNTS),
    fn("clamp", "whole numbers, float bound", lambda x: x.clamp(max=2.5), COUNTS),
    fn("clamp", "bound by a dim that varies", lambda x: x.clamp(max=x.shape[1] - 1), COUNTS, dynamic=BATCH_SEQ),
    layer("dropout", "between linear layers", lambda: nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 4)),
       r(2, 3, 4)),
]

UNARY = [
    *(fn(name, "float", getattr(torch, name), WIDE) for name in ["abs", "neg", "exp", "erf", "sin", "cos", "floor",
       "ceil", "round", "sign"]),
    *(fn(name, "positive", getattr(torch, name), pos(2, 5)) for name in ["log", "sqrt", "rsqrt", "reciprocal", "tan"]),
    fn("exp", "float16", torch.exp, r(2, 5, dtype=half)),
    *(fn(name, "whole numbers", getattr(torch, name), COUNTS) for name in ["abs", "neg", "exp", "sin", "sign", "floor",
       "ceil", "round"]),
    *(fn(name, "whole numbers", getattr(torch, name), COUNTS.abs() + 1) for name in ["log", "sqrt", "rsqrt",
       "reciprocal"]),
    fn("round", "halves go to even", torch.round, torch.tensor([[-2.5, -1.5, -0.5, 0.5, 1.5, 2.5]] * 2)),
    fn("logical_not", "bools", torch.logical_not, flags(2, 5)),
    fn("logical_not", "floats", torch.logical_not, torch.tensor([[0.0, 1.0, -0.5]] * 2)),
    fn("isnan", "float", lambda x: torch.isnan(torch.log(x)), WIDE),
    fn("isnan", "whole numbers", torch.isnan, COUNTS),
    fn("isinf", "float", lambda x: torch.isinf(1 / F.relu(x)), WIDE),
    fn("isinf", "float16", lambda x: torch.isinf(1 / F.relu(x)), WIDE.half()),
    fn("isinf", "whole numbers", torch.isinf, COUNTS),
    *(
        fn("aten.to.dtype", f"{source} to {target}", lambda x, target=target: x.to(getattr(torch, target)),
           (torch.rand(2, 5) * 3).to(getattr(torch, source)))
        for source, target in [
            ("float32", "int64"), ("float32", "float16"), ("float32", "float64"), ("float32", "bool"), ("float16",
               "float32"),
            ("int64", "float32"), ("int64", "int32"), ("int32", "uint8"), ("bool", "float32"), ("bool", "int64"),
               ("uint8", "float32"),
        ]
    ),
    fn("aten.to.dtype", "through bfloat16", lambda x: x.bfloat16().float(), r(2, 5)),
    fn("aten.to.dtype", "negative to whole", lambda x: x.long(), torch.tensor([[-2.7, -0.5, 0.5, 2.7]] * 2)),
]  # fmt: skip

DIVISORS = torch.tensor([[3, -3, 2, -2, 7]] * 2)
DIVIDENDS = torch.tensor([[-7, 7, -8, 8, -1], [5, -5, 0, -9, 9]])
TRICKY_A, TRICKY_B = torch.tensor([[1.0, -1.0, 6.0, 0.3, -7.5]] * 2), torch.tensor([[0.1, 0.1, -0.2, 0.1, 2.0]] * 2)


def _binaries() -> list[Case]:
    x, y = r(2, 3, 4), r(2, 3, 4)
    a, b = ints(2, 3, 4), ints(2, 3, 4)
    cases = []
    for name, function in {"add": torch.add, "sub": torch.sub, "mul": torch.mul}.items():
        cases += [
            fn(f"aten.{name}.Tensor", "float", function, x, y),
            fn(f"aten.{name}.Tensor", "broadcast both ways", function, r(2, 1, 4), r(3, 1),
               dynamic={"x": {0: "batch"}}),
            fn(f"aten.{name}.Tensor", "int and float", function, a, y),
            fn(f"aten.{name}.Tensor", "int and int32", function, a, b.int()),
            fn(f"aten.{name}.Tensor", "int and float number", lambda p, f=function: f(p, 1.5), a),
            fn(f"aten.{name}.Tensor", "float and int number", lambda p, f=function: f(p, 3), x),
        ]
    for name in ("eq", "ne", "lt", "le", "gt", "ge"):
        function = getattr(torch, name)
        cases += [
            fn(f"aten.{name}.Tensor", "whole numbers", function, a // 4, b // 4),
            fn(f"aten.{name}.Tensor", "int and float", function, a, b.float()),
            fn(f"aten.{name}.Tensor", "bools", function, flags(2, 9), flags(2, 9)),
            fn(f"aten.{name}.Scalar", "int and float number", lambda p, f=function: f(p, 0.5), a),
            fn(f"aten.{name}.Scalar", "float", lambda p, f=function: f(p, 0.0), torch.tensor([[-1.0, 0.0, 1.0]] * 2)),
        ]
    for name in ("logical_and", "logical_or", "logical_xor"):
        function = getattr(torch, name)
        cases += [fn(name, "bools", function, flags(2, 5), flags(2, 5)),
           fn(name, "bools and whole numbers", function, flags(2, 5), ints(2, 5, low=0, high=2))]
    for name in ("maximum", "minimum"):
        function = getattr(torch, name)
        cases += [fn(name, "float", function, x, y), fn(name, "int and float", function, a, y),
           fn(name, "bools", function, flags(2, 5), flags(2, 5))]
    return cases


BINARY = [
    *_binaries(),
    fn("aten.add.Tensor", "alpha", lambda x, y: torch.add(x, y, alpha=3), r(2, 4), r(2, 4)),
    fn("aten.add.Tensor", "bools", torch.add, flags(2, 5), flags(2, 5)),
    fn("aten.mul.Tensor", "bools", torch.mul, flags(2, 5), flags(2, 5)),
    fn("aten.mul.Tensor", "bool and float", torch.mul, flags(2, 5), r(2, 5)),
    fn("aten.sub.Tensor", "tensor less size", lambda x: x - x.shape[1], r(2, 5), dynamic=BATCH_SEQ),
    fn("aten.add.Tensor", "float16", torch.add, r(2, 5, dtype=half), r(2, 5, dtype=half)),
    fn("aten.add.Tensor", "bfloat16", torch.add, r(2, 5, dtype=bf16), r(2, 5, dtype=bf16),
       gap=("notimpl", ArtifactError, "ONNX Runtime has no bfloat16 Add on the CPU")),
    fn("aten.add.Tensor", "uint8", torch.add, index(2, 5, size=9).byte(), index(2, 5, size=9).byte()),
    fn("aten.add.Tensor", "int16", torch.add, ints(2, 5).short(), ints(2, 5).short()),
    fn("aten.add.Tensor", "size and tensor", lambda x: x + x.shape[1], r(2, 5), dynamic=BATCH_SEQ),
    fn("aten.div.Tensor", "float", torch.div, r(2, 5), pos(2, 5)),
    fn("aten.div.Tensor", "whole numbers give floats", torch.div, DIVIDENDS, DIVISORS),
    fn("aten.div.Tensor", "by a number", lambda x: x / 3, COUNTS),
    *(
        fn("aten.div.Tensor_mode", f"{mode}, {kind}", lambda x, y, mode=mode: torch.div(x, y, rounding_mode=mode),
           *pair)
        for mode in ("floor", "trunc")
        for kind, pair in {"whole numbers": (DIVIDENDS, DIVISORS), "int32": (DIVIDENDS.int(), DIVISORS.int()),
           "float": (TRICKY_A, TRICKY_B), "int and float": (DIVIDENDS, DIVISORS + 0.5)}.items()
    ),
    fn("aten.div.Tensor_mode", "operator //", lambda x: x // -3, DIVIDENDS),
    fn("aten.remainder.Tensor", "whole numbers", torch.remainder, DIVIDENDS, DIVISORS),
    fn("aten.remainder.Tensor", "float", torch.remainder, TRICKY_A, TRICKY_B),
    fn("aten.remainder.Scalar", "whole numbers", lambda x: x % -3, DIVIDENDS),
    fn("aten.remainder.Scalar", "float, negative divisor", lambda x: x % -1.5, TRICKY_A),
    fn("aten.pow.Tensor_Scalar", "square", lambda x: x**2, r(2, 5)),
    fn("aten.pow.Tensor_Scalar", "square of whole numbers", lambda x: x**2, COUNTS),
    fn("aten.pow.Tensor_Scalar", "whole numbers, float exponent 2", lambda x: x**2.0, COUNTS),
    fn("aten.pow.Tensor_Scalar", "root and cube", lambda x: x**0.5 + x**3, pos(2, 5)),
    fn("aten.pow.Tensor_Scalar", "reciprocal square", lambda x: x**-2, pos(2, 5)),
    fn("aten.pow.Tensor_Tensor", "float", torch.pow, pos(2, 5), r(2, 5)),
    fn("aten.pow.Tensor_Tensor", "float and int", torch.pow, pos(2, 5), ints(2, 5, low=-3, high=4)),
    fn("aten.pow.Scalar", "float", lambda x: 1.7**x, r(2, 5)),
    fn("aten.pow.Scalar", "whole numbers", lambda x: 2**x, index(2, 5, size=9)),
    fn("aten.where.self", "float", torch.where, flags(2, 5), r(2, 5), r(2, 5)),
    fn("aten.where.self", "int and float, broadcast", torch.where, flags(2, 1), ints(2, 5), r(2, 5)),
    fn("aten.where.ScalarSelf", "masked fill", lambda x, m: x.masked_fill(m, -1e9), r(2, 5), flags(2, 5)),
    fn("aten.where.ScalarOther", "number on the right", lambda x, m: torch.where(m, x, 0.5), COUNTS, flags(2, 3, 4)),
    fn("aten.where.Scalar", "two numbers", lambda m: torch.where(m, 1.0, -1.0), flags(2, 5)),
]

STACK = r(2, 3, 4)


def _reductions() -> list[Case]:
    cases = []
    for name, target in {"mean": "mean.dim", "sum": "sum.dim_IntList", "amax": "amax.default",
       "amin": "amin.default"}.items():
        function = getattr(torch, name)
        cases += [fn(f"aten.{target}", "negative axis", lambda x, f=function: f(x, dim=-1), STACK),
           fn(f"aten.{target}", "two axes, keepdim", lambda x, f=function: f(x, dim=(1, -1), keepdim=True), STACK),
              fn(f"aten.{target}", "over the batch", lambda x, f=function: f(x, dim=0), STACK)]
    for name in ("argmax", "argmin"):
        function = getattr(torch, name)
        cases += [
            fn(name, "negative axis", lambda x, f=function: f(x, dim=-1), STACK),
            fn(name, "keepdim", lambda x, f=function: f(x, dim=1, keepdim=True), STACK),
            fn(name, "over everything", lambda x, f=function: f(x), STACK),
            fn(name, "over everything, keepdim", lambda x, f=function: f(x, keepdim=True), STACK),
            fn(name, "first of equals", lambda x, f=function: f(x, dim=1),
               torch.tensor([[1.0, 3, 3, 1], [2, 2, 2, 2]])),
            fn(name, "large whole numbers", lambda x, f=function: f(x, dim=1),
               torch.tensor([[2**40, 1, -(2**40)], [5, 2**33, 6]])),
        ]
    for name in ("any", "all"):
        function = getattr(torch, name)
        cases += [fn(f"aten.{name}.dim", "bools", lambda x, f=function: f(x, dim=-1), flags(2, 3, 4)),
           fn(f"aten.{name}.dim", "floats, keepdim", lambda x, f=function: f(x, dim=1, keepdim=True),
              index(2, 3, 4, size=2).float()), fn(f"aten.{name}.dim", "over everything", lambda x, f=function: f(x),
                 flags(2, 3))]
    return cases


REDUCTION = [
    *_reductions(),
    fn("aten.mean.dim", "over an image", lambda x: x.mean((2, 3)), IMAGE),
    fn("aten.mean.dim", "adaptive average pool", lambda x: F.adaptive_avg_pool2d(x, 1), IMAGE),
    fn("aten.mean.dim", "over everything", lambda x: x.mean(), STACK),
    fn("aten.mean.dim", "whole numbers to float", lambda x: x.mean(1, dtype=torch.float32), COUNTS),
    fn("aten.mean.dim", "whole numbers over an image", lambda x: x.mean((2, 3), dtype=torch.float32), ints(2, 3, 4, 4)),
    fn("aten.mean.dim", "over a dim that varies", lambda x: x.mean(1), STACK, dynamic=BATCH_SEQ),
    fn("aten.mean.dim", "float16 image", lambda x: x.mean((2, 3)), IMAGE.half()),
    fn("aten.sum.dim_IntList", "over everything", lambda x: x.sum(), STACK),
    fn("aten.sum.dim_IntList", "bools", lambda x: x.sum(1), flags(2, 5)),
    fn("aten.sum.dim_IntList", "int32 to int64", lambda x: x.sum(1), COUNTS.int()),
    fn("amax", "values and indices of max", lambda x: x.max(1), STACK),
    fn("amin", "values of min, keepdim", lambda x: x.min(1, keepdim=True).values, STACK),
    fn("amax", "whole numbers", lambda x: x.amax(1), COUNTS),
    fn("amax", "bools", lambda x: x.amax(1), flags(2, 5)),
    fn("aten.prod.dim_int", "float", lambda x: x.prod(-1), STACK),
    fn("aten.prod.dim_int", "whole numbers, keepdim", lambda x: x.prod(1, keepdim=True), ints(2, 3, 4, low=-3, high=4)),
    fn("aten.var.correction", "unbiased", lambda x: x.var(-1), STACK),
    fn("aten.var.correction", "biased, keepdim", lambda x: x.var((1, 2), unbiased=False, keepdim=True), STACK),
    fn("aten.var.correction", "standard deviation", lambda x: x.std(1), STACK),
    fn("aten.var.correction", "over a dim that varies", lambda x: x.var(1), r(2, 5, 3),
       dynamic={"x": {0: "batch", 1: "seq=2..9"}}),
    fn("aten.var.correction", "biased over a dim that varies", lambda x: x.var(1, correction=0), r(2, 5, 3),
       dynamic=BATCH_SEQ),
    *(fn("linalg_vector_norm", f"order {order}", lambda x, order=order: torch.linalg.vector_norm(x, order, 1),
       STACK) for order in (1, 2, float("inf"), -float("inf"))),
    fn("linalg_vector_norm", "normalize", lambda x: F.normalize(x, dim=-1), STACK),
    fn("linalg_vector_norm", "order 3", lambda x: torch.linalg.vector_norm(x, 3, 1), STACK,
       gap=("notyet", UnsupportedOp, "needs Pow and a root")),
    fn("cumsum", "negative axis", lambda x: x.cumsum(-1), STACK),
    fn("cumsum", "bools count up", lambda x: x.cumsum(1), flags(2, 5)),
    fn("topk", "largest", lambda x: x.topk(2), STACK),
    fn("topk", "smallest of an axis", lambda x: x.topk(2, dim=1, largest=False), STACK),
    fn("topk", "indices only", lambda x: x.topk(3).indices, STACK),
    fn("topk", "as many as a dim", lambda x, y: x.topk(y.shape[1]).values, r(2, 9), r(2, 3),
       dynamic={"x": {0: "batch"}, "y": {0: "batch", 1: "k=1..9"}}),
]

POOLING = [
    layer("max_pool1d", "stride 2", lambda: nn.MaxPool1d(3, 2, 1), r(2, 3, 11)),
    layer("max_pool2d", "default stride", lambda: nn.MaxPool2d(2), IMAGE),
    layer("max_pool2d", "padding, overlapping", lambda: nn.MaxPool2d(3, 2, 1), IMAGE),
    layer("max_pool2d", "dilation", lambda: nn.MaxPool2d(2, 1, 0, dilation=2), IMAGE),
    layer("max_pool2d", "ceil mode", lambda: nn.MaxPool2d(2, ceil_mode=True), IMAGE),
    layer("max_pool2d", "ceil mode, last window in the padding", lambda: nn.MaxPool2d(2, 2, 1, ceil_mode=True), IMAGE),
    layer("max_pool2d", "ceil mode, stride 3", lambda: nn.MaxPool2d(2, 3, 1, ceil_mode=True), r(2, 3, 8, 10)),
    layer("max_pool2d", "float16", lambda: nn.MaxPool2d(2), IMAGE.half()),
    layer("avg_pool1d", "padding counted", lambda: nn.AvgPool1d(3, 2, 1), r(2, 3, 11)),
    layer("avg_pool1d", "adaptive", lambda: nn.AdaptiveAvgPool1d(3), r(2, 3, 12)),
    layer("avg_pool2d", "default stride", lambda: nn.AvgPool2d(2), IMAGE),
    layer("avg_pool2d", "padding counted", lambda: nn.AvgPool2d(3, 2, 1), IMAGE),
    layer("avg_pool2d", "padding not counted", lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False), IMAGE),
    layer("avg_pool2d", "ceil mode", lambda: nn.AvgPool2d(2, ceil_mode=True), IMAGE),
    layer("avg_pool2d", "ceil mode, padding counted", lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True), r(2, 3, 8, 10)),
    layer("avg_pool2d", "ceil mode, padding not counted",
       lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), r(2, 3, 8, 10)),
    layer("avg_pool2d", "adaptive", lambda: nn.AdaptiveAvgPool2d((2, 3)), r(2, 3, 8, 9)),
    layer("avg_pool2d", "own divisor", lambda: nn.AvgPool2d(2, divisor_override=3), IMAGE,
       gap=("notyet", UnsupportedOp, "needs a multiplication behind the pool")),
    *(
        layer(f"aten.upsample_{mode}2d.vec", f"{label}", lambda mode=mode,
           options=options: nn.Upsample(mode=mode, **options), IMAGE)
        for mode in ("nearest", "bilinear", "bicubic")
        for label, options in {"factor 2": {"scale_factor": 2}, "factor 1.5 and 2.3": {"scale_factor": (1.5, 2.3)},
           "factor 0.7": {"scale_factor": 0.7}, "size up": {"size": (11, 13)}, "size down": {"size": (5, 4)},
              "size one": {"size": (1, 1)}}.items()
    ),
    *(
        layer(f"aten.upsample_{mode}2d.vec", f"aligned corners, {label}", lambda mode=mode,
           options=options: nn.Upsample(mode=mode, align_corners=True, **options), IMAGE)
        for mode in ("bilinear", "bicubic")
        for label, options in {"factor 2": {"scale_factor": 2}, "size": {"size": (11, 4)},
           "size one": {"size": (1, 5)}}.items()
    ),
    fn("aten.upsample_nearest2d.vec", "to the size of another", lambda x, y: F.interpolate(x, size=y.shape[2:]), IMAGE,
       r(2, 3, 11, 12), dynamic={"x": {0: "batch"}, "y": {0: "batch", 2: "height=4..20", 3: "width=4..20"}}),
    fn("aten.upsample_bilinear2d.vec", "image of varying size",
       lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), IMAGE,
          dynamic={"x": {0: "batch", 2: "height=4..20", 3: "width=4..20"}}),
    fn("aten.upsample_bilinear2d.vec", "float16", lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
       IMAGE.half()),
]


def _write_slice(*at: Any) -> Callable[..., Tensor]:
    """``x = x.clone(); x[at] = y`` as a function."""

    def function(x: Tensor, y: Tensor) -> Tensor:
        x = x.clone()
        x[at] = y
        return x

    return function


every = slice(None)
SHAPE = [
    fn("reshape", "merge", lambda x: x.reshape(x.shape[0], -1), STACK),
    fn("reshape", "split, two dims vary", lambda x: x.view(x.shape[0], x.shape[1], 2, 3), r(2, 5, 6),
       dynamic=BATCH_SEQ),
    fn("reshape", "merge dims that vary", lambda x: x.reshape(-1, 6), r(2, 5, 6), dynamic=BATCH_SEQ),
    fn("reshape", "flatten the middle", lambda x: x.flatten(1, 2), r(2, 3, 4, 5)),
    fn("permute", "all axes", lambda x: x.permute(2, 0, 1), STACK),
    fn("permute", "negative axes", lambda x: x.transpose(-1, -2), STACK),
    fn("unsqueeze", "end", lambda x: x.unsqueeze(-1), STACK),
    fn("unsqueeze", "stack", lambda x, y: torch.stack([x, y], 1), STACK, STACK + 1),
    fn("aten.squeeze.dims", "two axes", lambda x: x.squeeze((1, -1)), r(2, 1, 4, 1)),
    fn("expand", "minus one keeps", lambda x: x.expand(-1, 5, -1), r(2, 1, 4)),
    fn("expand", "new axis of varying size", lambda x: x[:, None].expand(x.shape[0], x.shape[1], x.shape[1]), r(2, 5),
       dynamic=BATCH_SEQ),
    fn("expand", "repeat_interleave", lambda x: x.repeat_interleave(3, dim=1), STACK),
    fn("aten.slice.Tensor", "negative start", lambda x: x[:, -2:], STACK),
    fn("aten.slice.Tensor", "step", lambda x: x[:, 1::2], r(2, 7)),
    fn("aten.slice.Tensor", "end by size", lambda x: x[:, : x.shape[1] - 1], r(2, 5),
       dynamic={"x": {0: "batch", 1: "seq=3..9"}}),
    fn("aten.select.int", "last", lambda x: x[:, -1], STACK),
    fn("aten.select.int", "first of the batch", lambda x: x[0], STACK),
    fn("aten.cat.default", "channels", lambda x, y: torch.cat([x, y], 1), STACK, r(2, 5, 4)),
    fn("aten.cat.default", "int and float", lambda x, y: torch.cat([x, y], -1), ints(2, 3), r(2, 4)),
    fn("aten.cat.default", "rolled", lambda x: x.roll((1, -2), (1, 2)), STACK),
    fn("aten.split_with_sizes.default", "uneven", lambda x: x.split([1, 3, 2], -1), r(2, 6)),
    fn("aten.split_with_sizes.default", "chunks with a rest", lambda x: x.chunk(3, 1)[::2], r(2, 7)),
    fn("aten.split_with_sizes.default", "gated", lambda x: F.glu(x, 1), r(2, 6)),
    fn("getitem", "second part only", lambda x: x.split(4, 1)[1], r(2, 9)),
    fn("pad", "asymmetric", lambda x: F.pad(x, (1, 2, 0, 3)), STACK),
    fn("pad", "with a value", lambda x: F.pad(x, (0, 0, 2, 1), value=-1.5), STACK),
    fn("pad", "negative", lambda x: F.pad(x, (-1, 2)), STACK),
    fn("pad", "whole numbers", lambda x: F.pad(x, (1, 1), value=7), COUNTS),
    fn("pad", "bools", lambda x: F.pad(x, (1, 1), value=True), flags(2, 5)),
    fn("pad", "reflect", lambda x: F.pad(x, (2, 1, 1, 2), mode="reflect"), IMAGE),
    fn("pad", "replicate", lambda x: F.pad(x, (2, 1, 1, 2), mode="replicate"), IMAGE),
    fn("pad", "circular", lambda x: F.pad(x, (2, 1, 1, 2), mode="circular"), IMAGE),
    fn("pad", "by a size that varies", lambda x, y: F.pad(x, (0, y.shape[1])), r(2, 5), r(2, 3),
       dynamic=BATCH_SEQ_2 | {"y": {0: "batch", 1: "more"}}),
    fn("repeat", "new axes", lambda x: x.repeat(2, 1, 3), r(2, 4), dynamic=None),
    fn("repeat", "size that varies", lambda x: x.repeat(1, x.shape[1]), r(2, 3), dynamic=BATCH_SEQ),
    fn("flip", "two axes", lambda x: x.flip(1, -1), STACK),
    fn("flip", "dim that varies", lambda x: x.flip(1), STACK, dynamic=BATCH_SEQ),
    layer("pixel_shuffle", "factor 2", lambda: nn.PixelShuffle(2), r(2, 12, 3, 4)),
    layer("pixel_shuffle", "size that varies", lambda: nn.PixelShuffle(3), r(2, 18, 3, 4),
       dynamic={"x": {0: "batch", 2: "height", 3: "width"}}),
    layer("pixel_shuffle", "without batch", lambda: nn.PixelShuffle(2), r(12, 3, 4), dynamic=None,
       gap=("notyet", UnsupportedOp, "unsqueeze first")),
    layer("pixel_unshuffle", "factor 3", lambda: nn.PixelUnshuffle(3), r(2, 2, 6, 9)),
    layer("pixel_unshuffle", "whole numbers", lambda: nn.PixelUnshuffle(2), ints(2, 2, 4, 6).float()),
    fn("tril", "diagonal", lambda x: x.tril(-1), r(2, 4, 4)),
    fn("triu", "diagonal", lambda x: x.triu(1), r(2, 4, 5)),
    fn("triu", "whole numbers", lambda x: x.triu(), ints(2, 4, 5)),
    fn("tril", "causal mask of a dim that varies", lambda x: torch.ones(x.shape[1], x.shape[1]).tril(), r(2, 5),
       dynamic=BATCH_SEQ),
    fn("tril", "bools", lambda x: torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril(), r(2, 5),
       dynamic=BATCH_SEQ),
]

INDEXING = [
    fn("aten.index.Tensor", "leading", lambda x, i: x[i], r(5, 3, 4), index(2, 3, size=5),
       dynamic={"x": {0: "n=5..9"}}),
    fn("aten.index.Tensor", "middle", lambda x, i: x[:, i], r(2, 5, 4), index(2, 3, size=5),
       dynamic={"x": {0: "batch"}}),
    fn("aten.index.Tensor", "negative and int32", lambda x: x[:, torch.tensor([-1, 0, -2], dtype=torch.int32)],
       r(2, 5)),
    fn("aten.index.Tensor", "two leading", lambda x, i, j: x[i, j], r(4, 5, 3), index(6, size=4), index(6, size=5),
       dynamic={"y": {0: "n"}, "z": {0: "n"}}),
    fn("aten.index.Tensor", "two neighbours", lambda x, i, j: x[:, i, j], r(2, 4, 5, 3), index(6, size=4),
       index(6, size=5), dynamic={"x": {0: "batch"}}),
    fn("aten.index.Tensor", "two that broadcast", lambda x, i, j: x[:, i[:, None], j], r(2, 4, 5), index(3, size=4),
       index(2, size=5), dynamic={"x": {0: "batch"}}),
    fn("aten.index.Tensor", "three", lambda x, i: x[i, i, i], r(4, 4, 4), index(5, size=4), dynamic=None),
    fn("aten.index.Tensor", "two apart", lambda x, i, j: x[i, :, j], r(4, 3, 5), index(6, size=4), index(6, size=5),
       dynamic=None),
    fn("aten.index.Tensor", "two apart in the middle", lambda x, i, j: x[:, i, :, j], r(2, 4, 3, 5), index(6, size=4),
       index(6, size=5), dynamic={"x": {0: "batch"}}),
    fn("aten.index.Tensor", "mixed widths", lambda x, i, j: x[i, j], r(4, 5), index(6, size=4), index(6, size=5).int(),
       dynamic=None),
    fn("aten.index.Tensor", "last token of each row", lambda x, n: x[torch.arange(x.shape[0]), n], r(2, 5, 3),
       index(2, size=5)),
    fn("index_select", "vector", lambda x, i: x.index_select(1, i), r(2, 5), index(4, size=5),
       dynamic={"x": {0: "batch"}}),
    fn("index_select", "single number", lambda x, i: x.index_select(1, i), r(2, 5), torch.tensor(3),
       dynamic={"x": {0: "batch"}}),
    fn("gather", "same size", lambda x, i: x.gather(1, i), r(2, 5), index(2, 4, size=5)),
    fn("gather", "smaller in another axis", lambda x, i: x.gather(-1, i), r(2, 4, 5), index(2, 3, 6, size=5)),
    fn("aten.scatter.src", "same size", lambda x, i, s: x.scatter(1, i, s), r(2, 5), torch.tensor([[0, 2], [4, 1]]),
       r(2, 2)),
    fn("aten.scatter.src", "source larger than index", lambda x, i, s: x.scatter(1, i, s), r(2, 5),
       torch.tensor([[0, 2], [4, 1]]), r(2, 4)),
    fn("slice_scatter", "middle", _write_slice(every, slice(1, 3)), r(2, 5), r(2, 2)),
    fn("slice_scatter", "from the front, number", lambda x: _write_slice(every, slice(None, 2))(x, 0.0), r(2, 5)),
    fn("slice_scatter", "to the end, negative", _write_slice(every, slice(-2, None)), r(2, 5), r(2, 2)),
    fn("slice_scatter", "every second", _write_slice(every, slice(0, None, 2)), r(2, 5), r(2, 3)),
    fn("slice_scatter", "rows and columns", _write_slice(every, slice(1, 3), slice(0, 2)), r(2, 5, 4), r(2, 2, 2)),
    fn("slice_scatter", "dim that varies", lambda x: _write_slice(every, slice(1, None))(x, 0.0), r(2, 5),
       dynamic={"x": {0: "batch", 1: "seq=2..9"}}),
    fn("slice_scatter", "end before the end of a dim that varies", lambda x: _write_slice(every, slice(0, -1))(x, 0.0),
       r(2, 5), dynamic={"x": {0: "batch", 1: "seq=3..9"}}),
    fn("select_scatter", "first", _write_slice(every, 0), r(2, 5, 3), r(2, 3)),
    fn("select_scatter", "last", _write_slice(every, -1), r(2, 5, 3), r(2, 3)),
    fn("select_scatter", "last axis", _write_slice(Ellipsis, 1), r(2, 5, 3), r(2, 5)),
    fn("select_scatter", "dim that varies", lambda x: _write_slice(every, 0)(x, 0.0), r(2, 5, 3), dynamic=BATCH_SEQ),
]

WITH_SEQ = {"x": {0: "batch", 1: "seq=4..9"}}
SIZES = [
    fn("aten.arange.start_step", "dim that varies", lambda x: torch.arange(x.shape[1]) + x, r(2, 5), dynamic=BATCH_SEQ),
    fn("aten.arange.start_step", "start and step", lambda x: torch.arange(1, x.shape[1], 2), r(2, 5), dynamic=WITH_SEQ),
    fn("aten.arange.start_step", "floats", lambda x: torch.arange(0, x.shape[1], 0.5), r(2, 5), dynamic=WITH_SEQ),
    fn("full", "dim that varies", lambda x: torch.full((x.shape[0], 3), 2.5), r(2, 5)),
    fn("full", "zeros joined", lambda x: torch.cat([x.new_zeros(x.shape[0], 1), x], 1), r(2, 5)),
    fn("full", "bools", lambda x: torch.ones(x.shape[0], dtype=torch.bool), r(2, 5)),
    fn("full_like", "float", lambda x: torch.full_like(x, 2), r(2, 5)),
    fn("full_like", "another dtype", lambda x: torch.zeros_like(x, dtype=torch.int64), r(2, 5)),
    fn("aten.sym_size.int", "scaled by size", lambda x: x * x.shape[1], r(2, 5), dynamic=BATCH_SEQ),
    fn("size.add", "longer", lambda x: torch.arange(x.shape[1] + 1), r(2, 5), dynamic=BATCH_SEQ),
    fn("size.sub", "shorter", lambda x: torch.arange(x.shape[1] - 1), r(2, 5), dynamic=WITH_SEQ),
    fn("size.mul", "product", lambda x: torch.arange(x.shape[1] * x.shape[0]), r(2, 5), dynamic=BATCH_SEQ),
    fn("size.floordiv", "half", lambda x: torch.arange(x.shape[1] // 2), r(2, 5), dynamic=WITH_SEQ),
    fn("size.floordiv", "half, rounded up", lambda x: torch.arange(-(-x.shape[1] // 2)), r(2, 5), dynamic=WITH_SEQ),
    fn("size.mod", "rest", lambda x: torch.arange(x.shape[1] % 3 + 1), r(2, 5), dynamic=WITH_SEQ),
    fn("size.neg", "from minus", lambda x: torch.arange(-x.shape[1], 2), r(2, 5), dynamic=WITH_SEQ),
    fn("size.mul", "pairs by reshape", lambda x: x.reshape(x.shape[0] * x.shape[1], 2, 3), r(2, 5, 6),
       dynamic=BATCH_SEQ),
]


def _grid(scale: float | list[float], zero: float | list[float]) -> tuple[Tensor, Tensor]:
    return torch.tensor(scale), torch.tensor(zero)


def _pair(x: Tensor, grid: tuple[Tensor, Tensor], axis: int | None, low: int, high: int) -> Tensor:
    scale, zero = (part.clone() for part in grid)
    return ours.dequantize(ours.quantize(x, scale, zero, axis, low, high), scale, zero, axis)


QUANTIZATION = [
    *(
        fn(f"gossamer.{name}", label, lambda x, grid=grid, axis=axis, low=low,
           high=high: _pair(x, grid, axis, low, high), WIDE)
        for name in ("quantize", "dequantize")
        for label, grid, axis, low, high in [
            ("uint8 for the tensor", _grid(0.03, 120.0), None, 0, 255),
            ("int8 for the tensor", _grid(0.05, 0.0), None, -128, 127),
            ("int8 by channel", _grid([0.01, 0.02, 0.03, 0.04], [0.0, 1.0, 2.0, 3.0]), 1, -128, 127),
            ("int8 by channel, negative axis", _grid([0.01, 0.02, 0.03, 0.04], [0.0] * 4), -1, -128, 127),
        ]
    )
]

CASES = [
    *WEIGHTED, *ATTENTION, *NORMS, *ACTIVATIONS, *UNARY, *BINARY, *REDUCTION, *POOLING, *SHAPE, *INDEXING, *SIZES,
       *QUANTIZATION,
]  # fmt: skip


# fmt: on


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


def bound(program: Program, spec: TensorSpec) -> float:
    """The bound of the narrowest float in play; results that are whole numbers or bools are exact."""
    if spec.dtype not in BOUNDS:
        return 0.0
    narrow = {given.dtype for given in (*program.signature.inputs, spec)} - {"float64"}
    return max((BOUNDS[dtype] for dtype in narrow if dtype in BOUNDS), default=BOUNDS["float64"])


def assert_close(name: str, got: np.ndarray, expected: np.ndarray, bound: float) -> None:
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape), name
    if expected.dtype.kind != "f":
        assert np.array_equal(got, expected), name
        return
    finite = np.isfinite(expected)
    assert np.array_equal(got[~finite], expected[~finite], equal_nan=True), name
    scale = np.abs(expected[finite], dtype=np.float64).max(initial=0.0)
    assert np.abs(got[finite].astype(np.float64) - expected[finite]).max(initial=0.0) <= bound * scale, name


def check(case: Case, tmp_path: Any) -> None:
    torch.manual_seed(0)
    model = case.make()
    parameters = list(inspect.signature(model.forward).parameters)
    dynamic = case.dynamic
    if isinstance(dynamic, dict):
        dynamic = {parameters["xyzw".index(position)]: axes for position, axes in dynamic.items()}
    inputs = tuple(x.clone() for x in case.inputs)
    program = capture(model, inputs, dynamic=dynamic)
    assert case.covers in {NAMES[node.target] for node in program.call_nodes}
    path = tmp_path / "model.onnx"
    path.write_bytes(lower_to_onnx(program).model)
    executable = OnnxRuntimeExecutable(path, program.signature, Target("onnxruntime"))
    names = [spec.name for spec in program.signature.inputs]
    example = {name: (x.float() if x.dtype == bf16 else x).numpy() for name, x in zip(names, inputs, strict=True)}
    for sizes in varied(program, example):
        expected, got = Interpreter(program).run(sizes), executable.run(sizes)
        for spec in program.signature.outputs:
            assert_close(spec.name, got[spec.name], expected[spec.name], bound(program, spec))


@pytest.mark.parametrize("case", [case.param for case in joined(CASES)])
def test_operation_agrees_with_the_interpreter(case, tmp_path):
    check(case, tmp_path)


def test_every_operation_of_the_dialect_has_a_case():
    assert {case.covers for case in CASES} == set(TARGETS)
