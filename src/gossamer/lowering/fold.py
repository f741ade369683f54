"""Constant folding: values that depend on no input are computed once, here, instead of at every run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from gossamer.program import dialect
from gossamer.program.program import Program
from gossamer.program.values import SizeValue

_SMALL_BYTES = 64 * 1024
"""A folded value may be this large whatever it was made from; beyond, it must not be larger than its sources."""


@torch.no_grad()
def fold_constants(program: Program) -> dict[fx.Node, Tensor]:
    """Values of all nodes that are constant, stored tensors included.

    Quantize and dequantize stay in the graph: they are how the file holds integers.
    """
    values: dict[fx.Node, Any] = {}
    source_bytes: dict[fx.Node, int] = {}
    for node in program.graph.nodes:
        if node.op == "get_attr":
            values[node] = program.tensors[node.target]
            source_bytes[node] = values[node].nbytes
        elif node.op == "call_function" and _foldable(node, values):
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
            value = node.target(*args, **kwargs)
            sources = sum(source_bytes[used] for used in node.all_input_nodes)
            held = value.nbytes if isinstance(value, Tensor) else 0
            if held <= max(sources, _SMALL_BYTES):
                values[node] = value
                source_bytes[node] = max(sources, held)
    return {node: value for node, value in values.items() if isinstance(value, Tensor)}


def _foldable(node: fx.Node, known: dict[fx.Node, Any]) -> bool:
    if node.target in (dialect.quantize, dialect.dequantize) or isinstance(node.meta["value"], SizeValue):
        return False
    return all(used in known for used in node.all_input_nodes)
