"""The text form of a Program: what a person reads, what goldens compare."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from gossamer.core.specs import format_range
from gossamer.program import dialect
from gossamer.program.program import outputs_of
from gossamer.program.values import DTYPE_NAMES, Value

if TYPE_CHECKING:
    from gossamer.program.program import Program


def program_text(program: Program) -> str:
    """Signature, then one line a node: ``name = op(arguments)  # dtype[shape]``; tensors under their own names."""
    lines = [f"program {program.name}"]
    lines += [f"  in   {spec}" for spec in program.signature.inputs]
    lines += [f"  out  {spec}" for spec in program.signature.outputs]
    lines += [f"  dim  {name} in {format_range(low, high)}" for name, (low, high) in program.signature.dims.items()]
    calls = [(node.name, node_text(node), value_text(node.meta["value"])) for node in program.call_nodes]
    width = max((len(name) for name, _, _ in calls), default=0)
    lines += [f"  {name:<{width}} = {text}  # {value}" for name, text, value in calls]
    lines.append(f"  return {', '.join(argument_text(node) for node in outputs_of(program.graph))}")
    return "\n".join(lines)


def node_text(node: fx.Node) -> str:
    """``conv2d(x, conv1.weight, None, [1, 1])``."""
    arguments = [argument_text(argument) for argument in node.args]
    arguments += [f"{name}={argument_text(argument)}" for name, argument in node.kwargs.items()]
    return f"{dialect.op_name(node.target)}({', '.join(arguments)})"


def value_text(value: Value) -> str:
    """``f32[batch, 4]``; several tensors one after the other."""
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def argument_text(argument: Any) -> str:
    """A node by its name (a tensor by its own), a list in brackets, anything else as Python writes it."""
    if isinstance(argument, fx.Node):
        return str(argument.target) if argument.op == "get_attr" else argument.name
    if isinstance(argument, list | tuple):
        return f"[{', '.join(argument_text(item) for item in argument)}]"
    if isinstance(argument, torch.dtype):
        return DTYPE_NAMES[argument]
    return repr(argument)
