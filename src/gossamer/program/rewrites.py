"""From many spellings to one: a table of captured operations, each with the function that writes it in the dialect.

A rewrite gets the normaliser and the call's arguments (tensors as new nodes) and returns the new node, or a tuple of
nodes for an operation with several results. What is in the dialect already and not in the table passes unchanged.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from gossamer.program.dialect import aten
from gossamer.program.patches import fold, unfold

if TYPE_CHECKING:
    from gossamer.program.normalize import Normalizer

IGNORED = frozenset(
    {
        aten._assert_tensor_metadata.default, aten._assert_scalar.default, aten._assert_async.msg,
        aten.sym_constrain_range.default, aten.sym_constrain_range_for_size.default,
    }
)  # fmt: skip
"""Checks that capture plants; the signature says the same."""

ALIASES = frozenset({aten.alias.default, aten.detach.default, aten.detach_.default})
"""The same tensor under another name."""


def _reshape(n: Normalizer, x: fx.Node, shape: list[Any]) -> fx.Node:
    known = n.shape(x)
    if all(isinstance(size, int) for size in [*known, *shape]):
        wanted = list(shape)
        if -1 in wanted:
            rest = math.prod(size for size in wanted if size != -1)
            wanted[wanted.index(-1)] = math.prod(known) // max(rest, 1)
        return x if wanted == known else n.emit(aten.reshape.default, x, wanted)
    reshaped = n.emit(aten.reshape.default, x, list(shape))
    return x if reshaped.meta["value"] == x.meta["value"] else reshaped


def _flatten(n: Normalizer, x: fx.Node, start: int = 0, end: int = -1) -> fx.Node:
    rank = len(n.shape(x))
    start, end = start % max(rank, 1), end % max(rank, 1)
    if start == end and rank:
        return x
    sizes = [n.size(x, axis) for axis in range(rank) if axis < start or axis > end]
    # The merged size is known where its parts are; else it is the one that -1 stands for.
    merged = n.shape(x)[start : end + 1]
    product = math.prod(merged) if all(isinstance(size, int) for size in merged) else -1
    return _reshape(n, x, [*sizes[:start], product, *sizes[start:]])


def _unflatten(n: Normalizer, x: fx.Node, axis: int, sizes: list[Any]) -> fx.Node:
    axis %= len(n.shape(x))
    return _reshape(n, x, [*n.sizes(x)[:axis], *sizes, *n.sizes(x)[axis + 1 :]])


def _permute(n: Normalizer, x: fx.Node, order: list[int]) -> fx.Node:
    order = [axis % len(order) for axis in order]
    return x if order == sorted(order) else n.emit(aten.permute.default, x, order)


def _transpose(n: Normalizer, x: fx.Node, a: int, b: int) -> fx.Node:
    order = list(range(len(n.shape(x))))
    order[a], order[b] = order[b], order[a]
    return _permute(n, x, order)


def _reverse_axes(n: Normalizer, x: fx.Node) -> fx.Node:
    return _permute(n, x, list(reversed(range(len(n.shape(x))))))


def _movedim(n: Normalizer, x: fx.Node, source: Any, destination: Any) -> fx.Node:
    rank = len(n.shape(x))
    sources = [axis % rank for axis in (source if isinstance(source, list | tuple) else [source])]
    targets = [axis % rank for axis in (destination if isinstance(destination, list | tuple) else [destination])]
    order = [axis for axis in range(rank) if axis not in sources]
    for target, origin in sorted(zip(targets, sources, strict=True)):
        order.insert(target, origin)
    return _permute(n, x, order)


def _squeeze(n: Normalizer, x: fx.Node, axes: Any = None) -> fx.Node:
    shape = n.shape(x)
    wanted = range(len(shape)) if axes is None else [axes] if isinstance(axes, int) else axes
    ones = [axis % len(shape) for axis in wanted if isinstance(shape[axis], int) and shape[axis] == 1]
    return n.emit(aten.squeeze.dims, x, ones) if ones else x


def _expand(n: Normalizer, x: fx.Node, sizes: list[Any]) -> fx.Node:
    shape = n.shape(x)
    lead = len(sizes) - len(shape)
    same = lead == 0 and all(_equal(size, known) for size, known in zip(sizes, shape, strict=True))
    return x if same else n.emit(aten.expand.default, x, list(sizes))


def _equal(size: Any, known: int | torch.SymInt) -> bool:
    if isinstance(size, int):
        return size == -1 or (isinstance(known, int) and size == known)
    val = size.meta["val"]
    return isinstance(known, torch.SymInt) and isinstance(val, torch.SymInt) and val.node.expr == known.node.expr


def _split(n: Normalizer, x: fx.Node, sizes: list[Any], axis: int = 0) -> tuple[fx.Node, ...]:
    parts = n.emit(aten.split_with_sizes.default, x, list(sizes), axis)
    return tuple(n.emit(operator.getitem, parts, index) for index in range(len(sizes)))


def _split_every(n: Normalizer, x: fx.Node, size: int, axis: int = 0) -> tuple[fx.Node, ...]:
    whole = n.shape(x)[axis]
    if not isinstance(whole, int) or not isinstance(size, int):
        raise n.unsupported("split along a dim that may vary", "split by sizes that do not depend on the input")
    return _split(n, x, [min(size, whole - start) for start in range(0, whole, size)], axis)


def _chunk(n: Normalizer, x: fx.Node, chunks: int, axis: int = 0) -> tuple[fx.Node, ...]:
    whole = n.shape(x)[axis]
    if not isinstance(whole, int):
        raise n.unsupported("chunk along a dim that may vary", "split by sizes that do not depend on the input")
    return _split_every(n, x, -(-whole // chunks), axis)


def _unbind(n: Normalizer, x: fx.Node, axis: int = 0) -> tuple[fx.Node, ...]:
    count = n.shape(x)[axis]
    if not isinstance(count, int):
        raise n.unsupported("unbind along a dim that may vary")
    return tuple(n.emit(aten.select.int, x, axis, index) for index in range(count))


def _stack(n: Normalizer, tensors: list[fx.Node], axis: int = 0) -> fx.Node:
    axis %= len(n.shape(tensors[0])) + 1
    return n.emit(aten.cat.default, [n.emit(aten.unsqueeze.default, x, axis) for x in tensors], axis)


def _roll(n: Normalizer, x: fx.Node, shifts: Any, dims: Any = ()) -> fx.Node:
    shifts = [shifts] if isinstance(shifts, int) else shifts
    for shift, axis in zip(shifts, dims, strict=True):
        size = n.shape(x)[axis]
        if not isinstance(size, int):
            raise n.unsupported("roll along a dim that may vary")
        cut = -shift % size
        if cut:
            tail = n.emit(aten.slice.Tensor, x, axis, cut, size)
            x = n.emit(aten.cat.default, [tail, n.emit(aten.slice.Tensor, x, axis, 0, cut)], axis)
    return x


def _slice(n: Normalizer, x: fx.Node, axis: int = 0, start: Any = None, end: Any = None, step: int = 1) -> fx.Node:
    size = n.shape(x)[axis]
    whole = (
        end is None
        or (isinstance(end, int) and isinstance(size, int) and end >= size)
        or (isinstance(end, int) and end >= 2**62)
    )
    if start in (None, 0) and whole and step == 1:
        return x
    return n.emit(aten.slice.Tensor, x, axis, start or 0, 2**63 - 1 if whole else end, step)


def _repeat_interleave(n: Normalizer, x: fx.Node, repeats: int, axis: int | None = None, **_: Any) -> fx.Node:
    if axis is None:
        x, axis = _flatten(n, x), 0
    axis %= len(n.shape(x))
    sizes = n.sizes(x)
    wide = n.emit(
        aten.expand.default,
        n.emit(aten.unsqueeze.default, x, axis + 1),
        [*sizes[: axis + 1], repeats, *sizes[axis + 1 :]],
    )
    size = n.shape(x)[axis]
    return _reshape(n, wide, [*sizes[:axis], size * repeats if isinstance(size, int) else -1, *sizes[axis + 1 :]])


def _cast(n: Normalizer, x: fx.Node, dtype: torch.dtype | None, *_: Any, **__: Any) -> fx.Node:
    return x if dtype is None or n.dtype(x) == dtype else n.emit(aten.to.dtype, x, dtype)


def _cast_keyword(n: Normalizer, x: fx.Node, *_: Any, dtype: torch.dtype | None = None, **__: Any) -> fx.Node:
    return _cast(n, x, dtype)


def _cast_device(
    n: Normalizer, x: fx.Node, _device: Any, dtype: torch.dtype | None = None, *_: Any, **__: Any
) -> fx.Node:
    return _cast(n, x, dtype)


def _cast_like(n: Normalizer, x: fx.Node, other: fx.Node, *_: Any, **__: Any) -> fx.Node:
    return _cast(n, x, n.dtype(other))


def _full(value: float) -> Callable[..., fx.Node]:
    def rewrite(n: Normalizer, size: list[Any], *, dtype: torch.dtype | None = None, **_: Any) -> fx.Node:
        return n.emit(aten.full.default, list(size), value, dtype=dtype or torch.float32)

    return rewrite


def _filled(n: Normalizer, size: list[Any], value: float, *, dtype: torch.dtype | None = None, **_: Any) -> fx.Node:
    kind = torch.bool if isinstance(value, bool) else torch.int64 if isinstance(value, int) else torch.float32
    return n.emit(aten.full.default, list(size), value, dtype=dtype or kind)


def _new_full(value: float | None) -> Callable[..., fx.Node]:
    def rewrite(
        n: Normalizer, x: fx.Node, size: list[Any], fill: Any = value, *, dtype: torch.dtype | None = None, **_: Any
    ) -> fx.Node:
        return n.emit(aten.full.default, list(size), fill, dtype=dtype or n.dtype(x))

    return rewrite


def _full_like(value: float | None) -> Callable[..., fx.Node]:
    def rewrite(n: Normalizer, x: fx.Node, fill: Any = value, *, dtype: torch.dtype | None = None, **_: Any) -> fx.Node:
        return n.emit(aten.full_like.default, x, fill, dtype=dtype or n.dtype(x))

    return rewrite


def _copy(n: Normalizer, x: fx.Node, source: fx.Node, *_: Any) -> fx.Node:
    return _expand(n, _cast(n, source, n.dtype(x)), n.sizes(x))


def _fill(n: Normalizer, x: fx.Node, value: Any) -> fx.Node:
    return n.emit(aten.full_like.default, x, value, dtype=n.dtype(x))


def _arange(n: Normalizer, *bounds: Any, dtype: torch.dtype | None = None, **_: Any) -> fx.Node:
    start, end, step = {1: (0, *bounds, 1), 2: (*bounds, 1), 3: bounds}[len(bounds)]
    if dtype is None:
        dtype = torch.float32 if any(isinstance(bound, float) for bound in bounds) else torch.int64
    return n.emit(aten.arange.start_step, start, end, step, dtype=dtype)


def _masked_fill(n: Normalizer, x: fx.Node, mask: fx.Node, value: Any) -> fx.Node:
    if isinstance(value, int | float):
        filled = n.emit(aten.where.ScalarSelf, mask, value, x)
    else:
        filled = n.emit(aten.where.self, mask, value, x)
    return _cast(n, filled, n.dtype(x))


def _scaled(op: Any) -> Callable[..., fx.Node]:
    def rewrite(n: Normalizer, x: Any, y: Any, alpha: float = 1) -> fx.Node:
        return n.emit(op, x, y if alpha == 1 else n.emit(aten.mul.Tensor, y, alpha))

    return rewrite


def _reversed_sub(n: Normalizer, x: fx.Node, y: Any, alpha: float = 1) -> fx.Node:
    x = x if alpha == 1 else n.emit(aten.mul.Tensor, x, alpha)
    if isinstance(y, int | float):
        return n.emit(aten.add.Tensor, n.emit(aten.neg.default, x), y)
    return n.emit(aten.sub.Tensor, y, x)


def _to(op: Any) -> Callable[..., Any]:
    return lambda n, *args, **kwargs: n.emit(op, *args, **kwargs)


def _logical(op: Any, bitwise: str) -> Callable[..., fx.Node]:
    def rewrite(n: Normalizer, x: fx.Node, y: Any = None) -> fx.Node:
        if n.dtype(x) != torch.bool:
            raise n.unsupported(f"{bitwise} of whole numbers")
        return n.emit(op, x) if y is None else n.emit(op, x, y)

    return rewrite


def _matmul(n: Normalizer, x: fx.Node, y: fx.Node) -> fx.Node:
    """A product with a stored matrix is a linear layer, and gets the same name whichever way it was written."""
    if len(n.shape(x)) >= 2 and len(n.shape(y)) == 2 and y.op == "get_attr" and x.op != "get_attr":
        return n.emit(aten.linear.default, x, _transpose(n, y, 0, 1))
    stored = y.args[0] if y.target is aten.permute.default and len(n.shape(y)) == 2 else None
    if isinstance(stored, fx.Node) and stored.op == "get_attr" and len(n.shape(x)) >= 2:
        return n.emit(aten.linear.default, x, stored)
    return n.emit(aten.matmul.default, x, y)


def _addmm(n: Normalizer, bias: fx.Node, a: fx.Node, b: fx.Node, *, beta: float = 1, alpha: float = 1) -> fx.Node:
    if alpha == beta == 1 and b.op == bias.op == "get_attr" and len(n.shape(bias)) == 1:
        return n.emit(aten.linear.default, a, _transpose(n, b, 0, 1), bias)
    product = _matmul(n, a, b)
    product = product if alpha == 1 else n.emit(aten.mul.Tensor, product, alpha)
    return n.emit(aten.add.Tensor, product, bias if beta == 1 else n.emit(aten.mul.Tensor, bias, beta))


def _conv_same(  # noqa: PLR0913 - the schema of the operation
    n: Normalizer,
    x: fx.Node,
    weight: fx.Node,
    bias: Any = None,
    stride: Any = 1,
    padding: str = "valid",
    dilation: Any = 1,
    groups: int = 1,
) -> fx.Node:
    kernel = n.shape(weight)[2:]
    strides, dilations = (
        [value] * len(kernel) if isinstance(value, int) else list(value) * (len(kernel) // len(value) or 1)
        for value in (stride, dilation)
    )
    totals = [d * (int(k) - 1) if padding == "same" else 0 for d, k in zip(dilations, kernel, strict=True)]
    conv = {1: aten.conv1d.default, 2: aten.conv2d.default, 3: aten.conv3d.default}[len(kernel)]
    if any(total % 2 for total in totals):  # PyTorch puts the odd one at the end
        x = n.emit(
            aten.pad.default, x, [side for total in reversed(totals) for side in (total // 2, total - total // 2)]
        )
        totals = [0] * len(kernel)
    return n.emit(conv, x, weight, bias, strides, [total // 2 for total in totals], dilations, groups)


def _eye(n: Normalizer, rows: Any, columns: Any = None, *, dtype: torch.dtype | None = None, **_: Any) -> fx.Node:
    across = n.emit(aten.arange.start_step, 0, rows if columns is None else columns, 1, dtype=torch.int64)
    down = n.emit(aten.unsqueeze.default, n.emit(aten.arange.start_step, 0, rows, 1, dtype=torch.int64), 1)
    return _cast(n, n.emit(aten.eq.Tensor, down, across), dtype or torch.float32)


def _diff(n: Normalizer, x: fx.Node, times: int = 1, axis: int = -1, before: Any = None, after: Any = None) -> fx.Node:
    parts = [part for part in (before, x, after) if part is not None]
    x = n.emit(aten.cat.default, parts, axis) if len(parts) > 1 else x
    subtract = aten.ne.Tensor if n.dtype(x) == torch.bool else aten.sub.Tensor
    for _ in range(times):
        x = n.emit(subtract, _slice(n, x, axis, 1), _slice(n, x, axis, 0, -1))
    return x


def _channel_dropout(n: Normalizer, x: fx.Node, _p: float, train: bool) -> fx.Node:
    if train:
        raise n.unsupported("dropout of whole channels that is switched on", "a model in eval mode")
    return x


def _adaptive_avg_pool(n: Normalizer, x: fx.Node, output_size: Any) -> fx.Node:
    outputs = [output_size] if isinstance(output_size, int) else list(output_size)
    spatial = n.shape(x)[-len(outputs) :]
    if all(size == 1 for size in outputs):
        return n.emit(aten.mean.dim, x, list(range(-len(outputs), 0)), True)
    ints = [size for size in spatial if isinstance(size, int)]
    if len(ints) < len(outputs) or any(size % out for size, out in zip(ints, outputs, strict=True)):
        raise n.unsupported(
            f"adaptive average pooling from {spatial} to {outputs}", "an output size that divides the input size"
        )
    kernel = [size // out for size, out in zip(ints, outputs, strict=True)]
    pool = aten.avg_pool1d.default if len(outputs) == 1 else aten.avg_pool2d.default
    return x if all(k == 1 for k in kernel) else n.emit(pool, x, kernel, kernel)


def _mean_all(op: Any) -> Callable[..., fx.Node]:
    def rewrite(n: Normalizer, x: fx.Node, *, dtype: torch.dtype | None = None) -> fx.Node:
        return n.emit(op, _cast(n, x, dtype), list(range(len(n.shape(x)))))

    return rewrite


def _extreme_all(op: Any) -> Callable[..., fx.Node]:
    return lambda n, x: n.emit(op, x, list(range(len(n.shape(x)))))


def _any_all(op: Any) -> Callable[..., fx.Node]:
    return lambda n, x: n.emit(op, _flatten(n, x), 0)


def _upsample(op: Any) -> Callable[..., fx.Node]:
    def rewrite(n: Normalizer, x: fx.Node, size: Any, *rest: Any) -> fx.Node:
        return n.emit(op, x, None if size is None else list(size), *rest)

    return rewrite


def _glu(n: Normalizer, x: fx.Node, axis: int = -1) -> fx.Node:
    first, second = _chunk(n, x, 2, axis)
    return n.emit(aten.mul.Tensor, first, n.emit(aten.sigmoid.default, second))


def _weight_norm(n: Normalizer, v: fx.Node, g: fx.Node, axis: int = 0) -> fx.Node:
    others = [dim for dim in range(len(n.shape(v))) if dim != axis % len(n.shape(v))]
    norm = n.emit(aten.linalg_vector_norm.default, v, 2, others, True)
    return n.emit(aten.mul.Tensor, v, n.emit(aten.div.Tensor, g, norm))


def _instance_norm(  # noqa: PLR0913 - the schema of the operation
    n: Normalizer,
    x: fx.Node,
    weight: Any,
    bias: Any,
    mean: Any,
    var: Any,
    use_input: bool,
    _momentum: float,
    eps: float,
    _cudnn: bool,
) -> fx.Node:
    if not use_input:
        return n.emit(aten.batch_norm.default, x, weight, bias, mean, var, False, 0.1, eps, False)
    return n.emit(aten.group_norm.default, x, n.shape(x)[1], weight, bias, eps)


def _batch_norm(n: Normalizer, x: fx.Node, weight: Any, bias: Any, mean: Any, var: Any, *rest: Any) -> fx.Node:
    """Statistics of the one sample there is, as weight standardisation takes them, are those of a layer norm."""
    training, momentum, eps, cudnn = rest
    shape = n.shape(x)
    if not training or len(shape) != 3 or shape[0] != 1 or not isinstance(shape[2], int):
        return n.emit(aten.batch_norm.default, x, weight, bias, mean, var, training, momentum, eps, cudnn)
    x = n.emit(aten.layer_norm.default, x, [shape[2]], None, None, eps)
    x = x if weight is None else n.emit(aten.mul.Tensor, x, n.emit(aten.unsqueeze.default, weight, 1))
    return x if bias is None else n.emit(aten.add.Tensor, x, n.emit(aten.unsqueeze.default, bias, 1))


def _contiguous(n: Normalizer, x: fx.Node, **_: Any) -> fx.Node:
    return x


def _norm(n: Normalizer, x: fx.Node, p: Any = 2, axes: Any = None, keepdim: bool = False, **_: Any) -> fx.Node:
    return n.emit(aten.linalg_vector_norm.default, x, 2 if p is None else p, axes, keepdim)


def _softmax(op: Any) -> Callable[..., fx.Node]:
    def rewrite(n: Normalizer, x: fx.Node, axis: int, dtype: torch.dtype | None = None) -> fx.Node:
        return n.emit(op, x if dtype is None else _cast(n, x, dtype), axis)

    return rewrite


def _std(n: Normalizer, x: fx.Node, axes: Any = None, *, correction: Any = None, keepdim: bool = False) -> fx.Node:
    return n.emit(aten.sqrt.default, n.emit(aten.var.correction, x, axes, correction=correction, keepdim=keepdim))


def _unbiased(rewrite: Callable[..., fx.Node]) -> Callable[..., fx.Node]:
    """``var.dim`` and ``std.dim``, which say ``unbiased`` where the newer spelling says ``correction``."""

    def older(n: Normalizer, x: fx.Node, axes: Any, unbiased: bool = True, keepdim: bool = False) -> fx.Node:
        return rewrite(n, x, axes, correction=int(unbiased), keepdim=keepdim)

    return older


def _extreme(values: Any, indices: Any) -> Callable[..., tuple[Any, Any]]:
    """``max.dim`` and ``min.dim``: values and indices as two calls; the one that nobody reads is dropped."""

    def rewrite(n: Normalizer, x: fx.Node, axis: int, keepdim: bool = False) -> tuple[Any, Any]:
        return n.emit(values, x, [axis], keepdim), n.emit(indices, x, axis, keepdim)

    return rewrite


def _bounded(low: float, high: float) -> Callable[..., fx.Node]:
    return lambda n, x: n.emit(aten.hardtanh.default, x, low, high)


REWRITES: Mapping[Any, Callable[..., Any]] = {
    aten.view.default: _reshape,
    aten.reshape.default: _reshape,
    aten._unsafe_view.default: _reshape,
    aten.view_as.default: lambda n, x, other: _reshape(n, x, n.sizes(other)),
    aten.reshape_as.default: lambda n, x, other: _reshape(n, x, n.sizes(other)),
    aten.flatten.using_ints: _flatten,
    aten.ravel.default: _flatten,
    aten.unflatten.int: _unflatten,
    aten.permute.default: _permute,
    aten.transpose.int: _transpose,
    aten.swapaxes.default: _transpose,
    aten.swapdims.default: _transpose,
    aten.t.default: _reverse_axes,
    aten.numpy_T.default: _reverse_axes,
    aten.mT.default: lambda n, x: _transpose(n, x, -1, -2),
    aten.movedim.int: _movedim,
    aten.movedim.intlist: _movedim,
    aten.squeeze.default: _squeeze,
    aten.squeeze.dim: _squeeze,
    aten.squeeze.dims: _squeeze,
    aten.expand.default: _expand,
    aten.expand_as.default: lambda n, x, other: _expand(n, x, n.sizes(other)),
    aten.broadcast_to.default: _expand,
    aten.split_with_sizes.default: _split,
    aten.split.Tensor: _split_every,
    aten.split.sizes: _split,
    aten.chunk.default: _chunk,
    aten.unbind.int: _unbind,
    aten.stack.default: _stack,
    aten.concat.default: _to(aten.cat.default),
    aten.roll.default: _roll,
    aten.slice.Tensor: _slice,
    aten.narrow.default: lambda n, x, axis, start, length: _slice(n, x, axis, start, start + length),
    aten.repeat_interleave.self_int: _repeat_interleave,
    aten.constant_pad_nd.default: lambda n, x, pad, value=0: n.emit(aten.pad.default, x, pad, "constant", value),
    aten.to.dtype: _cast,
    aten.to.dtype_layout: _cast_keyword,
    aten.to.device: _cast_device,
    aten.to.other: _cast_like,
    aten._to_copy.default: _cast_keyword,
    aten.type_as.default: _cast_like,
    aten.clone.default: lambda n, x, **_: x,
    aten.lift_fresh_copy.default: lambda n, x: x,
    aten.contiguous.default: _contiguous,
    aten.zeros.default: _full(0),
    aten.ones.default: _full(1),
    aten.full.default: _filled,
    aten.scalar_tensor.default: lambda n, value, **options: _filled(n, [], value, **options),
    aten.new_zeros.default: _new_full(0),
    aten.new_ones.default: _new_full(1),
    aten.new_full.default: _new_full(None),
    aten.empty.memory_format: _full(0),  # any value will do
    aten.eye.default: _eye,
    aten.eye.m: _eye,
    aten.zeros_like.default: _full_like(0),
    aten.ones_like.default: _full_like(1),
    aten.full_like.default: _full_like(None),
    aten.fill.Scalar: _fill,
    aten.zero.default: lambda n, x: _fill(n, x, 0),
    aten.fill.Tensor: _copy,
    aten.copy.default: _copy,
    aten.arange.default: _arange,
    aten.arange.start: _arange,
    aten.arange.start_step: _arange,
    aten.masked_fill.Scalar: _masked_fill,
    aten.masked_fill.Tensor: _masked_fill,
    aten.add.Tensor: _scaled(aten.add.Tensor),
    aten.add.Scalar: _scaled(aten.add.Tensor),
    aten.sub.Tensor: _scaled(aten.sub.Tensor),
    aten.sub.Scalar: _scaled(aten.sub.Tensor),
    aten.rsub.Scalar: _reversed_sub,
    aten.rsub.Tensor: _reversed_sub,
    aten.diff.default: _diff,
    aten.multiply.Tensor: _to(aten.mul.Tensor),
    aten.subtract.Tensor: _scaled(aten.sub.Tensor),
    aten.divide.Tensor: _to(aten.div.Tensor),
    aten.true_divide.Tensor: _to(aten.div.Tensor),
    aten.negative.default: _to(aten.neg.default),
    aten.absolute.default: _to(aten.abs.default),
    aten.mul.Scalar: _to(aten.mul.Tensor),
    aten.div.Scalar: _to(aten.div.Tensor),
    aten.floor_divide.default: lambda n, x, y: n.emit(aten.div.Tensor_mode, x, y, rounding_mode="floor"),
    aten.div.Scalar_mode: _to(aten.div.Tensor_mode),
    aten.square.default: lambda n, x: n.emit(aten.mul.Tensor, x, x),
    aten.max.other: _to(aten.maximum.default),
    aten.min.other: _to(aten.minimum.default),
    aten.clip.default: _to(aten.clamp.default),
    aten.clamp_min.default: lambda n, x, low: n.emit(aten.clamp.default, x, low),
    aten.clamp_max.default: lambda n, x, high: n.emit(aten.clamp.default, x, None, high),
    aten.__and__.Tensor: _logical(aten.logical_and.default, "&"),
    aten.__or__.Tensor: _logical(aten.logical_or.default, "|"),
    aten.__xor__.Tensor: _logical(aten.logical_xor.default, "^"),
    aten.bitwise_and.Tensor: _logical(aten.logical_and.default, "&"),
    aten.bitwise_or.Tensor: _logical(aten.logical_or.default, "|"),
    aten.bitwise_xor.Tensor: _logical(aten.logical_xor.default, "^"),
    aten.bitwise_not.default: _logical(aten.logical_not.default, "~"),
    aten.mm.default: _matmul,
    aten.matmul.default: _matmul,
    aten.bmm.default: _to(aten.matmul.default),
    aten.mv.default: _to(aten.matmul.default),
    aten.dot.default: _to(aten.matmul.default),
    aten.addmm.default: _addmm,
    aten.baddbmm.default: _addmm,
    aten.conv1d.padding: _conv_same,
    aten.conv2d.padding: _conv_same,
    aten.conv3d.padding: _conv_same,
    aten.adaptive_avg_pool1d.default: _adaptive_avg_pool,
    aten.adaptive_avg_pool2d.default: _adaptive_avg_pool,
    aten.mean.default: _mean_all(aten.mean.dim),
    aten.sum.default: _mean_all(aten.sum.dim_IntList),
    aten.any.default: _any_all(aten.any.dim),
    aten.all.default: _any_all(aten.all.dim),
    aten.upsample_nearest2d.vec: _upsample(aten.upsample_nearest2d.vec),
    aten.upsample_bilinear2d.vec: _upsample(aten.upsample_bilinear2d.vec),
    aten.upsample_bicubic2d.vec: _upsample(aten.upsample_bicubic2d.vec),
    aten.im2col.default: unfold,
    aten.col2im.default: fold,
    aten.feature_dropout.default: _channel_dropout,
    aten.relu6.default: _bounded(0.0, 6.0),
    aten.glu.default: _glu,
    aten._weight_norm.default: _weight_norm,
    aten.instance_norm.default: _instance_norm,
    aten.batch_norm.default: _batch_norm,
    aten.norm.ScalarOpt_dim: _norm,
    aten.softmax.int: _softmax(aten.softmax.int),
    aten.log_softmax.int: _softmax(aten.log_softmax.int),
    aten.std.correction: _std,
    aten.std.dim: _unbiased(_std),
    aten.var.dim: _unbiased(_to(aten.var.correction)),
    aten.max.default: _extreme_all(aten.amax.default),
    aten.min.default: _extreme_all(aten.amin.default),
    aten.max.dim: _extreme(aten.amax.default, aten.argmax.default),
    aten.min.dim: _extreme(aten.amin.default, aten.argmin.default),
    aten.select_scatter.default: _to(aten.select_scatter.default),
}  # fmt: skip
