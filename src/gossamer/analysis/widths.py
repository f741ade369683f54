"""What a program would cost if its groups had other sizes: closed forms, nothing is cut."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import fx

from gossamer.analysis.axes import Axis, Concat, Dim, Product
from gossamer.analysis.counts import counts_macs, macs_of
from gossamer.analysis.coupling import Coupling
from gossamer.program.sizes import size_value

Counts = Mapping[str, int]
"""Units by group; groups that are not named have all."""


class Widths:
    """Counts of a program at any sizes of its groups; they equal those of the program cut to these sizes.

    Args:
        coupling: the groups.
        dims: sizes of named dims; those not given have their smallest.
    """

    def __init__(self, coupling: Coupling, dims: Mapping[str, int] | None = None) -> None:
        self._trace = coupling.trace
        self._names = {leaf.id: name for name, leaf in coupling.leaves.items()}
        signature = coupling.program.signature
        self._dims = {name: low for name, (low, _) in signature.dims.items()} | dict(dims or {})
        self._counting = {node: self._groups_at(node) for node in coupling.program.call_nodes if counts_macs(node)}
        tensors, roles = coupling.program.tensors, coupling.program.roles
        stored = [node for node in coupling.program.graph.nodes if node.op == "get_attr"]
        parameters = [node for node in stored if roles[str(node.target)] == "parameter"]
        self._parameters = list({id(tensors[str(node.target)]): node for node in parameters}.values())
        self._known: dict[Any, int] = {}

    def macs(self, counts: Counts) -> int:
        """Multiply-accumulates; what no count touches is remembered from call to call."""
        return sum(self._macs_at(node, counts) for node in self._counting)

    def parameters(self, counts: Counts) -> int:
        """Trained values, tied ones once."""
        return sum(math.prod(self._shape(node, counts)) for node in self._parameters)

    def _macs_at(self, node: fx.Node, counts: Counts) -> int:
        key = (node, *(counts.get(name) for name in self._counting[node]))
        if key not in self._known:
            self._known[key] = macs_of(node, lambda used: self._shape(used, counts))
        return self._known[key]

    def _groups_at(self, node: fx.Node) -> list[str]:
        """The groups on which a node's shapes depend."""
        found: dict[str, None] = {}
        for used in (node, *node.all_input_nodes):
            value = self._trace.values.get(used, ())
            for axis in [axis for part in value for axis in part] if isinstance(value, list) else value:
                for leaf in self._trace.axes.leaves(axis):
                    if leaf.id in self._names:
                        found[self._names[leaf.id]] = None
        return list(found)

    def _shape(self, node: fx.Node, counts: Counts) -> tuple[int, ...]:
        axes = self._trace.axes_of(node)
        sizes = [size_value(size, self._dims) for size in node.meta["value"].shape]
        return tuple(size * self._size(axis, counts) // axis.size for size, axis in zip(sizes, axes, strict=True))

    def _size(self, axis: Axis, counts: Counts) -> int:
        if isinstance(axis, Dim):
            return counts.get(self._names.get(axis.id, ""), axis.size)
        if isinstance(axis, Product):
            return math.prod(self._size(factor, counts) for factor in axis.factors)
        if isinstance(axis, Concat):
            return sum(self._size(part, counts) for part in axis.parts)
        return axis.size
