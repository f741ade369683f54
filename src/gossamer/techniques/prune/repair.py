"""Repair of a cut: what was removed is re-expressed through what is left, layer by layer, without training.

The original and the cut program run side by side on calibration data. Each convolution and linear layer behind the cut
is fitted anew: its inputs are those of the cut program, repaired up to here, its targets the outputs of the original.
So what went wrong before is repaired too. In front of a residual sum the target also holds what the other term lost. A
batch norm behind a fitted layer keeps its statistics, since the layer yields what they were made for; others get those
of the calibration data.

Reference: He et al., Channel Pruning for Accelerating Very Deep Neural Networks, 2017.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from gossamer.analysis.layers import Layer, is_own, layer_of, norm_behind, norm_factor
from gossamer.analysis.statistics import Walk, batches, evenly
from gossamer.numerics import least_squares
from gossamer.numerics.least_squares import Moments
from gossamer.numerics.quantizers import broadcast_along
from gossamer.program.dialect import CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS, aten, bound_arguments
from gossamer.program.edit import Edit
from gossamer.program.program import Program
from gossamer.program.surgery import Kept

SAMPLES = 512
"""Beyond that the fits hardly change."""

MEMORY = 2**29
"""Bytes of values held at once; of more samples than fit, an even choice is taken."""

_HELD_OUT = 5
"""Each fifth sample judges a fit and takes no part in it."""

_FLAT = 1e-2
"""A batch norm's factor below this share of their mean passes nothing on that could be repaired before it."""

_WIDEST = 8192
"""Inputs of a layer: the equations of more do not fit into memory."""

_WEIGHTED = frozenset({*CONVOLUTIONS, *TRANSPOSED_CONVOLUTIONS, aten.linear.default, aten.lstm.input, aten.gru.input})


@dataclass(frozen=True)
class Fit:
    """What became of one layer.

    Attributes:
        layer: name of its node.
        error: squared error of its outputs against the original's as a share of their variance, on samples held out.
        sliced_error: that of the layer as it was cut.
        condition: lower bound of the condition number of the equations, the largest of all groups.
        applied: false where the fit was no better than the layer as cut, which then stays.
    """

    layer: str
    error: float
    sliced_error: float
    condition: float
    applied: bool


