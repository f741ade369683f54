"""Scaled dot-product attention as ONNX's Attention, without the transposes around it where the graph has them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx

from gossamer.lowering.call import Call
from gossamer.lowering.emitter import Emitter
from gossamer.lowering.pointwise import Rule
from gossamer.lowering.shapes import unsqueeze
from gossamer.program.dialect import aten
from gossamer.program.values import tensor_value

_SWAP_HEADS = [0, 2, 1, 3]


@dataclass(frozen=True)
class _Packed:
    """A (batch, tokens, heads * size) value behind the (batch, heads, tokens, size) one that attention is given."""

    source: fx.Node
    heads: int


def _attention(e: Emitter, call: Call) -> str | None:
    inputs = [call.tensor(name) for name in ("query", "key", "value")]
    rank = len(call.shape)
    if not 2 <= rank <= 4:
        raise call.unsupported(f"attention of rank {rank}", "(batch, heads, tokens, size)")
    attributes = {"is_causal": int(call["is_causal"]), "scale": call["scale"]}
    mask = _mask(e, call)
    packed = [_packed(x) for x in inputs]
    merges = _merges(call)
    if merges and all(packed):
        q, k, v = (part for part in packed if part)
        operands = [*(e.full(part.source) for part in (q, k, v)), mask]
        result = e.op("Attention", operands, q_num_heads=q.heads, kv_num_heads=k.heads, **attributes)
        for merge in merges:
            e.set(merge, result)
        return None
    missing = {2: [0, 1], 3: [1], 4: []}[rank]
    operands = [unsqueeze(e, e.full(x), missing) if missing else e.full(x) for x in inputs]
    result = e.op("Attention", [*operands, mask], **attributes)
    return e.op("Squeeze", [result, e.constant(missing, "int64")]) if missing else result


def _packed(x: fx.Node) -> _Packed | None:
    """See through reshape to heads and swap of axes 1 and 2."""
    split = _swapped(x)
    if split is None or split.target is not aten.reshape.default:
        return None
    source = Call.of(split).tensor("self")
    shape, wide = tensor_value(split).shape, tensor_value(source).shape
    heads, size = shape[2], shape[3]
    if isinstance(heads, int) and isinstance(size, int) and wide == (*shape[:2], heads * size):
        return _Packed(source, heads)
    return None


def _swapped(x: fx.Node) -> fx.Node | None:
    """What ``x`` is with its axes 1 and 2 swapped back, if it is a swap."""
    if x.target is not aten.permute.default:
        return None
    call = Call.of(x)
    return call.tensor("self") if list(call["dims"]) == _SWAP_HEADS else None


def _merges(call: Call) -> list[fx.Node]:
    """The reshapes that merge the heads again behind a swap, if these are all that uses the result."""
    if len(call.shape) != 4:
        return []
    batch, heads, tokens, size = call.shape
    merges = [reshape for permute in call.node.users for reshape in permute.users]
    plain = all(_swapped(permute) is call.node for permute in call.node.users) and all(
        merge.target is aten.reshape.default for merge in merges
    )
    if not plain or not isinstance(heads, int) or not isinstance(size, int):
        return []
    return merges if all(tensor_value(merge).shape == (batch, tokens, heads * size) for merge in merges) else []


def _mask(e: Emitter, call: Call) -> str | None:
    """An additive float mask over all queries and keys: the kernel wants the full lengths and is faster with floats.

    What is masked gets minus infinity, and a query that may see no key yields zeros, as in PyTorch.
    """
    mask = call.optional("attn_mask")
    if mask is None:
        return None
    value = tensor_value(mask)
    name = e.full(mask)
    if value.dtype == "bool":
        numbers = [e.constant(number, call.dtype) for number in (0, -math.inf)]
        name = e.op("Where", [name, *numbers], name=f"{mask.name}/additive")
    elif value.dtype != call.dtype:
        name = e.cast(name, call.dtype)
    wanted = (call.input_value("query").shape[-2], call.input_value("key").shape[-2])
    if value.shape[-2:] != wanted:
        name = e.op("Expand", [name, e.sizes(wanted)], name=f"{mask.name}/full")
    return unsqueeze(e, name, [1]) if len(call.shape) == 3 and len(value.shape) == 3 else name


RULES: Mapping[Any, Rule] = {aten.scaled_dot_product_attention.default: _attention}
