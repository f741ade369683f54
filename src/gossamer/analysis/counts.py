"""Closed-form counts of a Program: multiply-accumulates of each node, from shapes alone, and parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx

from gossamer.core.errors import UnknownName
from gossamer.program.dialect import CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS, aten, bound_arguments
from gossamer.program.program import Program
from gossamer.program.sizes import size_value
from gossamer.program.values import tensor_value

Shape = Callable[[fx.Node], tuple[int, ...]]


@dataclass(frozen=True)
class Counts:
    """What a program does and holds at one choice of its named dims.

    Attributes:
        macs: multiply-accumulates of each convolution, linear or recurrent layer, product, einsum and attention,
            by node name. Element-wise operations, norms, look-ups and quantizers count nothing, and neither does what
            depends on no input: it is computed once, when the program is lowered.
        parameters: trained values, each tied weight once.
    """

    macs: Mapping[str, int]
    parameters: int

    @property
    def total(self) -> int:
        """Multiply-accumulates of the whole program."""
        return sum(self.macs.values())


def count(program: Program, dims: Mapping[str, int] | None = None) -> Counts:
    """Count a program.

    Args:
        program: what to count.
        dims: sizes of named dims; those not given have the smallest that the signature allows.

    Raises:
        UnknownName: ``dims`` names none of the program's.
    """
    known = program.signature.dims
    unknown = sorted({*(dims or {})} - {*known})
    if unknown:
        raise UnknownName(
            f"counting {program.name}", got=f"dim {unknown[0]!r}", expected=f"named dims: {', '.join(known) or 'none'}"
        )
    sizes = {name: low for name, (low, _) in known.items()} | dict(dims or {})

    def shape(node: fx.Node) -> tuple[int, ...]:
        return tuple(size_value(size, sizes) for size in tensor_value(node).shape)

    return Counts({node.name: macs_of(node, shape) for node in counted_nodes(program)}, program.parameter_count)


def counted_nodes(program: Program) -> list[fx.Node]:
    """The nodes with multiply-accumulates that depend on an input, in order of execution."""
    running: set[fx.Node] = set()
    for node in program.graph.nodes:
        if node.op == "placeholder" or not running.isdisjoint(node.all_input_nodes):
            running.add(node)
    return [node for node in program.call_nodes if node in running and counts_macs(node)]


def counts_macs(node: fx.Node) -> bool:
    """Whether a node has multiply-accumulates."""
    return node.target in _RULES


def macs_of(node: fx.Node, shape: Shape) -> int:
    """Multiply-accumulates of one node that has any, if values had the shapes that ``shape`` says."""
    return _RULES[node.target](node, shape)


def _layer(node: fx.Node, shape: Shape) -> int:
    """Convolution or linear layer: each output sums over all but the first axis of the weight."""
    weight = bound_arguments(node)["weight"]
    return math.prod(shape(node)) * math.prod(shape(weight)[1:])


def _transposed(node: fx.Node, shape: Shape) -> int:
    """Transposed convolution: each input goes to all but the first axis of the weight."""
    arguments = bound_arguments(node)
    return math.prod(shape(arguments["input"])) * math.prod(shape(arguments["weight"])[1:])


def _product(node: fx.Node, shape: Shape) -> int:
    """Matrix product: each output sums over the last axis of the first factor."""
    return math.prod(shape(node)) * shape(bound_arguments(node)["self"])[-1]


def _attention(node: fx.Node, shape: Shape) -> int:
    """Attention: scores, then their product with the values, over all pairs of positions whatever is masked."""
    arguments = bound_arguments(node)
    query, key = shape(arguments["query"]), shape(arguments["key"])
    value = shape(arguments["value"])
    return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _einsum(node: fx.Node, shape: Shape) -> int:
    """Einstein sum: each combination of letters once, as one contraction of all factors; one factor is only moved."""
    arguments = bound_arguments(node)
    if len(arguments["tensors"]) == 1:
        return 0
    terms = arguments["equation"].replace(" ", "").partition("->")[0].split(",")
    sizes: dict[str, int] = {}
    for term, factor in zip(terms, arguments["tensors"], strict=True):
        before, dots, after = term.partition("...")
        own = shape(factor)
        hidden = len(own) - len(before) - len(after)
        letters = [*before, *(f"...{hidden - i}" for i in range(hidden if dots else 0)), *after]
        for letter, size in zip(letters, own, strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    return math.prod(sizes.values())


def _recurrent(node: fx.Node, shape: Shape) -> int:
    """LSTM or GRU: each weight matrix once for every step of every sequence."""
    arguments = bound_arguments(node)
    batch_steps = math.prod(shape(arguments["input"])[:2])
    weights: list[Any] = [weight for weight in arguments["params"] if len(shape(weight)) == 2]
    return batch_steps * sum(math.prod(shape(weight)) for weight in weights)


_RULES: Mapping[Any, Callable[[fx.Node, Shape], int]] = {
    **dict.fromkeys([*CONVOLUTIONS, aten.linear.default], _layer),
    **dict.fromkeys(TRANSPOSED_CONVOLUTIONS, _transposed),
    aten.matmul.default: _product,
    aten.einsum.default: _einsum,
    aten.scaled_dot_product_attention.default: _attention,
    aten.lstm.input: _recurrent,
    aten.gru.input: _recurrent,
}
