"""Quantize and dequantize: QDQ nodes around activations, integer initializers for weights and biases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from gossamer.core.errors import UnsupportedOp
from gossamer.lowering.emitter import Emitter
from gossamer.lowering.pointwise import write_unary
from gossamer.numerics.quantizers import broadcast_along
from gossamer.program import dialect
from gossamer.program.dialect import aten
from gossamer.program.values import tensor_value


def code_dtype(low: int, high: int) -> str:
    """The integer type that holds codes low..high."""
    if low >= 0 and high <= 255:
        return "uint8"
    if low >= -128 and high <= 127:
        return "int8"
    return "int32"


def _grid(e: Emitter, quantizer: fx.Node) -> tuple[Tensor, Tensor]:
    """Scale and zero point of a quantize node; both must be stored tensors."""
    scale, zero_point = quantizer.args[1], quantizer.args[2]
    if scale not in e.constants or zero_point not in e.constants:
        raise UnsupportedOp(
            "lowering to ONNX", got=f"{quantizer.name} with a computed scale", expected="a static scale"
        )
    return e.constants[scale], e.constants[zero_point]  # pyright: ignore[reportArgumentType]


def _codes(e: Emitter, quantizer: fx.Node) -> Tensor:
    """Integer codes of a quantized constant."""
    source, _, _, axis, low, high = quantizer.args
    scale, zero_point = _grid(e, quantizer)
    x = e.constants[source].double()  # pyright: ignore[reportArgumentType]
    step, zero = broadcast_along(scale.double(), x, axis), broadcast_along(zero_point.double(), x, axis)  # pyright: ignore
    codes = torch.clamp(torch.round(x / step) + zero, low, high)  # pyright: ignore[reportArgumentType]
    return codes.to(getattr(torch, code_dtype(low, high)))  # pyright: ignore[reportArgumentType]


def _codes_name(constant: fx.Node) -> str:
    """``conv1.weight.codes``; a computed constant goes by its node's name."""
    return f"{constant.target if constant.op == 'get_attr' else constant.name}.codes"


def _parameters(e: Emitter, quantizer: fx.Node) -> tuple[str, str]:
    """ONNX tensors of scale and zero point: rank 0 for one per tensor, a vector for one per channel."""
    scale, zero_point = _grid(e, quantizer)
    dtype = code_dtype(*quantizer.args[4:6])  # pyright: ignore[reportArgumentType]
    base = str(quantizer.args[1].target)  # pyright: ignore[reportAttributeAccessIssue]
    zero = zero_point.to(getattr(torch, dtype))
    return e.initializer(base, scale.float()), e.initializer(str(quantizer.args[2].target), zero)  # pyright: ignore


def _quantize(e: Emitter, node: fx.Node, **_: Any) -> None:
    source, axis = node.args[0], node.args[3]
    e.quantizers[node.name] = _description(e, node)
    if source in e.constants:
        e.set(node, full=e.initializer(_codes_name(source), _codes(e, node)))  # pyright: ignore
        return
    padded = _pad_codes(e, node)
    if padded is not None:
        e.set(node, full=padded)
        return
    scale, zero_point = _parameters(e, node)
    write_unary(e, node, source, lambda x: e.op("QuantizeLinear", [x, scale, zero_point], axis=axis))  # pyright: ignore


def _dequantize(e: Emitter, node: fx.Node, **_: Any) -> None:
    quantizer = node.args[0]
    if not isinstance(quantizer, fx.Node) or quantizer.target is not dialect.quantize:
        raise UnsupportedOp("lowering to ONNX", got=f"{node.name} of something other than quantize", expected="a pair")
    scale, zero_point = _parameters(e, quantizer)
    axis = quantizer.args[3]
    write_unary(e, node, quantizer, lambda x: e.op("DequantizeLinear", [x, scale, zero_point], axis=axis))


def _pad_codes(e: Emitter, node: fx.Node) -> str | None:
    """Zero padding between a dequantize and a quantize on the same grid, done on the codes.

    The runtimes have no integer form of dequantize, pad, quantize; padding the codes with the zero point is the same.
    """
    pad = node.args[0]
    if not isinstance(pad, fx.Node) or pad.target is not aten.pad.default or len(pad.users) != 1:
        return None
    arguments = dialect.bound_arguments(pad)
    before = arguments["self"]
    if arguments["mode"] != "constant" or arguments["value"] or before.target is not dialect.dequantize:
        return None
    quantizer = before.args[0]
    if quantizer.args[1:] != node.args[1:]:
        return None
    from gossamer.lowering.shapes import pad_vector

    rank = len(tensor_value(pad).shape)
    _, zero_point = _parameters(e, node)
    return e.op("Pad", [e.full(quantizer), e.constant(pad_vector(arguments["pad"], rank), "int64"), zero_point])


def padded_channels(e: Emitter, x: fx.Node, weight: fx.Node, groups: int) -> tuple[str, str] | None:
    """Input and kernel of a quantized convolution with the input channels padded to the target's multiple, or ``None``.

    Only for fewer channels than the multiple (the first layer of an image network): the fast kernels need it, and
    zeros times zeros change nothing.
    """
    channels = tensor_value(weight).shape[1]
    multiple = e.options.input_channel_multiple
    both_quantized = x.target is dialect.dequantize and weight.target is dialect.dequantize
    if not both_quantized or groups != 1 or not isinstance(channels, int) or channels >= multiple:
        return None
    x_quantizer, w_quantizer = x.args[0], weight.args[0]
    rank = len(tensor_value(weight).shape)
    if w_quantizer.args[0] not in e.constants:  # pyright: ignore
        return None
    x_scale, x_zero = _parameters(e, x_quantizer)  # pyright: ignore[reportArgumentType]
    w_scale, w_zero = _parameters(e, w_quantizer)  # pyright: ignore[reportArgumentType]
    codes = _codes(e, w_quantizer)  # pyright: ignore[reportArgumentType]
    wide = torch.zeros(codes.shape[0], multiple, *codes.shape[2:], dtype=codes.dtype)
    wide[:, :channels] = codes
    pads = [0] * (2 * rank)
    pads[rank + 1] = multiple - channels
    x_codes = e.op("Pad", [e.full(x_quantizer), e.constant(pads, "int64"), x_zero])  # pyright: ignore[reportArgumentType]
    name = f"{_codes_name(w_quantizer.args[0])}.padded"  # pyright: ignore[reportArgumentType]
    kernel = e.op("DequantizeLinear", [e.initializer(name, wide), w_scale, w_zero], axis=0)
    return e.op("DequantizeLinear", [x_codes, x_scale, x_zero]), kernel


def _description(e: Emitter, node: fx.Node) -> dict[str, Any]:
    scale, zero_point = _grid(e, node)
    low, high = node.args[4:6]
    return {
        "dtype": code_dtype(low, high),  # pyright: ignore[reportArgumentType]
        "axis": node.args[3],
        "scale": scale.double().tolist(),
        "zero_point": zero_point.long().tolist(),
    }


RULES: Mapping[Any, Any] = {dialect.quantize: _quantize, dialect.dequantize: _dequantize}
