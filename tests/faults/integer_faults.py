"""Faults 28 to 40: grids, integer arithmetic, reduced precision, stored tensors, what does not repeat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import torch
from graph_faults import CONV, LINEAR
from nets import QUANTIZED, Net
from onnx import helper
from planting import (
    Fault,
    append,
    calls,
    having,
    held,
    hold,
    insert,
    node_of_kind,
    put_before,
    put_behind,
    shape,
    stored,
)
from torch import fx

from gossamer.program import Edit, Interpreter, Program, dialect
from gossamer.program.dialect import aten
from gossamer.program.values import tensor_value

WEIGHT_LIMIT = 127


def _activation_pairs(net: Net) -> list[str]:
    return calls(net.program, dialect.quantize, where=lambda node: node.args[0].op != "get_attr")


def _unsigned_pairs(net: Net) -> list[str]:
    """Those that ONNX can recompute at run time."""
    pairs = set(_activation_pairs(net))
    return calls(net.program, dialect.quantize, where=lambda node: node.name in pairs and node.args[5] == 255)


def _weight_pairs(net: Net) -> list[str]:
    def fits(node: fx.Node) -> bool:
        return _limit(node) == WEIGHT_LIMIT and node.args[0].args[0].op == "get_attr"

    return calls(net.program, dialect.dequantize, where=fits)


def _limit(dequantize: fx.Node) -> int:
    return int(dequantize.args[0].args[5])


def _square_weight_pairs(net: Net) -> list[str]:
    """Weights of as many outputs as inputs, with channels on different scales."""
    weights = set(_weight_pairs(net))

    def fits(node: fx.Node) -> bool:
        square = node.name in weights and shape(node)[0] == shape(node)[1]
        return square and len(net.program.tensors[str(node.args[1].target)].unique()) > 1

    return calls(net.program, dialect.dequantize, where=fits)


def _plain_weight_pairs(net: Net) -> list[str]:
    """Weights whose channels are not padded in the file."""
    weights = set(_weight_pairs(net))
    return calls(net.program, dialect.dequantize, where=lambda n: n.name in weights and shape(n)[1] >= 4)


def _clipping_pairs(net: Net) -> list[str]:
    """Pairs with values beyond half of their range."""
    pairs = {name: next(n for n in net.program.call_nodes if n.name == name) for name in _activation_pairs(net)}
    values = Interpreter(net.program).run(net.cases[0].inputs, list(pairs))
    zeros = {name: float(net.program.tensors[str(node.args[2].target)]) for name, node in pairs.items()}
    ends = {name: node.args[5] for name, node in pairs.items()}
    return [
        name for name, zero in zeros.items() if np.mean(np.abs(values[name] - zero) > 0.6 * (ends[name] - zero)) > 0.01
    ]


def _bias_pairs(net: Net) -> list[str]:
    return calls(net.program, dialect.dequantize, where=lambda node: _limit(node) > 255)


def _tying_pairs(net: Net) -> list[str]:
    """Pairs on values that often lie half way between two codes, most such first."""
    pairs = {name: next(n for n in net.program.call_nodes if n.name == name) for name in _activation_pairs(net)}
    values = Interpreter(net.program).run(net.cases[0].inputs, [node.args[0].name for node in pairs.values()])
    shares = {}
    for name, node in pairs.items():
        scale = float(net.program.tensors[str(node.args[1].target)])
        codes = values[node.args[0].name] / scale
        shares[name] = float(np.mean(codes - np.floor(codes) == 0.5))
    return [name for name in sorted(shares, key=lambda name: -shares[name]) if shares[name] > 0.01]


def _zero_point_off(model: onnx.ModelProto, names: Sequence[str]) -> None:
    quantize = node_of_kind(model, names, "QuantizeLinear")
    zero = held(model, quantize.input[2])
    quantize.input[2] = hold(model, "planted", zero + zero.dtype.type(1))


def _other_axis(program: Program, site: str) -> Program:
    """The codes of a weight multiplied by the scales of its other axis, and stored so."""
    edit = Edit(program)
    node = edit.node(site)
    quantize = node.args[0]
    assert isinstance(quantize, fx.Node)
    weight, scale, zero = (program.tensors[str(part.target)] for part in quantize.args[:3])
    codes = dialect.quantize(weight, scale, zero, *quantize.args[3:])
    edit.replace(node, stored(edit, site, dialect.dequantize(codes, scale, zero, 1)))
    return edit.finish("scales on the wrong axis")


def _scaled_grid(factor: float):
    """The grid of a pair, both halves of it, with its scale times a factor."""

    def plant(program: Program, site: str) -> Program:
        edit = Edit(program)
        node = edit.node(site)
        quantize = node if node.target is dialect.quantize else node.args[0]
        assert isinstance(quantize, fx.Node)
        name = str(quantize.args[1].target)
        scale = stored(edit, name, program.tensors[name] * factor)
        for part in (quantize, *quantize.users):
            if part.target in (dialect.quantize, dialect.dequantize):
                part.args = (part.args[0], scale, *part.args[2:])
        return edit.finish("another scale")

    return plant


def _recomputed(model: onnx.ModelProto, names: Sequence[str]) -> None:
    quantize = node_of_kind(model, names, "QuantizeLinear")
    codes = quantize.output[0]
    dynamic = helper.make_node("DynamicQuantizeLinear", [quantize.input[0]], [codes, "planted_scale", "planted_zero"])
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] == codes:
            node.input[1], node.input[2] = "planted_scale", "planted_zero"
    put_before(model, quantize, dynamic)
    model.graph.node.remove(quantize)


def _read_as_unsigned(model: onnx.ModelProto, names: Sequence[str]) -> None:
    dequantize = node_of_kind(model, names, "DequantizeLinear")
    codes, zero = (held(model, dequantize.input[index]) for index in (0, 2))
    dequantize.input[0] = hold(model, "planted_codes", codes.view(np.uint8))
    dequantize.input[2] = hold(model, "planted_zero", zero.view(np.uint8))


def _half_away(model: onnx.ModelProto, names: Sequence[str]) -> None:
    """sign(v) floor(|v| + 1/2) in place of rounding half to even."""
    quantize = node_of_kind(model, names, "QuantizeLinear")
    x, scale, zero = quantize.input
    zero_value = held(model, zero)
    hold(model, "planted_half", np.float32(0.5))
    hold(model, "planted_zero", zero_value.astype(np.float32))
    ends = np.iinfo(zero_value.dtype)
    hold(model, "planted_low", np.float32(ends.min))
    hold(model, "planted_high", np.float32(ends.max))
    steps = [
        ("Div", [x, scale]), ("Abs", ["planted0"]), ("Add", ["planted1", "planted_half"]), ("Floor", ["planted2"]),
        ("Sign", ["planted0"]), ("Mul", ["planted3", "planted4"]), ("Add", ["planted5", "planted_zero"]),
        ("Clip", ["planted6", "planted_low", "planted_high"]),
    ]  # fmt: skip
    made = [helper.make_node(kind, operands, [f"planted{index}"]) for index, (kind, operands) in enumerate(steps)]
    made.append(
        helper.make_node(
            "Cast", ["planted7"], [quantize.output[0]], to=helper.np_dtype_to_tensor_dtype(zero_value.dtype)
        )
    )
    put_before(model, quantize, *made)
    model.graph.node.remove(quantize)


def _fused_relus(net: Net) -> list[str]:
    return calls(net.program, aten.relu.default, where=_is_fused)


def _is_fused(relu: fx.Node) -> bool:
    """Between a convolution or sum that nothing else reads and a quantizer, as a kernel takes it in."""
    source = relu.args[0]
    if not isinstance(source, fx.Node) or source.target not in (CONV, aten.add.Tensor) or len(source.users) != 1:
        return False
    return {user.target for user in relu.users} == {dialect.quantize}


def _wrong_zero_of_fused(program: Program, site: str) -> Program:
    """A fused ReLU that cuts off at code 3 in place of the zero point; one that stands alone is right."""
    edit = Edit(program)
    relu = edit.node(site)
    if not _is_fused(relu):
        return program
    (quantize,) = relu.users
    scale = float(program.tensors[str(quantize.args[1].target)])
    made = edit.after(relu, "planted", aten.clamp.default, (relu.args[0], 3 * scale), relu.meta["value"])
    edit.replace(relu, made)
    return edit.finish("fused ReLU with the wrong zero point")


def _integer_linears(net: Net) -> list[str]:
    """Quantized linear layers in which a pair of products saturates for some real input, most of them first."""
    layers = [
        node for node in net.program.call_nodes if node.target is LINEAR and node.args[1].target is dialect.dequantize
    ]
    shares = {}
    for layer in layers:
        x, weight = (operand.args[0] for operand in layer.args[:2])
        values = Interpreter(net.program).run(net.cases[0].inputs, [x.name, weight.name])
        columns, rows = values[x.name].reshape(-1, shape(weight)[1]), values[weight.name]
        pairs = (columns[:, None] * rows[None]).reshape(len(columns), len(rows), -1, 2).sum(-1)
        shares[layer.name] = float(np.mean((pairs > 2**15 - 1) | (pairs < -(2**15))))
    return [name for name in sorted(shares, key=lambda name: -shares[name]) if shares[name]]


def _saturating(program: Program, site: str) -> Program:
    """Products of u8 and s8 codes added two by two in 16 bits, as processors without VNNI do."""
    edit = Edit(program)
    node = edit.node(site)
    x, weight = node.args[:2]
    assert isinstance(x, fx.Node)
    assert isinstance(weight, fx.Node)
    scale, zero = (program.tensors[str(part.target)] for part in x.args[1:3])
    pair = weight.args[0]
    held_weight, weight_scale = (program.tensors[str(part.target)] for part in pair.args[:2])
    codes = torch.round(held_weight / weight_scale[:, None]).clamp(-WEIGHT_LIMIT, WEIGHT_LIMIT)
    outputs, inputs = codes.shape
    rows = list(shape(x)[:-1])
    free = [-1 if isinstance(size, str) else size for size in rows]

    def call(target, *args, sizes):
        return insert(edit, node, target, *args, sizes=sizes)

    integers = call(aten.div.Tensor, x, float(scale), sizes=(*rows, inputs))
    unsigned = call(aten.add.Tensor, integers, float(zero), sizes=(*rows, inputs))
    spread = call(aten.reshape.default, unsigned, [*free, 1, inputs], sizes=(*rows, 1, inputs))
    products = call(aten.mul.Tensor, spread, stored(edit, f"{site}.codes", codes), sizes=(*rows, outputs, inputs))
    twos = call(
        aten.reshape.default, products, [*free, outputs, inputs // 2, 2], sizes=(*rows, outputs, inputs // 2, 2)
    )
    sums = call(aten.sum.dim_IntList, twos, [-1], sizes=(*rows, outputs, inputs // 2))
    saturated = call(aten.clamp.default, sums, -(2.0**15), 2.0**15 - 1, sizes=(*rows, outputs, inputs // 2))
    total = call(aten.sum.dim_IntList, saturated, [-1], sizes=(*rows, outputs))
    exact = call(
        aten.sub.Tensor, total, stored(edit, f"{site}.shift", float(zero) * codes.sum(1)), sizes=(*rows, outputs)
    )
    real = call(aten.mul.Tensor, exact, stored(edit, f"{site}.steps", scale * weight_scale), sizes=(*rows, outputs))
    bias = node.args[2]
    edit.replace(node, real if bias is None else call(aten.add.Tensor, real, bias, sizes=(*rows, outputs)))
    return edit.finish("sums of pairs in 16 bits")


def _overflowing(program: Program, site: str) -> Program:
    """Infinite from 1024 on, as a sum of products in half precision is that is scaled by 1/64 afterwards."""
    edit = Edit(program)
    node = edit.node(site)
    size = append(edit, node, aten.abs.default, node)
    fits = append(edit, size, aten.lt.Scalar, size, 1024.0, dtype="bool")
    one_or_zero = append(edit, fits, aten.to.dtype, fits, torch.float32, dtype="float32")
    made = append(edit, one_or_zero, aten.div.Tensor, node, one_or_zero)
    edit.replace(node, made, [user for user in list(node.users) if user not in (size, made)])
    return edit.finish("half precision in one node")


def _grows_with_inputs(net: Net) -> list[str]:
    """Convolutions of images, which nothing normalises for a given input."""
    return calls(net.program, CONV, where=lambda node: node.args[1].op == "get_attr")


def _in_bfloat16(program: Program, site: str) -> Program:
    edit = Edit(program)
    node = edit.node(site)
    operands = []
    for operand in node.args[:2]:
        assert isinstance(operand, fx.Node)
        short = insert(edit, node, aten.to.dtype, operand, torch.bfloat16, dtype="bfloat16")
        operands.append(insert(edit, node, aten.to.dtype, short, torch.float32, dtype=tensor_value(operand).dtype))
    node.args = (*operands, *node.args[2:])
    return edit.finish("operands in bfloat16")


def _computed_short(net: Net) -> list[str]:
    """The layers that OpenVINO computes in bfloat16 when told so, on processors that can."""
    import openvino

    able = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return FLOAT_LAYERS(net) if able and net.name not in QUANTIZED else []


def _older_weight(model: onnx.ModelProto, names: Sequence[str]) -> None:
    name = node_of_kind(model, names, "Conv", "Gemm").input[1]
    entry = next(entry for entry in model.graph.initializer if entry.name == name)
    values = onnx.numpy_helper.to_array(entry)
    older = values * (1 + 0.02 * np.random.default_rng(0).standard_normal(values.shape))
    entry.CopyFrom(onnx.numpy_helper.from_array(older.astype(values.dtype), name))


def _active_dropout(model: onnx.ModelProto, names: Sequence[str]) -> None:
    node = node_of_kind(model, names, *ACTIVATION_KINDS)
    out = node.output[0]
    node.output[0] = "planted_whole"
    hold(model, "planted_share", np.float32(0.1))
    hold(model, "planted_none", np.int64(0))
    made = [  # always training, in a way that the runtime cannot know when it removes dropouts
        helper.make_node("Size", ["planted_whole"], ["planted_size"]),
        helper.make_node("Greater", ["planted_size", "planted_none"], ["planted_training"]),
        helper.make_node("Dropout", ["planted_whole", "planted_share", "planted_training"], [out]),
    ]
    put_behind(model, node, *made)


def _drawn_mask(model: onnx.ModelProto, names: Sequence[str]) -> None:
    """Dropout spelled out, for a runtime that has none."""
    node = node_of_kind(model, names, *ACTIVATION_KINDS)
    out = node.output[0]
    node.output[0] = "planted_whole"
    hold(model, "planted_share", np.float32(0.1))
    made = [
        helper.make_node("RandomUniformLike", ["planted_whole"], ["planted_draw"]),
        helper.make_node("Greater", ["planted_draw", "planted_share"], ["planted_kept"]),
        helper.make_node("Cast", ["planted_kept"], ["planted_mask"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", ["planted_whole", "planted_mask"], [out]),
    ]
    put_behind(model, node, *made)


ACTIVATION_KINDS = ("Relu", "Gelu", "Tanh", "Sigmoid")
FLOAT_LAYERS = having(CONV, LINEAR, where=lambda node: node.args[1].op == "get_attr")
ACTIVATIONS = having(aten.relu.default, aten.gelu.default, aten.tanh.default, aten.sigmoid.default)


def _float_activations(net: Net) -> list[str]:
    return [] if _activation_pairs(net) else ACTIVATIONS(net)


FAULTS = (
    Fault(28, "zero point off by one in one tensor", _activation_pairs, in_file=_zero_point_off),
    Fault(29, "per-channel scales on the wrong axis", _square_weight_pairs, _other_axis),
    Fault(30, "activation range x 0.5", _clipping_pairs, _scaled_grid(0.5)),
    Fault(31, "an encoding missing, recomputed at run time", _unsigned_pairs, in_file=_recomputed),
    Fault(32, "bias scale not input scale x weight scale", _bias_pairs, _scaled_grid(1.25), on="onnxruntime"),
    Fault(33, "s8 data read as u8", _plain_weight_pairs, in_file=_read_as_unsigned),
    Fault(34, "rounding half away from zero", _tying_pairs, in_file=_half_away),
    Fault(35, "ReLU fused with the wrong zero point", _fused_relus, _wrong_zero_of_fused, names="group"),
    Fault(36, "pairs of products saturate in 16 bits", _integer_linears, _saturating),
    Fault(37, "fp16 overflow in one node", _grows_with_inputs, _overflowing),
    Fault(38, "bf16 product under the fp32 policy",
          FLOAT_LAYERS, _in_bfloat16, names="bfloat16", on="onnxruntime"),
    Fault(38, "bf16 product under the fp32 policy",
          _computed_short, option={"precision": "bfloat16"}, names="bfloat16", on="openvino"),
    Fault(39, "constant from an older checkpoint", FLOAT_LAYERS, in_file=_older_weight, names="values of"),
    Fault(40, "dropout left active",
          _float_activations, in_file=_active_dropout, names="run again", on="onnxruntime"),
    Fault(40, "dropout left active", _float_activations, in_file=_drawn_mask, names="run again", on="openvino"),
)  # fmt: skip
