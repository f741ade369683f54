"""One call of a Program as the rules of the writer see it: arguments by their schema names, and what it yields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from torch import fx

from gossamer.core.errors import InternalError, UnsupportedOp
from gossamer.core.specs import Dim
from gossamer.program import dialect
from gossamer.program.text import node_text
from gossamer.program.values import TensorValue, tensor_value


@final
@dataclass(frozen=True)
class Call:
    """A node with its arguments bound to the operation's schema, defaults filled in.

    Attributes:
        node: the node of the program.
        arguments: by schema name; for size arithmetic, which has no schema, by position as text.
    """

    node: fx.Node
    arguments: Mapping[str, Any]

    @classmethod
    def of(cls, node: fx.Node) -> Call:
        """Bind the arguments of a node."""
        return cls(node, dialect.bound_arguments(node))

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def tensor(self, name: str) -> fx.Node:
        """An argument that is a node."""
        node = self.arguments[name]
        if not isinstance(node, fx.Node):
            raise InternalError(
                f"reading {name} of {self.node.name}", got=repr(node), expected="the result of another node"
            )
        return node

    def optional(self, name: str) -> fx.Node | None:
        """An argument that is a node or ``None``."""
        return None if self.arguments[name] is None else self.tensor(name)

    def input_value(self, name: str = "self") -> TensorValue:
        """What an argument holds: dtype and shape."""
        return tensor_value(self.tensor(name))

    def per_axis(self, name: str, count: int) -> list[int]:
        """An argument with one number for each of ``count`` axes; a single number stands for all of them."""
        value = self.arguments[name]
        numbers = [value] if isinstance(value, int) else list(value)
        return numbers * count if len(numbers) == 1 else numbers

    @property
    def dtype(self) -> str:
        """Element type of the result."""
        return tensor_value(self.node).dtype

    @property
    def shape(self) -> tuple[Dim, ...]:
        """Shape of the result."""
        return tensor_value(self.node).shape

    def unsupported(self, problem: str, expected: str) -> UnsupportedOp:
        """The error for a form of an operation that cannot be written; names it with its module and source line."""
        return UnsupportedOp("lowering to ONNX", got=f"{problem}: {describe(self.node)}", expected=expected)


def describe(node: fx.Node) -> str:
    """A node with its module and the user's source line, for messages."""
    where = f"module {node.meta.get('module', '')!r}"
    source = node.meta.get("source", "")
    return f"{node_text(node)} in {where}" + (f" ({source})" if source else "")
