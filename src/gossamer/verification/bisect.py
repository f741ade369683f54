"""Naming the nodes at which a lowered model leaves its source: a search over pieces of it.

Each piece is lowered by itself and fed values of the reference, so what went wrong before it does not count: several
faults are found, and none hides behind another that cancels it. Pieces that do not touch each other are lowered side by
side in one model, so that a pass over all nodes is one compilation. Torch-free: what a piece is and how it runs is the
business of the ``Probe``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

from gossamer.verification.attribution import Attribution

MOST_COMPILATIONS = 40
"""After these the smallest piece found so far is named."""

ALWAYS_TRIED = (2, 4)
"""Sizes of windows that are tried even if a node has been named: for faults that exist between nodes only."""

SHOWN = 8
"""Findings on one screen."""

Names = tuple[str, ...]


@dataclass(frozen=True)
class LocalError:
    """How far a piece is from the reference on reference inputs.

    Attributes:
        node: of its outputs the worst.
        case: where it is worst.
        reason: what the policy does not accept; empty if the piece is within it.
        relative_l2: |d|_2 / |reference|_2 there.
    """

    node: str
    case: str
    reason: str
    relative_l2: float


class Probe(Protocol):
    """Runs pieces of a model; a piece is a sequence of node names."""

    @property
    def left(self) -> int:
        """Compilations that may still be made."""
        ...

    def local(self, pieces: Sequence[Names]) -> list[LocalError | None]:
        """The error of each piece on reference inputs; ``None`` for one that cannot be run by itself."""
        ...

    def inside(self, piece: Names) -> list[LocalError]:
        """The errors of all values of a piece, in order of execution, with each of them an output of the piece."""
        ...

    def adds_up(self, piece: Names) -> bool:
        """Whether the error of a piece is no more than what its parts do by themselves."""
        ...


@dataclass(frozen=True)
class Finding:
    """A place at which the candidate leaves the reference.

    Attributes:
        kind: ``node``, or ``group``: the nodes are right one by one and wrong together.
        node: the first value that is wrong; of a group whose inner values are right, its result.
        group: the nodes of the smallest piece that shows it.
        case: the input case.
        reason: the local error and the bound.
        relative_l2: |d|_2 / |reference|_2 of that value.
        op: the operation, where it is known.
        module: path of the module that the node comes from.
        source: the user's source line.
        notes: what else is known: stored tensors that differ, a reduced precision, whether the file is at fault.
    """

    kind: Literal["node", "group"]
    node: str
    group: Names
    case: str
    reason: str
    relative_l2: float
    op: str = ""
    module: str = ""
    source: str = ""
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = ", ".join(part for part in (f"module {self.module}" if self.module else "", self.source) if part)
        what = f"{self.node} = {self.op}" if self.op else self.node
        together = (
            f" with {', '.join(name for name in self.group if name != self.node)}" if self.kind == "group" else ""
        )
        lines = [
            f"{what}{together}" + (f" ({where})" if where else ""),
            f"  {self.reason}",
            *(f"  {n}" for n in self.notes),
        ]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value."""
        return {**asdict(self), "group": list(self.group), "notes": list(self.notes)}


