"""Scores of the units of each group: evidence from a Program and its data, put through ``numerics``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, fx

from gossamer.analysis.axes import is_symbolic
from gossamer.analysis.coupling import Coupling, Group, Member
from gossamer.analysis.layers import layer_of, norm_behind, norm_factor
from gossamer.analysis.statistics import Loss, Walk, batches, evenly, gate_gradients, run_batches
from gossamer.core.errors import UnsupportedOp
from gossamer.core.names import require_known
from gossamer.numerics import least_squares, saliency
from gossamer.numerics.least_squares import Consumer, Moments
from gossamer.numerics.spectra import spectral_energy
from gossamer.program.dialect import aten, bound_arguments
from gossamer.program.program import Program

SCORES = ("random", "l1", "l2", "bn_scale", "taylor", "fisher", "hrank", "spectral", "removal_cost")
"""What units can be ranked by."""

COMPARABLE = frozenset({"taylor", "fisher", "removal_cost"})
"""Scores that mean the same in every group; others are divided by their mean in the group first."""

LOSSES = ("outputs", "predictions")

SAMPLES = 512
_MAPS = 128
"""Samples whose activation maps are decomposed."""

_TAYLOR_BATCH = 128

Scores = dict[str, Tensor]


def score_groups(
    score: str, coupling: Coupling, names: Sequence[str], inputs: Mapping[str, np.ndarray], *, loss: str, seed: int
) -> Scores:
    """Scores of the units of groups, larger = keep.

    Args:
        score: one of ``SCORES``.
        coupling: groups of the program.
        names: of groups to score.
        inputs: calibration inputs by name, first axis the samples; scores of weights look at none.
        loss: for ``taylor`` and ``fisher``, one of ``LOSSES``. "outputs": a random projection of all outputs, whose
            expected square is that of all their changes. "predictions": cross entropy against the largest output.
        seed: of ``random`` and of the projection.

    Returns:
        (units,) float64 by group; groups for which the score is not defined, such as the rank of maps where there are
        none, are absent.

    Raises:
        UnknownName: no such score or loss.
        UnsupportedOp: gradients are asked for, and no output has any.
    """
    require_known(score, SCORES, "score", "scoring groups")
    require_known(loss, LOSSES, "loss", "scoring groups")
    groups = [coupling.group(name) for name in names]
    if score == "random":
        return {group.name: 1 + saliency.random(group.size, seed + place) for place, group in enumerate(groups)}
    if score in ("l1", "l2", "bn_scale"):
        of_member = _norm_scale if score == "bn_scale" else partial(_magnitude, getattr(saliency, score))
        return _combined(groups, lambda group: of_member(coupling.program, group))
    if score in ("taylor", "fisher"):
        gates = gate_gradients(coupling, names, evenly(inputs, SAMPLES), _loss(loss, seed))
        of_gates = _taylor if score == "taylor" else saliency.fisher_gate
        return {name: of_gates(each) for name, each in gates.items()}
    readers = _readers(coupling, groups)
    if score == "removal_cost":
        return _removal_costs(coupling, groups, readers, evenly(inputs, SAMPLES))
    of_maps = saliency.hrank if score == "hrank" else spectral_energy
    return _map_scores(coupling, groups, readers, evenly(inputs, _MAPS), of_maps)


# From weights


def _combined(groups: Sequence[Group], members: Callable[[Group], list[Tensor]]) -> Scores:
    found = {group.name: members(group) for group in groups}
    return {name: saliency.combine(each) for name, each in found.items() if each}


def _magnitude(norm: Callable[..., Tensor], program: Program, group: Group) -> list[Tensor]:
    """Of each producer, scaled as the batch norm behind it does."""
    nodes = {node.name: node for node in program.call_nodes}
    return [
        norm(
            program.tensors[one.tensor].detach(),
            one.index,
            group.size,
            one.axis,
            _scale_behind(program, nodes[one.node], one),
        )
        for one in group.members
        if one.role == "producer"
    ]


def _scale_behind(program: Program, node: fx.Node, member: Member) -> Tensor | None:
    norm = norm_behind(node)
    if norm is None:
        return None
    scale = norm_factor(norm, program.tensors)
    return scale if len(scale) == len(member.index) else None


def _norm_scale(program: Program, group: Group) -> list[Tensor]:
    scales = {
        str(weight.target)
        for node in program.call_nodes
        if node.target is aten.batch_norm.default and (weight := bound_arguments(node)["weight"]) is not None
    }
    members = [one for one in group.members if one.tensor in scales]
    return [saliency.norm_scale(program.tensors[one.tensor].detach(), one.index, group.size) for one in members]


# From gradients


def _loss(loss: str, seed: int) -> Loss:
    generator = torch.Generator().manual_seed(seed)
    return _predictions if loss == "predictions" else partial(_projection, generator=generator)


def _projection(outputs: list[Tensor], generator: torch.Generator) -> Tensor:
    return torch.stack([(one * torch.randn(one.shape, generator=generator)).sum() for one in _floats(outputs)]).sum()


def _predictions(outputs: list[Tensor]) -> Tensor:
    """Classes lie on the last axis of sequences, else on the second."""
    losses = []
    for output in _floats(outputs):
        logits = output.movedim(-1 if output.dim() == 3 else 1, -1).flatten(0, -2)
        losses.append(torch.nn.functional.cross_entropy(logits, logits.argmax(-1), reduction="sum"))
    return torch.stack(losses).sum()


def _floats(outputs: list[Tensor]) -> list[Tensor]:
    found = [output for output in outputs if output.requires_grad and output.dim() > 1]
    if not found:
        raise UnsupportedOp(
            "scoring groups by gradients",
            got="no output that a gradient can come from",
            expected="scores or other floats for each sample",
            try_="a score of the weights: l2",
        )
    return found


def _taylor(gates: Tensor) -> Tensor:
    return saliency.taylor_gate(torch.stack([batch.mean(0) for batch in gates.split(_TAYLOR_BATCH)]))


# From what the readers of a group see

Readers = Mapping[fx.Node, list[tuple[str, Tensor]]]
"""Groups by the node that sums over them, with the unit of each channel that it reads."""


def _readers(coupling: Coupling, groups: Sequence[Group]) -> Readers:
    axes = coupling.trace.axes
    found: dict[fx.Node, list[tuple[str, Tensor]]] = {}
    for place in coupling.trace.contractions:
        if place.argument == "input" and not is_symbolic(axes.resolve(place.axis)):
            held = set(axes.leaves(place.axis))
            for group in groups:
                if coupling.leaves[group.name] in held:
                    index = torch.from_numpy(axes.index(place.axis, coupling.leaves[group.name]))
                    found.setdefault(place.node, []).append((group.name, index))
    return found


def _removal_costs(
    coupling: Coupling, groups: Sequence[Group], readers: Readers, inputs: Mapping[str, np.ndarray]
) -> Scores:
    """Summed over readers, one reader at a time."""
    program, sizes = coupling.program, {group.name: group.size for group in groups}
    found: Scores = {}
    walk = Walk(program, list(batches(program, inputs)))
    for node in program.call_nodes:
        layer = layer_of(program, node) if node in readers else None
        if layer is not None and not layer.is_depthwise:
            parts = [layer.rows(x, seed)[0] for seed, x in enumerate(walk.values(layer.source))]
            weight = program.tensors[layer.weight].detach().flatten(1).unflatten(0, (layer.groups, -1))
            for block in range(layer.groups):
                moments = [Moments.of(rows[:, block]) for rows in parts]
                for name, index in readers[node]:
                    own = index.unflatten(0, (layer.groups, -1))[block].repeat_interleave(layer.taps)
                    if len(torch.unique(own[own >= 0])) == sizes[name]:
                        consumer = Consumer(weight[block], sum(moments[1:], moments[0]), own)
                        found[name] = found.get(name, 0) + least_squares.removal_costs([consumer], sizes[name])
        walk.compute(node)
    return found


def _map_scores(
    coupling: Coupling,
    groups: Sequence[Group],
    readers: Readers,
    inputs: Mapping[str, np.ndarray],
    of_maps: Callable[[Tensor], Tensor],
) -> Scores:
    """Of the maps that each reader reads, combined over readers."""
    sizes = {group.name: group.size for group in groups}
    sources = {bound_arguments(node)["input"] for node in readers if node.target is aten.conv2d.default}
    totals: dict[fx.Node, Tensor] = {}

    def see(node: fx.Node, value: Tensor) -> None:
        if node in sources and value.dim() == 4:
            totals[node] = totals.get(node, torch.zeros(())) + len(value) * of_maps(value)

    run_batches(coupling.program, inputs, see)
    members: dict[str, list[Tensor]] = {}
    for node, held in readers.items():
        source = bound_arguments(node)["input"]
        for name, index in held if source in totals else ():
            scores = totals[source]
            members.setdefault(name, []).append(saliency.unit_scores(scores, index, sizes[name]))
    return {name: saliency.combine(each) for name, each in members.items()}
