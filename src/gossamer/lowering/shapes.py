"""Operations that move elements: reshape, permute, slice, pad, concatenate, split, and the sizes they need."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import fx

from gossamer.core.specs import Dim
from gossamer.lowering.call import Call
from gossamer.lowering.emitter import Emitter, size_value
from gossamer.lowering.pointwise import Rule, operand
from gossamer.program.dialect import SIZE_ARITHMETIC, aten
from gossamer.program.values import tensor_value

FAR = 2**63 - 1
"""An end of a slice beyond any size."""


def _reshape(e: Emitter, call: Call) -> None:
    x, known = call.tensor("self"), call.input_value().shape
    if len(known) > 1 and len(call.shape) > 1 and known[-1] == call.shape[-1] and e.is_flat(x):
        e.set(call.node, e.flat(x), flat=True)  # only axes that are merged anyway change
    elif e.is_only_flat(x):
        e.set(call.node, e.op("Reshape", [e.flat(x), e.shape(call.shape)]))
    else:
        e.set(call.node, e.op("Reshape", [e.full(x), e.shape(call.shape, known)]))


def _permute(e: Emitter, call: Call) -> str:
    dims = call["dims"]
    return e.op("Transpose", [e.full(call.tensor("self"))], perm=[dim % len(dims) for dim in dims])


def _unsqueeze(e: Emitter, call: Call) -> str:
    return unsqueeze(e, e.full(call.tensor("self")), [call["dim"]])


def unsqueeze(e: Emitter, x: str, axes: Sequence[int]) -> str:
    """An Unsqueeze node; axes are those of the result."""
    return e.op("Unsqueeze", [x, e.constant(list(axes), "int64")])


def _squeeze(e: Emitter, call: Call) -> str:
    return e.op("Squeeze", [e.full(call.tensor("self")), e.constant(list(call["dim"]), "int64")])


def _expand(e: Emitter, call: Call) -> str:
    # ONNX Expand broadcasts both ways, so 1 keeps an axis of the input as it is.
    sizes = [1 if isinstance(entry, int) and entry == -1 else entry for entry in call["size"]]
    return e.op("Expand", [e.full(call.tensor("self")), e.sizes(sizes)])


def _slice(e: Emitter, call: Call) -> str:
    end = FAR if call["end"] is None else call["end"]
    return slice_axis(e, e.full(call.tensor("self")), call["dim"], call["start"] or 0, end, call["step"])


def slice_axis(e: Emitter, x: str, axis: int, start: Dim | fx.Node, end: Dim | fx.Node, step: int = 1) -> str:
    """A Slice along one axis; bounds are numbers, size nodes or dim names."""
    bounds = [e.sizes([start]), e.sizes([end])]
    return e.op("Slice", [x, *bounds, e.constant([axis], "int64"), e.constant([step], "int64")])


def _select(e: Emitter, call: Call) -> str:
    return e.op("Gather", [e.full(call.tensor("self")), e.scalar(call["index"], "int64")], axis=call["dim"])


def _cat(e: Emitter, call: Call) -> str:
    parts = [part for part in call["tensors"] if tensor_value(part).shape != (0,)]  # PyTorch ignores empty vectors
    return e.op("Concat", [operand(e, part, call.dtype) for part in parts], axis=call["dim"])


def _split(e: Emitter, call: Call) -> None:
    x, dim, sizes = call.tensor("self"), call["dim"], call["split_sizes"]
    rank = len(call.input_value().shape)
    flat = e.is_only_flat(x) and dim % rank == rank - 1
    parts = e.ops("Split", [e.form(x, flat=flat), e.sizes(sizes)], len(sizes), axis=-1 if flat else dim)
    e.set_items(call.node, parts, flat=flat)


def _getitem(e: Emitter, call: Call) -> None:
    if not e.is_written(call.node):
        raise call.unsupported("an item of an operation with one result", "split or topk")


def pad_vector(pads: Sequence[Any], rank: int) -> list[Any]:
    """PyTorch's pads (last axis first, begin and end) as ONNX's (all begins, then all ends)."""
    begins, ends = [0] * rank, [0] * rank
    for index in range(len(pads) // 2):
        begins[rank - 1 - index], ends[rank - 1 - index] = pads[2 * index], pads[2 * index + 1]
    return begins + ends


_PAD_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


_MAX_POOLS = (aten.max_pool1d.default, aten.max_pool2d.default)


def _pad(e: Emitter, call: Call) -> str:
    mode = _PAD_MODES[call["mode"]]
    fill = e.constant(call["value"] or 0, call.dtype) if mode == "constant" else None
    pads = e.sizes(pad_vector(call["pad"], len(call.shape)))
    inputs = [e.full(call.tensor("self")), pads, fill]
    if any(user.target in _MAX_POOLS for user in call.node.users):
        # ONNX Runtime merges a Pad without axes into a MaxPool, whose own padding is never the largest: zeros are lost.
        inputs.append(e.constant(list(range(len(call.shape))), "int64"))
    return e.op("Pad", inputs, mode=mode)


def _repeat(e: Emitter, call: Call) -> str:
    x, missing = e.full(call.tensor("self")), len(call["repeats"]) - len(call.input_value().shape)
    if missing:
        x = unsqueeze(e, x, range(missing))
    return e.op("Tile", [x, e.sizes(call["repeats"])])


def _flip(e: Emitter, call: Call) -> str:
    axes = list(call["dims"])
    starts, ends = [-1] * len(axes), [-FAR] * len(axes)
    vectors = [e.constant(vector, "int64") for vector in (starts, ends, axes, starts)]
    return e.op("Slice", [e.full(call.tensor("self")), *vectors])


def _pixel_shuffle(e: Emitter, call: Call) -> str:
    _require_images(call)
    return e.op("DepthToSpace", [e.full(call.tensor("self"))], blocksize=call["upscale_factor"], mode="CRD")


def _pixel_unshuffle(e: Emitter, call: Call) -> str:
    """ONNX puts the position inside the block before the channel, PyTorch behind it: a Gather reorders."""
    _require_images(call)
    block, channels = call["downscale_factor"], call.input_value().shape[1]
    moved = e.op("SpaceToDepth", [e.full(call.tensor("self"))], blocksize=block)
    if not isinstance(channels, int):
        raise call.unsupported("pixel_unshuffle of channels that vary", "a fixed number of channels")
    order = np.arange(block * block * channels).reshape(block * block, channels).T.reshape(-1)
    return e.op("Gather", [moved, e.constant(order, "int64")], axis=1)


def _require_images(call: Call) -> None:
    if len(call.shape) != 4:
        raise call.unsupported(f"a tensor of rank {len(call.shape)}", "(batch, channels, height, width)")


def _triangle(*, upper: int) -> Rule:
    def rule(e: Emitter, call: Call) -> str:
        return e.op("Trilu", [e.full(call.tensor("self")), e.scalar(call["diagonal"], "int64")], upper=upper)

    return rule


def _arange(e: Emitter, call: Call) -> str:
    return e.op("Range", [e.scalar(call[bound], call.dtype) for bound in ("start", "end", "step")])


def _full(e: Emitter, call: Call) -> str:
    return e.op("Expand", [e.scalar(call["fill_value"], call.dtype), e.sizes(call["size"])])


def _full_like(e: Emitter, call: Call) -> str:
    return e.op("Expand", [e.scalar(call["fill_value"], call.dtype), e.sizes(call.shape)])


def _size(e: Emitter, call: Call) -> None:
    e.set(call.node, e.size(size_value(call.node).expression))


def _size_arithmetic(kind: str) -> Rule:
    def rule(e: Emitter, call: Call) -> str:
        return e.size_arithmetic(kind, [e.size(argument) for argument in call.arguments.values()])

    return rule


_SIZE_KINDS = {"add": "Add", "sub": "Sub", "mul": "Mul", "floordiv": "FloorDiv", "mod": "Mod", "neg": "Neg"}

RULES: Mapping[Any, Rule] = {
    aten.reshape.default: _reshape,
    aten.permute.default: _permute,
    aten.unsqueeze.default: _unsqueeze,
    aten.squeeze.dims: _squeeze,
    aten.expand.default: _expand,
    aten.slice.Tensor: _slice,
    aten.select.int: _select,
    aten.cat.default: _cat,
    aten.split_with_sizes.default: _split,
    operator.getitem: _getitem,
    aten.pad.default: _pad,
    aten.repeat.default: _repeat,
    aten.flip.default: _flip,
    aten.pixel_shuffle.default: _pixel_shuffle,
    aten.pixel_unshuffle.default: _pixel_unshuffle,
    aten.tril.default: _triangle(upper=0),
    aten.triu.default: _triangle(upper=1),
    aten.arange.start_step: _arange,
    aten.full.default: _full,
    aten.full_like.default: _full_like,
    aten.sym_size.int: _size,
    **{function: _size_arithmetic(_SIZE_KINDS[function.__name__]) for function in SIZE_ARITHMETIC},
}
