"""Residual blocks: what is added to a value is a function of it, so it can be left out as a whole."""

from __future__ import annotations

import os.path
from collections.abc import Mapping
from dataclasses import dataclass

from torch import fx

from gossamer.analysis.coupling import Coupling, couple
from gossamer.program import surgery
from gossamer.program.dialect import CLASSES, aten
from gossamer.program.program import Program

_WEIGHTED = frozenset({"conv", "conv_transpose", "linear"})


@dataclass(frozen=True)
class Block:
    """The body of a residual connection; without it the value passes as it is.

    Attributes:
        name: module path that its nodes have in common, with ``#2`` behind it for a second body there.
        nodes: names of what it computes, in order, the last addition not among them.
        entry: name of the node whose value enters, and takes the place of the result if the block is dropped.
        exit: name of the node that adds the body's result to it.
    """

    name: str
    nodes: tuple[str, ...]
    entry: str
    exit: str


def residual_blocks(program: Program, coupling: Coupling | None = None) -> tuple[Block, ...]:
    """The blocks of a program that can be left out, inner and outer ones, in order of their ends.

    A block ends in an addition of a value and a function of it, of the same shape along the same groups; the body has a
    convolution or linear layer of its own, and nothing but the addition reads what it computes.

    Args:
        program: any program.
        coupling: its groups, where they are known already.
    """
    coupling = coupling or couple(program)
    order = {node: place for place, node in enumerate(program.graph.nodes)}
    found: list[tuple[fx.Node, fx.Node, list[fx.Node]]] = []
    for node in program.call_nodes:
        if node.target is aten.add.Tensor:
            sides = [side for side in node.args[:2] if isinstance(side, fx.Node)]
            for entry, result in (sides, sides[::-1]) if len(sides) == 2 and sides[0] is not sides[1] else ():
                body = _body(entry, result, node, order)
                if body and _alike(coupling, entry, node):
                    found.append((entry, node, body))
    names: dict[str, int] = {}
    return tuple(_block(entry, exit_, body, names) for entry, exit_, body in found)


def drop_block(program: Program, block: Block) -> Program:
    """The program without a residual block: whoever read its end reads its beginning.

    Raises:
        UnknownName: the program has no such block, because it is another program or lost it already.
    """
    return surgery.drop_block(program, block.entry, block.exit, f"dropped block {block.name}")


def _body(entry: fx.Node, result: fx.Node, exit_: fx.Node, order: Mapping[fx.Node, int]) -> list[fx.Node]:
    """What lies between: nodes behind the entry that lead to the result and nowhere else; empty if that is no body."""
    behind, waiting = {result}, [result]
    while waiting:
        for used in waiting.pop().all_input_nodes:
            if used not in behind and order[used] > order[entry] and used.op == "call_function":
                behind.add(used)
                waiting.append(used)
    body = _depending_on(entry, behind, order)
    weighted = any(CLASSES.get(node.target) in _WEIGHTED for node in body)
    closed = all(user in body or user is exit_ for node in body for user in node.users)
    return body if result in body and weighted and closed else []


def _depending_on(entry: fx.Node, among: set[fx.Node], order: Mapping[fx.Node, int]) -> list[fx.Node]:
    found: dict[fx.Node, None] = {}
    for node in sorted(among, key=order.__getitem__):
        if any(used is entry or used in found for used in node.all_input_nodes):
            found[node] = None
    return list(found)


def _alike(coupling: Coupling, entry: fx.Node, exit_: fx.Node) -> bool:
    """Whether both ends have one dtype, one shape and the same groups."""
    if entry.meta["value"] != exit_.meta["value"]:
        return False
    return coupling.trace.axes_of(entry) == coupling.trace.axes_of(exit_)


def _block(entry: fx.Node, exit_: fx.Node, body: list[fx.Node], names: dict[str, int]) -> Block:
    paths = [str(node.meta.get("module", "")) for node in body if CLASSES.get(node.target) in _WEIGHTED]
    common = os.path.commonpath([path.replace(".", "/") or "/" for path in paths]) if all(paths) else ""
    name = common.replace("/", ".") or exit_.name
    names[name] = names.get(name, 0) + 1
    suffix = f"#{names[name]}" if names[name] > 1 else ""
    return Block(name + suffix, tuple(node.name for node in body), entry.name, exit_.name)
