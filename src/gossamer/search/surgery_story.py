"""What a report tells of surgery: widths, scores, what stays whole and why, and whether time followed the MACs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import fx

from gossamer.analysis.counts import count
from gossamer.analysis.depth import residual_blocks
from gossamer.analysis.proof import BOUND, Proof
from gossamer.program import dialect
from gossamer.program.program import Program
from gossamer.program.values import tensor_value
from gossamer.techniques.prune.channels import Pruning
from gossamer.techniques.quantize.placement import weighted_sites
from gossamer.techniques.recipe import AppliedStep

NOT_FOLLOWED = 0.15
"""The share of its time that a layer keeps, above the share of its MACs, from which it is named."""

NOTABLE = 0.01
"""The share of the original's time from which a layer is worth naming."""

_QUANTILES = np.linspace(0, 1, 11)


def surgery_story(
    steps: Sequence[AppliedStep],
    original: Program,
    changed: Program,
    sizes: Mapping[str, int],
    times_us: tuple[Mapping[str, float], Mapping[str, float]],
) -> dict[str, Any]:
    """The evidence ``surgery``, as plain JSON.

    Args:
        steps: all steps of the recipe; those that cut nothing are left out.
        original: before all of them.
        changed: behind all of them.
        sizes: of named dims, to count with.
        times_us: of the layers of both inside the whole model, by layer; empty where the runtime tells none.
    """
    layers = _layers(original, changed, sizes, *times_us)
    whole_us = sum(before for row in layers if (before := row["us"][0]))
    counts = [count(program, sizes) for program in (original, changed)]
    return {
        "macs": [one.total for one in counts],
        "parameters": [one.parameters for one in counts],
        "steps": [_step(step, sizes) for step in steps if step.technique.family == "resize"],
        "layers": layers,
        "not_followed": [row["layer"] for row in layers if _lags(row, whole_us)],
    }


def dropped_blocks(before: Program, after: Program) -> list[str]:
    """Names of the residual blocks that are gone, those inside another one left out."""
    left = {node.name for node in after.graph.nodes}
    gone = [block for block in residual_blocks(before) if left.isdisjoint(block.nodes)]
    return [one.name for one in gone if not any(set(one.nodes) < set(other.nodes) for other in gone)]


def _step(step: AppliedStep, sizes: Mapping[str, int]) -> dict[str, Any]:
    before, after = count(step.before, sizes), count(step.after, sizes)
    return {
        "technique": str(step.technique),
        "macs": [before.total, after.total],
        "parameters": [before.parameters, after.parameters],
        "dropped": dropped_blocks(step.before, step.after),
        **(_pruning(step.pruning) if step.pruning else {}),
    }


def _pruning(pruning: Pruning) -> dict[str, Any]:
    """As ``Pruning.to_json``, with the distribution of scores in place of each and the figures of the proof."""
    told = pruning.to_json()
    groups = [{key: item for key, item in group.items() if key != "scores"} for group in told["groups"]]
    for group in groups:
        scores = pruning.scores.get(group["name"])
        if scores is not None:
            values = scores.detach().double().numpy()
            kept = values[pruning.keep.get(group["name"], range(len(values)))]
            group["score_quantiles"] = np.quantile(values, _QUANTILES).tolist()
            group["score_kept"] = float(kept.sum() / values.sum()) if values.sum() > 0 else 1.0
    return {"groups": groups, "unknown": told["unknown"], "repair": told["repair"], "proof": _proof(pruning.proof)}


def _proof(proof: Proof) -> dict[str, Any]:
    entries = [*proof.entries, *([proof.together] if proof.together else [])]
    return {
        "cuts": len(proof.entries),
        "run": sum(not entry.shared_with for entry in proof.entries),
        "renormalising": sum(entry.renormalising for entry in proof.entries),
        "bound": BOUND,
        "deviation": proof.deviation,
        "deviation_fp32": max((entry.deviation_fp32 for entry in entries if not entry.refuted), default=0.0),
        "refuted": dict(proof.refuted),
        "reproducers": dict(proof.reproducers),
    }


def _layers(
    original: Program,
    changed: Program,
    sizes: Mapping[str, int],
    before_us: Mapping[str, float],
    after_us: Mapping[str, float],
) -> list[dict[str, Any]]:
    """One row for each weighted layer of the original; one that is gone has width 0 behind it."""
    sites, left = weighted_sites(original), weighted_sites(changed)
    macs = [count(program, sizes).macs for program in (original, changed)]
    return [
        {
            "layer": name,
            "op": dialect.op_class(node),
            "width": [_width(node), _width(left[name]) if name in left else 0],
            "macs": [macs[0].get(node.name, 0), macs[1].get(left[name].name, 0) if name in left else 0],
            "us": [before_us.get(name), after_us.get(name) if name in left else 0.0],
        }
        for name, node in sites.items()
    ]


def _width(node: fx.Node) -> int:
    """Channels of what a layer yields."""
    shape = tensor_value(node).shape
    size = shape[1 if dialect.op_class(node) in ("conv", "conv_transpose") else -1]
    return size if isinstance(size, int) else 0


def _lags(row: Mapping[str, Any], whole_us: float) -> bool:
    (macs, macs_now), (us, us_now) = row["macs"], row["us"]
    if not macs or not us or us_now is None or us < NOTABLE * whole_us:
        return False
    return us_now / us > macs_now / macs + NOT_FOLLOWED