@dataclass(frozen=True)
class Repair:
    """A repaired program.

    Attributes:
        program: it.
        fits: one for each layer that was fitted, in order.
        corrected: depthwise convolutions, which cannot make up for other channels: their biases restore their means.
        left: weighted nodes behind the cut that stay as cut: transposed, recurrent, tied, with computed weights, or of
            more than 8,192 inputs.
        norms: batch norms that got new statistics.
        samples: calibration samples used.
    """

    program: Program
    fits: tuple[Fit, ...]
    corrected: tuple[str, ...]
    left: tuple[str, ...]
    norms: tuple[str, ...]
    samples: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value of all but the program."""
        fits = [asdict(fit) for fit in self.fits]
        names = {key: list(getattr(self, key)) for key in ("corrected", "left", "norms")}
        return {"fits": fits, **names, "samples": self.samples}


def repair(
    original: Program,
    cut: Program,
    kept: Kept,
    inputs: Mapping[str, np.ndarray],
    *,
    readers: Collection[str],
    compensate: bool = True,
    reestimate: bool = True,
) -> Repair:
    """Fit the layers behind a cut to the original's outputs, and re-estimate batch norms.

    Args:
        original: before the cut.
        cut: what is left of it; nodes have the same names.
        kept: what is left of each axis of the original's nodes; nothing where whole nodes were dropped.
        inputs: calibration inputs by name, first axis the samples; at most ``SAMPLES`` are used.
        readers: names of the nodes that sum or normalise over what was cut: here values begin to differ.
        compensate: fit layers.
        reestimate: give batch norms that stand behind no fitted layer the statistics of the calibration data.

    Cost: a pass of each program, and O(inputs^3) for each layer.
    """
    chosen = _samples_that_fit(original, cut, evenly(inputs, SAMPLES))
    return _Repair(original, cut, kept, chosen, readers).run(compensate=compensate, reestimate=reestimate)


def _samples_that_fit(original: Program, cut: Program, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    first = next(batches(original, inputs))
    walks = [Walk(program, [first]) for program in (original, cut)]
    for walk in walks:
        for node in walk.program.call_nodes:
            walk.compute(node)
    size = len(next(iter(first.values())))
    return evenly(inputs, max(1, MEMORY // max(1, sum(walk.peak for walk in walks))) * size)


class _Repair:
    """Both programs on their way."""

    def __init__(
        self,
        original: Program,
        cut: Program,
        kept: Kept,
        inputs: Mapping[str, np.ndarray],
        readers: Collection[str],
    ) -> None:
        self._readers = readers
        self._samples = len(next(iter(inputs.values())))
        self._kept = kept
        self._originals = {node.name: node for node in original.graph.nodes}
        self._original, self._cut = (Walk(program, list(batches(program, inputs))) for program in (original, cut))
        self._ahead = iter(original.call_nodes)
        self._biases: dict[fx.Node, Tensor] = {}
        self._corrected: dict[fx.Node, Layer] = {}
        self._moved: set[fx.Node] = set()
        self._fits: dict[fx.Node, Fit] = {}
        self._left: list[str] = []
        self._norms: list[str] = []

    def run(self, *, compensate: bool, reestimate: bool) -> Repair:
        for node in self._cut.program.call_nodes:
            if self._has_moved(node):
                self._moved.add(node)
                if compensate and node.target in _WEIGHTED and node.name in self._originals:
                    self._repair_layer(node)
                elif reestimate and node.target is aten.batch_norm.default and not self._is_fitted(node.args[0]):
                    self._reestimate(node)
            self._cut.compute(node)
            if node in self._biases:
                self._shift(node, self._biases[node])
            elif node in self._corrected:
                self._correct_bias(self._corrected[node])
        corrected = tuple(node.name for node in self._corrected)
        fits, left, norms = tuple(self._fits.values()), tuple(self._left), tuple(self._norms)
        return Repair(self._written(), fits, corrected, left, norms, self._samples)

    def _has_moved(self, node: fx.Node) -> bool:
        """Whether a node computes anything else than it did in the original, of what is left."""
        before = self._originals.get(node.name)
        if before is None or node.name in self._readers or not self._moved.isdisjoint(node.all_input_nodes):
            return True
        return [used.name for used in before.all_input_nodes] != [used.name for used in node.all_input_nodes]

    def _is_fitted(self, node: Any) -> bool:
        return node in self._fits and self._fits[node].applied

    # Layers

    def _repair_layer(self, node: fx.Node) -> None:
        layer = layer_of(self._cut.program, node)
        if layer is None or layer.columns > _WIDEST:
            self._left.append(node.name)
        elif not layer.is_depthwise:
            self._fit(layer)
        elif layer.bias and norm_behind(node) is None:
            self._corrected[node] = layer

    def _fit(self, layer: Layer) -> None:
        fitted, judged = self._moments(layer)
        weight = self._cut.tensors[layer.weight].detach()
        bias = self._cut.tensors[layer.bias].detach() if layer.bias else weight.new_zeros(len(weight))
        rows = weight.flatten(1).unflatten(0, (layer.groups, -1))
        every = range(rows.shape[2])
        found = [
            least_squares.compensate(
                rows[group], every, fitted[group], part, held_out=judged[group] if judged else None
            )
            for group, part in enumerate(bias.unflatten(0, (layer.groups, -1)))
        ]
        energy = sum(float(one.target_scatter.sum()) / one.count for one in judged or fitted) or 1.0
        error, sliced = (sum(getattr(one, key) for one in found) / energy for key in ("error", "sliced_error"))
        applied = any(one.applied for one in found)
        self._fits[layer.node] = Fit(layer.node.name, error, sliced, max(one.condition for one in found), applied)
        if applied:
            self._cut.tensors[layer.weight] = torch.cat([one.weight for one in found]).reshape(weight.shape)
            self._set_bias(layer, torch.cat([one.bias for one in found]))

    def _moments(self, layer: Layer) -> tuple[list[Moments], list[Moments]]:
        """Of what the layer reads now, aimed at what it should yield, for each of its groups: to fit and to judge."""
        sides: tuple[list[Moments], list[Moments]] = ([], [])
        start = 0
        for seed, (x, y) in enumerate(zip(self._cut.values(layer.source), self._targets(layer), strict=True)):
            rows, targets = layer.rows(x, seed, y)
            assert targets is not None
            judges = torch.arange(start, start + len(x)) % _HELD_OUT == _HELD_OUT - 1
            judges = judges.repeat_interleave(len(rows) // len(x))
            start += len(x)
            for side, chosen in zip(sides, (~judges, judges), strict=True):
                if chosen.any():
                    found = [Moments.of(rows[chosen, at], targets[chosen, at]) for at in range(layer.groups)]
                    side[:] = [old + new for old, new in zip(side, found, strict=True)] if side else found
        return sides

    def _targets(self, layer: Layer) -> list[Tensor]:
        """What the layer should yield, batch by batch: what it did, and what the other term of a sum has lost."""
        before = self._originals[layer.node.name]
        for node in self._ahead:
            self._original.compute(node)
            if node is before:
                break
        targets = [self._left_of(before, value, layer) for value in self._original.values(before)]
        tip, factor = layer.node, None
        if norm := norm_behind(layer.node):
            tip, factor = norm, norm_factor(norm, self._cut.tensors)
        lost = self._lost_beside(tip, layer)
        if lost is None:
            return targets
        if factor is not None:
            inverse = torch.where(factor.abs() > _FLAT * factor.abs().mean(), 1 / factor, 0.0).to(targets[0].dtype)
            lost = [value * broadcast_along(inverse, value, layer.channel_axis) for value in lost]
        return [target + value for target, value in zip(targets, lost, strict=True)]

    def _lost_beside(self, tip: fx.Node, layer: Layer) -> list[Tensor] | None:
        """What the other term of the residual sum behind a layer has lost, if there is one and it is known."""
        (add, *others) = tip.users or (None,)
        if others or add is None or add.target is not aten.add.Tensor or add.name not in self._originals:
            return None
        terms, before = bound_arguments(add), bound_arguments(self._originals[add.name])
        other = "other" if terms["self"] is tip else "self"
        now, then = terms[other], before[other]
        known = isinstance(now, fx.Node) and isinstance(then, fx.Node) and now.op == "call_function"
        if not known or terms["alpha"] != 1 or not (self._cut.has(now) and self._original.has(then)):
            return None
        if now.meta["value"].shape != tip.meta["value"].shape:
            return None
        pairs = zip(self._original.values(then), self._cut.values(now), strict=True)
        return [self._left_of(then, whole, layer) - part for whole, part in pairs]

    def _left_of(self, node: fx.Node, value: Tensor, layer: Layer) -> Tensor:
        """What of a value of the original there is after the cut, along the channels."""
        axes = self._kept.get(node)
        if axes is None:
            return value
        left = axes[layer.channel_axis]
        return value if left is None else value.index_select(layer.channel_axis, torch.from_numpy(left))

    def _set_bias(self, layer: Layer, bias: Tensor) -> None:
        """In the layer's own bias, else in the mean of the norm behind it, else in a new one."""
        norm = norm_behind(layer.node)
        mean = bound_arguments(norm)["running_mean"] if norm else None
        if layer.bias:
            self._cut.tensors[layer.bias] = bias
        elif mean is not None and is_own(self._cut.program, mean):
            self._cut.tensors[str(mean.target)] = self._cut.tensors[str(mean.target)] - bias
        else:
            self._biases[layer.node] = bias

    def _correct_bias(self, layer: Layer) -> None:
        """Give a layer that has just been computed, and cannot be fitted, the mean that it should have."""
        axis = layer.channel_axis
        wanted, found = (
            _channel_means(values, axis) for values in (self._targets(layer), self._cut.values(layer.node))
        )
        bias = self._cut.tensors[layer.bias]
        shift = (wanted - found).to(bias.dtype)
        self._cut.tensors[layer.bias] = bias + shift
        self._shift(layer.node, shift)

    def _shift(self, node: fx.Node, bias: Tensor) -> None:
        """Add what a layer was computed without."""
        axis = 1 if node.target in CONVOLUTIONS else -1
        self._cut.replace(node, [value + broadcast_along(bias, value, axis) for value in self._cut.values(node)])

    # Norms

    def _reestimate(self, norm: fx.Node) -> None:
        arguments = bound_arguments(norm)
        owned = [arguments[key] for key in ("running_mean", "running_var")]
        if any(one is None or not is_own(self._cut.program, one) for one in owned):
            self._left.append(norm.name)
            return
        values = self._cut.values(arguments["input"])
        for one, statistic in zip(owned, cumulative_statistics(values), strict=True):
            self._cut.tensors[str(one.target)] = statistic.to(self._cut.tensors[str(one.target)].dtype)
        self._norms.append(norm.name)

    def _written(self) -> Program:
        program, fitted = self._cut.program, sum(fit.applied for fit in self._fits.values())
        if not (fitted or self._norms or self._corrected):
            return program
        edit = Edit(program)
        for name, tensor in self._cut.tensors.items():
            if tensor is not program.tensors[name]:
                edit.tensor(name, tensor, program.roles[name])
        for node, bias in self._biases.items():
            weight = str(bound_arguments(node)["weight"].target)
            copy = edit.node(node)
            copy.args = (*copy.args[:2], edit.tensor(f"{weight}_bias", bias, program.roles[weight]), *copy.args[3:])
        return edit.finish(f"repaired {fitted} layers, {len(self._norms)} norms")


def _channel_means(values: Sequence[Tensor], axis: int) -> Tensor:
    tables = [value.double().movedim(axis, -1).flatten(0, -2) for value in values]
    return torch.stack([table.sum(0) for table in tables]).sum(0) / sum(map(len, tables))


def cumulative_statistics(values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance of each channel, as a batch norm's running statistics with cumulative momentum.

    Args:
        values: (samples, channels, ...) by batch; a batch of b samples behind n others counts b / (n + b).

    Returns:
        Two of (channels,) float64.
    """
    count = 0
    mean = variance = values[0].new_zeros(values[0].shape[1], dtype=torch.float64)
    for value in values:
        rows = value.double().movedim(1, -1).flatten(0, -2)
        count += len(value)
        share = len(value) / count
        mean = mean + share * (rows.mean(0) - mean)
        spread = rows.var(0) if len(rows) > 1 else torch.zeros_like(mean)
        variance = variance + share * (spread - variance)
    return mean, variance
