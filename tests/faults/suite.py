"""One fault in one net on one target: is it rejected, what is named, and does a random-input gate see it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from graph_faults import FAULTS as GRAPH_FAULTS
from integer_faults import FAULTS as INTEGER_FAULTS
from nets import ALL, Net, net
from planting import Fault

from gossamer.core.runnable import Runnable
from gossamer.core.target import Target
from gossamer.program import Interpreter, Program
from gossamer.search.diagnosis import compare_nodes, diagnose
from gossamer.search.probe import Builder
from gossamer.search.rounding import compare_with_program
from gossamer.search.synthetic import synthetic_inputs
from gossamer.verification.bisect import Diagnosis
from gossamer.verification.parity import Parity
from gossamer.verification.policies import FP16, Policy

FAULTS = (*GRAPH_FAULTS, *INTEGER_FAULTS)

NEAR = 6
"""Nodes that a group may have to count as naming the one in it."""

POLICIES: dict[int, Policy] = {37: FP16}
"""Where a fault is looked for under another policy than the net's."""


@dataclass(frozen=True)
class Result:
    """What became of one planted fault.

    Attributes:
        site: where it was planted.
        caught: it was rejected: by parity, by the check of capture, or by the accuracy that the original should have.
        by: the reason given.
        named: the diagnosis names what it must.
        diagnosis: its first line about the place.
        compilations: that the diagnosis took.
        random_gate: whether allclose(1e-3) on random normal inputs sees it.
    """

    number: int
    fault: str
    net: str
    target: str
    site: str
    caught: bool
    by: str
    named: bool
    diagnosis: str
    compilations: int
    random_gate: bool

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value."""
        return asdict(self)


def plan(
    target: Target, faults: Sequence[Fault] = FAULTS, nets: Sequence[str] = ALL
) -> Iterator[tuple[Fault, Net, str]]:
    """Every fault in every net where it applies, at the first site of each kind of node."""
    for fault in faults:
        for name in nets if fault.on in ("", target.runtime) else ():
            one = net(name, target)
            nodes = {node.name: node for node in one.program.graph.nodes}
            kinds: dict[object, str] = {}
            for site in fault.sites(one):
                kinds.setdefault(nodes[site].target if nodes[site].op == "call_function" else "input", site)
            for site in kinds.values():
                yield fault, one, site


def check_fault(fault: Fault, one: Net, site: str, target: Target) -> Result:
    """Plant, compare, diagnose."""
    policy = POLICIES.get(fault.number, one.policy)
    with tempfile.TemporaryDirectory() as folder:
        build = Builder(target, Path(folder), fault.lower(site), fault.open)
        whole: Runnable = build(one.program)
        if fault.in_data is not None:
            whole = Fed(whole, partial(fault.in_data, site=site))
        parity = gate(one, build, whole, policy)
        found = diagnose(one.program, build, one.cases, policy, candidate=whole, parity=parity)
        return Result(
            fault.number,
            fault.text,
            one.name,
            target.runtime,
            site,
            parity.verdict == "rejected",
            parity.reason,
            is_named(fault, one.program, site, found),
            (str(found.first) if found.first else found.boundary).partition("\n")[0],
            found.compilations,
            random_gate_rejects(one.program, whole),
        )


def gate(one: Net, build: Builder, whole: Runnable, policy: Policy) -> Parity:
    """Parity end to end, then node by node on integers."""
    parity = compare_with_program(one.program, whole, one.cases, policy)
    return compare_nodes(one.program, build, one.cases, parity.policy, parity)


def is_named(fault: Fault, program: Program, site: str, found: Diagnosis) -> bool:
    """Whether the first finding is the node (its pair, or the layer whose constant it is), or the text has the word."""
    first = found.first
    if fault.in_data is not None:
        return found.kind == "boundary" and fault.names in found.boundary
    if first is None:
        return False
    here = first.node in _places(program, site) or bool(fault.option)
    if fault.names == "group":
        return first.kind == "group" and site in first.group and len(first.group) <= NEAR
    if fault.names != "node":
        return here and any(fault.names in note for note in first.notes)
    return here


def _places(program: Program, site: str) -> set[str]:
    """The site, the rest of its pair, its items, and the layers that read it if it is made of constants."""
    by_name = {node.name: node for node in program.graph.nodes}
    node = by_name[site]
    found = {site} | {user.name for user in node.users if "dequantize" in user.name or "getitem" in user.name}
    if site.endswith(("weight_dequantize", "bias_dequantize")):
        found |= {user.name for user in node.users}
    return found


@dataclass(frozen=True)
class CleanPair:
    """A net and its own lowering, between which nothing is wrong.

    Attributes:
        alarm: why parity rejects it all the same; empty if it does not.
        named: what a diagnosis names; empty if nothing.
        random_gate: whether the random-input gate rejects it.
    """

    net: str
    target: str
    seed: int
    alarm: str
    named: str
    random_gate: bool

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value."""
        return asdict(self)


def check_clean(name: str, target: Target, seed: int) -> CleanPair:
    """A net with weights drawn by ``seed``, lowered without a fault, through the same gates."""
    one = net(name, target, seed)
    with tempfile.TemporaryDirectory() as folder:
        build = Builder(target, Path(folder))
        whole = build(one.program)
        parity = gate(one, build, whole, one.policy)
        found = diagnose(one.program, build, one.cases, one.policy, candidate=whole, parity=parity)
        random = random_gate_rejects(one.program, whole)
    alarm = parity.reason if parity.verdict == "rejected" else ""
    return CleanPair(name, target.runtime, seed, alarm, "" if found.kind == "clean" else str(found), random)


class Fed:
    """A Runnable behind a faulty data path."""

    def __init__(self, runnable: Runnable, change: Any) -> None:
        self._runnable, self._change = runnable, change
        self.specs, self.fingerprint = runnable.specs, runnable.fingerprint

    def run(self, inputs: Any, taps: Sequence[str] = ()) -> dict[str, np.ndarray]:
        return self._runnable.run(self._change(inputs), taps)


def random_gate_rejects(program: Program, candidate: Runnable) -> bool:
    """What many exports are checked with: one random normal batch of the example's sizes, allclose(1e-3)."""
    inputs = synthetic_inputs(program.signature, {"batch": 2, "rows": 8, "columns": 8, "length": 16}, 2, seed=0)
    wanted = Interpreter(program).run(inputs)
    try:
        got = candidate.run(inputs)
    except Exception:  # noqa: BLE001 - whatever a runtime raises, this gate would see
        return True
    return any(
        got[name].shape != values.shape or not np.allclose(got[name], values, rtol=1e-3, atol=1e-3)
        for name, values in wanted.items()
    )
