"""Quantize and dequantize: QDQ nodes around activations, integer initializers for weights and biases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from gossamer.lowering.call import Call
from gossamer.lowering.emitter import Emitter, stored_name
from gossamer.lowering.pointwise import Rule
from gossamer.lowering.shapes import pad_vector
from gossamer.program import dialect
from gossamer.program.dialect import aten
from gossamer.program.values import TORCH_DTYPES

_CLIPPED = {"uint8": (0, 255), "int8": (-128, 127)}
"""Codes that a quantize in ONNX clips to."""


def code_dtype(low: int, high: int) -> str:
    """The integer type that holds codes low..high."""
    if low >= 0 and high <= 255:
        return "uint8"
    if low >= -128 and high <= 127:
        return "int8"
    return "int32"


def _quantize(e: Emitter, call: Call) -> None:
    scale, zero_point = _grid(e, call)
    e.quantizers[call.node.name] = {
        "dtype": code_dtype(call["low"], call["high"]),
        "axis": call["axis"],
        "scale": scale.double().tolist(),
        "zero_point": zero_point.long().tolist(),
    }
    if call.tensor("x") in e.constants:
        e.set(call.node, e.initializer(_codes_name(call), _codes(e, call)))
    elif padded := _pad_codes(e, call):
        e.set(call.node, padded)
    else:
        _write(e, call, "QuantizeLinear", call.tensor("x"), call)
        _clip_codes(e, call)


def _clip_codes(e: Emitter, call: Call) -> None:
    """Keep codes of fewer bits than their type inside these: ONNX clips at the ends of the type alone.

    On the codes and not before: the integer kernels of the runtimes end with a quantize, not with a clip.
    """
    codes, dtype = (call["low"], call["high"]), code_dtype(call["low"], call["high"])
    if codes == _CLIPPED.get(dtype, codes):
        return
    flat = e.is_only_flat(call.node)
    ends = [e.constant(end, dtype) for end in codes]
    e.set(call.node, e.op("Clip", [e.form(call.node, flat=flat), *ends]), flat=flat)


def _dequantize(e: Emitter, call: Call) -> None:
    quantizer = _quantizer_of(call.node)
    if quantizer is None:
        raise call.unsupported("dequantize of something other than quantize", "a pair")
    _write(e, call, "DequantizeLinear", quantizer.node, quantizer)


def _write(e: Emitter, call: Call, kind: str, x: fx.Node, quantizer: Call) -> None:
    """In flat form where the input is, unless the grid runs along an axis that is merged there."""
    axis, rank = quantizer["axis"], len(call.shape)
    flat = e.is_only_flat(x) and (axis is None or axis % rank == rank - 1)
    onnx_axis = 1 if flat and axis is not None else axis
    e.set(call.node, e.op(kind, [e.form(x, flat=flat), *_parameters(e, quantizer)], axis=onnx_axis), flat=flat)


def _quantizer_of(dequantize: fx.Node) -> Call | None:
    """The quantize behind a dequantize; ``None`` if the node is not such a pair."""
    if dequantize.target is not dialect.dequantize:
        return None
    codes = Call.of(dequantize).tensor("codes")
    return Call.of(codes) if codes.target is dialect.quantize else None


def _grid(e: Emitter, quantizer: Call) -> tuple[Tensor, Tensor]:
    """Scale and zero point of a quantize node; both must be stored tensors."""
    scale, zero_point = quantizer.tensor("scale"), quantizer.tensor("zero_point")
    if scale not in e.constants or zero_point not in e.constants:
        raise quantizer.unsupported("a computed scale", "a static scale")
    return e.constants[scale], e.constants[zero_point]


def _parameters(e: Emitter, quantizer: Call) -> tuple[str, str]:
    """ONNX tensors of scale and zero point: rank 0 for one per tensor, a vector for one per channel."""
    scale, zero_point = _grid(e, quantizer)
    zero = zero_point.to(TORCH_DTYPES[code_dtype(quantizer["low"], quantizer["high"])])
    return (
        e.initializer(stored_name(quantizer.tensor("scale")), scale.float()),
        e.initializer(stored_name(quantizer.tensor("zero_point")), zero),
    )


def _codes(e: Emitter, quantizer: Call) -> Tensor:
    """Integer codes of a quantized constant, made by the operation itself: the file holds what was validated."""
    low, high = quantizer["low"], quantizer["high"]
    held = dialect.quantize(e.constants[quantizer.tensor("x")], *_grid(e, quantizer), quantizer["axis"], low, high)
    # In float32 the largest int32 is one too large, hence the second clamp.
    return held.double().clamp(low, high).to(TORCH_DTYPES[code_dtype(low, high)])


def _codes_name(quantizer: Call) -> str:
    return f"{stored_name(quantizer.tensor('x'))}.codes"


def _pad_codes(e: Emitter, call: Call) -> str | None:
    """Zero padding between a dequantize and a quantize on the same grid, done on the codes.

    The runtimes have no integer form of dequantize, pad, quantize; padding the codes with the zero point is the same.
    """
    node = call.tensor("x")
    if node.target is not aten.pad.default or len(node.users) != 1:
        return None
    pad = Call.of(node)
    before = _quantizer_of(pad.tensor("self"))
    if pad["mode"] != "constant" or pad["value"] or before is None or before.node.args[1:] != call.node.args[1:]:
        return None
    pads = e.sizes(pad_vector(pad["pad"], len(pad.shape)))
    return e.op("Pad", [e.full(before.node), pads, _parameters(e, call)[1]])


def padded_channels(e: Emitter, conv: Call) -> tuple[str, str] | None:
    """Input and kernel of a quantized convolution with the input channels padded to the target's multiple, or ``None``.

    Only for fewer channels than the multiple (the first layer of an image network): the fast kernels need it, and
    zeros times zeros change nothing.
    """
    x, weight = _quantizer_of(conv.tensor("input")), _quantizer_of(conv.tensor("weight"))
    channels, multiple = conv.input_value("weight").shape[1], e.options.input_channel_multiple
    if (
        x is None
        or x["axis"] is not None
        or weight is None
        or conv["groups"] != 1
        or not isinstance(channels, int)
        or channels >= multiple
    ):
        return None
    if weight.tensor("x") not in e.constants:
        return None
    codes = _codes(e, weight)
    wide = torch.zeros(codes.shape[0], multiple, *codes.shape[2:], dtype=codes.dtype)
    wide[:, :channels] = codes
    pads = [0] * (2 * codes.dim())
    pads[codes.dim() + 1] = multiple - channels
    padded = e.op("Pad", [e.full(x.node), e.constant(pads, "int64"), _parameters(e, x)[1]])
    kernel = e.initializer(_codes_name(weight), wide)
    return (
        e.op("DequantizeLinear", [padded, *_parameters(e, x)]),
        e.op("DequantizeLinear", [kernel, *_parameters(e, weight)], axis=weight["axis"]),
    )


def shielded(e: Emitter, layer: Call, result: str) -> str:
    """The result of a float layer between a dequantize and a quantize, behind an identity where the target wants one.

    At its basic level of optimization ONNX Runtime (seen in 1.31) gives the weight of a convolution or Gemm between
    pairs 8 bits and one scale, on its own. Only ReLU and Clip may stand before the second pair; a LeakyReLU of slope 1
    stops it, and is fused into the layer.
    """
    x, weight = (_quantizer_of(layer.tensor(name)) for name in ("input", "weight"))
    if not e.options.shield_float_layers or x is None or x["axis"] is not None or weight is not None:
        return result
    node = layer.node
    while len(node.users) == 1:
        (node,) = node.users
        if node.target is dialect.quantize:
            return e.op("LeakyRelu", [result], alpha=1.0)
        if node.target not in _FOLDED_CLIPS:
            break
    return result


_FOLDED_CLIPS = frozenset({aten.relu.default, aten.hardtanh.default, aten.clamp.default})


def looked_up_rows(e: Emitter, embedding: Call) -> str | None:
    """Rows of a quantized embedding, or ``None`` if it is none: looked up as codes, then scaled.

    Scaling the table first would touch every row at every run.
    """
    weight = _quantizer_of(embedding.tensor("weight"))
    if weight is None or (weight["axis"] is not None and (weight["axis"] != 0 or _grid(e, weight)[1].any())):
        return None
    indices = e.full(embedding.tensor("indices"))
    codes = e.op("Gather", [e.full(weight.node), indices], axis=0)
    scale, zero_point = _parameters(e, weight)
    if weight["axis"] == 0:  # ONNX has no dequantize with looked-up scales
        scales = e.op("Gather", [e.constant(_grid(e, weight)[0].reshape(-1, 1), "float32", scale), indices], axis=0)
        return e.op("Mul", [e.cast(codes, "float32"), scales])
    # Without a zero point, where it is 0: ONNX Runtime 1.31 loses its type when it moves the node behind a Reshape.
    shift = [] if not _grid(e, weight)[1].any() else [zero_point]
    return e.op("DequantizeLinear", [codes, scale, *shift])


RULES: Mapping[Any, Rule] = {dialect.quantize: _quantize, dialect.dequantize: _dequantize}
