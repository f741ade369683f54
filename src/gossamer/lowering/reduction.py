"""Reductions, pooling, resizing and softmax."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from typing import Any

from torch import fx

from gossamer.core.errors import UnsupportedOp
from gossamer.lowering.emitter import Emitter, element_count
from gossamer.program.dialect import aten
from gossamer.program.values import tensor_value


def _axes(node: fx.Node, dim: Any) -> list[int]:
    rank = len(tensor_value(node).shape)
    if dim is None or dim == []:
        return list(range(rank))
    return [axis % rank for axis in ([dim] if isinstance(dim, int) else dim)] if rank else []


def reduce(e: Emitter, kind: str, x: str, axes: list[int], *, keepdim: bool) -> str:
    """A Reduce node; without axes the input itself."""
    return e.op(kind, [x, e.constant(axes, "int64")], keepdims=int(keepdim)) if axes else x


def _reduction(kind: str) -> Any:
    def rule(e: Emitter, node: fx.Node, self: fx.Node, dim: Any = None, keepdim: bool = False, **_: Any) -> str:  # noqa: FBT001, FBT002
        dtype = tensor_value(node).dtype
        x = e.full(self) if tensor_value(self).dtype == dtype else e.cast(e.full(self), dtype)
        return reduce(e, kind, x, _axes(self, dim), keepdim=keepdim)

    return rule


def _mean(e: Emitter, node: fx.Node, self: fx.Node, dim: Any, keepdim: bool = False, **_: Any) -> str:  # noqa: FBT001, FBT002
    """The mean over all positions of an image is a global average pool, which runtimes have in int8."""
    axes, rank = _axes(self, dim), len(tensor_value(self).shape)
    if rank > 2 and axes == list(range(2, rank)):
        pooled = e.op("GlobalAveragePool", [e.full(self)])
        return pooled if keepdim else e.op("Reshape", [pooled, e.shape(tensor_value(node).shape)])
    return reduce(e, "ReduceMean", e.full(self), axes, keepdim=keepdim)


def _any_all(kind: str) -> Any:
    def rule(e: Emitter, node: fx.Node, self: fx.Node, dim: int, keepdim: bool = False) -> str:  # noqa: FBT001, FBT002
        flags = e.cast(e.cast(e.full(self), "bool"), "int32")
        return e.cast(reduce(e, kind, flags, _axes(self, dim), keepdim=keepdim), "bool")

    return rule


def _arg(kind: str) -> Any:
    def rule(e: Emitter, node: fx.Node, self: fx.Node, dim: int | None = None, keepdim: bool = False) -> str:  # noqa: FBT001, FBT002
        x = e.full(self)
        if tensor_value(self).dtype in ("int64", "bool"):
            x = e.cast(x, "int32")
        if dim is None:
            return e.op(kind, [e.op("Reshape", [x, e.constant([-1], "int64")])], axis=0, keepdims=0)
        return e.op(kind, [x], axis=dim, keepdims=int(keepdim))

    return rule


def _variance(
    e: Emitter, node: fx.Node, self: fx.Node, dim: Any = None, correction: Any = None, keepdim: bool = False
) -> str:  # noqa: FBT001, FBT002, E501
    axes = _axes(self, dim)
    count = element_count([tensor_value(self).shape[axis] for axis in axes])
    if count is None:
        raise UnsupportedOp(
            "lowering to ONNX", got=f"{node.name}: variance over a dim that may vary", expected="a fixed size"
        )
    x, dtype = e.full(self), tensor_value(node).dtype
    centred = e.op("Sub", [x, reduce(e, "ReduceMean", x, axes, keepdim=True)])
    mean_square = reduce(e, "ReduceMean", e.op("Mul", [centred, centred]), axes, keepdim=keepdim)
    bessel = count / (count - (1 if correction is None else correction))
    return e.op("Mul", [mean_square, e.constant(bessel, dtype)])


def _vector_norm(
    e: Emitter, node: fx.Node, self: fx.Node, ord: Any = 2, dim: Any = None, keepdim: bool = False, **_: Any
) -> str:  # noqa: A002, FBT001, FBT002, E501
    axes, x = _axes(self, dim), e.full(self)
    if ord in (1, 2):
        return reduce(e, "ReduceL1" if ord == 1 else "ReduceL2", x, axes, keepdim=keepdim)
    if ord == math.inf:
        return reduce(e, "ReduceMax", e.op("Abs", [x]), axes, keepdim=keepdim)
    raise UnsupportedOp("lowering to ONNX", got=f"{node.name}: norm of order {ord}", expected="1, 2 or infinity")


def _cumsum(e: Emitter, node: fx.Node, self: fx.Node, dim: int, **_: Any) -> str:
    dtype = tensor_value(node).dtype
    x = e.full(self) if tensor_value(self).dtype == dtype else e.cast(e.full(self), dtype)
    return e.op("CumSum", [x, e.scalar(dim, "int64")])


def _topk(
    e: Emitter, node: fx.Node, self: fx.Node, k: Any, dim: int = -1, largest: bool = True, sorted: bool = True
) -> None:  # noqa: A002, FBT001, FBT002, E501
    parts = e.op("TopK", [e.full(self), e.sizes([k])], outputs=2, axis=dim, largest=int(largest), sorted=int(sorted))
    for user in node.users:
        if user.target is operator.getitem:
            e.set(user, full=parts[user.args[1]])  # pyright: ignore[reportArgumentType, reportCallIssue]


def _tuple(value: Any, length: int) -> list[int]:
    items = [value] if isinstance(value, int) else list(value)
    return items * length if len(items) == 1 else items


def _max_pool(
    e: Emitter,
    node: fx.Node,
    self: fx.Node,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: bool,
) -> str:  # noqa: FBT001, PLR0913, E501
    rank = len(tensor_value(self).shape) - 2
    kernel, pads = _tuple(kernel_size, rank), _tuple(padding, rank)
    return e.op(
        "MaxPool",
        [e.full(self)],
        kernel_shape=kernel,
        strides=_tuple(stride, rank) if stride else kernel,
        pads=pads + pads,
        dilations=_tuple(dilation, rank),
        ceil_mode=int(ceil_mode),
    )


def _avg_pool(
    e: Emitter,
    node: fx.Node,
    self: fx.Node,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: Any = None,
) -> str:  # noqa: FBT001, PLR0913, E501
    if divisor_override is not None:
        raise UnsupportedOp("lowering to ONNX", got=f"{node.name}: divisor_override", expected="a plain average")
    rank = len(tensor_value(self).shape) - 2
    kernel, pads = _tuple(kernel_size, rank), _tuple(padding, rank)
    return e.op(
        "AveragePool",
        [e.full(self)],
        kernel_shape=kernel,
        strides=_tuple(stride, rank) if stride else kernel,
        pads=pads + pads,
        ceil_mode=int(ceil_mode),
        count_include_pad=int(count_include_pad),
    )


def _resize(e: Emitter, node: fx.Node, x: fx.Node, size: Any, factors: Any, **modes: Any) -> str:
    axes = [2, 3]
    if factors is not None:
        scales = e.constant([float(factor) for factor in factors], "float32")
        return e.op("Resize", [e.full(x), None, scales], axes=axes, **modes)
    return e.op("Resize", [e.full(x), None, None, e.sizes(size)], axes=axes, **modes)


def _nearest(e: Emitter, node: fx.Node, input: fx.Node, output_size: Any, scale_factors: Any) -> str:  # noqa: A002
    modes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return _resize(e, node, input, output_size, scale_factors, **modes)


def _smooth(mode: str, **attributes: Any) -> Any:
    def rule(
        e: Emitter, node: fx.Node, input: fx.Node, output_size: Any, align_corners: bool, scale_factors: Any
    ) -> str:  # noqa: A002, FBT001
        coordinates = "align_corners" if align_corners else "half_pixel"
        return _resize(
            e,
            node,
            input,
            output_size,
            scale_factors,
            mode=mode,
            coordinate_transformation_mode=coordinates,
            **attributes,
        )

    return rule


def _softmax(kind: str) -> Any:
    def rule(e: Emitter, node: fx.Node, self: fx.Node, dim: int, **_: Any) -> str:
        return e.op(kind, [e.full(self)], axis=dim)

    return rule


RULES: Mapping[Any, Any] = {
    aten.mean.dim: _mean,
    aten.sum.dim_IntList: _reduction("ReduceSum"),
    aten.amax.default: _reduction("ReduceMax"),
    aten.amin.default: _reduction("ReduceMin"),
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
