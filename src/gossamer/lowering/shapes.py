"""Operations that move elements: reshape, permute, slice, pad, concatenate, split, and the sizes they need."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from gossamer.core.errors import UnsupportedOp
from gossamer.lowering.emitter import Emitter, Forms
from gossamer.lowering.pointwise import operand
from gossamer.program.dialect import SIZE_ARITHMETIC, aten
from gossamer.program.values import DTYPE_NAMES, SizeValue, TensorValue, tensor_value

_FAR = 2**63 - 1


def _reshape(e: Emitter, node: fx.Node, self: fx.Node, shape: list[Any]) -> None:
    wanted, known = tensor_value(node).shape, tensor_value(self).shape
    if e.has_flat(self):
        if len(wanted) > 1 and wanted[-1] == known[-1] and len(known) > 1:
            e.set(node, flat=e.flat(self))  # only axes that are merged anyway change
        else:
            e.set(node, full=e.op("Reshape", [e.flat(self), e.shape(wanted)]))
        return
    e.set(node, full=e.op("Reshape", [e.full(self), e.shape(wanted, known)]))


def _permute(e: Emitter, node: fx.Node, self: fx.Node, dims: list[int]) -> str:
    return e.op("Transpose", [e.full(self)], perm=[dim % len(dims) for dim in dims])


def _unsqueeze(e: Emitter, node: fx.Node, self: fx.Node, dim: int) -> str:
    return e.op("Unsqueeze", [e.full(self), e.constant([dim], "int64")])


def _squeeze(e: Emitter, node: fx.Node, self: fx.Node, dim: list[int]) -> str:
    return e.op("Squeeze", [e.full(self), e.constant(list(dim), "int64")])


def _expand(e: Emitter, node: fx.Node, self: fx.Node, size: list[Any], **_: Any) -> str:
    # ONNX Expand broadcasts both ways, so 1 keeps an axis of the input as it is.
    known = [1 if isinstance(entry, int) and entry == -1 else entry for entry in size]
    return e.op("Expand", [e.full(self), e.sizes(known)])


def _slice(e: Emitter, node: fx.Node, self: fx.Node, dim: int, start: Any, end: Any, step: int) -> str:
    return slice_axis(e, e.full(self), dim, start or 0, _FAR if end is None else end, step)


def slice_axis(e: Emitter, x: str, axis: int, start: Any, end: Any, step: int = 1) -> str:
    """A Slice along one axis; bounds are numbers or size nodes."""
    return e.op(
        "Slice", [x, e.sizes([start]), e.sizes([end]), e.constant([axis], "int64"), e.constant([step], "int64")]
    )


def _select(e: Emitter, node: fx.Node, self: fx.Node, dim: int, index: Any) -> str:
    return e.op("Gather", [e.full(self), e.scalar(index, "int64")], axis=dim)


def _cat(e: Emitter, node: fx.Node, tensors: list[fx.Node], dim: int = 0) -> str:
    dtype = tensor_value(node).dtype
    parts = [tensor for tensor in tensors if tensor_value(tensor).shape != (0,)]  # PyTorch ignores empty vectors
    return e.op("Concat", [operand(e, part, dtype) for part in parts], axis=dim)


def _split(e: Emitter, node: fx.Node, self: fx.Node, split_sizes: list[Any], dim: int = 0) -> None:
    rank = len(tensor_value(self).shape)
    flat = e.has_flat(self) and dim % rank == rank - 1
    x = e.flat(self) if flat else e.full(self)
    parts = e.op("Split", [x, e.sizes(split_sizes)], outputs=len(split_sizes), axis=-1 if flat else dim)
    parts = [parts] if isinstance(parts, str) else parts
    for user in node.users:
        if user.target is operator.getitem:
            e.set(user, **{"flat" if flat else "full": parts[user.args[1]]})  # pyright: ignore


def _getitem(e: Emitter, node: fx.Node, **_: Any) -> None:
    if node not in e.forms:
        raise UnsupportedOp(
            "lowering to ONNX", got=f"{node.name}: an item of an operation with one result", expected="split or topk"
        )


def pad_vector(pads: list[int], rank: int) -> list[int]:
    """PyTorch's pads (last axis first, begin and end) as ONNX's (all begins, then all ends)."""
    begins, ends = [0] * rank, [0] * rank
    for index in range(len(pads) // 2):
        begins[rank - 1 - index], ends[rank - 1 - index] = pads[2 * index], pads[2 * index + 1]
    return begins + ends


def _pad(e: Emitter, node: fx.Node, self: fx.Node, pad: list[Any], mode: str = "constant", value: Any = None) -> str:
    modes = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    if not all(isinstance(entry, int) for entry in pad):
        raise UnsupportedOp(
            "lowering to ONNX", got=f"{node.name}: padding by a size that varies", expected="fixed padding"
        )
    rank, dtype = len(tensor_value(node).shape), tensor_value(node).dtype
    fill = e.constant(value or 0, dtype) if mode == "constant" else None
    return e.op("Pad", [e.full(self), e.constant(pad_vector(pad, rank), "int64"), fill], mode=modes[mode])


def _repeat(e: Emitter, node: fx.Node, self: fx.Node, repeats: list[Any]) -> str:
    x, missing = e.full(self), len(repeats) - len(tensor_value(self).shape)
    if missing:
        x = e.op("Unsqueeze", [x, e.constant(list(range(missing)), "int64")])
    return e.op("Tile", [x, e.sizes(repeats)])


def _flip(e: Emitter, node: fx.Node, self: fx.Node, dims: list[int]) -> str:
    count = len(dims)
    return e.op(
        "Slice",
        [
            e.full(self),
            e.constant([-1] * count, "int64"),
            e.constant([-_FAR] * count, "int64"),
            e.constant(list(dims), "int64"),
            e.constant([-1] * count, "int64"),
        ],
    )


def _pixel_shuffle(e: Emitter, node: fx.Node, self: fx.Node, upscale_factor: int) -> str:
    return e.op("DepthToSpace", [e.full(self)], blocksize=upscale_factor, mode="CRD")


def _pixel_unshuffle(e: Emitter, node: fx.Node, self: fx.Node, downscale_factor: int) -> str:
    r = downscale_factor
    value = tensor_value(self)
    if len(value.shape) != 4 or not all(isinstance(size, int) for size in value.shape[1:]):
        raise UnsupportedOp(
            "lowering to ONNX",
            got=f"pixel_unshuffle of {value}",
            expected="(batch, channels, height, width) with fixed sizes",
        )
    channels, height, width = (int(size) for size in value.shape[1:])
    split = e.op("Reshape", [e.full(self), e.constant([-1, channels, height // r, r, width // r, r], "int64")])
    moved = e.op("Transpose", [split], perm=[0, 1, 3, 5, 2, 4])
    return e.op("Reshape", [moved, e.constant([-1, channels * r * r, height // r, width // r], "int64")])


def _triangle(*, upper: int) -> Any:
    def rule(e: Emitter, node: fx.Node, self: fx.Node, diagonal: int = 0) -> str:
        return e.op("Trilu", [e.full(self), e.scalar(diagonal, "int64")], upper=upper)

    return rule


def _arange(
    e: Emitter, node: fx.Node, start: Any, end: Any, step: Any = 1, dtype: torch.dtype | None = None, **_: Any
) -> str:
    kind = tensor_value(node).dtype
    return e.op("Range", [e.scalar(bound, kind) for bound in (start, end, step)])


def _filled(e: Emitter, shape: str, value: Any, dtype: str) -> str:
    return e.op("Expand", [e.scalar(value, dtype), shape])


def _full(e: Emitter, node: fx.Node, size: list[Any], fill_value: Any, **_: Any) -> str:
    return _filled(e, e.sizes(size), fill_value, tensor_value(node).dtype)


def _full_like(e: Emitter, node: fx.Node, self: fx.Node, fill_value: Any, **_: Any) -> str:
    return _filled(e, e.op("Shape", [e.full(self)]), fill_value, tensor_value(node).dtype)


def _size(e: Emitter, node: fx.Node, self: fx.Node, dim: int) -> None:
    value = node.meta["value"]
    if isinstance(value, SizeValue) and isinstance(self.meta["value"], TensorValue):
        e.forms[node] = Forms(e.size(value.expression))


def _size_arithmetic(kind: str) -> Any:
    def rule(e: Emitter, node: fx.Node, **_: Any) -> None:
        sizes = [e.size(argument) for argument in node.args]
        if kind == "FloorDiv":  # Mod takes the sign of the divisor, so the difference divides evenly
            result = e.op("Div", [e.op("Sub", [sizes[0], e.op("Mod", sizes)]), sizes[1]])
        else:
            result = e.op(kind, sizes)
        e.forms[node] = Forms(result)

    return rule


_SIZE_KINDS = {"add": "Add", "sub": "Sub", "mul": "Mul", "floordiv": "FloorDiv", "mod": "Mod", "neg": "Neg"}

RULES: Mapping[Any, Any] = {
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
