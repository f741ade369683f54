"""Scaled dot-product attention, and softmax wherever it stands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gossamer.analysis.axes import Axis
from gossamer.analysis.rules.pointwise import broadcast
from gossamer.analysis.rules.products import mark_heads
from gossamer.analysis.trace import AxesOf, Call, Rule, Trace
from gossamer.program.dialect import aten


def _attention(t: Trace, call: Call) -> AxesOf:
    """Query (.., H, t, d), key (.., K, s, d), value (.., K, s, e) to (.., H, t, e); H is K, or K r if grouped."""
    q, k, v = (list(call.axes(name)) for name in ("query", "key", "value"))
    t.unify(q[-1], k[-1])
    t.unify(k[-2], v[-2])
    t.freeze(k[-2], "softmax over it")
    if call["is_causal"]:
        t.freeze(q[-2], "causal mask over it")
    keys, values = k[:-2], v[:-2]
    if call["enable_gqa"]:
        for lead in (keys, values):
            lead[-1] = _repeated(t, q[-3], lead[-1])
    batch = list(broadcast(t, [tuple(q[:-2]), tuple(keys), tuple(values)]))
    if call.has("attn_mask"):
        scores = (*batch, q[-2], k[-2])
        broadcast(t, [scores, call.axes("attn_mask")])
    t.contract(call, "query", len(q) - 1)
    if len(q) > 2:
        mark_heads(t, q[-3])
    t.axes.mark(q[-1], "head_dim")
    t.axes.mark(v[-1], "value_dim")
    return tuple(t.axes.resolve(axis) for axis in (*batch, q[-2], v[-1]))


def _repeated(t: Trace, heads: Axis, kv_heads: Axis) -> Axis:
    """The heads of keys or values, each as often as queries share it."""
    cut = t.axes.factor(heads, heads.size // max(kv_heads.size, 1))
    if cut is None:
        t.freeze(heads, "grouped queries that do not divide")
        t.freeze(kv_heads, "grouped queries that do not divide")
        return heads
    t.unify(cut[0], kv_heads)
    return t.axes.product(cut)


def _softmax(t: Trace, call: Call) -> AxesOf:
    axes = call.axes("self")
    t.freeze(axes[call["dim"]], "softmax over it")
    return axes


RULES: Mapping[Any, Rule] = {
    aten.scaled_dot_product_attention.default: _attention,
    aten.softmax.int: _softmax,
    aten.log_softmax.int: _softmax,
}
