"""Copy-on-write edits: the only way to change a Program."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, fx

from gossamer.core.errors import InternalError
from gossamer.core.specs import Signature
from gossamer.program.program import Program, Role
from gossamer.program.values import DTYPE_NAMES, TensorValue, Value


class Edit:
    """A changeable copy of a program's graph; ``finish`` makes the new Program. The original is never touched.

    Example:
        >>> edit = Edit(program)
        >>> relu = edit.node("layer1_0_relu")
        >>> edit.replace(relu, edit.after(relu, "tanh", aten.tanh.default, (relu.args[0],), relu.meta["value"]))
        >>> changed = edit.finish("relu -> tanh")
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self._nodes: dict[fx.Node, fx.Node] = {}
        self.graph = fx.Graph()
        self.graph.output(self.graph.graph_copy(program.graph, self._nodes))
        self.tensors: dict[str, Tensor] = dict(program.tensors)
        self.roles: dict[str, Role] = dict(program.roles)
        self._by_name = {node.name: node for node in self.graph.nodes}

    def node(self, original: fx.Node | str) -> fx.Node:
        """The copy of a node of the original program, given as node or name."""
        return self._by_name[original] if isinstance(original, str) else self._nodes[original]

    def after(
        self, anchor: fx.Node, name: str, target: Any, args: tuple[Any, ...], value: Value, module: str | None = None
    ) -> fx.Node:
        """Insert a call right behind ``anchor``; its module and source line are those of ``anchor`` unless given."""
        with self.graph.inserting_after(anchor):
            return self._create(name, target, args, value, anchor, module)

    def before(
        self, anchor: fx.Node, name: str, target: Any, args: tuple[Any, ...], value: Value, module: str | None = None
    ) -> fx.Node:
        """Insert a call right before ``anchor``."""
        with self.graph.inserting_before(anchor):
            return self._create(name, target, args, value, anchor, module)

    def _create(
        self, name: str, target: Any, args: tuple[Any, ...], value: Value, anchor: fx.Node, module: str | None
    ) -> fx.Node:
        node = self.graph.create_node("call_function", target, args, {}, name=name)
        node.meta["value"] = value
        node.meta["module"] = anchor.meta.get("module", "") if module is None else module
        node.meta["source"] = anchor.meta.get("source", "")
        self._by_name[node.name] = node
        return node

    def tensor(self, name: str, tensor: Tensor, role: Role) -> fx.Node:
        """The node of a tensor, added under ``name`` or replaced if the name is taken."""
        self.tensors[name], self.roles[name] = tensor, role
        value = TensorValue(DTYPE_NAMES[tensor.dtype], tuple(tensor.shape))
        for node in self.graph.nodes:
            if node.op == "get_attr" and node.target == name:
                node.meta["value"] = value
                return node
        first = next(iter(self.graph.nodes))
        with self.graph.inserting_before(first):
            node = self.graph.create_node("get_attr", name)
        node.meta["value"] = value
        return node

    def replace(self, old: fx.Node, new: fx.Node, users: Iterable[fx.Node] | None = None) -> None:
        """Let the users of ``old`` (all but ``new``, or those given) use ``new``."""
        chosen: Callable[[fx.Node], bool]
        if users is None:
            chosen = lambda user: user is not new  # noqa: E731 - two one-line predicates side by side
        else:
            wanted = set(users)
            chosen = lambda user: user in wanted  # noqa: E731
        old.replace_all_uses_with(new, delete_user_cb=chosen)

    def finish(self, note: str, signature: Signature | None = None) -> Program:
        """The changed program: dead nodes and unused tensors removed, checked against the dialect.

        Raises:
            InternalError: nothing changed (an edit that does nothing is a bug in the technique, not a result).
        """
        for node in reversed(list(self.graph.nodes)):
            if node.op in ("call_function", "get_attr") and not node.users:
                self.graph.erase_node(node)
        self.graph.lint()
        used = {node.target for node in self.graph.nodes if node.op == "get_attr"}
        program = Program(
            self._program.name,
            self.graph,
            {name: tensor for name, tensor in self.tensors.items() if name in used},
            {name: role for name, role in self.roles.items() if name in used},
            signature or self._program.signature,
            (*self._program.provenance, note),
        )
        if program.digest == self._program.digest:
            raise InternalError(f"editing a program ({note})", got="the same digest as before", expected="a change")
        return program
