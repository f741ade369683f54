"""Convolutions: channels in and out, in groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gossamer.analysis.axes import Axis
from gossamer.analysis.trace import AxesOf, Call, Rule, Trace
from gossamer.program.dialect import CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS


def _convolution(t: Trace, call: Call) -> AxesOf:
    """Weight (out, in / groups, *kernel)."""
    x, weight = call.axes("input"), call.axes("weight")
    channel = -len(weight) + 1
    groups, inner = call["groups"], weight[1]
    if groups == 1:
        t.unify(x[channel], inner)
        out: Axis = weight[0]
    else:
        group = t.axes.new(groups, "channels" if inner.size == 1 else "groups")
        own = t.axes.new(weight[0].size // groups, "channels")
        t.unify(x[channel], t.axes.product((group, inner)))
        t.unify(weight[0], t.axes.product((group, own)))
        out = weight[0]
    t.axes.mark(weight[0], "channels")
    t.axes.mark(inner, "channels")
    return _finish(t, call, {"out": 0, "in": 1}, out)


def _transposed(t: Trace, call: Call) -> AxesOf:
    """Weight (in, out / groups, *kernel)."""
    x, weight = call.axes("input"), call.axes("weight")
    channel = -len(weight) + 1
    groups, own = call["groups"], weight[1]
    if groups == 1:
        t.unify(x[channel], weight[0])
        out: Axis = own
    else:
        group = t.axes.new(groups, "channels" if own.size == 1 else "groups")
        inner = t.axes.new(weight[0].size // groups, "channels")
        t.unify(weight[0], t.axes.product((group, inner)))
        t.unify(x[channel], weight[0])
        out = t.axes.product((group, own))
    t.axes.mark(weight[0], "channels")
    t.axes.mark(own, "channels")
    return _finish(t, call, {"out": 1, "in": 0}, out)


def _finish(t: Trace, call: Call, dims: Mapping[str, int], out: Axis) -> AxesOf:
    x, weight = call.axes("input"), call.axes("weight")
    rank = len(weight) - 2
    for axis in weight[2:]:
        t.freeze(axis, "kernel")
        t.unlisted.append(axis)
    for axis in x[-rank:]:
        t.freeze(axis, "spatial axis")
    t.contract(call, "input", len(x) - rank - 1)
    t.role(call, call["weight"], dims["out"], "producer")
    t.role(call, call["weight"], dims["in"], "consumer")
    if call.has("bias"):
        t.unify(call.axes("bias")[0], out)
        t.role(call, call["bias"], 0, "follower")
    spatial = range(len(x) - rank, len(x))
    return (*x[: -rank - 1], out, *(t.fixed_result(call, dim) for dim in spatial))


RULES: Mapping[Any, Rule] = {
    **dict.fromkeys(CONVOLUTIONS, _convolution),
    **dict.fromkeys(TRANSPOSED_CONVOLUTIONS, _transposed),
}