@dataclass(frozen=True)
class Diagnosis:
    """Why a candidate differs from its reference.

    Attributes:
        kind: ``node`` or ``group`` as the first finding; ``accumulation``: every piece is within the policy and the
            errors add up; ``boundary``: the graph is clean and what surrounds it is not; ``clean``: nothing was found.
        findings: in order of execution.
        boundary: what is wrong outside of the graph.
        attribution: where the error at the outputs comes from, if it accumulates.
        growth: relative error of some values on the way, by node, when all of them are outputs of the candidate.
        observed: whether making these values outputs left the result as it was; if not, the fault may be in a fusion.
        compilations: models lowered and loaded.
        policy: name.
        notes: what should be known about the search.
    """

    kind: Literal["node", "group", "accumulation", "boundary", "clean"]
    findings: tuple[Finding, ...] = ()
    boundary: str = ""
    attribution: Attribution | None = None
    growth: Mapping[str, float] = field(default_factory=dict)
    observed: bool = True
    compilations: int = 0
    policy: str = ""
    notes: tuple[str, ...] = ()

    @property
    def first(self) -> Finding | None:
        """The first diverging place."""
        return self.findings[0] if self.findings else None

    def __str__(self) -> str:
        head = {
            "node": "the first diverging node is",
            "group": "the first diverging nodes, right one by one and wrong together, are",
            "accumulation": "no node is wrong by itself: the error accumulates",
            "boundary": f"the graph is right, what surrounds it is not: {self.boundary}",
            "clean": "no diverging node was found",
        }[self.kind]
        lines = [head, *(str(finding) for finding in self.findings[:SHOWN])]
        if len(self.findings) > SHOWN:
            lines.append(f"and {len(self.findings) - SHOWN} more")
        if self.attribution is not None:
            lines.append(str(self.attribution))
        if not self.observed:
            lines.append("with inner values exposed the result changes: the runtime fuses what it computes")
        lines += [*self.notes, f"{self.compilations} compilations, policy {self.policy}"]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value."""
        return {
            "kind": self.kind,
            "findings": [finding.to_json() for finding in self.findings],
            "boundary": self.boundary,
            "attribution": self.attribution.to_json() if self.attribution else None,
            "growth": dict(self.growth),
            "observed": self.observed,
            "compilations": self.compilations,
            "policy": self.policy,
            "notes": list(self.notes),
        }


def find_faults(atoms: Sequence[Names], groups: Sequence[Names], probe: Probe) -> list[Finding]:
    """All places that are wrong by themselves: nodes, fused groups, and small runs of nodes.

    Args:
        atoms: smallest pieces of the model in order of execution.
        groups: the same nodes, those joined that the runtime computes at once.
        probe: runs them.

    Returns:
        In order of execution. Empty where only more nodes than ``ALWAYS_TRIED`` together show anything.
    """
    found = [finding for error, group in _bad(groups, probe) for finding in _inside_group(error, group, atoms, probe)]
    for size in ALWAYS_TRIED:
        found += _windows(atoms, size, found, probe)
    return in_order(found, atoms)


def find_wide_faults(atoms: Sequence[Names], probe: Probe) -> list[Finding]:
    """The smallest runs of nodes that are wrong together, from 8 nodes on; for when nothing smaller is."""
    size = 2 * ALWAYS_TRIED[-1]
    while size < 2 * len(atoms) and probe.left > 0:
        if found := _windows(atoms, size, [], probe):
            return in_order(found, atoms)
        size *= 2
    return []


def in_order(findings: Sequence[Finding], atoms: Sequence[Names]) -> list[Finding]:
    """Findings in order of execution, each node named once."""
    place = {name: index for index, atom in enumerate(atoms) for name in atom}
    ordered = sorted(findings, key=lambda finding: (place[finding.node], len(finding.group)))
    return list({finding.node: finding for finding in reversed(ordered)}.values())[::-1]


def _bad(pieces: Sequence[Names], probe: Probe) -> list[tuple[LocalError, Names]]:
    if not pieces or probe.left <= 0:
        return []
    errors = zip(probe.local(pieces), pieces, strict=True)
    return [(error, piece) for error, piece in errors if error is not None and error.reason]


def _inside_group(error: LocalError, group: Names, atoms: Sequence[Names], probe: Probe) -> list[Finding]:
    """The nodes of a bad group that are bad alone; the group if none is."""
    parts = [atom for atom in atoms if atom[0] in group]
    if len(parts) == 1:
        return [_finding("node", error, group)]
    if alone := _bad(parts, probe):
        return [_finding("node", one, part) for one, part in alone]
    return [_named(error, _shrunk(parts, probe), probe)]


def _windows(atoms: Sequence[Names], size: int, found: Sequence[Finding], probe: Probe) -> list[Finding]:
    """Bad runs of ``size`` atoms that hold nothing named yet, each made as small as it stays bad.

    Once errors within the policy have added up to one beyond it, wider runs say nothing more.
    """
    named = {name for finding in found for name in finding.group}
    results: list[Finding] = []
    for offset in (0, size // 2):
        runs = [list(atoms[start : start + size]) for start in range(offset, len(atoms), size)]
        free = [run for run in runs if len(run) > size // 2 and not named & set(_joined(run))]
        by_names = {_joined(run): run for run in free}
        for error, names in _bad(list(by_names), probe):
            run = _shrunk(by_names[names], probe)
            if probe.left > 0 and probe.adds_up(_joined(run)):
                return results
            results.append(_named(error, run, probe))
            named |= set(results[-1].group)
    return results


def _shrunk(run: Sequence[Names], probe: Probe) -> list[Names]:
    """The shortest part of a bad run that is bad: first its end, then its start, by halving."""
    run = list(run)
    low, high = 1, len(run)  # run[:high] is bad
    while low < high and probe.left > 0:
        middle = (low + high) // 2
        low, high = (low, middle) if _bad([_joined(run[:middle])], probe) else (middle + 1, high)
    run = run[:high]
    low, high = 0, len(run) - 1  # run[low:] is bad
    while low < high and probe.left > 0:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _bad([_joined(run[middle:])], probe) else (low, middle - 1)
    return run[low:]


def _named(error: LocalError, run: Sequence[Names], probe: Probe) -> Finding:
    """The first wrong value inside a bad run; its result if the run is right with its values exposed."""
    names = _joined(run)
    inner = probe.inside(names) if probe.left > 0 else []
    wrong = [one for one in inner if one.reason]
    return _finding("group", wrong[0] if wrong else error, names)


def _finding(kind: Literal["node", "group"], error: LocalError, names: Names) -> Finding:
    return Finding(kind, error.node, names, error.case, error.reason, error.relative_l2)


def _joined(run: Sequence[Names]) -> Names:
    return tuple(name for atom in run for name in atom)
