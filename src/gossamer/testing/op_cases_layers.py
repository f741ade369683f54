"""The operation matrix, first half: layers, attention, norms, activations and arithmetic."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as everybody writes it

from gossamer.testing.op_matrix import Case, flags, fn, index, ints, layer, pos, r

# fmt: off
# One case a line.
IMAGE = r(2, 3, 7, 9)
BATCH_SEQ = {"x": {0: "batch", 1: "seq"}}
BATCH_SEQ_2 = {"x": {0: "batch", 1: "seq"}, "y": {0: "batch", 1: "seq"}}
half, bf16 = torch.float16, torch.bfloat16


class Recurrent(nn.Module):
    """All results of a recurrent layer: outputs, then the last states."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Outputs and last states of a sequence."""
        y, states = self.layer(x)
        return (y, *states) if isinstance(states, tuple) else (y, states)

    @classmethod
    def lstm(cls, *sizes: int, **options: Any) -> Recurrent:
        """Around an LSTM of these sizes."""
        return cls(nn.LSTM(*sizes, **options))

    @classmethod
    def gru(cls, *sizes: int, **options: Any) -> Recurrent:
        """Around a GRU of these sizes."""
        return cls(nn.GRU(*sizes, **options))


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
    layer("linear", "bfloat16", lambda: nn.Linear(6, 5).bfloat16(), r(2, 6, dtype=bf16)),
    layer("linear", "float64", lambda: nn.Linear(6, 5).double(), r(2, 6).double()),
    layer("linear", "vector", lambda: nn.Linear(6, 5), r(6), dynamic=None),
    fn("matmul", "rank 2", lambda x, y: x @ y, r(2, 4), r(4, 3), dynamic={"x": {0: "batch"}}),
    fn("matmul", "batched, broadcast", lambda x, y: x @ y, r(2, 1, 3, 4), r(5, 4, 3), dynamic={"x": {0: "batch"}}),
    fn("matmul", "matrix and vector", lambda x, y: x @ y, r(2, 3, 4), r(4), dynamic={"x": {0: "batch"}}),
    fn("matmul", "addmm with alpha and beta", lambda x, y, z: torch.addmm(x, y, z, beta=0.5, alpha=2.0), r(3), r(2, 4),
       r(4, 3), dynamic=None),
    *(
        layer(f"aten.{kind}.input", label, lambda make=make, options=options: make(5, 6, **options), r(3, 4, 5),
           roundings=4, dynamic={"x": {0 if options.get("batch_first") else 1: "batch"}})
        for kind, make in (("lstm", Recurrent.lstm), ("gru", Recurrent.gru))
        for label, options in {"time first": {}, "batch first": {"batch_first": True}, "no bias": {"bias": False},
           "two layers, both directions": {"num_layers": 2, "bidirectional": True, "batch_first": True}}.items()
    ),
    layer("aten.lstm.input", "projections", lambda: Recurrent.lstm(5, 6, proj_size=3), r(3, 4, 5), dynamic=None),
    fn("einsum", "attention scores", lambda x, y: torch.einsum("b i h d, b j h d -> b h i j", x, y), r(2, 3, 2, 4),
       r(2, 5, 2, 4), dynamic={"x": {0: "batch"}, "y": {0: "batch"}}),
    fn("einsum", "ellipsis, implicit output", lambda x, y: torch.einsum("...i,ij", x, y), r(2, 3, 4), r(4, 5),
       dynamic={"x": {0: "batch"}}),
    fn("einsum", "trace and outer", lambda x, y: torch.einsum("bii,c->bc", x, y), r(2, 3, 3), r(4), dynamic=None),
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
        """Mixed tokens, of the shape of ``x``: (batch, tokens, 16)."""
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
    fn(SDPA, "rank 3, mask", sdpa, r(2, 5, 8), r(2, 7, 8), r(2, 7, 8), r(2, 5, 7)),
    fn(SDPA, "rank 2", sdpa, r(5, 8), r(7, 8), r(7, 8), dynamic=None),
    fn(SDPA, "rank 5", sdpa, r(2, 3, 2, 5, 8), r(2, 3, 2, 5, 8), r(2, 3, 2, 5, 8)),
    fn(SDPA, "causal", lambda x: sdpa(x, x, x, is_causal=True), Q),
    fn(SDPA, "causal, fewer queries than keys", lambda q, k, v: sdpa(q, k, v, is_causal=True), Q, K, V),
    fn(SDPA, "causal, more queries than keys", lambda q, k, v: sdpa(q, k, v, is_causal=True), K, Q, r(2, 4, 5, 8)),
    fn(SDPA, "custom scale", lambda q, k, v: sdpa(q, k, v, scale=0.7), Q, K, V),
    fn(SDPA, "grouped queries", lambda q, k, v: sdpa(q, k, v, enable_gqa=True), Q, r(2, 2, 7, 8), r(2, 2, 7, 8)),
    fn(SDPA, "bool mask", sdpa, Q, K, V, flags(2, 1, 5, 7)),
    fn(SDPA, "bool mask over keys only", sdpa, Q, K, V, flags(2, 1, 1, 7)),
    fn(SDPA, "bool mask, a query without keys", sdpa, Q, K, V,
       flags(2, 4, 5, 7) & (torch.arange(5) != 2)[:, None]),
    fn(SDPA, "bool mask of rank 2", lambda q, k, v: sdpa(q, k, v, torch.ones(5, 7, dtype=torch.bool).tril(1)), Q, K, V),
    fn(SDPA, "float mask", sdpa, Q, K, V, r(2, 4, 5, 7)),
    fn(SDPA, "float mask over queries only", sdpa, Q, K, V, r(2, 4, 5, 1)),
    fn(SDPA, "float mask, batch and both lengths vary", sdpa, Q, K, V, r(2, 1, 1, 7),
       dynamic={"x": {0: "batch", 2: "queries"}, "y": {0: "batch", 2: "keys"}, "z": {0: "batch", 2: "keys"},
          "w": {0: "batch", 3: "keys"}}),
    fn(SDPA, "float16", sdpa, Q.half(), K.half(), V.half()),
    layer(SDPA, "packed heads", Heads, r(2, 5, 16), dynamic=BATCH_SEQ),
    layer(SDPA, "packed heads, grouped queries", lambda: Heads(2), r(2, 5, 16), dynamic=BATCH_SEQ),
    fn("aten.softmax.int", "last axis", lambda x: x.softmax(-1), r(2, 3, 5)),
    fn("aten.softmax.int", "middle axis, another dtype", lambda x: x.softmax(1, dtype=torch.float32),
       r(2, 3, 5, dtype=half)),
    fn("aten.softmax.int", "large logits", lambda x: (1e4 * x).softmax(-1), r(2, 3, 5)),
    fn("aten.log_softmax.int", "first axis", lambda x: x.log_softmax(0), r(2, 3, 5), dynamic={"x": {1: "n"}}),
]

NORMS = [
    layer("batch_norm", "images", lambda: _used(nn.BatchNorm2d(3)), IMAGE),
    layer("batch_norm", "without weight and bias", lambda: _used(nn.BatchNorm2d(3, affine=False)), IMAGE),
    layer("batch_norm", "rank 2", lambda: _used(nn.BatchNorm1d(6)), r(2, 6)),
    layer("layer_norm", "an eps that float32 holds exactly", lambda: nn.LayerNorm(5, eps=2**-16), r(2, 3, 5)),
    layer("layer_norm", "last axis", lambda: nn.LayerNorm(5), r(2, 3, 5)),
    layer("layer_norm", "two axes", lambda: nn.LayerNorm([3, 5]), r(2, 3, 5)),
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
    fn("aten.add.Tensor", "bfloat16", torch.add, r(2, 5, dtype=bf16), r(2, 5, dtype=bf16)),
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

CASES = [*WEIGHTED, *ATTENTION, *NORMS, *ACTIVATIONS, *UNARY, *BINARY]
