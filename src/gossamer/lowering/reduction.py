"""Reductions, pooling, resizing and softmax."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import interpolate

from gossamer.core.specs import Dim
from gossamer.lowering.call import Call
from gossamer.lowering.emitter import Emitter
from gossamer.lowering.pointwise import Rule
from gossamer.program.dialect import aten


def _axes(call: Call) -> list[int]:
    """The axes that a reduction is over, counted from the front."""
    rank, dim = len(call.input_value().shape), call["dim"]
    if dim is None or dim == []:
        return list(range(rank))
    return [axis % rank for axis in ([dim] if isinstance(dim, int) else dim)] if rank else []


def reduce(e: Emitter, kind: str, x: str, axes: list[int], *, keepdim: bool) -> str:
    """A Reduce node; without axes the input itself."""
    return e.op(kind, [x, e.constant(axes, "int64")], keepdims=int(keepdim)) if axes else x


def _reduction(kind: str) -> Rule:
    """Computes in the dtype of the result, which for sums of whole numbers is wider than that of the input."""

    def rule(e: Emitter, call: Call) -> str:
        return reduce(e, kind, e.full_as(call.tensor("self"), call.dtype), _axes(call), keepdim=call["keepdim"])

    return rule


def _extreme(kind: str) -> Rule:
    def rule(e: Emitter, call: Call) -> str:
        dtype = "int32" if call.dtype == "bool" else call.dtype
        result = reduce(e, kind, e.full_as(call.tensor("self"), dtype), _axes(call), keepdim=call["keepdim"])
        return result if dtype == call.dtype else e.cast(result, call.dtype)

    return rule


def _mean(e: Emitter, call: Call) -> str:
    """The mean over all positions of an image is a global average pool, which runtimes have in int8."""
    axes, rank = _axes(call), len(call.input_value().shape)
    x = e.full_as(call.tensor("self"), call.dtype)
    if rank > 2 and sorted(axes) == list(range(2, rank)):
        pooled = e.op("GlobalAveragePool", [x])
        return pooled if call["keepdim"] else e.op("Reshape", [pooled, e.shape(call.shape)])
    return reduce(e, "ReduceMean", x, axes, keepdim=call["keepdim"])


def _any_all(kind: str) -> Rule:
    def rule(e: Emitter, call: Call) -> str:
        flags = e.cast(e.full_as(call.tensor("self"), "bool"), "int32")
        return e.cast(reduce(e, kind, flags, _axes(call), keepdim=call["keepdim"]), "bool")

    return rule


def _arg(kind: str) -> Rule:
    def rule(e: Emitter, call: Call) -> str:
        dtype = call.input_value().dtype
        x = e.full_as(call.tensor("self"), "int32" if dtype == "bool" else dtype)
        if call["dim"] is not None:
            return e.op(kind, [x], axis=call["dim"], keepdims=int(call["keepdim"]))
        first = e.op(kind, [e.op("Reshape", [x, e.constant([-1], "int64")])], axis=0, keepdims=0)
        return e.op("Reshape", [first, e.constant([1] * len(call.shape), "int64")]) if call["keepdim"] else first

    return rule


def _variance(e: Emitter, call: Call) -> str:
    axes, x = _axes(call), e.full(call.tensor("self"))
    centred = e.op("Sub", [x, reduce(e, "ReduceMean", x, axes, keepdim=True)])
    squares = e.op("Mul", [centred, centred])
    correction = 1 if call["correction"] is None else call["correction"]
    if correction == 0:
        return reduce(e, "ReduceMean", squares, axes, keepdim=call["keepdim"])
    total = reduce(e, "ReduceSum", squares, axes, keepdim=call["keepdim"])
    sizes = [call.input_value().shape[axis] for axis in axes]
    return e.op("Div", [total, _degrees_of_freedom(e, sizes, correction, call.dtype)])


def _degrees_of_freedom(e: Emitter, sizes: Sequence[Dim], correction: float, dtype: str) -> str:
    """Number of elements less the correction, at least 0, as a float."""
    fixed = math.prod(size for size in sizes if isinstance(size, int))
    varying = [size for size in sizes if isinstance(size, str)]
    if not varying:
        return e.constant(max(fixed - correction, 0), dtype)
    count = e.size(fixed)
    for size in varying:
        count = e.op("Mul", [count, e.size(size)])
    number = e.cast(e.op("Squeeze", [count, e.constant([0], "int64")]), dtype)
    return e.op("Max", [e.op("Sub", [number, e.constant(correction, dtype)]), e.constant(0, dtype)])


def _vector_norm(e: Emitter, call: Call) -> str:
    order, axes, keepdim = call["ord"], _axes(call), call["keepdim"]
    x = e.full_as(call.tensor("self"), call.dtype)
    if order in (1, 2):
        return reduce(e, f"ReduceL{order:g}", x, axes, keepdim=keepdim) if axes else e.op("Abs", [x])
    if math.isinf(order):
        return reduce(e, "ReduceMax" if order > 0 else "ReduceMin", e.op("Abs", [x]), axes, keepdim=keepdim)
    raise call.unsupported(f"a norm of order {order}", "1, 2, infinity or -infinity")


def _cumsum(e: Emitter, call: Call) -> str:
    return e.op("CumSum", [e.full_as(call.tensor("self"), call.dtype), e.scalar(call["dim"], "int64")])


def _topk(e: Emitter, call: Call) -> None:
    attributes = {"axis": call["dim"], "largest": int(call["largest"]), "sorted": int(call["sorted"])}
    parts = e.ops("TopK", [e.full(call.tensor("self")), e.sizes([call["k"]])], 2, **attributes)
    e.set_items(call.node, parts)


def _window(call: Call) -> dict[str, Any]:
    """How the window of a pooling moves, in ONNX's words."""
    spatial = 2 if call.node.target in (aten.max_pool2d.default, aten.avg_pool2d.default) else 1
    if len(call.shape) != spatial + 2:
        raise call.unsupported("pooling without a batch dim", "a batch dim: x.unsqueeze(0)")
    kernel = call.per_axis("kernel_size", spatial)
    return {
        "kernel_shape": kernel,
        "strides": call.per_axis("stride", spatial) if call["stride"] else kernel,
        "pads": call.per_axis("padding", spatial) * 2,
        "ceil_mode": int(call["ceil_mode"]),
    }


