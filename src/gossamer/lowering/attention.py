"""Scaled dot-product attention as ONNX's Attention, without the transposes around it where the graph has the usual form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx

from gossamer.core.errors import UnsupportedOp
from gossamer.lowering.emitter import Emitter, Forms
from gossamer.program.dialect import aten
from gossamer.program.values import tensor_value

_SWAP_HEADS = [0, 2, 1, 3]


@dataclass(frozen=True)
class _Packed:
    """A (batch, tokens, heads * size) value behind the (batch, heads, tokens, size) one that attention is given."""

    source: fx.Node
    heads: int


def _packed(x: fx.Node) -> _Packed | None:
    """See through reshape to heads and swap of axes 1 and 2."""
    if x.target is not aten.permute.default or list(x.args[1]) != _SWAP_HEADS:  # pyright: ignore
        return None
    split = x.args[0]
    if not isinstance(split, fx.Node) or split.target is not aten.reshape.default:
        return None
    source = split.args[0]
    shape, wide = tensor_value(split).shape, tensor_value(source).shape  # pyright: ignore[reportArgumentType]
    heads, size = shape[2:]
    fits = isinstance(heads, int) and isinstance(size, int) and len(wide) == 3
    if fits and wide == (*shape[:2], heads * size):  # pyright: ignore[reportOptionalOperand, reportOperatorIssue]
        return _Packed(source, heads)  # pyright: ignore[reportArgumentType]
    return None


def _merged(node: fx.Node) -> list[tuple[fx.Node, fx.Node]] | None:
    """The (permute, reshape) pairs that merge the heads again, if these are all that uses the result."""
    batch, heads, tokens, size = tensor_value(node).shape
    pairs = []
    for permute in node.users:
        if permute.target is not aten.permute.default or list(permute.args[1]) != _SWAP_HEADS:  # pyright: ignore
            return None
        for reshape in permute.users:
            if reshape.target is not aten.reshape.default or not isinstance(heads, int) or not isinstance(size, int):
                return None
            if tensor_value(reshape).shape != (batch, tokens, heads * size):
                return None
            pairs.append((permute, reshape))
    return pairs or None


def _attention(  # noqa: PLR0913 - the schema of the operation
    e: Emitter,
    node: fx.Node,
    query: fx.Node,
    key: fx.Node,
    value: fx.Node,
    attn_mask: fx.Node | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,  # noqa: E501, FBT001
) -> str | None:
    rank = len(tensor_value(query).shape)
    if rank != 4:
        return _by_products(e, node, query, key, value, attn_mask, is_causal, scale)
    mask = _full_mask(e, node, attn_mask, query, key)
    attributes = {"is_causal": int(is_causal), "scale": scale}
    packed = [_packed(x) for x in (query, key, value)]
    merged = _merged(node)
    if merged and all(packed):
        q, k, v = (part for part in packed if part)
        result = e.op(
            "Attention",
            [e.full(q.source), e.full(k.source), e.full(v.source), mask],
            q_num_heads=q.heads,
            kv_num_heads=k.heads,
            **attributes,
        )
        for permute, reshape in merged:
            e.forms[permute] = Forms()  # never read: its only users are written here
            e.set(reshape, full=result)
        return None
    return e.op("Attention", [e.full(query), e.full(key), e.full(value), mask], **attributes)


def _full_mask(e: Emitter, node: fx.Node, mask: fx.Node | None, query: fx.Node, key: fx.Node) -> str | None:
    """An additive float mask with all query rows: the kernel wants the full length and is faster with floats."""
    if mask is None:
        return None
    dtype = tensor_value(node).dtype
    value = tensor_value(mask)
    tokens = tensor_value(query).shape[-2]
    name = e.full(mask)
    if value.dtype == "bool":
        lowest = -3.0e38 if dtype == "float32" else -6.0e4
        name = e.op("Where", [name, e.constant(0, dtype), e.constant(lowest, dtype)], name=f"{mask.name}/additive")
    elif value.dtype != dtype:
        name = e.cast(name, dtype)
    if len(value.shape) < 2 or value.shape[-2] != tokens:
        rank = max(len(value.shape), 2)
        sizes = [1] * rank
        sizes[-2] = tokens if isinstance(tokens, int) else tokens  # pyright: ignore[reportArgumentType]
        shape = (
            e.op("Concat", [e.size(size) for size in sizes], axis=0)
            if isinstance(tokens, str)
            else e.constant(sizes, "int64")
        )
        name = e.op("Expand", [name, shape], name=f"{mask.name}/rows")
    return name


def _by_products(  # noqa: PLR0913 - the schema of the operation
    e: Emitter,
    node: fx.Node,
    query: fx.Node,
    key: fx.Node,
    value: fx.Node,
    mask: fx.Node | None,
    is_causal: bool,
    scale: float | None,  # noqa: FBT001
) -> str:
    """softmax(q k^T * scale + mask) v for ranks that Attention does not take."""
    if is_causal:
        raise UnsupportedOp(
            "lowering to ONNX",
            got=f"{node.name}: causal attention of rank {len(tensor_value(query).shape)}",
            expected="rank 4",
        )
    shape, dtype = tensor_value(key).shape, tensor_value(node).dtype
    rank = len(shape)
    size = shape[-1]
    factor = scale if scale is not None else float(size) ** -0.5
    swapped = e.op("Transpose", [e.full(key)], perm=[*range(rank - 2), rank - 1, rank - 2])
    scores = e.op("Mul", [e.op("MatMul", [e.full(query), swapped]), e.constant(factor, dtype)])
    if mask is not None:
        scores = e.op("Add", [scores, _full_mask(e, node, mask, query, key)])
    return e.op("MatMul", [e.op("Softmax", [scores], axis=-1), e.full(value)])


RULES: Mapping[Any, Any] = {aten.scaled_dot_product_attention.default: _attention}
