"""Small graphs, one for each row of the rule table, with the groups they have: answers by hand.

An answer lists the free groups as ``name: size kind`` and, for each frozen one of interest, a part of the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gossamer.frontends.torch_module import capture
from gossamer.program import Program
from gossamer.testing.models import Lambda


@dataclass(frozen=True, eq=False)
class Micro:
    function: Callable[..., Any]
    layers: Callable[[], Mapping[str, nn.Module]]
    inputs: Mapping[str, Tensor]
    free: Mapping[str, str]
    frozen: Mapping[str, str] = field(default_factory=dict)
    dynamic: Any = "batch"

    @cached_property
    def program(self) -> Program:
        torch.manual_seed(0)
        return capture(Lambda(self.function, **self.layers()).eval(), dict(self.inputs), dynamic=self.dynamic)


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def ids(*shape: int) -> Tensor:
    return torch.randint(0, 11, shape, generator=torch.Generator().manual_seed(sum(shape)))


IMAGE = {"x": normal(2, 3, 6, 6)}
ROWS = {"x": normal(2, 5)}
TOKENS = {"x": normal(2, 4, 5)}
LENGTHS = {"x": {0: "batch", 1: "length=2..16"}}


def conv(inputs: int, outputs: int, kernel: int = 1, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options)


def a_b(width: int = 8, **more: Callable[[], nn.Module]) -> Callable[[], dict[str, nn.Module]]:
    """``a`` makes channels of an image, ``b`` reads them."""
    return lambda: {"a": conv(3, width), "b": conv(width, 2), **{name: make() for name, make in more.items()}}


def l_m(width: int = 8, **more: Callable[[], nn.Module]) -> Callable[[], dict[str, nn.Module]]:
    """``a`` makes features of rows or tokens, ``b`` reads them."""
    return lambda: {
        "a": nn.Linear(5, width), "b": nn.Linear(width, 2), **{name: make() for name, make in more.items()}
    }  # fmt: skip


class Slopes(nn.Module):
    """A stored tensor that a test may use as it likes."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.3 * normal(*shape))


