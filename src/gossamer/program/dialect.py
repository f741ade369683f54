"""The dialect: every operation that may stand in a Program, and the classes that techniques and targets speak of.

Capture yields many spellings of one thing (``view``, ``flatten``, ``_unsafe_view``, ...). The normaliser reduces them
to the operations below, so that each later stage handles one spelling. ``check`` is the executable form of this page.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

import gossamer.operators.quantization  # noqa: F401 - registers gossamer::quantize and gossamer::dequantize
from gossamer.core.errors import InternalError

_ATEN = {
    "weighted": "conv1d.default conv2d.default conv3d.default conv_transpose1d.default conv_transpose2d.input "
    "linear.default matmul.default einsum.default embedding.default",
    "recurrent": "lstm.input gru.input",
    "attention": "scaled_dot_product_attention.default softmax.int log_softmax.int",
    "norm": "batch_norm.default layer_norm.default group_norm.default rms_norm.default",
    "activation": "relu.default gelu.default silu.default sigmoid.default tanh.default hardtanh.default "
    "hardswish.default hardsigmoid.default leaky_relu.default elu.default softplus.default mish.default prelu.default "
    "clamp.default dropout.default",
    "unary": "abs.default neg.default exp.default log.default sqrt.default rsqrt.default reciprocal.default "
    "erf.default sin.default cos.default tan.default floor.default ceil.default round.default sign.default "
    "logical_not.default isnan.default isinf.default to.dtype",
    "binary": "add.Tensor sub.Tensor mul.Tensor div.Tensor div.Tensor_mode remainder.Tensor remainder.Scalar "
    "pow.Tensor_Tensor pow.Tensor_Scalar pow.Scalar maximum.default minimum.default "
    "eq.Tensor eq.Scalar ne.Tensor ne.Scalar lt.Tensor lt.Scalar le.Tensor le.Scalar gt.Tensor gt.Scalar "
    "ge.Tensor ge.Scalar logical_and.default logical_or.default logical_xor.default "
    "where.self where.ScalarSelf where.ScalarOther where.Scalar",
    "reduction": "mean.dim sum.dim_IntList amax.default amin.default argmax.default argmin.default any.dim all.dim "
    "prod.dim_int var.correction linalg_vector_norm.default cumsum.default topk.default",
    "pooling": "max_pool1d.default max_pool2d.default avg_pool1d.default avg_pool2d.default "
    "upsample_nearest2d.vec upsample_bilinear2d.vec upsample_bicubic2d.vec",
    "shape": "reshape.default permute.default unsqueeze.default squeeze.dims expand.default slice.Tensor select.int "
    "cat.default split_with_sizes.default pad.default repeat.default flip.default pixel_shuffle.default "
    "pixel_unshuffle.default tril.default triu.default",
    "indexing": "index.Tensor index_select.default gather.default scatter.src slice_scatter.default "
    "select_scatter.default",
    "creation": "arange.start_step full.default full_like.default",
    "size": "sym_size.int",
}

_SIZE_ARITHMETIC = (operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod, operator.neg)


def _targets() -> dict[str, Any]:
    table: dict[str, Any] = {}
    for names in _ATEN.values():
        for name in names.split():
            packet, _, overload = name.partition(".")
            table[f"aten.{name}"] = getattr(getattr(torch.ops.aten, packet), overload)
    for name in ("quantize", "dequantize"):
        table[f"gossamer.{name}"] = getattr(torch.ops.gossamer, name).default
    for function in (operator.getitem, *_SIZE_ARITHMETIC):
        table[f"size.{function.__name__}" if function is not operator.getitem else "getitem"] = function
    return table


TARGETS: Mapping[str, Any] = _targets()
"""Every callable a Program may hold, by the name it is saved under. Nothing else is called when a file is loaded."""

NAMES: Mapping[Any, str] = {target: name for name, target in TARGETS.items()}

SIZE_ARITHMETIC = frozenset(_SIZE_ARITHMETIC)

aten = torch.ops.aten
quantize = torch.ops.gossamer.quantize.default
dequantize = torch.ops.gossamer.dequantize.default

CONVOLUTIONS = frozenset({aten.conv1d.default, aten.conv2d.default, aten.conv3d.default})
"""Convolutions with the weight laid out (out channels, in channels / groups, *kernel)."""

TRANSPOSED_CONVOLUTIONS = frozenset({aten.conv_transpose1d.default, aten.conv_transpose2d.input})

CLASSES: Mapping[Any, str] = {
    **dict.fromkeys(CONVOLUTIONS, "conv"),
    **dict.fromkeys(TRANSPOSED_CONVOLUTIONS, "conv_transpose"),
    aten.linear.default: "linear",
    aten.matmul.default: "matmul",
    aten.embedding.default: "embedding",
    aten.add.Tensor: "add",
    aten.mul.Tensor: "mul",
    aten.cat.default: "concat",
    aten.mean.dim: "mean",
    aten.avg_pool2d.default: "avg_pool",
    aten.max_pool2d.default: "max_pool",
    aten.avg_pool1d.default: "avg_pool",
    aten.max_pool1d.default: "max_pool",
    aten.pad.default: "pad",
    aten.slice.Tensor: "slice",
    aten.reshape.default: "reshape",
    aten.permute.default: "permute",
    aten.scaled_dot_product_attention.default: "attention",
}


def op_class(node: fx.Node) -> str:
    """The class of a node in the words of a target's placement rules: ``conv``, ``add``, ..., or an empty text."""
    return CLASSES.get(node.target, "")


def op_name(target: Any) -> str:
    """Short name for texts and tables: ``aten.conv2d.default`` -> ``conv2d``."""
    name = NAMES[target] if target in NAMES else str(target)
    return name.split(".")[1] if name.count(".") else name


def bound_arguments(node: fx.Node) -> dict[str, Any]:
    """All arguments of a call by their schema names, defaults filled in."""
    return bind(node.target, node.args, node.kwargs)


def bind(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of an operation by their schema names, defaults filled in."""
    if not isinstance(target, torch._ops.OpOverload):
        return {str(index): argument for index, argument in enumerate(args)}
    bound: dict[str, Any] = {}
    for index, argument in enumerate(target._schema.arguments):
        if index < len(args) and not argument.kwarg_only:
            bound[argument.name] = args[index]
        elif argument.name in kwargs:
            bound[argument.name] = kwargs[argument.name]
        else:
            bound[argument.name] = argument.default_value if argument.has_default_value() else None
    return bound


def check(graph: fx.Graph) -> None:
    """Raise ``InternalError`` at the first node that breaks the dialect's rules."""
    for node in graph.nodes:
        doing = f"checking node {node.name} against the dialect"
        if node.op == "call_function":
            if node.target not in NAMES:
                raise InternalError(doing, got=str(node.target), expected="an operation of the dialect")
        elif node.op not in ("placeholder", "get_attr", "output"):
            raise InternalError(doing, got=node.op, expected="call_function, placeholder, get_attr or output")
        if node.op != "output" and "value" not in node.meta:
            raise InternalError(doing, got="no dtype and shape on the node")
