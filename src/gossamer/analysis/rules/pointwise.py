"""Element by element: operands share every axis along which none of them is broadcast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gossamer.analysis.axes import ONE, Axis
from gossamer.analysis.trace import AxesOf, Call, Rule, Trace
from gossamer.program.dialect import aten, dequantize, quantize

_NAMES = (
    "relu.default gelu.default silu.default sigmoid.default tanh.default hardtanh.default hardswish.default "
    "hardsigmoid.default leaky_relu.default elu.default softplus.default mish.default clamp.default dropout.default "
    "abs.default neg.default exp.default log.default sqrt.default rsqrt.default reciprocal.default erf.default "
    "sin.default cos.default tan.default floor.default ceil.default round.default sign.default logical_not.default "
    "isnan.default isinf.default to.dtype add.Tensor sub.Tensor mul.Tensor div.Tensor div.Tensor_mode "
    "remainder.Tensor remainder.Scalar pow.Tensor_Tensor pow.Tensor_Scalar pow.Scalar maximum.default "
    "minimum.default eq.Tensor eq.Scalar ne.Tensor ne.Scalar lt.Tensor lt.Scalar le.Tensor le.Scalar gt.Tensor "
    "gt.Scalar ge.Tensor ge.Scalar logical_and.default logical_or.default logical_xor.default where.self "
    "where.ScalarSelf where.ScalarOther where.Scalar full_like.default"
)


def broadcast(t: Trace, operands: Sequence[AxesOf]) -> AxesOf:
    """The axes of an element-wise result; axes of size 1 stay unlinked."""
    rank = max(map(len, operands), default=0)
    result: list[Axis] = []
    for dim in range(-rank, 0):
        axes = [axes[dim] for axes in operands if len(axes) >= -dim and axes[dim].size != 1]
        for other in axes[1:]:
            t.unify(axes[0], other)
        result.append(t.axes.resolve(axes[0]) if axes else ONE)
    return tuple(result)


def _pointwise(t: Trace, call: Call) -> AxesOf:
    return broadcast(t, list(call.tensors()))


def _prelu(t: Trace, call: Call) -> AxesOf:
    """A slope for each channel on axis 1, or one for all."""
    x, weight = call.axes("self"), call.axes("weight")
    if weight and weight[0].size != 1:
        t.unify(x[1 if len(x) > 1 else 0], weight[0])
        t.role(call, call["weight"], 0, "follower")
    return call.axes("self")


def _quantizer(t: Trace, call: Call) -> AxesOf:
    """Scales and zero points of each channel follow it."""
    x = next(iter(call.tensors()))
    for name in ("scale", "zero_point"):
        if call["axis"] is not None:
            t.unify(x[call["axis"]], call.axes(name)[0])
            t.role(call, call[name], 0, "follower")
    return tuple(t.axes.resolve(axis) for axis in x)


RULES: Mapping[Any, Rule] = {
    **{getattr(getattr(aten, name.split(".")[0]), name.split(".")[1]): _pointwise for name in _NAMES.split()},
    aten.prelu.default: _prelu,
    quantize: _quantizer,
    dequantize: _quantizer,
}
