"""Surgery: positions of axes leave a program, or a whole residual block does.

``cut_axes`` is told which positions of every axis of every value survive. It slices the stored tensors, rewrites what
the graph states of sizes (views, splits, groups, normalised shapes, ...) and derives every value's shape anew. It does
not ask whether the cut makes sense: that is what the coupling analysis decides, and its proof checks.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from gossamer.core.names import require_known
from gossamer.program import dialect
from gossamer.program.dialect import aten
from gossamer.program.edit import Edit
from gossamer.program.program import Program
from gossamer.program.sizes import scaled_size
from gossamer.program.values import SizeValue, TensorValue

Survivors = np.ndarray | Fraction | None
"""Positions of an axis that stay, ascending; the share of an axis whose size varies; ``None`` for all."""

Kept = Mapping[fx.Node, tuple[Survivors, ...] | list[tuple[Survivors, ...]]]
"""Survivors of each axis, for every node that loses any; a list of them for nodes with several results."""


Arguments = Mapping[str, Any]
Rewrite = Callable[[fx.Node, Arguments, "Cut"], Arguments]


class Cut:
    """What a rewrite asks about the values before and after."""

    def __init__(self, edit: Edit, kept: Kept) -> None:
        self._edit = edit
        self._kept = kept

    def survivors(self, node: fx.Node, dim: int) -> Survivors:
        """What stays of an axis of a node with one result."""
        found = self._kept.get(node)
        return None if found is None else found[dim]  # type: ignore[return-value]

    def share(self, node: fx.Node, dim: int) -> Fraction:
        """The share of an axis that stays."""
        found = self.survivors(node, dim)
        if isinstance(found, np.ndarray):
            return Fraction(len(found), node.meta["value"].shape[dim])
        return Fraction(1) if found is None else found

    def size(self, node: fx.Node, dim: int) -> Any:
        """The size of an axis after the cut."""
        return scaled_size(node.meta["value"].shape[dim], self.share(node, dim))

    def before(self, node: fx.Node, dim: int, bound: int) -> int:
        """How many survivors stand in front of a position."""
        found = self.survivors(node, dim)
        return int(np.searchsorted(found, bound)) if isinstance(found, np.ndarray) else bound

    def scaled(self, size: fx.Node, share: Fraction) -> fx.Node:
        """A computed size of which a share stays, in the new graph."""
        node, expression = self._edit.node(size), size.meta["value"].expression
        if share.numerator != 1:
            value = SizeValue(scaled_size(expression, Fraction(share.numerator)))
            node = self._edit.after(node, f"{size.name}_times", operator.mul, (node, share.numerator), value)
        if share.denominator != 1:
            value = SizeValue(scaled_size(expression, share))
            node = self._edit.after(node, f"{size.name}_over", operator.floordiv, (node, share.denominator), value)
        return node

    def value(self, node: fx.Node) -> Any:
        """What a node yields after the cut: dtype and shape, shapes, or a size."""
        value, found = node.meta["value"], self._kept.get(node)
        if isinstance(value, SizeValue):
            source, dim = node.args
            assert isinstance(source, fx.Node)
            assert isinstance(dim, int)
            return SizeValue(self.size(source, dim))
        if isinstance(value, TensorValue):
            return TensorValue(value.dtype, tuple(self.size(node, dim) for dim in range(len(value.shape))))
        assert isinstance(found, list)
        return tuple(
            TensorValue(item.dtype, tuple(_size(*pair) for pair in zip(item.shape, axes, strict=True)))
            for item, axes in zip(value, found, strict=True)
        )

    def parts(self, node: fx.Node, dim: int, sizes: Sequence[Any]) -> list[Any]:
        """Sizes along an axis of the several results of a node."""
        found = self._kept.get(node)
        if not isinstance(found, list):
            return list(sizes)
        return [_size(size, axes[dim]) for size, axes in zip(sizes, found, strict=True)]


def _size(size: Any, survivors: Survivors) -> Any:
    if isinstance(survivors, np.ndarray):
        return len(survivors)
    return size if survivors is None else scaled_size(size, survivors)


def cut_axes(program: Program, kept: Kept, note: str) -> Program:
    """The program with only the surviving positions.

    Args:
        program: what to cut.
        kept: survivors by node; stored tensors are nodes as well.
        note: line for the provenance.

    Returns:
        A program that shares every tensor that lost nothing. Cost: a copy of the graph and of the sliced tensors.
    """
    edit = Edit(program)
    cut = Cut(edit, kept)
    sliced: dict[int, Tensor] = {}
    for node in program.graph.nodes:
        if node.op == "get_attr" and node in kept:
            name = str(node.target)
            tensor = program.tensors[name]
            if id(tensor) not in sliced:
                sliced[id(tensor)] = _sliced(tensor, kept[node])
            edit.tensors[name] = sliced[id(tensor)]
    for node in program.graph.nodes:
        if node.op == "call_function" and _concerned(node, kept):
            rewrite = REWRITES.get(node.target)
            if rewrite is not None:
                changed = rewrite(node, dialect.bound_arguments(node), cut)
                _set_arguments(edit, node, changed)
        if node.op != "output" and (node in kept or _reads_size_of(node, kept)):
            edit.node(node).meta["value"] = cut.value(node)
    for node in program.graph.nodes:
        if node.op == "call_function" and node.target is aten.mean.dim and _concerned(node, kept):
            _rescale_mean(edit, node, cut)
    return edit.finish(note)


def _concerned(node: fx.Node, kept: Kept) -> bool:
    return node in kept or any(used in kept for used in node.all_input_nodes)


def _reads_size_of(node: fx.Node, kept: Kept) -> bool:
    return node.target is aten.sym_size.int and node.args[0] in kept


def _sliced(tensor: Tensor, survivors: Any) -> Tensor:
    for dim, positions in enumerate(survivors):
        if positions is not None:
            tensor = tensor.detach().index_select(dim, torch.from_numpy(positions).to(tensor.device))
    return tensor.contiguous()


def _set_arguments(edit: Edit, node: fx.Node, changed: Arguments) -> None:
    """Write changed arguments into the new graph; nodes among them may be of either graph."""
    assert isinstance(node.target, torch._ops.OpOverload)
    copy, bound = edit.node(node), dialect.bound_arguments(node)
    args, kwargs = list(copy.args), dict(copy.kwargs)
    for place, argument in enumerate(node.target._schema.arguments):
        name = argument.name
        if name not in changed or changed[name] == bound[name]:
            continue
        value = map_arg(changed[name], lambda used: edit.node(used) if used.graph is node.graph else used)
        if place < len(args):
            args[place] = value
        else:
            kwargs[name] = value
    copy.args, copy.kwargs = tuple(args), kwargs


def _rescale_mean(edit: Edit, node: fx.Node, cut: Cut) -> None:
    """A mean over an axis that lost positions stays the sum divided by the old count."""
    arguments = dialect.bound_arguments(node)
    source = arguments["self"]
    dims = arguments["dim"] or range(len(source.meta["value"].shape))
    share = math.prod((cut.share(source, dim) for dim in dims), start=Fraction(1))
    if share != 1:
        copy = edit.node(node)
        factor = share.numerator / share.denominator
        edit.replace(copy, edit.after(copy, f"{node.name}_rescaled", aten.mul.Tensor, (copy, factor), cut.value(node)))


# What the graph states of sizes


def _stated_sizes(name: str) -> Rewrite:
    """Sizes of the result, as numbers, size nodes or -1."""

    def rewrite(node: fx.Node, arguments: Arguments, cut: Cut) -> Arguments:
        entries = list(arguments[name])
        lead = len(node.meta["value"].shape) - len(entries)
        for place, entry in enumerate(entries):
            if cut.share(node, place + lead) == 1 or (type(entry) is int and entry == -1):
                continue
            if not isinstance(entry, fx.Node):
                entries[place] = cut.size(node, place + lead)
            elif entry.target is not aten.sym_size.int:  # which reads the size after the cut
                entries[place] = cut.scaled(entry, cut.share(node, place + lead))
        return {name: entries}

    return rewrite


def _repeats(node: fx.Node, arguments: Arguments, cut: Cut) -> Arguments:
    source, repeats = arguments["self"], list(arguments["repeats"])
    missing = len(repeats) - len(source.meta["value"].shape)
    for dim, count in enumerate(repeats):
        inner = cut.share(source, dim - missing) if dim >= missing else Fraction(1)
        if isinstance(count, int):
            repeats[dim] = int(count * cut.share(node, dim) / inner)
    return {"repeats": repeats}


def _split_sizes(node: fx.Node, arguments: Arguments, cut: Cut) -> Arguments:
    return {"split_sizes": cut.parts(node, arguments["dim"], arguments["split_sizes"])}


def _bounds(node: fx.Node, arguments: Arguments, cut: Cut) -> Arguments:
    """Ends of a slice; one that takes every n-th starts within the first n, which stay."""
    source, dim = arguments["self"], arguments["dim"]
    if cut.survivors(source, dim) is None or arguments["step"] != 1:
        return {}
    size, far = source.meta["value"].shape[dim], 2**63 - 1
    changed: dict[str, Any] = {}
    for name, default in (("start", 0), ("end", far)):
        bound = default if arguments[name] is None else arguments[name]
        bound = bound + size if bound < 0 else bound
        changed[name] = far if bound >= size and name == "end" else cut.before(source, dim, bound)
    return changed


def _chosen(node: fx.Node, arguments: Arguments, cut: Cut) -> Arguments:
    source, dim, index = arguments["self"], arguments["dim"], arguments["index"]
    if cut.survivors(source, dim) is None:
        return {}
    return {"index": cut.before(source, dim, index % source.meta["value"].shape[dim])}


def _groups_of_convolution(node: fx.Node, arguments: Arguments, cut: Cut) -> Arguments:
    """As many as the weight's inputs go into the channels that are left."""
    source, weight, groups = arguments["input"], arguments["weight"], arguments["groups"]
    share = cut.share(source, 1 - len(weight.meta["value"].shape)) / cut.share(weight, 1)
    return {"groups": int(groups * share)}


