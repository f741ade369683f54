"""Batch-norm folding: a batch norm right behind a convolution or linear layer becomes part of its weight and bias.

    W' = W * g / sqrt(v + eps)        b' = (b - mean) * g / sqrt(v + eps) + beta

Computed in float64; exact in eval mode up to rounding. Training a folded program trains without batch norm.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from gossamer.numerics.quantizers import broadcast_along
from gossamer.program import dialect
from gossamer.program.edit import Edit
from gossamer.program.program import Program
from gossamer.program.values import tensor_value

_WEIGHT_AXIS: Mapping[Any, int] = {
    **dict.fromkeys(dialect.CONVOLUTIONS, 0),
    **dict.fromkeys(dialect.TRANSPOSED_CONVOLUTIONS, 1),
    dialect.aten.linear.default: 0,
}


def fold_batch_norms(program: Program) -> Program:
    """The program with each foldable batch norm folded; the same program if there is none.

    Left alone: a norm whose input has other readers, whose layer shares its weight with another, or whose layer is a
    grouped transposed convolution.
    """
    edit = Edit(program)
    folded = 0
    for norm in program.call_nodes:
        if norm.target is dialect.aten.batch_norm.default and _foldable(program, norm):
            _fold(program, edit, norm)
            folded += 1
    return edit.finish(f"folded {folded} batch norms") if folded else program


def _foldable(program: Program, norm: fx.Node) -> bool:
    layer = norm.args[0]
    if not isinstance(layer, fx.Node) or layer.target not in _WEIGHT_AXIS or len(layer.users) != 1:
        return False
    arguments = dialect.bound_arguments(layer)
    weight, bias, statistics = arguments["weight"], arguments["bias"], norm.args[3]
    if layer.target is dialect.aten.linear.default and len(tensor_value(layer).shape) != 2:
        return False  # the norm's channel axis is not the layer's last one
    if layer.target in dialect.TRANSPOSED_CONVOLUTIONS and arguments["groups"] != 1:
        return False
    owned = all(part is None or (part.op == "get_attr" and len(part.users) == 1) for part in (weight, bias))
    return owned and statistics is not None and _unshared(program, str(weight.target))


def _unshared(program: Program, name: str) -> bool:
    return sum(tensor is program.tensors[name] for tensor in program.tensors.values()) == 1


def _fold(program: Program, edit: Edit, norm: fx.Node) -> None:
    layer = norm.args[0]
    assert isinstance(layer, fx.Node)
    arguments, norms = dialect.bound_arguments(layer), dialect.bound_arguments(norm)
    weight_name = str(arguments["weight"].target)

    def stored(node: fx.Node | None, default: float) -> Tensor:
        return torch.tensor(default).double() if node is None else program.tensors[str(node.target)].detach().double()

    weight = stored(arguments["weight"], 0.0)
    factor = stored(norms["weight"], 1.0) / torch.sqrt(stored(norms["running_var"], 1.0) + norms["eps"])
    bias = (stored(arguments["bias"], 0.0) - stored(norms["running_mean"], 0.0)) * factor + stored(norms["bias"], 0.0)
    dtype = program.tensors[weight_name].dtype
    folded_weight = weight * broadcast_along(factor, weight, _WEIGHT_AXIS[layer.target])
    bias_name = str(arguments["bias"].target) if arguments["bias"] is not None else _bias_name(weight_name)
    edit.tensor(weight_name, folded_weight.to(dtype), program.roles[weight_name])
    bias_node = edit.tensor(bias_name, bias.to(dtype), program.roles[weight_name])
    copy = edit.node(layer)
    copy.args = (*copy.args[:2], bias_node, *copy.args[3:])
    edit.replace(edit.node(norm), copy)


def _bias_name(weight_name: str) -> str:
    prefix, dot, leaf = weight_name.rpartition(".")
    return f"{prefix}{dot}{leaf.replace('weight', 'bias') if 'weight' in leaf else leaf + '_bias'}"
