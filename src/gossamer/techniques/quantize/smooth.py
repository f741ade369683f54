"""SmoothQuant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import numpy as np
import torch
from torch import Tensor, fx

from gossamer.analysis.statistics import batches, run_batches
from gossamer.core.errors import DataError, OptionError, UnsupportedOp
from gossamer.core.target import QuantizerPlacement, Target
from gossamer.numerics.quantizers import best_symmetric_scale, broadcast_along, fake_quantize
from gossamer.program.fold import fold_batch_norms
from gossamer.program.program import Program
from gossamer.techniques.base import Technique
from gossamer.techniques.quantize.calibration import Histogram, require_finite
from gossamer.techniques.quantize.pairs import activation_grid
from gossamer.techniques.quantize.placement import rules_of
from gossamer.techniques.quantize.scaling import (
    ChannelScaling,
    Group,
    input_axis,
    insertion_groups,
    require_groups,
    scaling_groups,
    source_of,
)

_ALPHAS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
_TRIAL_SAMPLES = 32
_TRIAL_MEMORY = 2**28
"""Bytes of layer inputs kept to try strengths on."""
_WEIGHT_STEPS = 8
_SMALLEST = 1e-5
_WORTH = 0.99
"""Share of the error without scaling below which scaling counts as better."""
_WORTH_OF_PRODUCT = 0.5
"""The same where it costs a product at run time."""


@final
@dataclass(frozen=True)
class Smooth(Technique):
    """Move what is hard to quantize from activations into weights: outlier channels are divided, weights multiplied.

    Channel j that a norm or a layer yields is divided by s_j = a_j^alpha / w_j^(1 - alpha), with a_j its largest
    magnitude on calibration data and w_j the largest weight that reads it, and these weights are multiplied by s_j.
    Exact in float, and free at run time: the division is folded into the norm's or the layer's own parameters. Done
    where only ReLU, pooling and moves of values stand between producer and readers, and nothing else reads. Batch norms
    are folded first. With ``insert`` also in front of other linear layers, those behind a GELU or a residual stream: by
    a product of its own, which costs time where the runtime does not fuse it into the quantizer behind.

    Needs calibration inputs: a hundred or more, no labels. Cost: one forward pass over them; with ``alpha=0`` also
    fourteen runs of each layer on some 32 samples. No gradients.

    Attributes:
        alpha: strength, above 0 to 1: 0.5 shares the range evenly, 1 leaves none to the activations. 0: for each
            producer that of 0.3 to 0.8 with the least output error in int8, or none where none is better.
        insert: products too, each where it at least halves that error (or, with ``alpha``, everywhere).

    Reference: Xiao et al., SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models,
    2023.
    """

    name: ClassVar[str] = "smooth"
    family: ClassVar[Literal["rewrite"]] = "rewrite"

    alpha: float = 0.0
    insert: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise OptionError("checking the options of smooth", got=f"alpha={self.alpha}", expected="0 to 1")

    def sites(self, program: Program, target: Target) -> tuple[str, ...]:
        """Norms and layers whose output channels can be scaled."""
        return tuple(group.name for group in self._groups(fold_batch_norms(program))[0])

    def _groups(self, folded: Program) -> tuple[list[Group], dict[str, str]]:
        groups, blocked = scaling_groups(folded)
        return groups + (insertion_groups(folded, groups) if self.insert else []), blocked

    def apply(self, program: Program, inputs: Mapping[str, np.ndarray], target: Target) -> Program:
        """The smoothed program; see the class.

        Raises:
            DataError: no samples, or values that are not finite on them.
            UnsupportedOp: nothing whose channels can be scaled, or scaling lowers no error.
        """
        doing = f"smoothing {program.name}"
        if not inputs or not len(next(iter(inputs.values()))):
            raise DataError(doing, got="no samples", expected="a hundred or more")
        folded = fold_batch_norms(program)
        groups, blocked = self._groups(folded)
        require_groups(doing, groups, blocked)
        rules = None if self.alpha else rules_of(target)
        ranges, samples = _observe(folded, groups, inputs)
        scaling = ChannelScaling(folded)
        smoothed = 0
        for group in groups:
            scales = self._options(ranges, scaling, group)
            if rules is not None:
                none = torch.ones_like(scales[0])
                errors = [_error(scaling, group, each, samples, rules) for each in (none, *scales)]
                best = min(range(len(errors)), key=errors.__getitem__)
                scales = [scales[best - 1]] if errors[best] < _worth(group) * errors[0] else []
            if scales:
                scaling.apply(group, scales[0])
                smoothed += 1
        if not smoothed:
            raise UnsupportedOp(doing, got=f"no less error by scaling any of {len(groups)}", expected="less for one")
        return scaling.finish(f"{self}: {smoothed} of {len(groups)}")

    def _options(self, ranges: Mapping[fx.Node, Tensor], scaling: ChannelScaling, group: Group) -> list[Tensor]:
        """Divisors of a group's channels, (channels,), for each strength to try."""
        seen = [ranges[source_of(one.layer)].reshape(-1, one.columns).amax(1) for one in group.readers]
        largest, read = torch.stack(seen).amax(0), scaling.read_range(group)
        return [_scales(largest, read, alpha) for alpha in ((self.alpha,) if self.alpha else _ALPHAS)]


