"""Convolutions, linear layers, matrix products, embeddings and norms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

from gossamer.lowering.call import Call
from gossamer.lowering.emitter import Emitter
from gossamer.lowering.pointwise import Rule, operand
from gossamer.lowering.quantization import looked_up_rows, padded_channels, shielded
from gossamer.program.dialect import aten
from gossamer.program.values import TORCH_DTYPES, tensor_value


def _conv(e: Emitter, call: Call) -> str:
    attributes = _window(call)
    x, kernel = padded_channels(e, call) or (e.full(call.tensor("input")), e.full(call.tensor("weight")))
    return shielded(e, call, e.op("Conv", [x, kernel, *_if_given(e, call.optional("bias"))], **attributes))


def _conv_transpose(e: Emitter, call: Call) -> str:
    attributes = _window(call)
    extra = call.per_axis("output_padding", len(attributes["strides"]))
    operands = [e.full(call.tensor("input")), e.full(call.tensor("weight")), *_if_given(e, call.optional("bias"))]
    return shielded(e, call, e.op("ConvTranspose", operands, output_padding=extra, **attributes))


def _window(call: Call) -> dict[str, Any]:
    """How the kernel of a convolution moves, in ONNX's words."""
    rank = len(call.input_value("weight").shape)
    if len(call.shape) != rank:
        raise call.unsupported("a convolution without a batch dim", "a batch dim: x.unsqueeze(0)")
    return {
        "strides": call.per_axis("stride", rank - 2),
        "pads": call.per_axis("padding", rank - 2) * 2,
        "dilations": call.per_axis("dilation", rank - 2),
        "group": call["groups"],
    }


def _linear(e: Emitter, call: Call) -> None:
    """A Gemm on the flat form: with a quantized input and weight the runtime's int8 Gemm takes the bias in as well."""
    if len(call.shape) < 2:
        raise call.unsupported("a linear layer on a vector", "a batch dim: x.unsqueeze(0)")
    operands = [e.flat(call.tensor("input")), e.full(call.tensor("weight")), *_if_given(e, call.optional("bias"))]
    e.set(call.node, shielded(e, call, e.op("Gemm", operands, transB=1)), flat=True)


def _matmul(e: Emitter, call: Call) -> str:
    return e.op("MatMul", [e.full(call.tensor("self")), e.full(call.tensor("other"))])


def _einsum(e: Emitter, call: Call) -> str:
    # ONNX and PyTorch write equations alike; the dtype is promoted by hand, as for every operation with several inputs.
    operands = [operand(e, tensor, call.dtype) for tensor in call["tensors"]]
    return e.op("Einsum", operands, equation=call["equation"].replace(" ", ""))


def _embedding(e: Emitter, call: Call) -> str:
    rows = looked_up_rows(e, call)
    return rows or e.op("Gather", [e.full(call.tensor("weight")), e.full(call.tensor("indices"))], axis=0)


def _if_given(e: Emitter, node: fx.Node | None) -> list[str]:
    return [] if node is None else [e.full(node)]


def _or_filled(e: Emitter, parameter: fx.Node | None, value: float, shape: Sequence[Any], dtype: str) -> str:
    if parameter is not None:
        return e.full(parameter)
    return e.constant(torch.full([int(size) for size in shape], value).numpy(), dtype)


def _channel_parameters(e: Emitter, call: Call) -> list[str]:
    """Weight and bias with one entry per channel; 1 and 0 where the layer has none."""
    channels = [call.shape[1]]
    return [_or_filled(e, call.optional(name), value, channels, call.dtype) for name, value in _NEUTRAL.items()]


_NEUTRAL = {"weight": 1.0, "bias": 0.0}


def _batch_norm(e: Emitter, call: Call) -> str:
    statistics = [call.optional("running_mean"), call.optional("running_var")]
    if call["training"] or None in statistics:
        raise call.unsupported("a batch norm over the batch itself", "running statistics, captured in eval mode")
    x = e.full(call.tensor("input"))
    parameters = [*_channel_parameters(e, call), *(e.full(part) for part in statistics if part is not None)]
    return e.op("BatchNormalization", [x, *parameters], epsilon=float(call["eps"]))


def _layer_norm(e: Emitter, call: Call) -> None:
    x, normalized = call.tensor("input"), call["normalized_shape"]
    scale = _or_filled(e, call.optional("weight"), 1.0, normalized, call.dtype)
    flat = e.is_only_flat(x) and len(normalized) == 1
    operands = [e.form(x, flat=flat), scale, *_if_given(e, call.optional("bias"))]
    result = e.op("LayerNormalization", operands, axis=-len(normalized), epsilon=float(call["eps"]))
    e.set(call.node, result, flat=flat)


def _group_norm(e: Emitter, call: Call) -> str:
    operands = [e.full(call.tensor("input")), *_channel_parameters(e, call)]
    return e.op("GroupNormalization", operands, num_groups=call["num_groups"], epsilon=float(call["eps"]))


def _rms_norm(e: Emitter, call: Call) -> None:
    x, normalized, weight = call.tensor("input"), call["normalized_shape"], call.optional("weight")
    dtype = tensor_value(x).dtype
    epsilon = torch.finfo(TORCH_DTYPES[dtype]).eps if call["eps"] is None else call["eps"]
    flat = e.is_only_flat(x) and len(normalized) == 1
    source = e.form(x, flat=flat)
    axes = e.constant(list(range(-len(normalized), 0)), "int64")
    mean = e.op("ReduceMean", [e.op("Mul", [source, source]), axes], keepdims=1)
    result = e.op("Div", [source, e.op("Sqrt", [e.op("Add", [mean, e.constant(epsilon, dtype)])])])
    e.set(call.node, e.op("Mul", [result, e.full(weight)]) if weight is not None else result, flat=flat)


RULES: Mapping[Any, Rule] = {
    aten.conv1d.default: _conv,
    aten.conv2d.default: _conv,
    aten.conv3d.default: _conv,
    aten.conv_transpose1d.default: _conv_transpose,
    aten.conv_transpose2d.input: _conv_transpose,
    aten.linear.default: _linear,
    aten.matmul.default: _matmul,
    aten.einsum.default: _einsum,
    aten.embedding.default: _embedding,
    aten.batch_norm.default: _batch_norm,
    aten.layer_norm.default: _layer_norm,
    aten.group_norm.default: _group_norm,
    aten.rms_norm.default: _rms_norm,
}
