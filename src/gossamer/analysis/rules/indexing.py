"""Picking by index: the axis that indices run over stays, the others pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import fx

from gossamer.analysis.trace import AxesOf, Call, Rule, Trace
from gossamer.program.dialect import aten


def _index(t: Trace, call: Call) -> AxesOf:
    """``x[:, i, j]``: the axes of the indices stand in place of those they pick from, in front if these are apart."""
    axes, indices = call.axes("self"), call["indices"]
    for entry in indices:
        if isinstance(entry, fx.Node):
            for axis in t.axes_of(entry):
                t.freeze(axis, "an index")
    indexed = [dim for dim, entry in enumerate(indices) if entry is not None]
    for dim in indexed:
        t.freeze(axes[dim], "indices are values")
    together = indexed == list(range(indexed[0], indexed[-1] + 1))
    passing = [axis for dim, axis in enumerate(axes) if dim not in indexed]
    front = indexed[0] if together else 0
    count = len(call.shape) - len(passing)
    new = [t.fixed_result(call, front + place) for place in range(count)]
    return (*passing[:front], *new, *passing[front:])


def _index_select(t: Trace, call: Call) -> AxesOf:
    axes = list(call.axes("self"))
    dim = call["dim"] % len(axes)
    t.freeze(axes[dim], "indices are values")
    for axis in call.axes("index"):
        t.freeze(axis, "an index")
    axes[dim] = t.fixed_result(call, dim)
    return tuple(axes)


def _gather(t: Trace, call: Call) -> AxesOf:
    """Along the other axes an index picks from its own position."""
    _beside(t, call, "index")
    return tuple(t.axes.resolve(own) for own in call.axes("index"))


def _scatter(t: Trace, call: Call) -> AxesOf:
    for name in ("index", "src"):
        _beside(t, call, name)
    return tuple(t.axes.resolve(axis) for axis in call.axes("self"))


def _beside(t: Trace, call: Call, name: str) -> None:
    """An operand that lies beside the one picked from: along ``dim`` places are values, along the others positions."""
    axes = call.axes("self")
    dim = call["dim"] % max(len(axes), 1)
    for place, (axis, own) in enumerate(zip(axes, call.axes(name), strict=True)):
        if place == dim:
            t.freeze(axis, "indices are values")
            t.freeze(own, "indices are values")
        else:
            t.unify(axis, own)


RULES: Mapping[Any, Rule] = {
    aten.index.Tensor: _index,
    aten.index_select.default: _index_select,
    aten.gather.default: _gather,
    aten.scatter.src: _scatter,
}
