"""In-place operations and views, made functional while a captured graph is rewritten.

Every captured value lives in a ``Cell``. Values that are the same tensor (``x`` and the result of ``x.relu_()``) share
one cell; a view has a cell that remembers how it was made from its base. Writing to a view writes through to the base,
and a view read after its base changed is made again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import fx

from gossamer.core.errors import CaptureError
from gossamer.program.dialect import aten

if TYPE_CHECKING:
    from gossamer.program.normalize import Normalizer


@dataclass(eq=False)
class Cell:
    """The current value of a captured tensor.

    Attributes:
        value: node (or tuple of nodes, number, None) that holds it now.
        base: the cell this one is a view of.
        remake: makes the view again from the base's value.
        write_back: the base's new value, given its value and a new one of the view; ``None`` if not invertible.
        seen: version of the base at which ``value`` was made.
        version: how often the value was replaced.
        owner: what an outside tensor is ("input x", "buffer running_mean"); empty for inner values, which may change.
    """

    value: Any
    base: Cell | None = None
    remake: Callable[[Any], Any] | None = None
    write_back: Callable[[Any, Any], Any] | None = None
    seen: int = 0
    version: int = 0
    owner: str = ""


def read(cell: Cell) -> Any:
    """The current value; a view whose base changed is made again."""
    if cell.base is not None:
        base_value = read(cell.base)
        if cell.seen != cell.base.version and cell.remake is not None:
            cell.value = cell.remake(base_value)
            cell.seen = cell.base.version
            cell.version += 1
    return cell.value


def write(cell: Cell, value: Any, where: str) -> None:
    """Replace the value of a cell, and of what it is a view of.

    Raises:
        CaptureError: an input or buffer would change, or the view cannot be written through.
    """
    if cell.owner:
        raise CaptureError(
            "making the captured graph free of side effects",
            problem="input mutated" if cell.owner.startswith("input") else "state mutated",
            got=f"{cell.owner} is changed in place",
            location=where,
            expected="a forward that leaves its inputs and buffers alone",
            try_="clone it first: x = x.clone()",
        )
    if cell.base is not None:
        if cell.write_back is None:
            raise CaptureError(
                "making the captured graph free of side effects",
                problem="in-place change of a view",
                location=where,
                expected="an in-place change of a whole tensor, or of a slice of one",
                try_="write it without the in-place form, for example with torch.where or torch.cat",
            )
        base_value = cell.write_back(read(cell.base), value)
        write(cell.base, base_value, where)
        cell.seen = cell.base.version
    cell.value = value
    cell.version += 1


def view_writer(target: Any, args: tuple[Any, ...], n: Normalizer) -> Callable[[Any, Any], Any] | None:
    """How a change of the view ``target(base, *args)`` reaches the base, for the views that can be written through."""
    if target is aten.slice.Tensor:
        rest = (*args, *(0, None, None, 1)[len(args) :])
        return lambda base, value: n.emit(aten.slice_scatter.default, base, value, *rest)
    if target is aten.select.int:
        return lambda base, value: n.emit(aten.select_scatter.default, base, value, *args)
    if target in (
        aten.view.default,
        aten.reshape.default,
        aten.unsqueeze.default,
        aten.squeeze.dim,
        aten.flatten.using_ints,
    ):
        return lambda base, value: n.emit(aten.reshape.default, value, n.sizes(base))
    if target in (aten.transpose.int, aten.t.default):
        return lambda base, value: n.apply(target, value, *args)
    if target is aten.permute.default:
        order = [axis % len(args[0]) for axis in args[0]]
        return lambda base, value: n.apply(target, value, [order.index(axis) for axis in range(len(order))])
    return None


def may_share_memory(node: fx.Node) -> bool:
    """Whether the result of a captured call may share memory with its first argument: its schema says so."""
    schema = getattr(node.target, "_schema", None)
    alias = schema.arguments[0].alias_info if schema is not None and schema.arguments else None
    return alias is not None and not alias.is_write


def is_mutation(node: fx.Node) -> bool:
    """Whether a captured call changes its first argument in place."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.arguments) and bool(schema.arguments[0].is_write)
