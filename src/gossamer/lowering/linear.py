"""Convolutions, linear layers, matrix products, embeddings and norms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

from gossamer.core.errors import UnsupportedOp
from gossamer.lowering.emitter import Emitter
from gossamer.lowering.quantization import padded_channels
from gossamer.program.dialect import aten
from gossamer.program.values import tensor_value


def _tuple(value: Any, length: int) -> list[int]:
    items = [value] if isinstance(value, int) else list(value)
    return items * length if len(items) == 1 else items


def _conv(  # noqa: PLR0913 - the schema of the operation
    e: Emitter,
    node: fx.Node,
    input: fx.Node,
    weight: fx.Node,
    bias: fx.Node | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,  # noqa: A002, E501
) -> str:
    rank = len(tensor_value(weight).shape) - 2
    pads = _tuple(padding, rank)
    x, kernel = padded_channels(e, input, weight, groups) or (e.full(input), e.full(weight))
    return e.op(
        "Conv",
        [x, kernel, *([e.full(bias)] if bias is not None else [])],
        strides=_tuple(stride, rank),
        pads=pads + pads,
        dilations=_tuple(dilation, rank),
        group=groups,
    )


def _conv_transpose(  # noqa: PLR0913 - the schema of the operation
    e: Emitter,
    node: fx.Node,
    input: fx.Node,
    weight: fx.Node,
    bias: fx.Node | None,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: int,
    dilation: Any,  # noqa: A002, E501
) -> str:
    rank = len(tensor_value(weight).shape) - 2
    pads = _tuple(padding, rank)
    return e.op(
        "ConvTranspose",
        [e.full(input), e.full(weight), *([e.full(bias)] if bias is not None else [])],
        strides=_tuple(stride, rank),
        pads=pads + pads,
        output_padding=_tuple(output_padding, rank),
        dilations=_tuple(dilation, rank),
        group=groups,
    )


def _linear(e: Emitter, node: fx.Node, input: fx.Node, weight: fx.Node, bias: fx.Node | None) -> None:  # noqa: A002
    """A Gemm on the flat form: with a quantized input and weight the runtime's int8 Gemm takes the bias in as well."""
    shape = tensor_value(input).shape
    if len(shape) < 2:
        raise UnsupportedOp("lowering to ONNX", got=f"linear on a tensor of shape {shape}", expected="a batch dim")
    operands = [e.flat(input), e.full(weight), *([e.full(bias)] if bias is not None else [])]
    e.set(node, flat=e.op("Gemm", operands, transB=1))


def _matmul(e: Emitter, node: fx.Node, self: fx.Node, other: fx.Node) -> str:
    return e.op("MatMul", [e.full(self), e.full(other)])


def _embedding(e: Emitter, node: fx.Node, weight: fx.Node, indices: fx.Node, **_: Any) -> str:
    return e.op("Gather", [e.full(weight), e.full(indices)], axis=0)


def _or_filled(e: Emitter, parameter: fx.Node | None, value: float, shape: Sequence[Any], dtype: str) -> str:
    if parameter is not None:
        return e.full(parameter)
    return e.constant(torch.full([int(size) for size in shape], value).numpy(), dtype)


def _batch_norm(  # noqa: PLR0913 - the schema of the operation
    e: Emitter,
    node: fx.Node,
    input: fx.Node,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    training: bool,
    momentum: float,
    eps: float,
    **_: Any,  # noqa: A002, E501, FBT001
) -> str:
    value = tensor_value(node)
    channels = [value.shape[1]]
    if running_mean is None:
        raise UnsupportedOp(
            "lowering to ONNX", got=f"{node.name} without running statistics", expected="a batch norm with them"
        )
    return e.op(
        "BatchNormalization",
        [
            e.full(input),
            _or_filled(e, weight, 1.0, channels, value.dtype),
            _or_filled(e, bias, 0.0, channels, value.dtype),
            e.full(running_mean),
            e.full(running_var),
        ],
        epsilon=float(eps),
    )


def _layer_norm(  # noqa: PLR0913 - the schema of the operation
    e: Emitter,
    node: fx.Node,
    input: fx.Node,
    normalized_shape: list[int],
    weight: Any,
    bias: Any,
    eps: float,
    **_: Any,  # noqa: A002
) -> None:
    dtype = tensor_value(node).dtype
    scale = _or_filled(e, weight, 1.0, normalized_shape, dtype)
    shift = [e.full(bias)] if bias is not None else []
    flat = e.has_flat(input) and len(normalized_shape) == 1
    x = e.flat(input) if flat else e.full(input)
    result = e.op("LayerNormalization", [x, scale, *shift], axis=-len(normalized_shape), epsilon=float(eps))
    e.set(node, **{"flat" if flat else "full": result})


def _group_norm(  # noqa: PLR0913 - the schema of the operation
    e: Emitter,
    node: fx.Node,
    input: fx.Node,
    num_groups: int,
    weight: Any,
    bias: Any,
    eps: float,
    **_: Any,  # noqa: A002
) -> str:
    value = tensor_value(node)
    channels = [value.shape[1]]
    return e.op(
        "GroupNormalization",
        [
            e.full(input),
            _or_filled(e, weight, 1.0, channels, value.dtype),
            _or_filled(e, bias, 0.0, channels, value.dtype),
        ],
        num_groups=num_groups,
        epsilon=float(eps),
    )


def _rms_norm(
    e: Emitter, node: fx.Node, input: fx.Node, normalized_shape: list[int], weight: Any, eps: float | None
) -> str:  # noqa: A002
    value = tensor_value(node)
    axes = e.constant(list(range(-len(normalized_shape), 0)), "int64")
    epsilon = torch.finfo(getattr(torch, value.dtype)).eps if eps is None else eps
    x = e.full(input)
    mean = e.op("ReduceMean", [e.op("Mul", [x, x]), axes], keepdims=1)
    scaled = e.op("Div", [x, e.op("Sqrt", [e.op("Add", [mean, e.constant(epsilon, value.dtype)])])])
    return e.op("Mul", [scaled, e.full(weight)]) if weight is not None else scaled


RULES: Mapping[Any, Any] = {
    aten.conv1d.default: _conv,
    aten.conv2d.default: _conv,
    aten.conv3d.default: _conv,
    aten.conv_transpose1d.default: _conv_transpose,
    aten.conv_transpose2d.input: _conv_transpose,
    aten.linear.default: _linear,
    aten.matmul.default: _matmul,
    aten.embedding.default: _embedding,
    aten.batch_norm.default: _batch_norm,
    aten.layer_norm.default: _layer_norm,
    aten.group_norm.default: _group_norm,
    aten.rms_norm.default: _rms_norm,
}
