"""Gathering and scattering by index tensors, and replacing slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import fx

from gossamer.lowering.call import Call
from gossamer.lowering.emitter import Emitter
from gossamer.lowering.pointwise import Rule
from gossamer.lowering.shapes import FAR, slice_axis, unsqueeze
from gossamer.program.dialect import aten
from gossamer.program.values import tensor_value


def _index(e: Emitter, call: Call) -> str:
    """``x[:, i, j]`` with index tensors that broadcast: a Gather for one, a GatherND for several."""
    axes = [axis for axis, index in enumerate(call["indices"]) if index is not None]
    tensors = [call["indices"][axis] for axis in axes]
    if any(tensor_value(index).dtype == "bool" for index in tensors):
        raise call.unsupported("a boolean index", "torch.where, or index tensors")
    x, rank = e.full(call.tensor("self")), len(call.input_value().shape)
    if len(axes) == 1:
        return e.op("Gather", [x, e.full(tensors[0])], axis=axes[0])
    if axes[0] != 0 or axes[-1] != len(axes) - 1:  # GatherND indexes leading axes, so the indexed ones go to the front
        x = e.op("Transpose", [x], perm=[*axes, *(axis for axis in range(rank) if axis not in axes)])
    parts = [unsqueeze(e, part, [-1]) for part in _broadcast(e, tensors)]
    gathered = e.op("GatherND", [x, e.op("Concat", parts, axis=-1)])
    lead = axes[0]
    if lead == 0 or axes != list(range(lead, axes[-1] + 1)):
        return gathered  # PyTorch, too, leaves the indexed axes in front unless they are neighbours
    index_rank = max(len(tensor_value(index).shape) for index in tensors)
    total = index_rank + rank - len(axes)
    order = [*range(index_rank, index_rank + lead), *range(index_rank), *range(index_rank + lead, total)]
    return e.op("Transpose", [gathered], perm=order)


def _broadcast(e: Emitter, tensors: Sequence[fx.Node]) -> list[str]:
    """Index tensors as int64 of one common shape."""
    names = [e.full_as(index, "int64") for index in tensors]
    if len({tensor_value(index).shape for index in tensors}) == 1:
        return names
    total = names[0]
    for name in names[1:]:
        total = e.op("Add", [total, name])
    zeros = e.op("Mul", [total, e.constant(0, "int64")])
    return [e.op("Add", [name, zeros]) for name in names]


def _index_select(e: Emitter, call: Call) -> str:
    """PyTorch takes a single number for a vector of one; Gather would drop the axis."""
    index = e.full(call.tensor("index"))
    if not call.input_value("index").shape:
        index = unsqueeze(e, index, [0])
    return e.op("Gather", [e.full(call.tensor("self")), index], axis=call["dim"])


def _gather(e: Emitter, call: Call) -> str:
    """PyTorch lets the index be smaller than the input in the other axes; the input is cut to fit."""
    axis = call["dim"] % len(call.shape)
    x = _cut(e, call.tensor("self"), call.tensor("index"), except_axis=axis)
    return e.op("GatherElements", [x, e.full(call.tensor("index"))], axis=axis)


def _scatter(e: Emitter, call: Call) -> str:
    """PyTorch lets the index be smaller than the source; the source is cut to fit."""
    source = _cut(e, call.tensor("src"), call.tensor("index"))
    operands = [e.full(call.tensor("self")), e.full(call.tensor("index")), source]
    return e.op("ScatterElements", operands, axis=call["dim"])


def _cut(e: Emitter, x: fx.Node, index: fx.Node, except_axis: int | None = None) -> str:
    name = e.full(x)
    for axis, (size, wanted) in enumerate(zip(tensor_value(x).shape, tensor_value(index).shape, strict=True)):
        if axis != except_axis and size != wanted:
            name = slice_axis(e, name, axis, 0, wanted)
    return name


def _slice_scatter(e: Emitter, call: Call) -> str:
    """Concatenates what stands before the slice, the new part, and what stands behind it."""
    axis, size = call["dim"], call.shape[call["dim"]]
    start, end, step = call["start"] or 0, FAR if call["end"] is None else call["end"], call["step"]
    source = e.full(call.tensor("src"))
    if isinstance(size, int) and isinstance(start, int) and isinstance(end, int):
        positions = range(*slice(start, end, step).indices(size))
        if step != 1:
            return _interleave(e, call, source, positions, size)
        start, end = positions.start, max(positions.start, positions.stop)
        end = FAR if end == size else end
    elif step != 1:
        raise call.unsupported("a change of a strided slice of a varying dim", "step 1 or a fixed size")
    return _replace(e, call, source, axis, start, end)


def _interleave(e: Emitter, call: Call, source: str, positions: range, size: int) -> str:
    """A Gather from input and source, laid end to end, takes each element from where it now is."""
    order = np.arange(size)
    order[list(positions)] = size + np.arange(len(positions))
    both = e.op("Concat", [e.full(call.tensor("self")), source], axis=call["dim"])
    return e.op("Gather", [both, e.constant(order, "int64")], axis=call["dim"])


def _select_scatter(e: Emitter, call: Call) -> str:
    axis, index = call["dim"], call["index"]
    source = unsqueeze(e, e.full(call.tensor("src")), [axis % len(call.shape)])
    if not isinstance(index, int):
        raise call.unsupported("a change at a varying position", "a fixed position")
    return _replace(e, call, source, axis, index, FAR if index == -1 else index + 1)


def _replace(e: Emitter, call: Call, part: str, axis: int, start: Any, end: Any) -> str:
    x = e.full(call.tensor("self"))
    before = [] if start == 0 else [slice_axis(e, x, axis, 0, start)]
    after = [] if end == FAR else [slice_axis(e, x, axis, end, FAR)]
    return e.op("Concat", [*before, part, *after], axis=axis) if before or after else part


RULES: Mapping[Any, Rule] = {
    aten.index.Tensor: _index,
    aten.index_select.default: _index_select,
    aten.gather.default: _gather,
    aten.scatter.src: _scatter,
    aten.slice_scatter.default: _slice_scatter,
    aten.select_scatter.default: _select_scatter,
}
