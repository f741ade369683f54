"""Why a lowered model differs from its Program: the first diverging node, its source line, and an input that shows it.

Programs are cut (``program.segment``), built the way the candidate was, run and compared (``search.probe``), and the
results searched (``verification.bisect``). Where the graph is clean, what surrounds it is asked
(``verification.boundaries``).
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path

from gossamer.core.errors import GossamerError
from gossamer.core.runnable import Runnable
from gossamer.core.target import Target
from gossamer.lowering import Lowered
from gossamer.program.interpreter import Interpreter
from gossamer.program.program import Program, outputs_of
from gossamer.program.segment import expose, frontiers
from gossamer.program.text import node_text
from gossamer.runtimes import lower_for, open_executable
from gossamer.search.opinions import notes_on
from gossamer.search.probe import Build, Builder, PieceProbe, Raised, run_candidate
from gossamer.verification.attribution import Attribution, noise
from gossamer.verification.bisect import SHOWN, Diagnosis, Finding, Names, find_faults, find_wide_faults
from gossamer.verification.boundaries import explain_boundary
from gossamer.verification.inputs import Case
from gossamer.verification.parity import Parity, compare_runnables
from gossamer.verification.policies import FP32, Policy

CASES = 6
"""Cases that pieces of a float program are run on: the one that failed, then real ones."""

STEP_KINDS = ("real", "stress")
"""Cases that quantized values are compared on, step by step."""

MOST_PARTS = 64
"""Parts that an error at the outputs is attributed to."""


def diagnose_lowered(
    program: Program,
    target: Target,
    cases: Sequence[Case],
    policy: Policy,
    *,
    model: Path | None = None,
    parity: Parity | None = None,
    lower: Callable[[Target, Program], Lowered] = lower_for,
) -> Diagnosis:
    """Name the first node at which a lowered program leaves the reference interpreter.

    Args:
        program: the source.
        target: what it was lowered for.
        cases: from ``parity_cases``.
        policy: under which it was compared.
        model: the file that was compared; by default the program is lowered again.
        parity: the comparison that rejected it; by default it is made here.
        lower: how it was lowered.
    """
    with tempfile.TemporaryDirectory(prefix="gossamer-") as folder:
        build = Builder(target, Path(folder), lower)
        opened = build(program) if model is None else open_executable(model, program.signature, target)
        with closing(opened):
            return diagnose(program, build, cases, policy, candidate=opened, parity=parity)


def diagnose(
    program: Program,
    build: Build,
    cases: Sequence[Case],
    policy: Policy,
    *,
    candidate: Runnable | None = None,
    parity: Parity | None = None,
    source: Program | None = None,
) -> Diagnosis:
    """Name the nodes, or what else, at which a candidate leaves the reference interpreter.

    Args:
        program: the reference.
        build: makes a candidate of a program, the way the candidate at hand was made: lowered by the same code with the
            same options; ``Interpreter`` to compare two programs.
        cases: from ``parity_cases``; at least one real.
        policy: the bounds; each piece must keep them on reference inputs.
        candidate: the candidate at hand; by default ``build(source)``.
        parity: the comparison of the candidate; by default it is made here.
        source: the candidate as a program where it is not the reference; values are matched by name.

    Returns:
        Kind ``clean`` where no piece of the candidate is outside of the policy; its note says if the whole is.
    """
    probe = PieceProbe(program, build, policy, source)
    reference = Interpreter(program)
    with probe.opened(probe.source) if candidate is None else nullcontext(candidate) as whole:
        parity = parity or compare_runnables(reference, whole, cases, policy)
        probe.observe(_chosen(cases, parity.failed_case, policy))
        growth, observed = _growth(probe, whole)
        findings = find_faults(probe.atoms, probe.groups, probe)
        boundary, attribution = "", None
        if not findings and parity.verdict == "rejected":
            boundary = explain_boundary(reference, whole, cases, policy) or _of_the_file(probe, whole, cases)
            attribution = None if boundary else _sources(probe, whole)
            if not boundary and not (attribution and attribution.accumulates):
                findings = find_wide_faults(probe.atoms, probe)
    placed = tuple(_placed(probe, finding, full=index < SHOWN) for index, finding in enumerate(findings))
    accumulates = attribution is not None and attribution.accumulates
    kind = placed[0].kind if placed else "boundary" if boundary else "accumulation" if accumulates else "clean"
    unexplained = kind == "clean" and parity.verdict == "rejected"
    return Diagnosis(
        kind=kind,
        findings=placed,
        boundary=boundary,
        attribution=attribution,
        growth=growth,
        observed=observed,
        compilations=probe.compilations,
        policy=policy.name,
        notes=(f"the whole was rejected all the same: {parity.reason}",) if unexplained else (),
    )


def compare_nodes(program: Program, build: Build, cases: Sequence[Case], policy: Policy, parity: Parity) -> Parity:
    """A comparison with that of every fused group of a quantized program added, on reference integers.

    End to end, a wrong step in one tensor drowns in what the policy leaves to rounding. Here each group gets the
    reference's own values: what is quantized in it may be off by ``policy.steps`` on ``policy.step_share`` of its
    elements, floats keep the bounds of float32. Policies without such bounds, programs without quantizers, and
    comparisons that failed already are returned as they are.

    Cost: one compilation of all groups side by side, one run a case.
    """
    probe = PieceProbe(program, build, policy)
    if parity.verdict == "rejected" or policy.steps is None or not probe.is_quantized:
        return parity
    probe.observe([case for case in cases if case.kind in STEP_KINDS])
    wrong = [error for error in probe.local(probe.groups) if error is not None and error.reason]
    if not wrong:
        return parity
    reason = f"{wrong[0].case}, node {wrong[0].node}: {wrong[0].reason}"
    return replace(parity, verdict="rejected", reason=reason, failed_case=wrong[0].case)


def _sources(probe: PieceProbe, candidate: Runnable) -> Attribution | None:
    """Where the error at the outputs comes from, if the pieces can be run."""
    try:
        return error_sources(probe, candidate)
    except (GossamerError, Raised):
        return None


def compare_lowered_nodes(
    program: Program, target: Target, cases: Sequence[Case], policy: Policy, parity: Parity
) -> Parity:
    """``compare_nodes`` for a program as its target lowers it."""
    with tempfile.TemporaryDirectory(prefix="gossamer-") as folder:
        return compare_nodes(program, Builder(target, Path(folder)), cases, policy, parity)


def error_sources(probe: PieceProbe, candidate: Runnable) -> Attribution:
    """How much of the error at the outputs each part of a program causes alone, on the first case of the probe.

    Cost: one compilation of all parts side by side, and for each the reference from there on.
    """
    case = probe.cases[0]
    outputs = run_candidate(candidate, case.inputs, case)
    ends = zip(probe.program.signature.outputs, outputs_of(probe.program.graph), strict=True)
    got = {node.name: outputs[spec.name] for spec, node in ends}
    return probe.sources([name for atom in probe.atoms for name in atom], _parts(probe), got)


def _parts(probe: PieceProbe) -> list[Names]:
    if len(probe.groups) <= MOST_PARTS:
        return list(probe.groups)
    size = math.ceil(len(probe.atoms) / MOST_PARTS)
    runs = (probe.atoms[start : start + size] for start in range(0, len(probe.atoms), size))
    return [tuple(name for atom in run for name in atom) for run in runs]


def _growth(probe: PieceProbe, candidate: Runnable) -> tuple[dict[str, float], bool]:
    """Relative error of about sqrt(n) values on the way, and whether having them as outputs left the result alone."""
    case = probe.cases[0]
    known = {node.name for node in probe.source.graph.nodes} - {spec.name for spec in probe.source.signature.outputs}
    places = [name for name in frontiers(probe.program) if name in known]
    step = max(1, round(len(places) / math.sqrt(max(len(probe.atoms), 1))))
    chosen = places[step - 1 :: step]
    try:
        plain = run_candidate(candidate, case.inputs, case)
        with probe.opened(expose(probe.source, chosen)) as tapped:
            seen = run_candidate(tapped, case.inputs, case)
    except (GossamerError, Raised):  # the pieces will show where
        return {}, True
    growth = {name: math.sqrt(noise({name: probe.values[case.name][name]}, seen)) for name in chosen}
    outputs = {name: values for name, values in plain.items() if values.dtype.kind == "f"}
    assert FP32.relative_l2 is not None
    return growth, math.sqrt(noise(outputs, seen)) <= FP32.relative_l2


def _of_the_file(probe: PieceProbe, candidate: Runnable, cases: Sequence[Case]) -> str:
    """Whether the candidate at hand is wrong and one built anew is right."""
    reference = Interpreter(probe.program)
    if compare_runnables(reference, candidate, cases, probe.policy).verdict != "rejected":
        return ""
    with probe.opened(probe.source) as again:
        parity = compare_runnables(reference, again, cases, probe.policy)
    return "" if parity.verdict == "rejected" else "the file is not what lowering gives now: that is within the policy"


def _chosen(cases: Sequence[Case], failed: str, policy: Policy) -> list[Case]:
    """The case that failed first. The share of codes that differ takes many samples: for it all cases are kept."""
    ordered = sorted(cases, key=lambda case: (case.name != failed, case.kind != "real"))
    if policy.steps is None:
        return ordered[:CASES]
    return [case for case in ordered if case.name == failed or case.kind in STEP_KINDS]


def _placed(probe: PieceProbe, finding: Finding, *, full: bool) -> Finding:
    """The finding with operation, module and source line of its node, and what else is known about it."""
    (node,) = (node for node in probe.program.call_nodes if node.name == finding.node)
    return replace(
        finding,
        op=node_text(node),
        module=str(node.meta.get("module", "")),
        source=str(node.meta.get("source", "")),
        notes=tuple(notes_on(probe, finding)) if full else (),
    )
