"""Pieces of a Program as programs of their own, fed with values of the whole; and the whole with inner values exposed.

A piece is a set of nodes. What it reads from outside become its inputs, what others read of it its outputs. Values that
follow from stored tensors or from sizes alone are made again inside each piece that needs them.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import fx
from torch.fx.node import map_arg

from gossamer.core.errors import UnknownName
from gossamer.core.names import nearest
from gossamer.core.specs import Signature, TensorSpec
from gossamer.program import dialect
from gossamer.program.dialect import aten
from gossamer.program.program import Program, outputs_of
from gossamer.program.values import SizeValue, TensorValue, tensor_value

LARGEST_GROUP = 8
"""Nodes that a fused group may have before its quantizer."""


@dataclass(frozen=True)
class Piece:
    """Nodes that are cut out together.

    Attributes:
        nodes: names, in order of execution.
        inputs: names of the values it reads from outside.
        outputs: names of the values that others read of it.
    """

    nodes: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Segment:
    """One or several pieces side by side as a program.

    Attributes:
        program: has an output for each output of each piece, under the name of the node.
        feeds: name of the value of the whole that each input wants, by input name.
    """

    program: Program
    feeds: Mapping[str, str]

    def inputs_from(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Inputs of the segment out of values of the whole by node name."""
        return {name: values[source] for name, source in self.feeds.items()}


def atoms(program: Program) -> list[tuple[str, ...]]:
    """The smallest pieces a program can be cut into, in order of execution.

    A node each, but for those that only make sense together: an operation with several results and its items, the
    quantize and dequantize of a pair. Nodes that depend on no input, and sizes, belong to no piece.
    """
    made = _made_again(program)
    found: dict[fx.Node, list[str]] = {}
    owner: dict[fx.Node, fx.Node] = {}
    for node in program.call_nodes:
        if node in made:
            continue
        together = node.target is operator.getitem or _is_pair(node)
        head = owner.get(node.all_input_nodes[0], node) if together else node
        owner[node] = head
        found.setdefault(head, []).append(node.name)
    return [tuple(names) for names in found.values()]


def fused_groups(program: Program) -> list[tuple[str, ...]]:
    """The atoms of a program, those joined that an integer kernel computes at once.

    Such a group ends with a quantizer of an activation and holds what leads to it from the quantizers before, as far as
    nothing else reads it: convolution, addition, activation function, pair.
    """
    parts = {name: part for part in atoms(program) for name in part}
    by_name = {node.name: node for node in program.call_nodes}
    taken: dict[str, tuple[str, ...]] = {}
    for node in program.call_nodes:
        if node.target is not dialect.quantize or node.name not in parts:
            continue
        names = {name for member in _fused_behind(node, parts) for name in parts[member]} | set(parts[node.name])
        group = tuple(name for name in by_name if name in names)
        taken |= dict.fromkeys(group, group)
    return list(dict.fromkeys(taken.get(part[0], part) for part in parts.values()))


