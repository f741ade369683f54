"""Constant folding: values that depend on no input are computed once, here, instead of at every run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from gossamer.program import dialect
from gossamer.program.program import Program
from gossamer.program.values import SizeValue

_SMALL_BYTES = 64 * 1024
"""A folded value may be this large whatever it was made from; beyond, it must not be larger than its sources."""


@torch.no_grad()
def fold_constants(program: Program) -> dict[fx.Node, Any]:
    """Values of all nodes that are constant, stored tensors included; an operation with several results has a sequence.

    Quantize and dequantize stay in the graph: they are how the file holds integers.
    """
    values: dict[fx.Node, Any] = {}
    source_bytes: dict[fx.Node, int] = {}
    for node in program.graph.nodes:
        if node.op == "get_attr":
            values[node] = program.tensors[node.target]
            source_bytes[node] = values[node].nbytes
        elif node.op == "call_function" and _is_constant(node, values):
            args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
            value = node.target(*args, **kwargs)
            sources = sum(source_bytes[used] for used in node.all_input_nodes)
            held = value.nbytes if isinstance(value, Tensor) else sum(part.nbytes for part in value)
            if held <= max(sources, _SMALL_BYTES):
                values[node] = value
                source_bytes[node] = max(sources, held)
    return values


def _is_constant(node: fx.Node, known: Mapping[fx.Node, Any]) -> bool:
    if node.target in (dialect.quantize, dialect.dequantize) or isinstance(node.meta["value"], SizeValue):
        return False
    return all(used in known for used in node.all_input_nodes)