def _max_pool(e: Emitter, call: Call) -> str:
    attributes = _window(call)
    dilations = call.per_axis("dilation", len(attributes["strides"]))
    return e.op("MaxPool", [e.full(call.tensor("self"))], dilations=dilations, **attributes)


def _avg_pool(e: Emitter, call: Call) -> str:
    if call.arguments.get("divisor_override") is not None:
        raise call.unsupported("an average with a divisor of its own", "a plain average")
    include = int(call["count_include_pad"])
    return e.op("AveragePool", [e.full(call.tensor("self"))], count_include_pad=include, **_window(call))


def _resize(e: Emitter, call: Call, **modes: Any) -> str:
    """Written for all four axes: ONNX Runtime 1.31 breaks files with ``axes`` when it turns them channels-last."""
    x, factors = e.full(call.tensor("input")), call["scale_factors"]
    if factors is None:
        kept = e.op("Shape", [x], start=0, end=2)
        sizes = e.op("Concat", [kept, e.sizes(call["output_size"])], axis=0)
        return e.op("Resize", [x, None, None, sizes], **modes)
    sizes, wanted = call.input_value("input").shape[2:], call.shape[2:]
    scales = [_scale(call, *entry) for entry in zip(factors, sizes, wanted, strict=True)]
    return e.op("Resize", [x, None, e.constant([1.0, 1.0, *scales], "float32")], **modes)


def _scale(call: Call, factor: float, size: Dim, wanted: Dim) -> np.float32:
    """The float32 closest to a factor for which ``size`` times it, rounded down in float32, is the size wanted.

    PyTorch rounds down in double: 50 pixels by 2.3 are 114, where float32 makes 115 of them.
    """
    scale = np.float32(factor)
    if isinstance(size, int) and isinstance(wanted, int):
        while int(scale * np.float32(size)) > wanted:
            scale = np.nextafter(scale, np.float32(0))
        while int(scale * np.float32(size)) < wanted:
            scale = np.nextafter(scale, np.float32(np.inf))
    elif float(scale) != factor:
        raise call.unsupported(f"resizing an image of varying size by {factor}", "a whole factor, or a fixed size")
    return scale


def _nearest(e: Emitter, call: Call) -> str:
    """By a fraction, which pixel is the nearest depends on the last bit of a product: PyTorch's choice is stored."""
    sizes, factors = call.input_value("input").shape[2:], call["scale_factors"]
    fixed = [size for size in sizes if isinstance(size, int)]
    if factors is None or len(fixed) < len(sizes) or all(float(factor).is_integer() for factor in factors):
        modes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return _resize(e, call, **modes)
    x = e.full(call.tensor("input"))
    for axis, (size, factor) in enumerate(zip(fixed, factors, strict=True), start=2):
        row = torch.arange(size, dtype=torch.float32).reshape(1, 1, 1, size)
        places = interpolate(row, scale_factor=(1.0, float(factor)))
        x = e.op("Gather", [x, e.constant(places.flatten().numpy(), "int64")], axis=axis)
    return x


def _smooth(mode: str, **attributes: Any) -> Rule:
    def rule(e: Emitter, call: Call) -> str:
        coordinates = "align_corners" if call["align_corners"] else "half_pixel"
        return _resize(e, call, mode=mode, coordinate_transformation_mode=coordinates, **attributes)

    return rule


def _softmax(kind: str) -> Rule:
    def rule(e: Emitter, call: Call) -> str:
        return e.op(kind, [e.full_as(call.tensor("self"), call.dtype)], axis=call["dim"])

    return rule


RULES: Mapping[Any, Rule] = {
    aten.mean.dim: _mean,
    aten.sum.dim_IntList: _reduction("ReduceSum"),
    aten.amax.default: _extreme("ReduceMax"),
    aten.amin.default: _extreme("ReduceMin"),
    aten.prod.dim_int: _reduction("ReduceProd"),
    aten.any.dim: _any_all("ReduceMax"),
    aten.all.dim: _any_all("ReduceMin"),
    aten.argmax.default: _arg("ArgMax"),
    aten.argmin.default: _arg("ArgMin"),
    aten.var.correction: _variance,
    aten.linalg_vector_norm.default: _vector_norm,
    aten.cumsum.default: _cumsum,
    aten.topk.default: _topk,
    aten.max_pool1d.default: _max_pool,
    aten.max_pool2d.default: _max_pool,
    aten.avg_pool1d.default: _avg_pool,
    aten.avg_pool2d.default: _avg_pool,
    aten.upsample_nearest2d.vec: _nearest,
    aten.upsample_bilinear2d.vec: _smooth("linear"),
    aten.upsample_bicubic2d.vec: _smooth("cubic", cubic_coeff_a=-0.75),
    aten.softmax.int: _softmax("Softmax"),
    aten.log_softmax.int: _softmax("LogSoftmax"),
}
