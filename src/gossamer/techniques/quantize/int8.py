"""Static post-training int8."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, final

import numpy as np
from torch import fx

from gossamer.core.errors import DataError, OptionError, UnsupportedOp
from gossamer.core.names import require_known, select
from gossamer.core.target import QuantizerPlacement, Target
from gossamer.program import dialect
from gossamer.program.fold import fold_batch_norms
from gossamer.program.program import Program
from gossamer.techniques.base import Technique, check_globs
from gossamer.techniques.quantize.bias import correct_biases
from gossamer.techniques.quantize.calibration import OBSERVERS, Histogram, observe
from gossamer.techniques.quantize.pairs import Grids, insert_pairs
from gossamer.techniques.quantize.placement import COMPUTING, Placement, place, rules_of, weighted_sites


@final
@dataclass(frozen=True)
class Int8(Technique):
    """Quantize convolutions, linear layers and embeddings to 8 bits, weights and activations, after training.

    Weights get one symmetric scale per output channel, of least squared error; activations one asymmetric scale per
    tensor, from ranges observed on calibration data. Pairs of quantize and dequantize stand where the target's kernels
    want them. Batch norms are folded first.

    Needs calibration inputs: a hundred or more, no labels. Cost: two forward passes over them. No gradients.

    Attributes:
        observer: how activation ranges are chosen: ``minmax``, ``percentile``, ``mse`` or ``entropy``.
        percentile: share of all elements inside the range, for that observer.
        weight_steps: ranges tried per weight channel; 1 takes the largest magnitude.
        skip: globs of sites that stay in float.
        narrow: globs of sites whose weights use the codes of 7 bits only. Processors without integer dot products add
            two products in 16 bits: with such weights the sum always fits, so that they give the same results.
        safe_pairs: globs of sites whose weights have the best scales at which these sums always fit: as safe as narrow
            weights, with a fraction of their error.
        narrow_activations: globs of sites whose inputs use the codes of 7 bits only; the other readers of these values
            get them too.
        bias_correction: take off each layer's bias what rounding moved the mean of its output by; needs two passes
            more. See ``gossamer.techniques.quantize.bias``.
        placement: name of another of the target's ways to place pairs; empty for the first.

    Reference: Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference, 2018.
    """

    name: ClassVar[str] = "int8"
    family: ClassVar[Literal["precision"]] = "precision"

    observer: str = "mse"
    percentile: float = 99.99
    weight_steps: int = 40
    skip: tuple[str, ...] = ()
    narrow: tuple[str, ...] = ()
    safe_pairs: tuple[str, ...] = ()
    narrow_activations: tuple[str, ...] = ()
    bias_correction: bool = False
    placement: str = ""

    def __post_init__(self) -> None:
        doing = "checking the options of int8"
        for option in ("skip", "narrow", "safe_pairs", "narrow_activations"):
            check_globs(self.name, option, getattr(self, option))
        require_known(self.observer, OBSERVERS, "observer", doing)
        if not 50 < self.percentile <= 100:
            raise OptionError(doing, got=f"percentile={self.percentile}", expected="more than 50, at most 100")
        if self.weight_steps < 1:
            raise OptionError(doing, got=f"weight_steps={self.weight_steps}", expected="at least 1")

    def sites(self, program: Program, target: Target) -> tuple[str, ...]:
        """Convolutions and linear layers that the target has int8 kernels for."""
        return tuple(place(program, rules_of(target, self.placement)).layers)

    def apply(self, program: Program, inputs: Mapping[str, np.ndarray], target: Target) -> Program:
        """The quantized program; see the class."""
        return self.quantize(self.calibrate(program, inputs, target))

    def calibrate(self, program: Program, inputs: Mapping[str, np.ndarray], target: Target) -> Calibration:
        """Fold batch norms and observe the ranges of all values that any choice of ``skip`` may quantize."""
        rules = rules_of(target, self.placement)
        if not inputs or not len(next(iter(inputs.values()))):
            raise DataError("calibrating int8", got="no samples", expected="a hundred or more")
        folded = fold_batch_norms(program)
        placement = place(folded, rules)
        if not placement.layers:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in placement.left.items()) or "no such layer"
            raise UnsupportedOp(
                f"quantizing {program.name} to int8",
                got=f"no convolution or linear layer to quantize ({reasons})",
                expected="at least one",
            )
        values = {*placement.behind, *placement.behind.values(), *placement.before}
        for layer in placement.layers.values():
            if dialect.op_class(layer) in COMPUTING:
                values.add(layer.args[0])  # pyright: ignore[reportArgumentType]
        return Calibration(folded, rules, inputs, observe(folded, inputs, values), {}).with_ranges_of(self)

    def quantize(self, calibration: Calibration) -> Program:
        """Insert the pairs, leaving out the sites in ``skip``.

        Raises:
            UnknownName: a glob of ``skip`` matches no site, or one of ``narrow``, ``safe_pairs`` or
                ``narrow_activations`` matches no layer that computes in integers.
            UnsupportedOp: ``skip`` leaves nothing to quantize.
        """
        program, rules = calibration.program, calibration.rules
        placement = place(program, rules, self.skip)
        if not placement.layers:
            raise UnsupportedOp(
                f"quantizing {program.name} to int8", got="every layer excluded", expected="at least one left"
            )
        grids = Grids(
            calibration.ranges,
            self.weight_steps,
            _chosen(placement, self.narrow, "narrowing the weights of layers"),
            _chosen(placement, self.narrow_activations, "narrowing the inputs of layers"),
            own_biases=self.bias_correction,
            safe_pairs=_chosen(placement, self.safe_pairs, "scaling the weights of layers for pairs of products"),
        )
        quantized = insert_pairs(program, rules, placement, grids, str(self))
        if not self.bias_correction:
            return quantized
        layers = {node.name for node in placement.layers.values() if dialect.op_class(node) in COMPUTING}
        return correct_biases(quantized, program, layers, calibration.inputs)


@dataclass(frozen=True)
class Calibration:
    """What calibration found; serves every choice of excluded layers and, by ``with_ranges_of``, every observer.

    Attributes:
        program: with batch norms folded.
        rules: of the target.
        inputs: calibration inputs by name.
        observed: distributions of values by node of ``program``.
        ranges: smallest and largest real value by node of ``program``.
    """

    program: Program
    rules: QuantizerPlacement
    inputs: Mapping[str, np.ndarray]
    observed: Mapping[fx.Node, Histogram]
    ranges: Mapping[fx.Node, tuple[float, float]]

    def with_ranges_of(self, technique: Int8) -> Calibration:
        """The same observations with the ranges that the observer of another technique chooses. No pass over data."""
        options = (technique.observer, technique.percentile)
        ranges = {node: histogram.range(*options) for node, histogram in self.observed.items()}
        return replace(self, ranges=ranges)


def _chosen(placement: Placement, globs: tuple[str, ...], doing: str) -> set[fx.Node]:
    """The layers computing in integers that the globs match."""
    computing = {name: node for name, node in placement.layers.items() if dialect.op_class(node) in COMPUTING}
    return {computing[name] for name in select(globs, list(computing), doing)}


def int8_layers(program: Program) -> dict[str, fx.Node]:
    """The convolutions and linear layers of a program that read quantized inputs and weights, by site name."""
    return {
        name: node
        for name, node in weighted_sites(program).items()
        if dialect.op_class(node) in COMPUTING
        and all(isinstance(used, fx.Node) and used.target is dialect.dequantize for used in node.args[:2])
    }