class Tied(nn.Module):
    """Embedding and head are one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.embed(x)))


def heads(x: Tensor, count: int) -> Tensor:
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def packed_attention(m: Any, x: Tensor) -> Tensor:
    q, k, v = (heads(part, 2) for part in m["qkv"](x).chunk(3, -1))
    return m["out"](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def timm_attention(m: Any, x: Tensor) -> Tensor:
    batch, tokens, _ = x.shape
    q, k, v = m["qkv"](x).reshape(batch, tokens, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
    return m["out"](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, 8))


def grouped_queries(m: Any, x: Tensor) -> Tensor:
    q, k, v = heads(m["q"](x), 4), heads(m["k"](x), 2), heads(m["v"](x), 2)
    return m["out"](F.scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2).flatten(2))


def repeated_keys(m: Any, x: Tensor) -> Tensor:
    q, k, v = heads(m["q"](x), 4), heads(m["k"](x), 2), heads(m["v"](x), 2)
    k, v = (part.repeat_interleave(2, dim=1) for part in (k, v))
    return m["out"](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def written_out(m: Any, x: Tensor) -> Tensor:
    q, k, v = heads(m["q"](x), 2), heads(m["k"](x), 2), heads(m["v"](x), 2)
    return m["out"](((q @ k.transpose(-1, -2) / 2).softmax(-1) @ v).transpose(1, 2).flatten(2))


def merged_batch(m: Any, x: Tensor) -> Tensor:
    """Heads in the batch axis, as older models have them: sizes are computed from the batch."""
    batch, tokens, _ = x.shape

    def folded(y: Tensor) -> Tensor:
        return y.view(batch, tokens, 2, 4).transpose(1, 2).reshape(batch * 2, tokens, 4)

    q, k, v = folded(m["q"](x)), folded(m["k"](x)), folded(m["v"](x))
    mixed = torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(-1), v)
    return m["out"](mixed.view(batch, 2, tokens, 4).transpose(1, 2).reshape(batch, tokens, 8))


def separate(kv: int = 8) -> Callable[[], dict[str, nn.Module]]:
    return lambda: {"q": nn.Linear(5, 8), "k": nn.Linear(5, kv), "v": nn.Linear(5, kv), "out": nn.Linear(8, 2)}


def packed() -> dict[str, nn.Module]:
    return {"qkv": nn.Linear(5, 24), "out": nn.Linear(8, 2)}


def rotated(x: Tensor) -> Tensor:
    """Rotary positions, halves of the head."""
    angle = torch.arange(x.shape[2])[:, None] * torch.tensor([1.0, 0.1])
    cos, sin = (torch.cat([part, part], -1) for part in (angle.cos(), angle.sin()))
    return x * cos + torch.cat([-x[..., 2:], x[..., :2]], -1) * sin


def rotary(m: Any, x: Tensor) -> Tensor:
    q, k, v = heads(m["q"](x), 2), heads(m["k"](x), 2), heads(m["v"](x), 2)
    mixed = F.scaled_dot_product_attention(rotated(q), rotated(k), v)
    return m["out"](mixed.transpose(1, 2).flatten(2))


def shuffle(m: Any, x: Tensor) -> Tensor:
    y = m["a"](x)
    return m["b"](y.view(-1, 2, 4, 6, 6).transpose(1, 2).reshape(-1, 8, 6, 6))


def option_a(m: Any, x: Tensor) -> Tensor:
    """The shortcut of the first CIFAR networks: every second pixel, zeros for the new channels."""
    y = m["a"](x)
    return m["b"](m["wide"](y) + F.pad(y[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)))


MICRO: dict[str, Micro] = {
    # element-wise
    "unary chain": Micro(lambda m, x: m["b"](m["a"](x).relu().sigmoid().exp()), a_b(), IMAGE,
        {"layers.a": "8 channels"}),
    "binary add of two": Micro(lambda m, x: m["b"](m["a"](x) + m["c"](x)), a_b(c=lambda: conv(3, 8)), IMAGE,
        {"layers.a": "8 channels"}),
    "binary with a size-1 axis": Micro(lambda m, x: m["b"](m["a"](x) * m["c"](x)), a_b(c=lambda: conv(3, 1)), IMAGE,
        {"layers.a": "8 channels"}, {"layers.c": "size 1"}),
    "where and a stored tensor": Micro(lambda m, x: m["b"](torch.where(m["a"](x) > 0, m["a"](x), m["s"].weight)),
        a_b(s=lambda: Slopes(8, 1, 1)), IMAGE, {"layers.a": "8 channels"}),
    "add of an input": Micro(lambda m, x: m["b"](m["a"](x) + x), lambda: {"a": conv(3, 3), "b": conv(3, 2)}, IMAGE, {},
        {"layers.a": "input x, axis 1"}),
    "prelu with slopes": Micro(lambda m, x: m["b"](m["p"](m["a"](x))), a_b(p=lambda: nn.PReLU(8)), IMAGE,
        {"layers.a": "8 channels"}),
    "prelu with one slope": Micro(lambda m, x: m["b"](m["p"](m["a"](x))), a_b(p=nn.PReLU), IMAGE,
        {"layers.a": "8 channels"}),
    # weighted
    "linear": Micro(lambda m, x: m["b"](m["a"](x)), l_m(), ROWS, {"layers.a": "8 hidden"},
        {"layers.b": "output", "layers.a.weight": "input x"}),
    "linear on tokens": Micro(lambda m, x: m["b"](m["a"](x)), l_m(), TOKENS, {"layers.a": "8 hidden"}, dynamic=LENGTHS),
    "product with a stored matrix": Micro(lambda m, x: (x @ m["s"].weight).relu() @ m["t"].weight,
        lambda: {"s": Slopes(5, 8), "t": Slopes(8, 2)}, ROWS, {"linear": "8 hidden"}),
    "conv 1d": Micro(lambda m, x: m["b"](m["a"](x)), lambda: {"a": nn.Conv1d(4, 8, 3), "b": nn.Conv1d(8, 2, 1)},
        {"x": normal(2, 4, 9)}, {"layers.a": "8 channels"}),
    "conv 3d": Micro(lambda m, x: m["b"](m["a"](x)), lambda: {"a": nn.Conv3d(1, 8, 3), "b": nn.Conv3d(8, 2, 1)},
        {"x": normal(2, 1, 5, 5, 5)}, {"layers.a": "8 channels"}),
    "depthwise conv": Micro(lambda m, x: m["b"](m["d"](m["a"](x))), a_b(d=lambda: conv(8, 8, 3, groups=8)), IMAGE,
        {"layers.a": "8 channels"}),
    "depthwise conv with multiplier": Micro(lambda m, x: m["e"](m["d"](m["a"](x))),
        a_b(d=lambda: conv(8, 16, 3, groups=8), e=lambda: conv(16, 2)), IMAGE,
        {"layers.a": "8 channels", "layers.d": "2 channels"}),
    "grouped conv": Micro(lambda m, x: m["e"](m["d"](m["a"](x))),
        a_b(d=lambda: conv(8, 12, 3, groups=4), e=lambda: conv(12, 2)), IMAGE,
        {"layers.a:groups": "4 groups", "layers.a:channels": "2 channels", "layers.d": "3 channels"}),
    "transposed conv": Micro(lambda m, x: m["b"](m["a"](x)),
        lambda: {"a": nn.ConvTranspose2d(3, 8, 2), "b": nn.ConvTranspose2d(8, 2, 2)}, IMAGE,
        {"layers.a": "8 channels"}),
    "grouped transposed conv": Micro(lambda m, x: m["b"](m["d"](m["a"](x))),
        lambda: {"a": conv(3, 8), "d": nn.ConvTranspose2d(8, 12, 2, groups=4), "b": conv(12, 2)}, IMAGE,
        {"layers.a:groups": "4 groups", "layers.a:channels": "2 channels", "layers.d": "3 channels"}),
    "view before transposed conv": Micro(lambda m, x: m["up"](m["a"](x).view(-1, 4, 3, 3)),
        lambda: {"a": nn.Linear(5, 36), "up": nn.ConvTranspose2d(4, 2, 2)}, ROWS, {"layers.a:channels": "4 channels"},
        {"layers.a:hidden.0": "spatial"}),
    "embedding": Micro(lambda m, x: m["b"](m["e"](x)), lambda: {"e": nn.Embedding(11, 8), "b": nn.Linear(8, 2)},
        {"x": ids(2, 4)}, {"layers.e": "8 embedding"}, {"layers.e.weight": "indices are values"}),
    "bilinear einsum": Micro(lambda m, x: m["c"](torch.einsum("bi,ij,bj->bi", m["a"](x), m["s"].weight, m["b"](x))),
        lambda: {"a": nn.Linear(5, 4), "b": nn.Linear(5, 6), "s": Slopes(4, 6), "c": nn.Linear(4, 2)}, ROWS,
        {"layers.a": "4 hidden", "layers.b": "6 hidden"}),
    "einsum with a diagonal": Micro(lambda m, x: m["c"](torch.einsum("bii->bi", m["a"](x).view(-1, 4, 4))),
        lambda: {"a": nn.Linear(5, 16), "c": nn.Linear(4, 2)}, ROWS, {}, {"layers.a": "diagonal"}),
    "lstm, two layers, both directions": Micro(lambda m, x: m["b"](m["a"](x)[0][:, -1]),
        lambda: {"a": nn.LSTM(5, 8, 2, bidirectional=True, batch_first=True), "b": nn.Linear(16, 2)}, TOKENS,
        {"layers.a": "8 hidden"}),
    "lstm with projections": Micro(lambda m, x: m["b"](m["a"](x)[0]),
        lambda: {"a": nn.LSTM(5, 8, proj_size=3, batch_first=True), "b": nn.Linear(3, 2)}, TOKENS,
        {"layers.a:hidden.0": "3 hidden", "layers.a:hidden.1": "8 hidden"}),
    "gru": Micro(lambda m, x: m["b"](m["a"](x)[0]), lambda: {"a": nn.GRU(5, 8, batch_first=True), "b": nn.Linear(8, 2)},
        TOKENS, {"layers.a": "8 hidden"}),
    # norms
    "batch norm": Micro(lambda m, x: m["b"](m["n"](m["a"](x))), a_b(n=lambda: nn.BatchNorm2d(8)), IMAGE,
        {"layers.a": "8 channels"}),
    "layer norm": Micro(lambda m, x: m["b"](m["n"](m["a"](x))), l_m(n=lambda: nn.LayerNorm(8)), TOKENS,
        {"layers.a": "8 hidden renormalising"}),
    "layer norm over two axes": Micro(lambda m, x: m["b"](m["n"](m["a"](x).unflatten(-1, (2, 4))).flatten(-2)),
        l_m(n=lambda: nn.LayerNorm((2, 4))), TOKENS,
        {"layers.a:hidden.0": "2 hidden renormalising", "layers.a:hidden.1": "4 hidden renormalising"}),
    "rms norm": Micro(lambda m, x: m["b"](m["n"](m["a"](x))), l_m(n=lambda: nn.RMSNorm(8)), TOKENS,
        {"layers.a": "8 hidden renormalising"}),
    "root mean square by hand": Micro(
        lambda m, x: m["b"]((y := m["a"](x)) * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)), l_m(), TOKENS,
        {"layers.a": "8 hidden"}),
    "group norm": Micro(lambda m, x: m["b"](m["n"](m["a"](x))), a_b(n=lambda: nn.GroupNorm(2, 8)), IMAGE,
        {"layers.a:channels.0": "2 channels", "layers.a:channels.1": "4 channels renormalising"}),
    "instance norm": Micro(lambda m, x: m["b"](m["n"](m["a"](x))), a_b(n=lambda: nn.InstanceNorm2d(8, affine=True)),
        IMAGE,
        {"layers.a": "8 channels"}),
    # attention
    "attention, packed by chunk": Micro(packed_attention, packed, TOKENS,
        {"layers.qkv:heads": "2 heads", "layers.qkv:head_dim": "4 head_dim", "layers.qkv:value_dim": "4 value_dim"},
        dynamic=LENGTHS),
    "attention, packed by view": Micro(timm_attention, packed, TOKENS,
        {"layers.qkv:heads": "2 heads", "layers.qkv:head_dim": "4 head_dim"}, {"layers.qkv:hidden.0": "size 1"},
        dynamic=LENGTHS),
    "attention, grouped queries": Micro(grouped_queries, separate(4), TOKENS,
        {"layers.q:kv_heads": "2 kv_heads", "layers.q:heads_per_kv": "2 heads_per_kv",
        "layers.q:head_dim": "2 head_dim",
         "layers.v:value_dim": "2 value_dim"}),
    "attention, repeated keys": Micro(repeated_keys, separate(4), TOKENS,
        {"layers.q:kv_heads": "2 kv_heads", "layers.q:heads_per_kv": "2 heads_per_kv",
        "layers.q:head_dim": "2 head_dim",
         "layers.v:value_dim": "2 value_dim"}),
    "attention, written out": Micro(written_out, separate(), TOKENS,
        {"layers.q:heads": "2 heads", "layers.q:head_dim": "4 head_dim", "layers.v:value_dim": "4 value_dim"}),
    "attention, heads in the batch": Micro(merged_batch, separate(), TOKENS,
        {"layers.q:heads": "2 heads", "layers.q:head_dim": "4 head_dim", "layers.v:value_dim": "4 value_dim"},
        dynamic=LENGTHS),
    "attention, rotary": Micro(rotary, separate(), TOKENS,
        {"layers.q:heads": "2 heads", "layers.q:head_dim": "2 head_dim", "layers.v:value_dim": "4 value_dim"}),
    # moving elements
    "concat": Micro(lambda m, x: m["b"](torch.cat([m["a"](x), m["c"](x)], 1)),
        lambda: {"a": conv(3, 4), "c": conv(3, 6), "b": conv(10, 2)}, IMAGE,
        {"layers.a": "4 channels", "layers.c": "6 channels"}),
    "concat of one value twice": Micro(lambda m, x: m["b"](torch.cat([y := m["a"](x), y.relu()], 1)),
        lambda: {"a": conv(3, 4), "b": conv(8, 2)}, IMAGE, {"layers.a": "4 channels"}),
    "stack": Micro(lambda m, x: m["b"](torch.stack([m["a"](x), m["c"](x)], 1).sum(1)), a_b(c=lambda: conv(3, 8)), IMAGE,
        {"layers.a": "8 channels"}),
    "split by sizes": Micro(lambda m, x: m["b"]((p := m["a"](x).split([2, 6], 1))[1]) + m["c"](p[0]),
        lambda: {"a": conv(3, 8), "b": conv(6, 2), "c": conv(2, 2)}, IMAGE,
        {"layers.a:channels.0": "2 channels", "layers.a:channels.1": "6 channels"}),
    "chunk and gate": Micro(lambda m, x: m["b"](F.glu(m["a"](x), 1)), lambda: {"a": conv(3, 8), "b": conv(4, 2)}, IMAGE,
        {"layers.a": "4 channels"}),
    "slice of channels": Micro(lambda m, x: m["b"](m["a"](x)[:, 2:]), lambda: {"a": conv(3, 8), "b": conv(6, 2)}, IMAGE,
        {"layers.a:channels.0": "2 channels", "layers.a:channels.1": "6 channels"}),
    "every second channel": Micro(lambda m, x: m["b"](m["a"](x)[:, ::2]), lambda: {"a": conv(3, 8), "b": conv(4, 2)},
        IMAGE, {"layers.a:channels.0": "4 channels"}, {"layers.a:channels.1": "every 2th"}),
    "one channel selected": Micro(lambda m, x: m["b"](m["a"](x)) + m["a"](x)[:, 3:4] * m["a"](x)[:, 3][:, None],
        a_b(), IMAGE, {"layers.a:channels.0": "3 channels", "layers.a:channels.2": "4 channels"},
        {"layers.a:channels.1": "size 1"}),
    "flatten before linear": Micro(lambda m, x: m["l"](m["a"](x).flatten(1)),
        lambda: {"a": conv(3, 8), "l": nn.Linear(288, 2)}, IMAGE, {"layers.a": "8 channels"}),
    "hard-coded view": Micro(lambda m, x: m["b"](m["a"](x).view(-1, 8 * 36).view(-1, 8, 6, 6)), a_b(), IMAGE,
        {"layers.a": "8 channels"}),
    "channel shuffle": Micro(shuffle, a_b(), IMAGE, {"layers.a:channels.0": "2 channels",
        "layers.a:channels.1": "4 channels"}),
    "view without a common form": Micro(lambda m, x: m["b"](m["a"](x).view(-1, 6, 8, 6).mean((2, 3))),
        lambda: {"a": conv(3, 8), "b": nn.Linear(6, 2)}, IMAGE, {},
        {"layers.a": "no common", "layers.b.weight": "meets reshape reshape, axis 1"}),
    "expand": Micro(lambda m, x: m["b"](m["s"].weight.expand(-1, 8, 6, 6) + m["a"](x)), a_b(s=lambda: Slopes(1, 1, 1,
        1)),
        IMAGE, {"layers.a": "8 channels"}),
    "repeat": Micro(lambda m, x: m["b"](m["a"](x).repeat(1, 2, 1, 1)), lambda: {"a": conv(3, 4), "b": conv(8, 2)},
        IMAGE,
        {"layers.a": "4 channels", "layers.b.weight": "2 channels"}),
    "repeat interleaved": Micro(lambda m, x: m["b"](m["a"](x).repeat_interleave(2, 1)),
        lambda: {"a": conv(3, 4), "b": conv(8, 2)}, IMAGE, {"layers.a": "4 channels", "layers.b.weight": "2 channels"}),
    "pixel shuffle": Micro(lambda m, x: m["b"](F.pixel_shuffle(m["a"](x), 2)), lambda: {"a": conv(3, 16),
        "b": conv(4, 2)},
        IMAGE, {"layers.a:channels.0": "4 channels"}, {"layers.a:channels.1": "shuffled into space"}),
    "pixel unshuffle": Micro(lambda m, x: m["b"](F.pixel_unshuffle(m["a"](x), 2)),
        lambda: {"a": conv(3, 4), "b": conv(16, 2)}, IMAGE, {"layers.a": "4 channels"}),
    "padding beside channels": Micro(lambda m, x: m["b"](F.pad(m["a"](x), (0, 0, 0, 0, 2, 2))),
        lambda: {"a": conv(3, 4), "b": conv(8, 2)}, IMAGE,
        {"layers.a": "4 channels", "layers.b.weight:channels.0": "2 channels",
        "layers.b.weight:channels.1": "2 channels"}),
    "shortcut with zeros": Micro(option_a, lambda: {"a": conv(3, 4), "wide": conv(4, 8, 3, stride=2), "b": conv(8, 2)},
        IMAGE, {"layers.a": "4 channels", "layers.wide:channels.0": "2 channels",
        "layers.wide:channels.1": "2 channels"}),
    "reflection beside channels": Micro(lambda m, x: m["b"](F.pad(m["a"](x).flatten(2).transpose(1, 2), (1, 1),
        "reflect")),
        lambda: {"a": conv(3, 8), "b": nn.Linear(10, 2)}, IMAGE, {}, {"layers.a": "padded"}),
    "flip of channels": Micro(lambda m, x: m["b"](m["a"](x).flip(1)), a_b(), IMAGE, {}, {"layers.a": "flipped"}),
    "triangle of channels": Micro(lambda m, x: m["b"](m["a"](x).flatten(2).transpose(1, 2).tril()),
        lambda: {"a": conv(3, 8), "b": nn.Linear(8, 2)}, IMAGE, {}, {"layers.a": "triangle"}),
    # reductions and picking
    "pools, interpolation, padding in space": Micro(
        lambda m, x: m["b"](F.pad(F.interpolate(F.max_pool2d(F.avg_pool2d(m["a"](x), 2), 1), scale_factor=2.0), (1,
        1))),
        a_b(), IMAGE, {"layers.a": "8 channels"}),
    "sum over channels": Micro(lambda m, x: m["a"](x).sum(1), lambda: {"a": conv(3, 8)}, IMAGE,
        {"layers.a": "8 channels"}),
    "mean over channels": Micro(lambda m, x: m["a"](x).mean(1), lambda: {"a": conv(3, 8)}, IMAGE,
        {"layers.a": "8 channels"}),
    "length of channels": Micro(lambda m, x: m["a"](x).norm(dim=1), lambda: {"a": conv(3, 8)}, IMAGE,
        {"layers.a": "8 channels"}),
    "largest channel": Micro(lambda m, x: m["a"](x).amax(1), lambda: {"a": conv(3, 8)}, IMAGE, {},
        {"layers.a": "reduced"}),
    "variance over channels": Micro(lambda m, x: m["a"](x).var(1), lambda: {"a": conv(3, 8)}, IMAGE, {},
        {"layers.a": "reduced"}),
    "softmax over channels": Micro(lambda m, x: m["b"](m["a"](x).softmax(1)), a_b(), IMAGE, {},
        {"layers.a": "softmax"}),
    "running sum over channels": Micro(lambda m, x: m["b"](m["a"](x).cumsum(1)), a_b(), IMAGE, {},
        {"layers.a": "summed along"}),
    "best channels": Micro(lambda m, x: m["a"](x).topk(2, 1)[0], lambda: {"a": conv(3, 8)}, IMAGE, {},
        {"layers.a": "sorted along"}),
    "index along another axis": Micro(lambda m, x: m["b"](m["a"](x)[:, :, torch.tensor([0, 3])]), a_b(), IMAGE,
        {"layers.a": "8 channels"}),
    "index of channels": Micro(lambda m, x: m["b"](m["a"](x)[:, torch.tensor([1, 0, 2])]),
        lambda: {"a": conv(3, 8), "b": conv(3, 2)}, IMAGE, {},
        {"layers.a": "indices are values"}),
    "index_select of channels": Micro(lambda m, x: m["b"](m["a"](x).index_select(1, torch.tensor([1, 0, 2]))),
        lambda: {"a": conv(3, 8), "b": conv(3, 2)}, IMAGE, {}, {"layers.a": "indices are values"}),
    "scatter along another axis": Micro(
        lambda m, x: m["b"](m["a"](x).scatter(1, torch.zeros(2, 4, 8, dtype=torch.int64), m["c"](x))),
        l_m(c=lambda: nn.Linear(5, 8)),
        TOKENS, {"layers.a": "8 hidden"}, dynamic=None),
    "slice replaced": Micro(lambda m, x: m["b"](replaced(m["a"](x), m["c"](x))), a_b(c=lambda: conv(3, 2)), IMAGE,
        {"layers.a:channels.0": "2 channels", "layers.a:channels.1": "6 channels"}),
    # tensors of their own, tied weights, states
    "constant of ones": Micro(lambda m, x: m["b"](m["a"](x) + torch.ones(8)), l_m(), ROWS, {"layers.a": "8 hidden"}),
    "positions": Micro(lambda m, x: m["b"](m["a"](x) * torch.arange(8)), l_m(), ROWS, {}, {"layers.a": "arange"}),
    "unrolled cell": Micro(lambda m, x: m["b"](cell(m, x)),
        lambda: {"i": nn.Linear(5, 8), "h": nn.Linear(8, 8), "b": nn.Linear(8, 2)}, TOKENS, {"layers.i": "8 hidden"}),
    "embedding and head are one tensor": Micro(lambda m, x: m["t"](x), lambda: {"t": Tied()}, {"x": ids(2, 4)},
        {"layers.t.embed": "8 embedding"}, {"layers.t.head": "indices are values"}, dynamic=LENGTHS),
    "square weight in two roles": Micro(lambda m, x: m["b"](m["c"](m["c"](m["a"](x)))), l_m(c=lambda: nn.Linear(8,
        8)), ROWS,
        {"layers.a": "8 hidden"}),
}  # fmt: skip


def replaced(x: Tensor, part: Tensor) -> Tensor:
    x = x.clone()
    x[:, :2] = part
    return x


def cell(m: Any, x: Tensor) -> Tensor:
    state = x.new_zeros(x.shape[0], 8)
    for step in range(3):
        state = torch.tanh(m["i"](x[:, step]) + m["h"](state))
    return state
