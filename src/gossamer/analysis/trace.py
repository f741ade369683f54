"""One walk over a program, describing every axis of every value; the rules work on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import fx

from gossamer.analysis.axes import Axes, Axis, Fixed
from gossamer.core.errors import InternalError
from gossamer.core.specs import Dim as Size
from gossamer.program import dialect
from gossamer.program.dialect import aten
from gossamer.program.program import Program, outputs_of
from gossamer.program.sizes import size_value
from gossamer.program.values import SizeValue, TensorValue

Role = Literal["producer", "consumer", "follower"]
AxesOf = tuple[Axis, ...]
Result = AxesOf | list[AxesOf]

_PRIMES = (1000003, 1000033, 1000037, 1000039, 1000081, 1000099, 1000117, 1000121, 1000133, 1000151)
"""Stand for named dims, so that whatever divides a size that varies divides it whatever the dims are."""

_READS_SIZES = frozenset({aten.reshape.default, aten.expand.default, aten.full.default})
"""May be given the size of a cut axis: they are described by what they make of it."""


@dataclass(frozen=True)
class Contraction:
    """An operand whose entries along an axis are summed away: in the masked program it is multiplied by the mask.

    Attributes:
        node: the operation.
        argument: name of its operand in the schema.
        item: place in the list, where the operand is a list.
        dim: axis of the operand.
        axis: its description.
    """

    node: fx.Node
    argument: str
    item: int | None
    dim: int
    axis: Axis

    def operand(self, given: Mapping[str, Any]) -> Any:
        """The operand, of arguments by schema name."""
        operand = given[self.argument]
        return operand if self.item is None else operand[self.item]

    def put(self, given: dict[str, Any], operand: Any) -> None:
        """Put another operand in its place."""
        if self.item is not None:
            items = list(given[self.argument])
            items[self.item] = operand
            operand = items
        given[self.argument] = operand


class Call:
    """A node with its arguments by schema name, as the rules see it."""

    def __init__(self, trace: Trace, node: fx.Node) -> None:
        self.node = node
        self.arguments = dialect.bound_arguments(node)
        self._trace = trace

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def axes(self, name: str) -> AxesOf:
        """Descriptions of a tensor argument."""
        return self._trace.axes_of(self.arguments[name])

    def has(self, name: str) -> bool:
        """Whether an optional tensor was given."""
        return isinstance(self.arguments[name], fx.Node)

    def tensors(self) -> Iterator[AxesOf]:
        """Descriptions of all tensor arguments, lists included."""
        for argument in self.arguments.values():
            for one in argument if isinstance(argument, list | tuple) else (argument,):
                if isinstance(one, fx.Node) and isinstance(one.meta["value"], TensorValue):
                    yield self._trace.axes_of(one)

    @property
    def shape(self) -> tuple[Size, ...]:
        """Shape of the result."""
        return self.node.meta["value"].shape


Rule = Callable[["Trace", Call], Result]


class Trace:
    """The descriptions of a program's values, as far as the walk has come.

    Attributes:
        program: what is walked over.
        rules: what each operation does to axes.
        axes: the leaves and what became of them.
        values: description of each axis by node; a list of them for nodes with several results.
        contractions: where the masked program needs masks.
        roles: what a stored tensor's axis is to the nodes that read it.
        unlisted: leaf axes that are no groups, such as the kernel of a convolution.
        unknown: nodes without a rule.
    """

    def __init__(self, program: Program, rules: Mapping[Any, Rule]) -> None:
        self.program = program
        self.axes = Axes()
        self.values: dict[fx.Node, Result] = {}
        self.contractions: list[Contraction] = []
        self.roles: dict[tuple[str, int], list[tuple[Role, fx.Node]]] = {}
        self.unlisted: list[Axis] = []
        self.unknown: list[fx.Node] = []
        self.rules = rules
        self._pending: list[tuple[fx.Node, Axis, Role, fx.Node]] = []
        self._stored: dict[int, AxesOf] = {}
        self._constant: set[fx.Node] = set()
        self._node: fx.Node | None = None
        names = list(dict.fromkeys(program.signature.dims))
        self._sizes = {name: _PRIMES[i % len(_PRIMES)] + 6 * (i // len(_PRIMES)) for i, name in enumerate(names)}

    def walk(self) -> None:
        """Describe every value, freeze inputs and outputs."""
        for node in self.program.graph.nodes:
            self._node = node
            if node.op == "placeholder":
                self.values[node] = self.fixed(node.meta["value"].shape, f"input {node.target}")
            elif node.op == "get_attr":
                self.values[node] = self._stored_axes(str(node.target))
                self._constant.add(node)
            elif node.op == "call_function":
                self._call(node)
        for spec, node in zip(self.program.signature.outputs, outputs_of(self.program.graph), strict=True):
            for dim, axis in enumerate(self.axes_of(node)):
                self.axes.freeze(axis, f"output {spec.name}, axis {dim}")
        self._settle_roles()
        for value in self.values.values():
            for axes in value if isinstance(value, list) else (value,):
                for axis in axes:
                    if self.axes.repeats_a_leaf(axis):
                        self.axes.freeze(axis, "an axis is multiplied by itself")

    def _stored_axes(self, name: str) -> AxesOf:
        tensor = self.program.tensors[name]
        if id(tensor) not in self._stored:  # tied tensors have their axes in common
            self._stored[id(tensor)] = tuple(self.axes.new(size) for size in tensor.shape)
        return self._stored[id(tensor)]

    def _call(self, node: fx.Node) -> None:
        if node.all_input_nodes and self._constant.issuperset(node.all_input_nodes):
            self._constant.add(node)
        if isinstance(node.meta["value"], SizeValue):
            self._size(node)
            return
        if node.target not in _READS_SIZES:
            self._freeze_sizes(node)
        rule = self.rules.get(node.target)
        if rule is None:
            self.unknown.append(node)
            self.values[node] = self.frozen_call(Call(self, node), "no rule for it")
            return
        found = rule(self, Call(self, node))
        self._require_sizes(node, found)
        self.values[node] = found

    def _size(self, node: fx.Node) -> None:
        if node.target is not aten.sym_size.int:
            self._freeze_sizes(node)

    def _freeze_sizes(self, node: fx.Node) -> None:
        for used in node.all_input_nodes:
            if used.target is aten.sym_size.int:
                source, dim = used.args[0], used.args[1]
                assert isinstance(source, fx.Node)
                assert isinstance(dim, int)
                self.freeze(self.axes_of(source)[dim], "its size is computed with")

    def _require_sizes(self, node: fx.Node, found: Result) -> None:
        values = node.meta["value"] if isinstance(found, list) else (node.meta["value"],)
        described = found if isinstance(found, list) else [found]
        for value, axes in zip(values, described, strict=True):
            wanted = tuple(self.size(size) for size in value.shape)
            if wanted != tuple(self.axes.resolve(axis).size for axis in axes):
                raise InternalError(
                    f"describing the axes of {node.name}", got=f"{axes}", expected=f"axes of the sizes {value.shape}"
                )

    # What rules call

    def axes_of(self, node: Any) -> AxesOf:
        """Descriptions of a node with one result, in terms of today's leaves."""
        value = self.values[node]
        assert isinstance(value, tuple)
        return tuple(self.axes.resolve(axis) for axis in value)

    def size(self, dim: Size) -> int:
        """A size as a number; named dims count as large primes."""
        return size_value(dim, self._sizes)

    def fixed(self, shape: Sequence[Size], why: str) -> AxesOf:
        """Axes that are never cut."""
        return tuple(
            Fixed(self.size(size), f"{why}, axis {dim}", size if isinstance(size, str) else "")
            for dim, size in enumerate(shape)
        )

    def fixed_result(self, call: Call, dim: int) -> Axis:
        """An axis of the result that is never cut."""
        return self.fixed(call.shape, f"{dialect.op_name(call.node.target)} {call.node.name}")[dim]

    @property
    def place(self) -> str:
        """The operation at hand, its node and its module."""
        node = self._node
        assert node is not None
        module = node.meta.get("module", "")
        return f"{dialect.op_name(node.target)} {node.name}{f' in {module}' if module else ''}"

    def unify(self, a: Axis, b: Axis) -> None:
        """Two axes are one, or frozen."""
        self.axes.unify(a, b, self.place)

    def freeze(self, axis: Axis, text: str) -> None:
        """An axis cannot be cut, for this reason."""
        self.axes.freeze(axis, f"{text} at {self.place}")

    def frozen_call(self, call: Call, text: str) -> Result:
        """Freeze all that a call reads; its results are fixed."""
        for axes in call.tensors():
            for axis in axes:
                self.freeze(axis, text)
        value = call.node.meta["value"]
        name = f"{dialect.op_name(call.node.target)} {call.node.name}"
        if isinstance(value, tuple):
            return [self.fixed(item.shape, name) for item in value]
        return self.fixed(value.shape, name)

    def contract(self, call: Call, argument: str, dim: int, item: int | None = None) -> None:
        """An operand's axis is summed away by this call."""
        operand = call[argument] if item is None else call[argument][item]
        axes = self.axes_of(operand)
        self.contractions.append(Contraction(call.node, argument, item, dim % len(axes), axes[dim]))

    def role(self, call: Call, operand: Any, dim: int, role: Role) -> None:
        """What an operand's axis is to this call, if the operand is stored or made from stored tensors alone."""
        if not isinstance(operand, fx.Node):
            return
        axis = self.axes_of(operand)[dim]
        node, place = operand, dim % len(self.axes_of(operand))
        while node.op == "call_function" and node.target in (aten.permute.default, aten.to.dtype, dialect.dequantize):
            if node.target is aten.permute.default:
                order = node.args[1]
                assert isinstance(order, list | tuple)
                chosen = order[place]
                assert isinstance(chosen, int)
                place = chosen
            (node, *_) = node.all_input_nodes
            if node.target is dialect.quantize:
                node = node.all_input_nodes[0]
        if node.op == "get_attr":
            self.roles.setdefault((str(node.target), place), []).append((role, call.node))
        elif node.op == "call_function":
            self._pending.append((node, axis, role, call.node))

    def is_stored(self, operand: Any) -> bool:
        """Whether an operand is a stored tensor or made from stored tensors alone."""
        return operand in self._constant

    def _settle_roles(self) -> None:
        """Roles of tensors from which a weight is computed: their axes are known by the leaves they share with it."""
        for weight, axis, role, node in self._pending:
            if not self.is_stored(weight):
                continue
            leaves = set(self.axes.leaves(axis))
            for name in _stored_behind(weight):
                for dim, own in enumerate(self._stored_axes(name)):
                    if leaves & set(self.axes.leaves(own)) and (name, dim) not in self.roles:
                        self.roles[name, dim] = [(role, node)]


def _stored_behind(node: fx.Node) -> set[str]:
    found, waiting, seen = set(), [node], {node}
    while waiting:
        one = waiting.pop()
        if one.op == "get_attr":
            found.add(str(one.target))
        for used in one.all_input_nodes:
            if used not in seen:
                seen.add(used)
                waiting.append(used)
    return found