def _worth(group: Group) -> float:
    return _WORTH_OF_PRODUCT if group.inserted else _WORTH


def _scales(largest: Tensor, read: Tensor, alpha: float) -> Tensor:
    """Divisors of the channels, (channels,); 1 for those that are always 0 or that nobody weights."""
    used = (largest > 0) & (read > 0)
    scales = torch.where(used, largest, 1.0) ** alpha / torch.where(used, read, 1.0) ** (1 - alpha)
    return scales.clamp(min=_SMALLEST)


def _observe(
    program: Program, groups: list[Group], inputs: Mapping[str, np.ndarray]
) -> tuple[dict[fx.Node, Tensor], dict[fx.Node, Tensor]]:
    """Of the values that layers read: largest magnitude of each channel, float64 (channels,), and samples to try on."""
    layers = {source_of(reader.layer): reader.layer for group in groups for reader in group.readers}
    ranges: dict[fx.Node, Tensor] = {}
    pieces: dict[fx.Node, list[Tensor]] = {value: [] for value in layers}
    share = max(1, _TRIAL_SAMPLES // sum(1 for _ in batches(program, inputs)))
    space = _TRIAL_MEMORY // len(layers)

    def see(node: fx.Node, value: Tensor) -> None:
        if node in layers:
            largest = value.movedim(input_axis(layers[node]), -1).flatten(0, -2).abs().amax(0).double()
            require_finite(program, node, float(largest.sum()))
            ranges[node] = torch.maximum(largest, ranges.get(node, largest))
            if sum(piece.nbytes for piece in pieces[node]) < space:
                pieces[node].append(value[:share].clone())

    run_batches(program, inputs, see)
    return ranges, {node: torch.cat(kept) for node, kept in pieces.items()}


def _error(
    scaling: ChannelScaling,
    group: Group,
    scales: Tensor,
    samples: Mapping[fx.Node, Tensor],
    rules: QuantizerPlacement,
) -> float:
    """Squared error of the readers' outputs when inputs and weights are rounded, as shares of the outputs' power."""
    total = 0.0
    for reader in group.readers:
        layer, x = reader.layer, samples[source_of(reader.layer)].float()
        weight = scaling.weight(layer).float()
        scaled = scaling.scaled(reader, scales).float()
        divisor = scales.repeat_interleave(reader.columns).to(x.dtype)
        smooth = x / broadcast_along(divisor, x, input_axis(layer))
        exact, rounded = _run(layer, x, weight), _run(layer, _rounded(smooth, rules), _rounded_weight(scaled, rules))
        total += float((rounded - exact).square().sum() / exact.square().sum().clamp(min=1e-30))
    return total


def _run(layer: fx.Node, x: Tensor, weight: Tensor) -> Tensor:
    """The layer without its bias."""
    return layer.target(x, weight, None, *layer.args[3:])  # pyright: ignore[reportCallIssue]


def _rounded(x: Tensor, rules: QuantizerPlacement) -> Tensor:
    codes = rules.activation.code_range
    grid = activation_grid(Histogram.of(x).range("mse", 100.0), rules.activation, codes)
    return fake_quantize(x, *grid, None, *codes)


def _rounded_weight(weight: Tensor, rules: QuantizerPlacement) -> Tensor:
    low, high = rules.weight.code_range
    scale = best_symmetric_scale(weight, axis=0, high=high, steps=_WEIGHT_STEPS)
    return fake_quantize(weight, scale, torch.zeros_like(scale), 0, low, high)