def _groups_of_transposed(node: fx.Node, arguments: Arguments, cut: Cut) -> Arguments:
    weight, groups = arguments["weight"], arguments["groups"]
    share = cut.share(node, 1 - len(weight.meta["value"].shape)) / cut.share(weight, 1)
    return {"groups": int(groups * share)}


def _groups_of_norm(node: fx.Node, arguments: Arguments, cut: Cut) -> Arguments:
    source, groups = arguments["input"], arguments["num_groups"]
    left = cut.survivors(source, 1)
    if not isinstance(left, np.ndarray):
        return {}
    return {"num_groups": len(np.unique(left // (source.meta["value"].shape[1] // groups)))}


def _normalized_shape(node: fx.Node, arguments: Arguments, cut: Cut) -> Arguments:
    return {"normalized_shape": [cut.size(node, -place) for place in range(len(arguments["normalized_shape"]), 0, -1)]}


def _pinned_scale(node: fx.Node, arguments: Arguments, cut: Cut) -> Arguments:
    """The default scale is 1 / sqrt(d) of the d before the cut."""
    query = arguments["query"]
    if arguments["scale"] is not None or cut.share(query, -1) == 1:
        return {}
    return {"scale": 1 / math.sqrt(query.meta["value"].shape[-1])}


def _pads(node: fx.Node, arguments: Arguments, cut: Cut) -> Arguments:
    source, pads = arguments["self"], list(arguments["pad"])
    rank = len(node.meta["value"].shape)
    for place in range(len(pads) // 2):
        dim = rank - 1 - place
        if cut.share(node, dim) != 1:
            size = source.meta["value"].shape[dim]
            front, back = pads[2 * place], pads[2 * place] + size
            kept, inner = cut.before(node, dim, front), cut.before(node, dim, back)
            pads[2 * place : 2 * place + 2] = [kept, cut.size(node, dim) - inner]
    return {"pad": pads}


REWRITES: dict[Any, Rewrite] = {
    aten.reshape.default: _stated_sizes("shape"),
    aten.expand.default: _stated_sizes("size"),
    aten.full.default: _stated_sizes("size"),
    aten.repeat.default: _repeats,
    aten.split_with_sizes.default: _split_sizes,
    aten.slice.Tensor: _bounds,
    aten.slice_scatter.default: _bounds,
    aten.select.int: _chosen,
    aten.pad.default: _pads,
    **dict.fromkeys(dialect.CONVOLUTIONS, _groups_of_convolution),
    **dict.fromkeys(dialect.TRANSPOSED_CONVOLUTIONS, _groups_of_transposed),
    aten.group_norm.default: _groups_of_norm,
    aten.layer_norm.default: _normalized_shape,
    aten.rms_norm.default: _normalized_shape,
    aten.scaled_dot_product_attention.default: _pinned_scale,
}
"""How each operation that states a size states it after the cut; the others follow their operands."""


def drop_block(program: Program, entry: str, exit_: str, note: str) -> Program:
    """The program in which whoever read the end of a residual block reads its beginning.

    Args:
        program: what to cut.
        entry: name of the node whose value enters the block.
        exit_: name of the node that adds what the block computes.
        note: line for the provenance.

    Raises:
        UnknownName: the program has no such nodes.
    """
    names = {node.name for node in program.graph.nodes if node.op != "output"}
    for name in (entry, exit_):
        require_known(name, names, "node", f"dropping a block of {program.name}")
    edit = Edit(program)
    edit.replace(edit.node(exit_), edit.node(entry))
    return edit.finish(note)
