"""Gathering and scattering by index tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import fx

from gossamer.core.errors import UnsupportedOp
from gossamer.lowering.emitter import Emitter
from gossamer.lowering.shapes import slice_axis
from gossamer.program.dialect import aten
from gossamer.program.values import tensor_value


def _index(e: Emitter, node: fx.Node, self: fx.Node, indices: list[fx.Node | None]) -> str:
    """``x[:, i, j]`` with index tensors that broadcast: a Gather for one, a GatherND for several in a row."""
    axes = [axis for axis, index in enumerate(indices) if index is not None]
    tensors = [index for index in indices if index is not None]
    if any(tensor_value(index).dtype == "bool" for index in tensors):
        raise UnsupportedOp(
            "lowering to ONNX", got=f"{node.name}: a boolean index", expected="torch.where, or index tensors"
        )
    if len(axes) == 1:
        return e.op("Gather", [e.full(self), e.full(tensors[0])], axis=axes[0])
    if axes != list(range(axes[0], axes[-1] + 1)):
        raise UnsupportedOp(
            "lowering to ONNX", got=f"{node.name}: index tensors on axes {axes}", expected="neighbouring axes"
        )
    x, rank = e.full(self), len(tensor_value(self).shape)
    lead = axes[0]
    if lead:  # GatherND indexes leading axes, so the indexed ones go to the front
        x = e.op("Transpose", [x], perm=[*axes, *(axis for axis in range(rank) if axis not in axes)])
    parts = [e.op("Unsqueeze", [part, e.constant([-1], "int64")]) for part in _broadcast(e, tensors)]
    gathered = e.op("GatherND", [x, e.op("Concat", parts, axis=-1)])
    if not lead:
        return gathered
    index_rank = max(len(tensor_value(index).shape) for index in tensors)
    total = index_rank + rank - len(axes)
    order = [*range(index_rank, index_rank + lead), *range(index_rank), *range(index_rank + lead, total)]
    return e.op("Transpose", [gathered], perm=order)


def _broadcast(e: Emitter, tensors: list[fx.Node]) -> list[str]:
    """Index tensors of one common shape."""
    if len({tensor_value(index).shape for index in tensors}) == 1:
        return [e.full(index) for index in tensors]
    zero = e.constant(0, "int64")
    total = e.full(tensors[0])
    for index in tensors[1:]:
        total = e.op("Add", [total, e.full(index)])
    zeros = e.op("Mul", [total, zero])
    return [e.op("Add", [e.full(index), zeros]) for index in tensors]


def _index_select(e: Emitter, node: fx.Node, self: fx.Node, dim: int, index: fx.Node) -> str:
    return e.op("Gather", [e.full(self), e.full(index)], axis=dim)


def _gather(e: Emitter, node: fx.Node, self: fx.Node, dim: int, index: fx.Node, **_: Any) -> str:
    """PyTorch lets the index be smaller than the input in the other axes; the input is cut to fit."""
    x = e.full(self)
    rank = len(tensor_value(self).shape)
    pairs = zip(tensor_value(self).shape, tensor_value(index).shape, strict=True)
    for axis, (size, wanted) in enumerate(pairs):
        if axis != dim % rank and size != wanted:
            x = e.op("Slice", [x, e.constant([0], "int64"), e.size(wanted), e.constant([axis], "int64")])
    return e.op("GatherElements", [x, e.full(index)], axis=dim)


def _scatter(e: Emitter, node: fx.Node, self: fx.Node, dim: int, index: fx.Node, src: fx.Node) -> str:
    return e.op("ScatterElements", [e.full(self), e.full(index), e.full(src)], axis=dim)


def _slice_scatter(
    e: Emitter,
    node: fx.Node,
    self: fx.Node,
    src: fx.Node,
    dim: int = 0,
    start: Any = None,
    end: Any = None,
    step: int = 1,
) -> str:  # noqa: E501, PLR0913 - the schema
    size = tensor_value(self).shape[dim]
    if step != 1 or not isinstance(size, int):
        raise UnsupportedOp(
            "lowering to ONNX",
            got=f"{node.name}: a change of a strided or varying slice",
            expected="step 1 and a fixed size",
        )
    first = (start or 0) % size if (start or 0) < 0 else min(start or 0, size)
    last = size if end is None else end % size if end < 0 else min(end, size)
    return _replace(e, self, e.full(src), dim, first, last, size)


def _select_scatter(e: Emitter, node: fx.Node, self: fx.Node, src: fx.Node, dim: int, index: int) -> str:
    size = tensor_value(self).shape[dim]
    if not isinstance(size, int):
        raise UnsupportedOp(
            "lowering to ONNX", got=f"{node.name}: a change along a varying dim", expected="a fixed size"
        )
    part = e.op("Unsqueeze", [e.full(src), e.constant([dim], "int64")])
    return _replace(e, self, part, dim, index % size, index % size + 1, size)


def _replace(e: Emitter, x: fx.Node, part: str, axis: int, first: int, last: int, size: int) -> str:
    pieces = [part]
    if first > 0:
        pieces.insert(0, slice_axis(e, e.full(x), axis, 0, first))
    if last < size:
        pieces.append(slice_axis(e, e.full(x), axis, last, size))
    return e.op("Concat", pieces, axis=axis) if len(pieces) > 1 else part


RULES: Mapping[Any, Any] = {
    aten.index.Tensor: _index,
    aten.index_select.default: _index_select,
    aten.gather.default: _gather,
    aten.scatter.src: _scatter,
    aten.slice_scatter.default: _slice_scatter,
    aten.select_scatter.default: _select_scatter,
}
