"""The operation matrix, second half: reductions, pooling, shapes, indexing, sizes and quantizers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as everybody writes it

from gossamer.testing.op_cases_layers import BATCH_SEQ, BATCH_SEQ_2, COUNTS, IMAGE, WIDE
from gossamer.testing.op_matrix import Case, flags, fn, index, ints, layer, r

ours = torch.ops.gossamer
# fmt: off
# One case a line.
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
    fn("linalg_vector_norm", "order 3", lambda x: torch.linalg.vector_norm(x, 3, 1), STACK),
    fn("cumsum", "negative axis", lambda x: x.cumsum(-1), STACK),
    fn("cumsum", "bools count up", lambda x: x.cumsum(1), flags(2, 5)),
    fn("topk", "largest, values only", lambda x: x.topk(2).values, STACK),
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
    fn("max_pool2d", "negative, behind a padding of zeros",
       lambda x: F.max_pool2d(F.pad(-x.abs() - 1, (1, 1, 1, 1)), 3, 2), IMAGE),
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
    layer("avg_pool2d", "own divisor", lambda: nn.AvgPool2d(2, divisor_override=3), IMAGE),
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
    *(
        layer(f"aten.upsample_{mode}2d.vec", f"factor {factor} of {size}",
           lambda mode=mode, factor=factor: nn.Upsample(scale_factor=factor, mode=mode), r(2, 1, size, size),
           # A coordinate up to ``size`` is rounded to 24 bits twice on each side, and values change by twice their
           # largest; the 16 products of a cubic in two axes are rounded on each side as well.
           bound=(2 * size * 4 + 2 * 16) * 2.0**-24)
        for mode in ("nearest", "bilinear", "bicubic")
        for size, factor in ((50, 2.3), (32, 1.2), (50, 0.3), (3, 2.3))
    ),
    fn("aten.upsample_bilinear2d.vec", "varying size by 2.3",
       lambda x: F.interpolate(x, scale_factor=2.3, mode="bilinear"), r(2, 1, 5, 5),
       dynamic={"x": {2: "height=4..20"}}),
    fn("aten.upsample_nearest2d.vec", "varying size by 1.5", lambda x: F.interpolate(x, scale_factor=1.5),
       r(2, 1, 5, 5), dynamic={"x": {2: "height=4..20"}}),
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
    layer("pixel_shuffle", "without batch", lambda: nn.PixelShuffle(2), r(12, 3, 4), dynamic=None),
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

CASES = [*REDUCTION, *POOLING, *SHAPE, *INDEXING, *SIZES, *QUANTIZATION]
