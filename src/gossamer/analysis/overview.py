"""What can be cut from a program, at a glance: groups with their shares, what is frozen and why, residual blocks."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch import fx

from gossamer.analysis.counts import count
from gossamer.analysis.coupling import Coupling, Group, couple
from gossamer.analysis.depth import Block, residual_blocks
from gossamer.analysis.proof import Proof, proven
from gossamer.analysis.widths import Widths
from gossamer.core.table import format_table
from gossamer.program.dialect import CLASSES, aten
from gossamer.program.program import Program

_READ_BY = {
    *(
        target
        for target, name in CLASSES.items()
        if name in ("conv", "conv_transpose", "linear", "matmul", "embedding")
    ),
    aten.einsum.default,
    aten.lstm.input,
    aten.gru.input,
}


@dataclass(frozen=True, eq=False)
class Analysis:
    """A program's groups and counts.

    Attributes:
        coupling: the groups; those that failed a proof are frozen.
        blocks: residual blocks that can be left out.
        macs: multiply-accumulates at the smallest sizes of named dims.
        parameters: trained values, tied ones once.
        shares: by group, the share of MACs and of parameters that are there only through it. They overlap: a
            convolution counts for the group that it reads and for the one that it writes.
        free_weights: share of the entries of weights that lie in a free group.
        proof: of the free groups; ``None`` if it was not asked for.
    """

    coupling: Coupling
    blocks: tuple[Block, ...]
    macs: int
    parameters: int
    shares: dict[str, tuple[float, float]]
    free_weights: float
    proof: Proof | None

    @property
    def columns(self) -> list[str]:
        """Titles of the table."""
        proof = ["deviation"] if self.proof else []
        return ["group", "kind", "size", "axes", "of the MACs", "of the parameters", *proof, "state"]

    def rows(self) -> list[list[str]]:
        """One row a group, in the order of the program."""
        return [self._row(group) for group in self.coupling.groups]

    def _row(self, group: Group) -> list[str]:
        macs, parameters = self.shares[group.name]
        state = f"frozen: {group.frozen}" if group.frozen else "free"
        row = [group.name, group.kind, str(group.size), str(len(group.members)), f"{macs:.1%}", f"{parameters:.1%}"]
        if self.proof:
            row.append(self._deviations.get(group.name, ""))
        return [*row, f"{state}, renormalising" if group.renormalising and not group.frozen else state]

    @cached_property
    def _deviations(self) -> dict[str, str]:
        entries = self.proof.entries if self.proof else ()
        return {entry.group: f"{entry.deviation:.1e}" for entry in entries}

    @property
    def facts(self) -> list[str]:
        """What stands below the table, a line each."""
        free, groups = len(self.coupling.free), len(self.coupling.groups)
        lines = [f"{free} of {groups} groups can be cut; {self.free_weights:.1%} of the weights lie in them"]
        lines.append(f"{self.macs:,} MACs, {self.parameters:,} parameters")
        lines += [f"no rule for {place}: all it touches is frozen" for place in self.coupling.unknown]
        if self.blocks:
            lines.append(f"residual blocks that can go: {', '.join(block.name for block in self.blocks)}")
        if self.proof:
            together = self.proof.together
            lines.append(
                f"proof: {len(self.proof.entries)} cuts, largest deviation in float64 {self.proof.deviation:.1e}"
                + (f", {together.deviation_fp32:.1e} in float32 for all at once" if together else "")
                + (f"; {len(self.proof.refuted)} refuted" if self.proof.refuted else "")
            )
        return lines

    def __str__(self) -> str:
        return "\n".join([format_table(self.columns, self.rows()), *self.facts])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value."""
        return {
            "name": self.coupling.program.name,
            "digest": self.coupling.program.digest,
            "macs": self.macs,
            "parameters": self.parameters,
            "free_weights": self.free_weights,
            "groups": [self._group_json(group) for group in self.coupling.groups],
            "unknown": list(self.coupling.unknown),
            "blocks": [asdict(block) for block in self.blocks],
            "proof": self.proof.to_json() if self.proof else None,
        }

    def _group_json(self, group: Group) -> dict[str, Any]:
        macs, parameters = self.shares[group.name]
        return {
            "name": group.name,
            "kind": group.kind,
            "size": group.size,
            "macs_share": macs,
            "parameters_share": parameters,
            "frozen": group.frozen,
            "renormalising": group.renormalising,
            "members": [
                {"tensor": one.tensor, "axis": one.axis, "role": one.role, "node": one.node} for one in group.members
            ],
        }


def analyze_program(program: Program, *, prove: bool = False) -> Analysis:
    """Look at what can be cut.

    Args:
        program: any program.
        prove: prove the cut of each free group, and freeze those that fail.

    Cost: some milliseconds for a hundred nodes; with ``prove`` some float64 passes for each kind of group.
    """
    coupling, proof = proven(program) if prove else (couple(program), None)
    widths, counts = Widths(coupling), count(program)
    macs, parameters = max(widths.macs({}), 1), max(widths.parameters({}), 1)
    shares = {
        name: (1 - widths.macs({name: 0}) / macs, 1 - widths.parameters({name: 0}) / parameters)
        for name in (group.name for group in coupling.groups)
    }
    blocks = residual_blocks(program, coupling)
    return Analysis(coupling, blocks, counts.total, counts.parameters, shares, free_share(coupling), proof)


def free_share(coupling: Coupling) -> float:
    """Share of the entries of all weights that a cut of free groups can remove; 0 where there are no weights."""
    masks = {
        name: [np.zeros(size, bool) for size in coupling.program.tensors[name].shape]
        for name in weights_of(coupling.program)
    }
    for group in coupling.free:
        for member in group.members if group.size > 1 else ():
            if member.tensor in masks:
                masks[member.tensor][member.axis] |= member.index >= 0
    total = sum(math.prod(mask.size for mask in each) for each in masks.values())
    stuck = sum(math.prod(int((~mask).sum()) for mask in each) for each in masks.values())
    return 1 - stuck / total if total else 0.0


def weights_of(program: Program) -> list[str]:
    """Trained tensors of two axes or more that a weighted or recurrent node reads, directly or through constants only.

    Tied weights are named once.
    """
    stored: dict[fx.Node, set[str]] = {}
    found: dict[int, str] = {}
    for node in program.graph.nodes:
        inputs = node.all_input_nodes
        if node.op == "get_attr":
            stored[node] = {str(node.target)}
        elif node.op == "call_function" and inputs and all(used in stored for used in inputs):
            stored[node] = set().union(*(stored[used] for used in inputs))
        elif node.op == "call_function" and node.target in _READ_BY:
            for name in sorted(set().union(*(stored.get(used, set()) for used in inputs))):
                tensor = program.tensors[name]
                if program.roles[name] == "parameter" and tensor.dim() > 1:
                    found.setdefault(id(tensor), name)
    return list(found.values())
