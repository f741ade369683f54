"""Norms: a batch norm looks at each channel alone, the others take mean and variance over what may be cut."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gossamer.analysis.trace import AxesOf, Call, Rule, Trace
from gossamer.program.dialect import aten


def _batch_norm(t: Trace, call: Call) -> AxesOf:
    x = call.axes("input")
    for name in ("weight", "bias", "running_mean", "running_var"):
        if call.has(name):
            t.unify(x[1], call.axes(name)[0])
            t.role(call, call[name], 0, "follower")
    return tuple(t.axes.resolve(axis) for axis in x)


def _last_axes_norm(t: Trace, call: Call) -> AxesOf:
    """Layer norm and root-mean-square norm over the last axes."""
    x = call.axes("input")
    count = len(call["normalized_shape"])
    for name in ("weight", "bias"):
        if name in call.arguments and call.has(name):
            for dim, axis in enumerate(call.axes(name)):
                t.unify(x[dim - count], axis)
                t.role(call, call[name], dim, "follower")
    for axis in x[-count:]:
        t.axes.mark_renormalising(axis)
    return tuple(t.axes.resolve(axis) for axis in x)


def _group_norm(t: Trace, call: Call) -> AxesOf:
    """Channels are groups of channels: whole groups can go, channels within them renormalise."""
    x = call.axes("input")
    for name in ("weight", "bias"):
        if call.has(name):
            t.unify(x[1], call.axes(name)[0])
            t.role(call, call[name], 0, "follower")
    cut = t.axes.factor(x[1], x[1].size // call["num_groups"])
    if cut is None:
        t.freeze(x[1], "groups do not divide it")
    else:
        t.axes.mark_renormalising(cut[1])
    return tuple(t.axes.resolve(axis) for axis in x)


RULES: Mapping[Any, Rule] = {
    aten.batch_norm.default: _batch_norm,
    aten.layer_norm.default: _last_axes_norm,
    aten.rms_norm.default: _last_axes_norm,
    aten.group_norm.default: _group_norm,
}
