"""What a fault is, and how one gets into a program, into a file, or between the data and the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from nets import Net
from onnx import helper, numpy_helper
from torch import Tensor, fx

from gossamer.core.runnable import Executable
from gossamer.core.specs import Signature
from gossamer.core.target import Target
from gossamer.lowering import Lowered
from gossamer.program import Edit, Program, dialect
from gossamer.program.values import TensorValue, tensor_value
from gossamer.runtimes import lower_for, open_executable

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Fault:
    """One fault of the suite; exactly one of the ways to plant it is given.

    Attributes:
        number: in the table.
        text: what is wrong.
        sites: nodes of a net at which it can be planted; the first one is.
        in_program: the changed program; the same one where the site is not in it, as in a piece cut elsewhere.
        in_file: changes the ONNX model in place; is given the names of the site's nodes in it.
        option: fields of the target that the candidate is opened with.
        in_data: changes what reaches the candidate; the site is an input.
        names: what a diagnosis must name: the ``node``, the fused ``group``, or a word that must stand in its text.
        on: text of the runtimes where it exists; empty for all.
    """

    number: int
    text: str
    sites: Callable[[Net], Iterable[str]]
    in_program: Callable[[Program, str], Program] | None = None
    in_file: Callable[[onnx.ModelProto, Sequence[str]], None] | None = None
    in_data: Callable[[Arrays, str], Arrays] | None = None
    option: Mapping[str, Any] = field(default_factory=dict)
    names: str = "node"
    on: str = ""

    def open(self, path: Path, specs: Signature, target: Target) -> Executable:
        """Open a file with the option of this fault."""
        return open_executable(path, specs, replace(target, **self.option))

    def lower(self, site: str) -> Callable[[Target, Program], Lowered]:
        """Lowering with this fault in it."""

        def faulty(target: Target, program: Program) -> Lowered:
            here = site in {node.name for node in program.graph.nodes}
            planted = self.in_program(program, site) if self.in_program and here else program
            lowered = lower_for(target, planted)
            if self.in_file is None or not here:
                return lowered
            model = onnx.load_from_string(lowered.model)
            self.in_file(model, lowered.name_map[site])
            return replace(lowered, model=model.SerializeToString())

        return faulty


def calls(program: Program, *targets: Any, where: Callable[[fx.Node], bool] = lambda node: True) -> list[str]:
    """Names of the nodes that call one of these operations."""
    return [node.name for node in program.call_nodes if node.target in targets and where(node)]


def having(*targets: Any, where: Callable[[fx.Node], bool] = lambda node: True) -> Callable[[Net], list[str]]:
    """Sites: the nodes of a net that call one of these operations."""
    return lambda net: calls(net.program, *targets, where=where)


def shape(node: Any) -> tuple[Any, ...]:
    """Shape of a node that yields one tensor; of anything else none."""
    value = node.meta.get("value") if isinstance(node, fx.Node) else None
    return value.shape if isinstance(value, TensorValue) else ()


def with_arguments(**changed: Any) -> Callable[[Program, str], Program]:
    """The call with some arguments, by schema name, replaced; callables are given the argument."""

    def plant(program: Program, site: str) -> Program:
        edit = Edit(program)
        node = edit.node(site)
        bound = dialect.bound_arguments(node)
        new = {name: value(bound[name]) if callable(value) else value for name, value in changed.items()}
        arguments = node.target._schema.arguments
        node.args = tuple({**bound, **new}[entry.name] for entry in arguments if not entry.kwarg_only)
        node.kwargs = {entry.name: {**bound, **new}[entry.name] for entry in arguments if entry.kwarg_only}
        return edit.finish(f"planted at {site}")

    return plant


def with_operand(index: int, change: Callable[[Edit, fx.Node, fx.Node], fx.Node]) -> Callable[[Program, str], Program]:
    """An operand of the call replaced by something made of it."""

    def plant(program: Program, site: str) -> Program:
        edit = Edit(program)
        node = edit.node(site)
        args = list(node.args)
        args[index] = change(edit, node, args[index])
        node.args = tuple(args)
        return edit.finish(f"planted at {site}")

    return plant


def with_result(change: Callable[[Edit, fx.Node], fx.Node]) -> Callable[[Program, str], Program]:
    """The result of the call replaced, for all its readers, by something made of it."""

    def plant(program: Program, site: str) -> Program:
        edit = Edit(program)
        node = edit.node(site)
        made = change(edit, node)
        edit.replace(node, made, [user for user in list(node.users) if not user.name.startswith("planted")])
        return edit.finish(f"planted at {site}")

    return plant


def insert(
    edit: Edit, anchor: fx.Node, target: Any, *args: Any, sizes: Sequence[Any] | None = None, dtype: str = ""
) -> fx.Node:
    """A call right before ``anchor``; of the shape of its first operand unless ``sizes`` are given."""
    like = tensor_value(args[0])
    value = TensorValue(dtype or like.dtype, tuple(like.shape if sizes is None else sizes))
    return edit.before(anchor, "planted", target, args, value)


def append(
    edit: Edit, node: fx.Node, target: Any, *args: Any, sizes: Sequence[Any] | None = None, dtype: str = ""
) -> fx.Node:
    """A call right behind ``node``, likewise."""
    like = tensor_value(args[0])
    value = TensorValue(dtype or like.dtype, tuple(like.shape if sizes is None else sizes))
    return edit.after(node, "planted", target, args, value)


def stored(edit: Edit, like: str, tensor: Tensor) -> fx.Node:
    """A new stored tensor beside the one named ``like``, which others may read."""
    return edit.tensor(f"{like}.planted", tensor, "buffer")


# In files


def node_named(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    """The node of this name."""
    return next(node for node in model.graph.node if node.name == name)


def node_of_kind(model: onnx.ModelProto, names: Sequence[str], *kinds: str) -> onnx.NodeProto:
    """The first of the named nodes that is of one of these kinds."""
    return next(node for node in model.graph.node if node.name in names and node.op_type in kinds)


def held(model: onnx.ModelProto, name: str) -> np.ndarray:
    """A stored tensor of the file."""
    return numpy_helper.to_array(next(entry for entry in model.graph.initializer if entry.name == name))


def hold(model: onnx.ModelProto, name: str, values: np.ndarray) -> str:
    """Store a new tensor; gives its name."""
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
    return name


def put_before(model: onnx.ModelProto, node: onnx.NodeProto, *new: onnx.NodeProto) -> None:
    """Insert nodes right before another."""
    place = list(model.graph.node).index(node)
    for offset, entry in enumerate(new):
        model.graph.node.insert(place + offset, entry)


def put_behind(model: onnx.ModelProto, node: onnx.NodeProto, *new: onnx.NodeProto) -> None:
    """Insert nodes right behind another."""
    place = list(model.graph.node).index(node) + 1
    for offset, entry in enumerate(new):
        model.graph.node.insert(place + offset, entry)


def set_attribute(node: onnx.NodeProto, name: str, value: Any) -> None:
    """Set or replace an attribute."""
    kept = [entry for entry in node.attribute if entry.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])
