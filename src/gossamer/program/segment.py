"""Pieces of a Program as programs of their own, fed with values of the whole; and the whole with inner values exposed.

A piece is a set of nodes. What it reads from outside become its inputs, what others read of it its outputs. Values that
follow from stored tensors or from sizes alone are made again inside each piece that needs them.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import fx

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
        head = node
        if node.target is operator.getitem or (node.target is dialect.dequantize and _is_pair(node)):
            (source,) = node.all_input_nodes[:1]
            head = owner.get(source, node)
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
    waiting = [(quantize.args[0], quantize)]
    while waiting and len(found) < LARGEST_GROUP:
        node, reader = waiting.pop(0)
        plain = isinstance(node, fx.Node) and node.name in parts and node.target is not dialect.dequantize
        if plain and set(node.users) == {reader} and isinstance(node.meta["value"], TensorValue):
            found.append(node.name)
            waiting += [(used, node) for used in node.all_input_nodes]
    return found


def piece_of(program: Program, names: Collection[str]) -> Piece:
    """The piece that the named nodes make; without outputs if nobody reads of it.

    Raises:
        UnknownName: a name is no node of the program.
    """
    wanted = set(names)
    _require_nodes(program, wanted)
    made = _made_again(program)
    results = set(outputs_of(program.graph))
    members = [node for node in program.call_nodes if node.name in wanted]
    inputs: dict[str, None] = {}
    outputs = []
    for node in members:
        for used in node.all_input_nodes:
            if used.name not in wanted and used not in made:
                inputs[used.name] = None
        read = node in results or any(
            user.name not in wanted and user.op != "output" and not _is_size(user) for user in node.users
        )
        if read and isinstance(node.meta["value"], TensorValue):
            outputs.append(node.name)
    return Piece(tuple(node.name for node in members), tuple(inputs), tuple(outputs))


def downstream(program: Program, names: Collection[str]) -> Piece:
    """The piece of all nodes that depend on the named values, which are among its inputs."""
    _require_nodes(program, set(names))
    reached = set(names)
    for node in program.call_nodes:
        if any(used.name in reached for used in node.all_input_nodes):
            reached.add(node.name)
    return piece_of(program, reached - set(names))


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
    by_name = _require_nodes(program, set(names))
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    results = graph.graph_copy(program.graph, copies)
    taken = {spec.name for spec in program.signature.outputs}
    added = [by_name[name] for name in dict.fromkeys(names) if name not in taken]
    graph.output((*results, *(copies[node] for node in added)))  # pyright: ignore[reportGeneralTypeIssues]
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
        self.made = _made_again(program)
        self.by_name = {node.name: node for node in program.graph.nodes}
        self.graph = fx.Graph()
        self.given: dict[fx.Node, fx.Node] = {}
        self.tensors: dict[fx.Node, fx.Node] = {}

    def cut(self, pieces: Sequence[Piece]) -> Segment:
        """Inputs first, then stored tensors, then the pieces one after the other."""
        for piece in pieces:
            _require_nodes(self.program, set(piece.outputs))
        plans = [self._plan(piece) for piece in pieces]
        feeds = {self._input_name(node): node for node in dict.fromkeys(node for _, given in plans for node in given)}
        for name, node in feeds.items():
            self.given[node] = self._create("placeholder", name, node, name)
        members = {node for nodes, _ in plans for node in nodes}
        for node in self.program.graph.nodes:
            if node.op == "get_attr" and (node in members or self._of_a_grid(node)):
                self.tensors[node] = self._create("get_attr", str(node.target), node, node.name)
        results: dict[str, fx.Node] = {}
        for piece, (nodes, given) in zip(pieces, plans, strict=True):
            copies = self._copy(nodes, given)
            results |= {name: copies[self.by_name[name]] for name in piece.outputs}
        self.graph.output(tuple(results.values()))
        for node in list(self.tensors.values()):
            if not node.users:
                self.graph.erase_node(node)
        used = {str(node.target) for node in self.graph.nodes if node.op == "get_attr"}
        whole = self.program
        signature = Signature(
            tuple(_spec(node, name) for name, node in feeds.items()),
            tuple(_spec(self.by_name[name], name) for name in results),
            whole.signature.dims,
        )
        program = Program(
            f"{whole.name}_segment",
            self.graph,
            {name: tensor for name, tensor in whole.tensors.items() if name in used},
            {name: role for name, role in whole.roles.items() if name in used},
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
            if size.args[0] not in members and _holder(size, given) is None:
                given[size.args[0]] = None  # pyright: ignore[reportArgumentType]
        return [node for node in self.program.graph.nodes if node in members], list(given)

    def _copy(self, nodes: Sequence[fx.Node], given: Sequence[fx.Node]) -> dict[fx.Node, fx.Node]:
        copies = {node: self._regridded(node) for node in given}
        for node in nodes:
            if node.op == "get_attr":
                copies[node] = self.tensors[node]
                continue
            target, args = node.target, node.args
            if target is aten.sym_size.int and args[0] not in copies:
                args = _holder(node, given) or args
            arguments = fx.map_arg((args, node.kwargs), copies.__getitem__)
            copies[node] = self._create("call_function", target, node, node.name, *arguments)
        return copies

    def _regridded(self, node: fx.Node) -> fx.Node:
        """A given value, through the quantizer that it came from if it came from one."""
        if node.target is not dialect.dequantize or not _is_pair(node):
            return self.given[node]
        quantize = node.args[0]
        assert isinstance(quantize, fx.Node)
        grid = [self.tensors[part] for part in node.args[1:3]]  # pyright: ignore[reportArgumentType]
        args = (self.given[node], *grid, *quantize.args[3:])
        codes = self._create("call_function", dialect.quantize, quantize, f"{node.name}_codes", args)
        return self._create("call_function", dialect.dequantize, node, f"{node.name}_again", (codes, *grid, *node.args[3:]))

    def _of_a_grid(self, node: fx.Node) -> bool:
        return any(node in given.args[1:3] for given in self.given if given.target is dialect.dequantize)

    def _create(self, op: str, target: object, like: fx.Node, name: str, *arguments: object) -> fx.Node:
        node = self.graph.create_node(op, target, *arguments, name=name)  # pyright: ignore[reportArgumentType]
        node.meta.update({key: like.meta[key] for key in ("value", "module", "source") if key in like.meta})
        return node

    def _input_name(self, node: fx.Node) -> str:
        if node.op == "placeholder":
            return str(node.target)
        name = f"{node.name}_given"
        while name in self.by_name:
            name += "_"
        return name


def resume(program: Program, values: Mapping[str, np.ndarray], changed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
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
    value = size.meta["value"]
    for node in given:
        described = node.meta["value"]
        if isinstance(described, TensorValue) and value.expression in described.shape:
            return node, described.shape.index(value.expression)
    return None


def _made_again(program: Program) -> set[fx.Node]:
    """Stored tensors, what is computed from these alone, and sizes."""
    found: set[fx.Node] = set()
    for node in program.graph.nodes:
        constant = node.op == "call_function" and all(used in found and not _is_size(used) for used in node.all_input_nodes)
        if node.op == "get_attr" or _is_size(node) or constant:
            found.add(node)
    return found


def _is_size(node: fx.Node) -> bool:
    return isinstance(node.meta.get("value"), SizeValue)


def _is_pair(dequantize: fx.Node) -> bool:
    codes = dequantize.args[0]
    return isinstance(codes, fx.Node) and codes.target is dialect.quantize


def _spec(node: fx.Node, name: str) -> TensorSpec:
    value = tensor_value(node)
    return TensorSpec(name, value.dtype, value.shape)


def _require_nodes(program: Program, names: Collection[str]) -> dict[str, fx.Node]:
    by_name = {node.name: node for node in program.graph.nodes if node.op != "output"}
    for name in names:
        if name not in by_name:
            close = ", ".join(nearest(name, by_name))
            raise UnknownName(
                f"cutting {program.name}", got=f"node {name!r}", expected="a node of the program", try_=close
            )
    return by_name
