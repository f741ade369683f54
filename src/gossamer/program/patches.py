"""``unfold`` and ``fold`` of images in the dialect: patches by slices, and back where they do not overlap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import fx

from gossamer.program.dialect import aten

if TYPE_CHECKING:
    from gossamer.program.normalize import Normalizer

Pair = Sequence[int]


def unfold(n: Normalizer, x: fx.Node, kernel: Pair, dilation: Pair, padding: Pair, stride: Pair) -> fx.Node:
    """(batch, c, h, w) -> (batch, c * kernel, patches): a strided slice for each place in the kernel."""
    if padding[0] or padding[1]:
        x = n.emit(aten.pad.default, x, [padding[1], padding[1], padding[0], padding[0]])
    batch, channels, *sides = n.sizes(x)
    if not all(isinstance(size, int) for size in (channels, *sides)):
        raise n.unsupported("unfold of an image whose size may vary", "an image of a fixed size")
    counts = [_count(*one) for one in zip(sides, kernel, dilation, stride, strict=True)]
    parts = []
    for row in range(kernel[0]):
        for column in range(kernel[1]):
            part = x
            for axis, place in enumerate((row, column)):
                start = place * dilation[axis]
                end = start + stride[axis] * (counts[axis] - 1) + 1
                part = _cut(n, part, axis + 2, start, end, stride[axis])
            parts.append(n.emit(aten.unsqueeze.default, part, 2))
    stacked = n.emit(aten.cat.default, parts, 2)
    return n.emit(aten.reshape.default, stacked, [batch, channels * len(parts), counts[0] * counts[1]])


def fold(n: Normalizer, x: fx.Node, size: Pair, kernel: Pair, dilation: Pair, padding: Pair, stride: Pair) -> fx.Node:
    """(batch, c * kernel, patches) -> (batch, c, h, w), for patches that lie side by side."""
    tiles = all(a == b and c == 1 and d == 0 for a, b, c, d in zip(kernel, stride, dilation, padding, strict=True))
    batch, wide, _ = n.sizes(x)
    known = all(isinstance(side, int) for side in (*size, wide))
    if not tiles or not known or size[0] % kernel[0] or size[1] % kernel[1]:
        raise n.unsupported("fold of patches that overlap or leave gaps", "patches that tile an image of a fixed size")
    counts, channels = [size[0] // kernel[0], size[1] // kernel[1]], wide // (kernel[0] * kernel[1])
    apart = n.emit(aten.reshape.default, x, [batch, channels, *kernel, *counts])
    placed = n.emit(aten.permute.default, apart, [0, 1, 4, 2, 5, 3])
    return n.emit(aten.reshape.default, placed, [batch, channels, *size])


def _count(size: int, kernel: int, dilation: int, stride: int) -> int:
    return (size - dilation * (kernel - 1) - 1) // stride + 1


def _cut(n: Normalizer, x: fx.Node, axis: int, start: int, end: int, step: int) -> Any:
    whole = start == 0 and end == n.shape(x)[axis]
    return x if whole else n.emit(aten.slice.Tensor, x, axis, start, end, step)
