"""Reductions and pooling: sums lose nothing with zeros, what compares or divides by a count freezes its axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gossamer.analysis.axes import ONE
from gossamer.analysis.trace import AxesOf, Call, Rule, Trace
from gossamer.program.dialect import aten


def _reduced(t: Trace, call: Call, *, contracts: bool, argument: str = "self") -> AxesOf:
    axes = call.axes(argument)
    given = call["dim"]
    dims = range(len(axes)) if given is None or given == [] else [given] if isinstance(given, int) else given
    gone = {dim % len(axes) for dim in dims} if axes else set()
    for dim in sorted(gone):
        if contracts:
            t.contract(call, argument, dim)
        else:
            t.freeze(axes[dim], "reduced over")
    keep = call["keepdim"]
    return tuple(ONE if dim in gone else axis for dim, axis in enumerate(axes) if keep or dim not in gone)


def _contracting(t: Trace, call: Call) -> AxesOf:
    return _reduced(t, call, contracts=True)


def _freezing(t: Trace, call: Call) -> AxesOf:
    return _reduced(t, call, contracts=False)


def _vector_norm(t: Trace, call: Call) -> AxesOf:
    """Of positive order: zeros add nothing."""
    return _reduced(t, call, contracts=call["ord"] > 0)


def _cumsum(t: Trace, call: Call) -> AxesOf:
    axes = call.axes("self")
    t.freeze(axes[call["dim"]], "summed along")
    return axes


def _topk(t: Trace, call: Call) -> list[AxesOf]:
    axes, dim = call.axes("self"), call["dim"]
    t.freeze(axes[dim], "sorted along")
    shape = call.node.meta["value"][0].shape
    fixed = t.fixed(shape, f"topk {call.node.name}")
    result = tuple(fixed[i] if i == dim % len(axes) else axis for i, axis in enumerate(axes))
    return [result, result]


def _spatial(t: Trace, call: Call, dims: Sequence[int], argument: str = "self") -> AxesOf:
    axes = call.axes(argument)
    for dim in dims:
        t.freeze(axes[dim], "spatial axis")
    places = {dim % len(axes) for dim in dims}
    return tuple(t.fixed_result(call, dim) if dim in places else axis for dim, axis in enumerate(axes))


def _pool1d(t: Trace, call: Call) -> AxesOf:
    return _spatial(t, call, (-1,))


def _pool2d(t: Trace, call: Call) -> AxesOf:
    return _spatial(t, call, (-2, -1))


def _upsample(t: Trace, call: Call) -> AxesOf:
    return _spatial(t, call, (-2, -1), "input")


RULES: Mapping[Any, Rule] = {
    **dict.fromkeys([aten.sum.dim_IntList, aten.mean.dim, aten.any.dim], _contracting),
    **dict.fromkeys(
        [aten.amax.default, aten.amin.default, aten.argmax.default, aten.argmin.default, aten.all.dim,
         aten.prod.dim_int, aten.var.correction], _freezing
    ),
    aten.linalg_vector_norm.default: _vector_norm,
    aten.cumsum.default: _cumsum,
    aten.topk.default: _topk,
    **dict.fromkeys([aten.max_pool1d.default, aten.avg_pool1d.default], _pool1d),
    **dict.fromkeys([aten.max_pool2d.default, aten.avg_pool2d.default], _pool2d),
    **dict.fromkeys(
        [aten.upsample_nearest2d.vec, aten.upsample_bilinear2d.vec, aten.upsample_bicubic2d.vec], _upsample
    ),
}  # fmt: skip
