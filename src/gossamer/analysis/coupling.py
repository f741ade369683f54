"""Dimension coupling: which axes of which tensors must change together, and the cut that changes them.

``couple`` walks a program once with a rule for each operation (``analysis/rules``) and collects the leaves of the axis
algebra (``analysis/axes.py``) into groups. A group that is not frozen can be cut: ``Coupling.cut`` slices every tensor
that holds it and rewrites what the graph states of sizes. ``analysis/proof.py`` proves each cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from torch import fx

from gossamer.analysis.axes import Axis, Dim, Keep, is_symbolic
from gossamer.analysis.rules import RULES
from gossamer.analysis.trace import Role, Rule, Trace
from gossamer.core.errors import OptionError
from gossamer.core.names import require_known
from gossamer.program.dialect import op_name
from gossamer.program.program import Program
from gossamer.program.surgery import Survivors, cut_axes


@dataclass(frozen=True, eq=False)
class Member:
    """One axis of a stored tensor that holds a group.

    Attributes:
        tensor: name in ``program.tensors``.
        axis: of that tensor.
        index: for each position along the axis its place in the group, -1 where it belongs to another; (axis size,).
        role: ``producer`` for the output axis of a weight, ``consumer`` for the axis of a weight that is summed over,
            ``follower`` for biases, norms, statistics, scales and the like.
        node: name of the node that reads the tensor; a tensor read in two roles has a member for each.
    """

    tensor: str
    axis: int
    index: np.ndarray
    role: Role
    node: str


@dataclass(frozen=True, eq=False)
class Group:
    """Axes that can only be cut together.

    Attributes:
        name: module path of its first producer, with ``:kind`` behind it where that producer has several groups or is
            one of an attention; of the first tensor, where nothing produces it.
        size: number of units: channels, heads, ...
        kind: ``channels``, ``hidden``, ``embedding``, ``heads``, ``kv_heads``, ``heads_per_kv``, ``head_dim``,
            ``value_dim``, ``groups``, ``repeats`` or ``padding``.
        members: the axes, in the order in which the program reads them.
        frozen: why it may not be cut, with operation, node and module; empty if it may.
        renormalising: a layer or group norm takes mean and variance over it, so that a cut equals masking only if the
            norm is masked too.
    """

    name: str
    size: int
    kind: str
    members: tuple[Member, ...]
    frozen: str = ""
    renormalising: bool = False

    def __str__(self) -> str:
        state = f"frozen: {self.frozen}" if self.frozen else "renormalising" if self.renormalising else "free"
        return f"{self.name}: {self.size} {self.kind}, {len(self.members)} axes, {state}"


@dataclass(frozen=True, eq=False)
class Coupling:
    """The groups of a program.

    Attributes:
        program: what was looked at.
        groups: all of them, free and frozen, in the order of the program.
        unknown: operations without a rule, as ``op node in module``; all they touch is frozen.
        trace: the descriptions behind the groups.
        leaves: leaf of each group by its name.
    """

    program: Program
    groups: tuple[Group, ...]
    unknown: tuple[str, ...] = ()
    trace: Trace = field(repr=False, kw_only=True)
    leaves: Mapping[str, Dim] = field(repr=False, kw_only=True)

    @cached_property
    def _by_name(self) -> Mapping[str, Group]:
        return {group.name: group for group in self.groups}

    @property
    def free(self) -> tuple[Group, ...]:
        """The groups that can be cut."""
        return tuple(group for group in self.groups if not group.frozen)

    def group(self, name: str) -> Group:
        """A group by name.

        Raises:
            UnknownName: there is none; offers the nearest.
        """
        require_known(name, self._by_name, "group", f"looking for a group of {self.program.name}")
        return self._by_name[name]

    def freeze(self, reasons: Mapping[str, str]) -> Coupling:
        """The coupling with more groups frozen, each for the reason given.

        Raises:
            UnknownName: no group has that name.
        """
        for name in reasons:
            self.group(name)
        groups = tuple(
            replace(group, frozen=group.frozen or reasons.get(group.name, "")) if group.name in reasons else group
            for group in self.groups
        )
        return replace(self, groups=groups)

    def cut(self, keep: Mapping[str, Sequence[int]], note: str = "") -> Program:
        """The program with only the units of each group that are to be kept.

        Args:
            keep: ascending indices by group name; groups that are not named stay whole.
            note: line for the provenance; by default one that says what was cut.

        Raises:
            UnknownName: no group has that name.
            OptionError: a group is frozen, or its indices are none, out of range, not ascending, or all there are.
        """
        for name, indices in keep.items():
            _require_cuttable(self.group(name), indices)
        if not keep or all(len(indices) == self.group(name).size for name, indices in keep.items()):
            raise OptionError("cutting groups", got="nothing to cut", expected="a group with fewer indices than units")
        by_leaf = self.keep_by_leaf(keep)
        sizes = ", ".join(f"{name} {self.group(name).size} to {len(indices)}" for name, indices in keep.items())
        return cut_axes(self.program, self.survivors(by_leaf), note or f"cut {sizes}")

    def keep_by_leaf(self, keep: Mapping[str, Sequence[int]]) -> Keep:
        """Kept indices by leaf, of the groups that lose any."""
        return {
            self.leaves[name].id: np.asarray(indices, np.int64)
            for name, indices in keep.items()
            if len(indices) < self.group(name).size
        }

    def survivors(self, keep: Keep) -> dict[fx.Node, tuple[Survivors, ...] | list[tuple[Survivors, ...]]]:
        """What stays of every axis of every node that loses something."""
        found: dict[fx.Node, Any] = {}
        for node in dict.fromkeys(node for leaf in keep for node in self._holding.get(leaf, ())):
            value = self.trace.values[node]
            if isinstance(value, list):
                found[node] = [tuple(self._survivors(axis, keep) for axis in axes) for axes in value]
            else:
                found[node] = tuple(self._survivors(axis, keep) for axis in value)
        return found

    @cached_property
    def _holding(self) -> Mapping[int, list[fx.Node]]:
        """The nodes whose value holds a leaf, by leaf."""
        found: dict[int, list[fx.Node]] = {}
        for node, value in self.trace.values.items():
            axes = [axis for part in value for axis in part] if isinstance(value, list) else value
            for leaf in dict.fromkeys(leaf for axis in axes for leaf in self.trace.axes.leaves(axis)):
                found.setdefault(leaf.id, []).append(node)
        return found

    def holding(self, name: str) -> list[fx.Node]:
        """The nodes whose value holds a group, stored tensors included."""
        return self._holding[self.leaves[self.group(name).name].id]

    def _survivors(self, axis: Axis, keep: Keep) -> Survivors:
        axes = self.trace.axes
        axis = axes.resolve(axis)
        if not axes.touched(axis, keep):
            return None
        if is_symbolic(axis):
            return Fraction(axes.kept_size(axis, keep), axis.size)
        return axes.kept(axis, keep)


def _require_cuttable(group: Group, indices: Sequence[int]) -> None:
    doing = f"cutting group {group.name}"
    if group.frozen:
        raise OptionError(doing, got=f"a frozen group: {group.frozen}", expected="a free group")
    found = np.asarray(indices)
    if found.ndim != 1 or not found.size or found.dtype.kind not in "iu":
        raise OptionError(
            doing, got=f"{found.dtype}{list(found.shape)}", expected="indices of the units to keep, at least one"
        )
    if found.min() < 0 or found.max() >= group.size:
        raise OptionError(
            doing, got=f"indices from {found.min()} to {found.max()}", expected=f"indices from 0 to {group.size - 1}"
        )
    if (np.diff(found) <= 0).any():
        raise OptionError(doing, got="indices out of order or twice", expected="ascending indices, each once")


def couple(program: Program, rules: Mapping[Any, Rule] = RULES) -> Coupling:
    """Find the groups of a program.

    Args:
        program: any program; nothing is annotated.
        rules: what each operation does to axes; operations without one freeze what they touch.

    Cost: some milliseconds for a hundred nodes; no data and no arithmetic on weights.
    """
    trace = Trace(program, rules)
    trace.walk()
    order = {node: place for place, node in enumerate(program.graph.nodes)}
    readers = {
        node: min(node.users, key=order.__getitem__)
        for node in program.graph.nodes
        if node.op == "get_attr" and node.users
    }
    members: dict[Dim, list[Member]] = {}
    for node in sorted(readers, key=lambda node: order[readers[node]]):
        name = str(node.target)
        for dim, axis in enumerate(trace.axes_of(node)):
            roles = trace.roles.get((name, dim)) or [("follower", readers[node])]
            for leaf in trace.axes.leaves(axis):
                index = trace.axes.index(axis, leaf)
                members.setdefault(leaf, []).extend(
                    Member(name, dim, index, role, reader.name) for role, reader in roles
                )
    unlisted = {leaf for axis in trace.unlisted for leaf in trace.axes.leaves(axis)}
    listed = {
        leaf: found
        for leaf, found in members.items()
        if leaf not in unlisted and (leaf.size > 1 or any(member.role == "producer" for member in found))
    }
    names = _names(program, trace, listed)
    groups = tuple(
        Group(
            names[leaf],
            leaf.size,
            trace.axes.kind(leaf) or "channels",
            tuple(found),
            trace.axes.frozen(leaf),
            trace.axes.renormalising(leaf),
        )
        for leaf, found in listed.items()
    )
    unknown = tuple(f"{op_name(node.target)} {node.name} in {node.meta.get('module', '')!r}" for node in trace.unknown)
    return Coupling(program, groups, unknown, trace=trace, leaves={name: leaf for leaf, name in names.items()})


_SUFFIXED = frozenset({"heads", "kv_heads", "heads_per_kv", "head_dim", "value_dim", "groups"})
"""Kinds that are part of every name, so that it stays when a cut leaves one head."""


def _names(program: Program, trace: Trace, members: Mapping[Dim, list[Member]]) -> dict[Dim, str]:
    """A name for each leaf: where it is produced first, and what it counts where that place has several."""
    modules = {node.name: node.meta.get("module") or node.name for node in program.call_nodes}
    places: dict[Dim, str] = {}
    for leaf, found in members.items():
        first = next((member for member in found if member.role == "producer"), found[0])
        places[leaf] = modules[first.node] if first.role == "producer" else first.tensor
    several: dict[str, list[Dim]] = {}
    for leaf, place in places.items():
        several.setdefault(place, []).append(leaf)
    names: dict[Dim, str] = {}
    for place, leaves in several.items():
        kinds = [trace.axes.kind(leaf) or "channels" for leaf in leaves]
        for at, (leaf, kind) in enumerate(zip(leaves, kinds, strict=True)):
            suffix = f":{kind}" if len(leaves) > 1 or kind in _SUFFIXED else ""
            names[leaf] = place + suffix + (f".{kinds[:at].count(kind)}" if kinds.count(kind) > 1 else "")
    return {leaf: names[leaf] for leaf in members}