def _fused_behind(quantize: fx.Node, parts: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Names of the nodes whose results reach only this quantize, back to the dequantizes before."""
    found: list[str] = []
    waiting = [(quantize.all_input_nodes[0], quantize)]
    while waiting and len(found) < LARGEST_GROUP:
        node, reader = waiting.pop(0)
        plain = node.name in parts and node.target is not dialect.dequantize
        if plain and set(node.users) == {reader} and isinstance(node.meta["value"], TensorValue):
            found.append(node.name)
            waiting += [(used, node) for used in node.all_input_nodes]
    return found


def pieces_of(program: Program, groups: Iterable[Collection[str]]) -> list[Piece]:
    """The pieces that groups of named nodes make; one that nobody reads of has no outputs.

    Raises:
        UnknownName: a name is no node of the program.
    """
    by_name = _nodes_by_name(program)
    place = {name: index for index, name in enumerate(by_name)}
    made = _made_again(program)
    results = set(outputs_of(program.graph))
    pieces = []
    for group in groups:
        _require(program, by_name, group)
        wanted = set(group)
        members = sorted(wanted, key=place.__getitem__)
        inputs: dict[str, None] = {}
        outputs = []
        for node in map(by_name.__getitem__, members):
            inputs |= {used.name: None for used in node.all_input_nodes if used.name not in wanted and used not in made}
            readers = (user for user in node.users if user.op != "output" and not _is_size(user))
            read = node in results or any(user.name not in wanted for user in readers)
            if read and isinstance(node.meta["value"], TensorValue):
                outputs.append(node.name)
        pieces.append(Piece(tuple(members), tuple(inputs), tuple(outputs)))
    return pieces


def downstream(program: Program, names: Collection[str]) -> Piece:
    """The piece of all nodes that depend on the named values, which are among its inputs."""
    _require(program, _nodes_by_name(program), names)
    reached = set(names)
    for node in program.call_nodes:
        if any(used.name in reached for used in node.all_input_nodes):
            reached.add(node.name)
    return pieces_of(program, [reached - set(names)])[0]


def cut(program: Program, pieces: Iterable[Piece]) -> Segment:
    """Pieces as one program, each computed from its own inputs.

    Where an input is a dequantized value, its quantizer is applied once more inside: that changes no value on the grid,
    and lets the runtime use the integer kernel that it uses in the whole. ``program`` may be another one than that
    which the pieces were found in, as long as it has values of these names.

    Raises:
        UnknownName: an output of a piece is no node of the program.
    """
    return _Cutter(program).cut(list(pieces))


def expose(program: Program, names: Sequence[str]) -> Program:
    """The program with further outputs: these values, under the names of their nodes.

    Raises:
        UnknownName: a name is no node of the program.
    """
    by_name = _nodes_by_name(program)
    _require(program, by_name, names)
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    graph.graph_copy(program.graph, copies)
    taken = {spec.name for spec in program.signature.outputs}
    added = [by_name[name] for name in dict.fromkeys(names) if name not in taken]
    graph.output(tuple(copies[node] for node in (*outputs_of(program.graph), *added)))
    outputs = (*program.signature.outputs, *(_spec(node, node.name) for node in added))
    signature = Signature(program.signature.inputs, outputs, program.signature.dims)
    return Program(program.name, graph, program.tensors, program.roles, signature, program.provenance)


def frontiers(program: Program) -> list[str]:
    """Values that everything behind them depends on and nothing before them, single-tensor cuts, in order."""
    made = _made_again(program)
    order = [node for node in program.graph.nodes if node.op != "get_attr" and node not in made]
    last = {used: index for index, node in enumerate(order) for used in node.all_input_nodes}
    found, reach = [], 0
    for index, node in enumerate(order):
        if node.op == "call_function" and reach <= index and isinstance(node.meta["value"], TensorValue):
            found.append(node.name)
        reach = max(reach, last.get(node, 0))
    return found


class _Cutter:
    """Collects the nodes of one segment."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.by_name = _nodes_by_name(program)
        self.place = {node: index for index, node in enumerate(self.by_name.values())}
        self.graph = fx.Graph()
        self.given: dict[fx.Node, fx.Node] = {}
        self.tensors: dict[fx.Node, fx.Node] = {}

    def cut(self, pieces: Sequence[Piece]) -> Segment:
        """Inputs first, then stored tensors, then the pieces one after the other."""
        _require(self.program, self.by_name, [name for piece in pieces for name in piece.outputs])
        plans = [self._plan(piece) for piece in pieces]
        feeds = {self._input_name(node): node for _, given in plans for node in given}
        for name, node in feeds.items():
            self.given[node] = self._create("placeholder", name, node, name)
        stored = {node for nodes, _ in plans for node in nodes if node.op == "get_attr"}
        stored |= {part for node in feeds.values() if _is_pair(node) for part in node.all_input_nodes[1:]}
        for node in sorted(stored, key=self.place.__getitem__):
            self.tensors[node] = self._create("get_attr", str(node.target), node, node.name)
        results: dict[str, fx.Node] = {}
        for piece, (nodes, given) in zip(pieces, plans, strict=True):
            copies = self._copy(nodes, given)
            results |= {name: copies[self.by_name[name]] for name in piece.outputs}
        self.graph.output(tuple(results.values()))
        whole, names = self.program, {str(node.target) for node in stored}
        signature = Signature(
            tuple(_spec(node, name) for name, node in feeds.items()),
            tuple(_spec(self.by_name[name], name) for name in results),
            whole.signature.dims,
        )
        program = Program(
            f"{whole.name}_segment",
            self.graph,
            {name: tensor for name, tensor in whole.tensors.items() if name in names},
            {name: role for name, role in whole.roles.items() if name in names},
            signature,
            (*whole.provenance, "cut"),
        )
        return Segment(program, {name: node.name for name, node in feeds.items()})

    def _plan(self, piece: Piece) -> tuple[list[fx.Node], list[fx.Node]]:
        """The nodes to copy in order of execution, and the values that they are given."""
        given: dict[fx.Node, None] = {}
        members: set[fx.Node] = set()
        waiting = [self.by_name[name] for name in piece.outputs]
        while waiting:
            node = waiting.pop()
            if node.name in piece.inputs or node.op == "placeholder":
                given[node] = None
            elif node not in members:
                members.add(node)
                waiting += [] if node.target is aten.sym_size.int else node.all_input_nodes
        for size in [node for node in members if node.target is aten.sym_size.int]:
            (measured,) = size.all_input_nodes
            if measured not in members and _holder(size, given) is None:
                given[measured] = None
        return sorted(members, key=self.place.__getitem__), list(given)

    def _copy(self, nodes: Sequence[fx.Node], given: Sequence[fx.Node]) -> dict[fx.Node, fx.Node]:
        copies = {node: self._regridded(node) for node in given}
        for node in nodes:
            if node.op == "get_attr":
                copies[node] = self.tensors[node]
                continue
            args = node.args
            if node.target is aten.sym_size.int and args[0] not in copies:
                args = _holder(node, given) or args
            arguments = map_arg((args, node.kwargs), copies.__getitem__)
            copies[node] = self._create("call_function", node.target, node, node.name, *arguments)
        return copies

    def _regridded(self, node: fx.Node) -> fx.Node:
        """A given value, through the quantizer that it came from if it came from one."""
        if not _is_pair(node):
            return self.given[node]
        quantize, *grid = node.all_input_nodes
        grid = [self.tensors[part] for part in grid]
        codes_args = (self.given[node], *grid, *quantize.args[3:])
        codes = self._create("call_function", dialect.quantize, quantize, f"{node.name}_codes", codes_args)
        args = (codes, *grid, *node.args[3:])
        return self._create("call_function", dialect.dequantize, node, f"{node.name}_again", args)

    def _create(self, op: str, target: Any, like: fx.Node, name: str, *arguments: Any) -> fx.Node:
        node = self.graph.create_node(op, target, *arguments, name=name)
        node.meta.update({key: like.meta[key] for key in ("value", "module", "source") if key in like.meta})
        return node

    def _input_name(self, node: fx.Node) -> str:
        if node.op == "placeholder":
            return str(node.target)
        name = f"{node.name}_given"
        while name in self.by_name:
            name += "_"
        return name


def resume(
    program: Program, values: Mapping[str, np.ndarray], changed: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Outputs of the program if some of its values were others: the nodes behind them are computed again.

    Args:
        program: the whole.
        values: every value of one run by node name, inputs included.
        changed: the values put in place of those, by node name.

    Returns:
        By output name; outputs that depend on no changed value are those of ``values``.
    """
    from gossamer.program.interpreter import Interpreter

    results = dict(zip((spec.name for spec in program.signature.outputs), outputs_of(program.graph), strict=True))
    behind = downstream(program, list(changed))
    found = {**values, **changed}
    if behind.outputs:
        segment = cut(program, [behind])
        found |= Interpreter(segment.program).run(segment.inputs_from(found))
    return {name: found[node.name] for name, node in results.items()}


def _holder(size: fx.Node, given: Iterable[fx.Node]) -> tuple[fx.Node, int] | None:
    """A given value that has the same size along one of its axes, with the axis."""
    wanted = size.meta["value"].expression
    for node in given:
        value = node.meta["value"]
        if isinstance(value, TensorValue) and wanted in value.shape:
            return node, value.shape.index(wanted)
    return None


def _made_again(program: Program) -> set[fx.Node]:
    """Stored tensors, what is computed from these alone, and sizes."""
    found: set[fx.Node] = set()
    for node in program.graph.nodes:
        constant = node.op == "call_function" and all(
            used in found and not _is_size(used) for used in node.all_input_nodes
        )
        if node.op == "get_attr" or _is_size(node) or constant:
            found.add(node)
    return found


def _is_size(node: fx.Node) -> bool:
    return isinstance(node.meta.get("value"), SizeValue)


def _is_pair(node: fx.Node) -> bool:
    """Whether a node is the dequantize of a pair."""
    return node.target is dialect.dequantize and node.all_input_nodes[0].target is dialect.quantize


def _spec(node: fx.Node, name: str) -> TensorSpec:
    value = tensor_value(node)
    return TensorSpec(name, value.dtype, value.shape)


def _nodes_by_name(program: Program) -> dict[str, fx.Node]:
    return {node.name: node for node in program.graph.nodes if node.op != "output"}


def _require(program: Program, by_name: Mapping[str, fx.Node], names: Iterable[str]) -> None:
    for name in names:
        if name not in by_name:
            close = ", ".join(nearest(name, by_name))
            raise UnknownName(
                f"cutting {program.name}", got=f"node {name!r}", expected="a node of the program", try_=close
            )
