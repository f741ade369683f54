"""From a member of the front to an artifact on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gossamer.artifacts import Artifact, DeployFile, Golden, load_artifact, pack
from gossamer.core.digest import canonical_json
from gossamer.metrics.conditions import machine_fingerprint
from gossamer.program.interpreter import Interpreter
from gossamer.program.program import Program
from gossamer.program.storage import save_program
from gossamer.runtimes import open_deployed, resolve_target
from gossamer.search.evaluation import LIBRARIES
from gossamer.search.synthetic import synthetic_inputs
from gossamer.techniques.quantize.int8 import int8_layers

if TYPE_CHECKING:
    from gossamer.search.front import Front, Member

_GROUPS = (
    "story",
    "surgery",
    "layers",
    "behaviour",
    "lost_samples",
    "command",
    "sensitivity",
    "other_processors",
    "diagnosis",
)
"""Entries of a member's evidence that are groups of their own in the file."""

GOLDEN_SIZE = 4
"""Wanted size of every dim that may vary."""


def save_member(member: Member, folder: Path, *, force: bool, with_samples: bool = False) -> Artifact:
    """Pack a member with its evidence, program and golden outputs, and load it back."""
    program = member.candidate.program
    target = resolve_target(member.candidate.recipe.target)
    pack(
        folder,
        name=program.name,
        signature=program.signature,
        deploys=[DeployFile(target, member.candidate.lowered.model, _precision(member))],
        recipe=member.candidate.recipe.to_toml(),
        evidence=_evidence(member, with_samples=with_samples),
        program_writer=lambda inner: save_program(program, inner),
        golden=_golden(program, member.candidate.recipe.seed),
        force=force,
    )
    return load_artifact(folder, opener=open_deployed)


def _precision(member: Member) -> str:
    steps = member.candidate.recipe.steps
    if not steps or not int8_layers(member.candidate.program):
        return member.candidate.target.precision
    return "mixed" if any(getattr(step, "skip", ()) for step in steps) else "int8"


def report_facts(front: Front, *, with_samples: bool) -> dict[str, Any]:
    """What the report of the best member is written from, before it is saved; see ``reporting.html.artifact_facts``."""
    best = front.best
    program = best.candidate.program
    return {
        "name": program.name,
        "signature": program.signature.to_json(),
        "targets": [{"target": best.candidate.recipe.target, "precision": _precision(best)}],
        "size_bytes": best.size_bytes,
        "recipe": best.candidate.recipe.to_toml(),
        "digests": {"program": program.digest},
        "evidence": json.loads(canonical_json(_evidence(best, with_samples=with_samples))),
    }


def _evidence(member: Member, *, with_samples: bool) -> dict[str, Any]:
    """Groups of the evidence file; what this version does not test is absent, not empty.

    Pictures of samples are the user's data: only ``with_samples`` lets them in.
    """
    task = {key: value for key, value in member.evidence.items() if key not in _GROUPS}
    groups = {key: member.evidence[key] for key in _GROUPS if key in member.evidence}
    if not with_samples:
        groups.pop("lost_samples", None)
    return {
        "member": member.name,
        "status": member.status,
        "reasons": list(member.reasons),
        "task": task,
        **groups,
        "verdict": member.verdict.to_json() if member.verdict else None,
        "claims": [result.to_json() for result in member.clauses],
        "metric_value": member.metric_value,
        "lowering": {
            "name_map": {name: list(names) for name, names in member.candidate.lowered.name_map.items()},
            "quantizers": {name: dict(grid) for name, grid in member.candidate.lowered.quantizers.items()},
            "kernels": dict(member.kernels),
        },
        "performance": {
            "measurements": [item.to_json() for item in member.measurements],
            "against_baseline": member.comparison.to_json() if member.comparison else None,
        },
        "environment": machine_fingerprint(libraries=LIBRARIES),
        "provenance": list(member.candidate.program.provenance),
    }


def _golden(program: Program, seed: int) -> Golden:
    """Synthetic inputs, no samples of the user's, with the interpreter's outputs."""
    inputs = program.signature.check(synthetic_inputs(program.signature, {}, GOLDEN_SIZE, seed))
    return Golden(inputs, Interpreter(program).run(inputs))
