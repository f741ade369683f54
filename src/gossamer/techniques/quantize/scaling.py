"""Channels that can be scaled between layers without changing what a program computes.

A producer (a layer, a norm, a multiplication by stored values) that yields channel i divided by s_i, and readers whose
weights for channel i are multiplied by s_i, compute what they did before, if for all that stands in between
f(x / s) = f(x) / s, s > 0, channel by channel. ReLU, pooling and moving values around are such; ReLU6, GELU, a sum with
something else and any other reader are not. Where no parameters can take the division, a product in front of the
readers does it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from gossamer.core.errors import UnsupportedOp
from gossamer.core.specs import Dim
from gossamer.program import dialect
from gossamer.program.dialect import aten
from gossamer.program.edit import Edit
from gossamer.program.program import Program
from gossamer.program.values import TORCH_DTYPES, TensorValue, tensor_value
from gossamer.techniques.quantize.placement import COMPUTING

_LAST_AXIS_NORMS = frozenset({aten.layer_norm.default, aten.rms_norm.default})
_CHANNEL_NORMS = frozenset({aten.batch_norm.default, aten.group_norm.default})
_INNER_AXES: Mapping[Any, int] = {
    **dict.fromkeys((aten.relu.default, aten.leaky_relu.default, aten.prelu.default, aten.dropout.default), 0),
    **dict.fromkeys((aten.max_pool1d.default, aten.avg_pool1d.default), 1),
    **dict.fromkeys((aten.max_pool2d.default, aten.avg_pool2d.default), 2),
}
"""Operations that scales pass through, and how many of the last axes they mix."""


@dataclass(frozen=True)
class Reader:
    """A layer that reads scaled channels.

    Attributes:
        layer: a convolution or linear layer.
        columns: columns of its weight for each channel; more than one behind a flatten.
    """

    layer: fx.Node
    columns: int


@dataclass(frozen=True)
class Group:
    """A producer and all that reads it.

    Attributes:
        name: of the producer, by module path.
        producer: the node whose output channels can be scaled.
        readers: the layers at the ends of all paths from it, or only those that read it directly.
        inserted: it has no parameters that could take the division, which becomes a product in front of the readers.
    """

    name: str
    producer: fx.Node
    readers: tuple[Reader, ...]
    inserted: bool = False


class _BlockedError(Exception):
    """Why channels cannot be scaled."""


def scaling_groups(program: Program, *, layers_only: bool = False) -> tuple[list[Group], dict[str, str]]:
    """All groups in the order of the graph, and the producers that are in none, each with the reason.

    Args:
        program: with batch norms folded.
        layers_only: producers are layers, not norms.
    """
    nodes = [node for node in program.call_nodes if dialect.op_class(node) in COMPUTING or not layers_only]
    producers = [(node, axis) for node in nodes if (axis := _channel_axis(node)) is not None]
    paths = [node.meta.get("module", "") for node, _ in producers]
    groups: list[Group] = []
    blocked: dict[str, str] = {}
    for (node, axis), path in zip(producers, paths, strict=True):
        name = path if path and paths.count(path) == 1 else node.name
        try:
            for parameter in _parameters(node).values():
                _require_own(program, parameter)
            groups.append(Group(name, node, tuple(_readers(program, node, axis, 1))))
        except _BlockedError as reason:
            blocked[name] = str(reason)
    return groups, blocked


def insertion_groups(program: Program, groups: Iterable[Group]) -> list[Group]:
    """Values that linear layers read and whose division by channel needs a product: those of no group given."""
    taken = {reader.layer for group in groups for reader in group.readers}
    readers: dict[fx.Node, list[Reader]] = {}
    for node in program.call_nodes:
        if dialect.op_class(node) != "linear" or node in taken:
            continue
        try:
            _require_own(program, dialect.bound_arguments(node)["weight"])
        except _BlockedError:
            continue
        readers.setdefault(source_of(node), []).append(Reader(node, 1))
    return [Group(source.name, source, tuple(layers), inserted=True) for source, layers in readers.items()]


def require_groups(doing: str, groups: list[Group], blocked: Mapping[str, str]) -> None:
    """Raise ``UnsupportedOp`` with the first reasons if there is nothing to scale."""
    if groups:
        return
    reasons = [f"{name}: {reason}" for name, reason in blocked.items()]
    shown = "; ".join(reasons[:_SHOWN]) + (f"; {len(reasons) - _SHOWN} more" if len(reasons) > _SHOWN else "")
    got = f"no channels that can be scaled ({shown or 'no such layer'})"
    raise UnsupportedOp(doing, got=got, expected="a layer or norm whose readers are layers, with ReLU at most between")


_SHOWN = 5
"""Reasons in a message."""


def _channel_axis(node: fx.Node) -> int | None:
    """The axis of the channels that a node can scale by its own parameters; ``None`` if it has no such."""
    value = node.meta["value"]
    if not isinstance(value, TensorValue) or value.dtype not in ("float32", "float64"):
        return None
    rank, arguments = len(value.shape), dialect.bound_arguments(node)
    if dialect.op_class(node) in COMPUTING:
        axis = rank + 1 - len(tensor_value(arguments["weight"]).shape)
        return axis if axis > 0 else None
    if node.target in _LAST_AXIS_NORMS and len(arguments["normalized_shape"]) == 1:
        return rank - 1
    if node.target in _CHANNEL_NORMS:
        return 1
    return rank - 1 if node.target is aten.mul.Tensor and _gain(node) is not None else None


def _gain(product: fx.Node) -> fx.Node | None:
    """The stored vector over the last axis that a product multiplies by."""
    width = tensor_value(product).shape[-1:]
    for factor, other in ((product.args[0], product.args[1]), (product.args[1], product.args[0])):
        if isinstance(factor, fx.Node) and factor.op == "get_attr" and isinstance(other, fx.Node):
            shape = tensor_value(factor).shape
            if shape[-1:] == width and math.prod(map(int, shape)) == shape[-1]:
                return factor
    return None


def _parameters(producer: fx.Node) -> dict[str, fx.Node | None]:
    """What is multiplied to scale the output of a producer, by argument name."""
    if producer.target is aten.mul.Tensor:
        return {"gain": _gain(producer)}
    arguments = dialect.bound_arguments(producer)
    return {name: arguments[name] for name in ("weight", "bias") if name in arguments}


def _require_own(program: Program, parameter: fx.Node | None) -> None:
    """A tensor that nothing else reads, under this name or another."""
    if parameter is None:
        return
    if parameter.op != "get_attr":
        raise _BlockedError("its weight is computed, or quantized already")
    tensor = program.tensors[str(parameter.target)]
    if len(parameter.users) > 1 or sum(tensor is other for other in program.tensors.values()) > 1:
        raise _BlockedError("it shares its weight or bias with another layer")


def _readers(program: Program, node: fx.Node, axis: int, columns: int) -> Iterator[Reader]:
    """The layers at the ends of all paths from a value, its channels along ``axis``, ``columns`` entries each."""
    for user in node.users:
        if dialect.op_class(user) in COMPUTING and user.args[0] is node:
            weight = dialect.bound_arguments(user)["weight"]
            _require_own(program, weight)
            if axis != input_axis(user):
                raise _BlockedError(f"{user.name} reads it along another axis")
            yield Reader(user, columns)
            continue
        if user.target is aten.sym_size.int:
            continue  # asks for the shape alone
        moved = _through(user, node, axis, columns)
        if moved is None:
            raise _BlockedError(f"{user.name if user.op != 'output' else 'the output'} reads it")
        yield from _readers(program, user, *moved)


def source_of(layer: fx.Node) -> fx.Node:
    """The value that a convolution or linear layer reads."""
    source = layer.args[0]
    assert isinstance(source, fx.Node)
    return source


def input_axis(layer: fx.Node) -> int:
    """The axis of the channels in what a convolution or linear layer reads."""
    weight = dialect.bound_arguments(layer)["weight"]
    return len(tensor_value(source_of(layer)).shape) + 1 - len(tensor_value(weight).shape)


def _through(user: fx.Node, node: fx.Node, axis: int, columns: int) -> tuple[int, int] | None:
    """Axis of the channels and entries for each behind an operation; ``None`` if scales do not pass through it."""
    rank = len(tensor_value(node).shape)
    if user.target in _INNER_AXES and user.args[0] is node:
        return (axis, columns) if axis < rank - _INNER_AXES[user.target] else None
    if user.target is aten.reshape.default:
        return _reshaped(tensor_value(node).shape, tensor_value(user).shape, axis, columns)
    arguments = dialect.bound_arguments(user)
    moved = None
    match user.target:
        case aten.pad.default if arguments["mode"] != "constant" or not arguments["value"]:
            moved = axis if axis < rank - len(arguments["pad"]) // 2 else None
        case aten.slice.Tensor:
            moved = axis if axis != arguments["dim"] % rank else None
        case aten.permute.default:
            moved = [dim % rank for dim in arguments["dims"]].index(axis)
        case aten.unsqueeze.default:
            moved = axis + (arguments["dim"] % (rank + 1) <= axis)
        case aten.mean.dim | aten.squeeze.dims | aten.select.int if arguments["dim"] is not None:
            given = arguments["dim"] if isinstance(arguments["dim"], list | tuple) else [arguments["dim"]]
            gone = [dim % rank for dim in given]
            before = 0 if arguments.get("keepdim") else sum(dim < axis for dim in gone)
            moved = axis - before if axis not in gone else None
    return None if moved is None else (moved, columns)


def _reshaped(before: tuple[Dim, ...], after: tuple[Dim, ...], axis: int, columns: int) -> tuple[int, int] | None:
    if after[: axis + 1] == before[: axis + 1]:
        return axis, columns
    if axis == len(before) - 1 and after[-1:] == before[-1:]:
        return len(after) - 1, columns
    merged = before[axis + 1 :]
    if after[:axis] == before[:axis] and len(after) == axis + 1 and all(isinstance(dim, int) for dim in merged):
        return axis, columns * math.prod(int(dim) for dim in merged)
    return None


class ChannelScaling:
    """Scales channels of a program, group by group; all in float64, rounded once at the end."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._values: dict[str, Tensor] = {}
        self._new: dict[fx.Node, Tensor] = {}
        self._products: list[tuple[Group, Tensor]] = []

    def weight(self, layer: fx.Node) -> Tensor:
        """The weight of a layer as it is now, float64."""
        return self._value(dialect.bound_arguments(layer)["weight"])

    def produced_range(self, group: Group) -> Tensor:
        """Largest magnitude in the weight of each output channel of a layer that produces, (channels,)."""
        return self.weight(group.producer).flatten(1).abs().amax(1)

    def read_range(self, group: Group) -> Tensor:
        """Largest magnitude of the weights for each channel, over all readers, (channels,)."""
        ranges = [self._by_channel(reader).abs().amax((1, 3)).flatten() for reader in group.readers]
        return torch.stack(ranges).amax(0)

    def apply(self, group: Group, scales: Tensor) -> None:
        """Divide the channels of a group by positive scales, (channels,), and have its readers undo it."""
        if group.inserted:
            self._products.append((group, 1 / scales))
        for name, parameter in ({} if group.inserted else _parameters(group.producer)).items():
            if parameter is not None:
                value = self._value(parameter)
                self._values[str(parameter.target)] = (value.reshape(len(scales), -1) / scales[:, None]).reshape(
                    value.shape
                )
            elif name == "weight":
                self._new[group.producer] = self._new.get(group.producer, torch.ones_like(scales)) / scales
        for reader in group.readers:
            self._values[str(dialect.bound_arguments(reader.layer)["weight"].target)] = self.scaled(reader, scales)

    def scaled(self, reader: Reader, scales: Tensor) -> Tensor:
        """A reader's weight times the scales of the channels that it reads, float64."""
        blocks = self._by_channel(reader)
        factors = scales.reshape(blocks.shape[0], 1, blocks.shape[2], 1)
        return (blocks * factors).reshape(self.weight(reader.layer).shape)

    def finish(self, note: str) -> Program:
        """The scaled program."""
        edit = Edit(self._program)
        for name, value in self._values.items():
            edit.tensor(name, value.to(self._program.tensors[name].dtype), self._program.roles[name])
        for producer, value in self._new.items():
            _set_weight(self._program, edit, producer, value)
        for group, factors in self._products:
            _insert_product(self._program, edit, group, factors)
        return edit.finish(note)

    def _value(self, parameter: fx.Node) -> Tensor:
        name = str(parameter.target)
        return self._values.get(name, self._program.tensors[name].detach().double())

    def _by_channel(self, reader: Reader) -> Tensor:
        """A reader's weight as (groups, outputs a group, channels a group, entries a channel)."""
        weight = self.weight(reader.layer)
        groups = dialect.bound_arguments(reader.layer).get("groups", 1)
        return weight.reshape(groups, weight.shape[0] // groups, weight.shape[1] // reader.columns, -1)


def _insert_product(program: Program, edit: Edit, group: Group, factors: Tensor) -> None:
    """Multiply what the readers of a group read, channel by channel."""
    value, source = tensor_value(group.producer), edit.node(group.producer)
    tensor = factors.to(TORCH_DTYPES[value.dtype])
    gain = edit.tensor(_free_name(program, f"{group.producer.name}.smoothing"), tensor, "parameter")
    layers = [edit.node(reader.layer) for reader in group.readers]
    product = edit.before(layers[0], f"{group.producer.name}_smoothed", aten.mul.Tensor, (source, gain), value)
    edit.replace(source, product, layers)


def _set_weight(program: Program, edit: Edit, norm: fx.Node, value: Tensor) -> None:
    """Give a norm that has no weight one."""
    name = _free_name(program, f"{norm.name}.weight")
    dtype = torch.float64 if tensor_value(norm).dtype == "float64" else torch.float32
    arguments: dict[str, Any] = dialect.bound_arguments(edit.node(norm))
    arguments["weight"] = edit.tensor(name, value.to(dtype), "parameter")
    edit.node(norm).args = tuple(arguments.values())


def _free_name(program: Program, name: str) -> str:
    while name in program.tensors:
        name += "_"
    return name
