"""Faults 1 to 27: wiring, layout, weights and arithmetic of a float graph."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import onnx
import torch
from nets import Net
from planting import (
    Arrays,
    Fault,
    append,
    calls,
    having,
    insert,
    node_of_kind,
    set_attribute,
    shape,
    stored,
    with_arguments,
    with_operand,
    with_result,
)
from torch import fx

from gossamer.program import Edit, Program
from gossamer.program.dialect import aten

CONV, LINEAR, NORM = aten.conv2d.default, aten.linear.default, aten.layer_norm.default
IMAGE_AXES = (0, 2, 3, 1)


def _equal_inputs(net: Net) -> list[str]:
    """The first of two inputs of one dtype and shape."""
    specs = net.program.signature.inputs
    return [a.name for a, b in itertools.pairwise(specs) if (a.dtype, a.shape) == (b.dtype, b.shape)]


def _swap_inputs(inputs: Arrays, site: str) -> Arrays:
    first, second = list(inputs)[:2]
    return {**inputs, first: inputs[second], second: inputs[first]}


def _cubes(net: Net) -> list[str]:
    return [
        spec.name for spec in net.program.signature.inputs if len(set(spec.shape[1:])) == 1 and len(spec.shape) == 4
    ]


def _read_as_other_layout(inputs: Arrays, site: str) -> Arrays:
    return {**inputs, site: np.ascontiguousarray(inputs[site].transpose(IMAGE_AXES))}


def _is_square(node: fx.Node) -> bool:
    weight = shape(node.args[1])
    return (
        len(weight) > 1
        and weight[0] == weight[1]
        and isinstance(node.args[1], fx.Node)
        and node.args[1].op == "get_attr"
    )


def _transposed(edit: Edit, node: fx.Node, weight: fx.Node) -> fx.Node:
    axes = [1, 0, *range(2, len(shape(weight)))]
    return insert(edit, node, aten.permute.default, weight, axes)


def _exchanged_items(program: Program, site: str) -> Program:
    edit = Edit(program)
    for item in list(edit.node(site).users):
        item.args = (item.args[0], {0: 1, 1: 0}.get(item.args[1], item.args[1]))
    return edit.finish("halves exchanged")


def _before_activation(program: Program, site: str) -> Program:
    """The residual of an addition taken from before the activation, where both are in the program."""
    edit = Edit(program)
    add = edit.node(site)
    act = next((used for used in add.all_input_nodes if used.target is aten.relu.default), None)
    if act is None:
        return program
    add.replace_input_with(act, act.args[0])
    return edit.finish("residual from before the activation")


def _adds_activation(node: fx.Node) -> bool:
    relus = [used for used in node.all_input_nodes if used.target is aten.relu.default]
    return any(len(used.users) > 1 for used in relus)


def _bias_elsewhere(program: Program, site: str) -> Program:
    """The bias of a linear layer along the axis before the last, that of a convolution along the last."""
    edit = Edit(program)
    node = edit.node(site)
    bias = node.args[2]
    assert isinstance(bias, fx.Node)
    added = (
        insert(edit, node, aten.unsqueeze.default, bias, 1, sizes=(*shape(bias), 1)) if node.target is LINEAR else bias
    )
    node.args = (*node.args[:2], None, *node.args[3:])
    total = append(edit, node, aten.add.Tensor, node, added)
    edit.replace(node, total)
    return edit.finish("bias along another axis")


def _has_twin_axis(node: fx.Node) -> bool:
    sizes = shape(node)
    if node.args[2:3] in ((), (None,)):
        return False
    return sizes[-1] == sizes[1] and (node.target is CONV or len(sizes) == 3)


def _flattens_images(node: fx.Node) -> bool:
    return len(shape(node.args[0])) == 4 and len(shape(node)) == 2


def _other_order(edit: Edit, node: fx.Node, image: fx.Node) -> fx.Node:
    sizes = [shape(image)[axis] for axis in IMAGE_AXES]
    return insert(edit, node, aten.permute.default, image, list(IMAGE_AXES), sizes=sizes)


def _has_bias(node: fx.Node) -> bool:
    return len(node.args) > 2 and node.args[2] is not None


def _one_sided(node: fx.Node) -> bool:
    return list(node.args[1]) == [0, 1, 0, 1]


def _strides_that_fit(node: fx.Node) -> bool:
    """Stride 2 and dilation 1, exchanged, give the same sizes for seven rows and a kernel of three."""
    return shape(node.args[0])[-1] == 7 and list(node.args[3:4]) == [[2, 2]]


def _stale_statistics(program: Program, site: str) -> Program:
    edit = Edit(program)
    node = edit.node(site)
    mean, variance = (str(part.target) for part in node.args[3:5])
    old = [stored(edit, mean, 0.9 * program.tensors[mean]), stored(edit, variance, 1.1 * program.tensors[variance])]
    node.args = (*node.args[:3], *old, *node.args[5:])
    return edit.finish("statistics from before recovery")


def _on_other_axis(program: Program, site: str) -> Program:
    """An operation along the last axis done along the one before."""
    edit = Edit(program)
    node = edit.node(site)
    axes = [*range(len(shape(node)) - 2), len(shape(node)) - 1, len(shape(node)) - 2]
    node.args = (insert(edit, node, aten.permute.default, node.args[0], axes), *node.args[1:])
    edit.replace(node, append(edit, node, aten.permute.default, node, axes))
    return edit.finish("along another axis")


def _is_square_value(node: fx.Node) -> bool:
    return len(shape(node)) > 2 and shape(node)[-1] == shape(node)[-2]


def _reads_inputs(node: fx.Node) -> bool:
    """Whether only data movement stands between a node and a float input."""
    source = node.args[0]
    while isinstance(source, fx.Node) and source.target in (aten.reshape.default, aten.permute.default):
        source = source.args[0]
    return isinstance(source, fx.Node) and source.op == "placeholder" and source.meta["value"].dtype == "float32"


def _plain_softmax(program: Program, site: str) -> Program:
    edit = Edit(program)
    node = edit.node(site)
    powers = insert(edit, node, aten.exp.default, node.args[0])
    total = insert(edit, node, aten.sum.dim_IntList, powers, [-1], True, sizes=(*shape(node)[:-1], 1))
    share = insert(edit, node, aten.reciprocal.default, total)  # a division would be made a softmax again
    edit.replace(node, insert(edit, node, aten.mul.Tensor, powers, share))
    return edit.finish("softmax without subtracting the maximum")


def _logits_follow_inputs(net: Net) -> list[str]:
    """Where nothing normalises between the inputs and the softmax, its logits grow with them."""
    normal = calls(net.program, NORM, aten.embedding.default)
    return [] if normal else calls(net.program, aten.softmax.int)


def _wrong_scale(program: Program, site: str) -> Program:
    """1 / sqrt of half the head size."""
    edit = Edit(program)
    node = edit.node(site)
    if node.target is aten.div.Tensor:
        node.args = (node.args[0], node.args[1] / math.sqrt(2))
    else:
        size = shape(node.args[0])[-1]
        node.kwargs = {**node.kwargs, "scale": 1 / math.sqrt(size / 2)}
    return edit.finish("scale of the sliced head size")


def _scales(net: Net) -> list[str]:
    return calls(net.program, aten.scaled_dot_product_attention.default) or calls(
        net.program, aten.div.Tensor, where=lambda node: isinstance(node.args[1], float)
    )


def _without_padding(edit: Edit, node: fx.Node) -> fx.Node:
    causal = node.args[0]
    truth = append(edit, node, aten.full_like.default, node, 1, dtype="bool")
    return edit.after(truth, "planted", aten.logical_and.default, (causal, truth), node.meta["value"])


def _round_nearest(model: onnx.ModelProto, names: Sequence[str]) -> None:
    resize = node_of_kind(model, names, "Resize")
    set_attribute(resize, "nearest_mode", "round_prefer_ceil")


def _shifted(program: Program, site: str) -> Program:
    edit = Edit(program)
    node = edit.node(site)
    name = str(node.args[1].target)
    slopes = program.tensors[name]
    distinct = slopes + torch.linspace(0, 0.1, slopes.numel())
    node.args = (node.args[0], stored(edit, name, distinct.roll(1)))
    return edit.finish("slopes of the next channel")


POOLS = (aten.max_pool2d.default, aten.avg_pool2d.default)


def _other_pooling(program: Program, site: str) -> Program:
    pooling = next(node for node in program.call_nodes if node.name == site)
    flip = "ceil_mode" if pooling.target is aten.max_pool2d.default else "count_include_pad"
    return with_arguments(**{flip: lambda given: not given})(program, site)


FAULTS = (
    Fault(1, "two inputs of equal shape swapped", _equal_inputs, in_data=_swap_inputs, names="input map"),
    Fault(2, "NHWC tensor fed as NCHW", _cubes, in_data=_read_as_other_layout, names="input"),
    Fault(3, "square linear weight transposed", having(LINEAR, where=_is_square), with_operand(1, _transposed)),
    Fault(4, "conv weight in/out swapped", having(CONV, where=_is_square), with_operand(1, _transposed)),
    Fault(5, "concat operands exchanged", having(aten.cat.default), with_arguments(tensors=lambda given: given[::-1])),
    Fault(6, "split halves renamed", having(aten.split_with_sizes.default), _exchanged_items),
    Fault(7, "permute left out where two sizes are equal",
          having(aten.permute.default, where=_is_square_value), with_arguments(dims=sorted)),
    Fault(8, "residual taken before the activation",
          having(aten.add.Tensor, where=_adds_activation), _before_activation),
    Fault(9, "bias along the wrong equal-sized axis", having(LINEAR, CONV, where=_has_twin_axis), _bias_elsewhere),
    Fault(10, "flatten in H,W,C order",
          having(aten.reshape.default, where=_flattens_images), with_operand(0, _other_order)),
    Fault(11, "bias dropped", having(LINEAR, CONV, where=_has_bias), with_arguments(bias=None)),
    Fault(12, "padding (1,0) instead of (0,1)",
          having(aten.pad.default, where=_one_sided), with_arguments(pad=[1, 0, 1, 0])),
    Fault(13, "pooling ceil_mode flipped, or padding counted", having(*POOLS), _other_pooling),
    Fault(14, "dilation and stride exchanged",
          having(CONV, where=_strides_that_fit), with_arguments(stride=[1, 1], dilation=[2, 2])),
    Fault(15, "batch-norm eps 1e-5 -> 1e-3", having(aten.batch_norm.default), with_arguments(eps=1e-3)),
    Fault(16, "batch-norm statistics from before recovery", having(aten.batch_norm.default), _stale_statistics),
    Fault(17, "layer norm over the wrong axis", having(NORM, where=_is_square_value), _on_other_axis),
    Fault(18, "norm eps 1e-5 -> 1e-12", having(NORM, where=_reads_inputs), with_arguments(eps=1e-12)),
    Fault(19, "GELU tanh form for the exact form", having(aten.gelu.default), with_arguments(approximate="tanh")),
    Fault(20, "softmax over the wrong axis", having(aten.softmax.int, where=_is_square_value), _on_other_axis),
    Fault(21, "softmax without subtracting the maximum", _logits_follow_inputs, _plain_softmax),
    Fault(22, "attention scale of the sliced head size", _scales, _wrong_scale),
    Fault(23, "causal mask shifted by one", having(aten.tril.default), with_arguments(diagonal=1)),
    Fault(24, "padding mask ignored", having(aten.logical_and.default), with_result(_without_padding)),
    Fault(25, "resize half-pixel against align-corners",
          having(aten.upsample_bilinear2d.vec), with_arguments(align_corners=True)),
    Fault(26, "nearest resize floor against round", having(aten.upsample_nearest2d.vec), in_file=_round_nearest),
    Fault(27, "PReLU slopes shifted by one channel", having(aten.prelu.default), _shifted),
)  # fmt: skip
