"""Static post-training int8."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import numpy as np
import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from gossamer.core.errors import DataError, OptionError, UnsupportedOp
from gossamer.core.names import require_known
from gossamer.core.target import QuantizerPlacement, Scheme, Target
from gossamer.numerics.quantizers import affine_grid, best_symmetric_scale, symmetric_grid
from gossamer.program import dialect
from gossamer.program.edit import Edit
from gossamer.program.fold import fold_batch_norms
from gossamer.program.program import Program
from gossamer.program.values import tensor_value
from gossamer.techniques.base import Technique
from gossamer.techniques.quantize.calibration import OBSERVERS, observe_ranges
from gossamer.techniques.quantize.placement import COMPUTING, Placement, place, weighted_sites

_BIAS_RANGE = 2**30
"""Largest bias code: leaves half of the 32-bit accumulator to the products."""


@final
@dataclass(frozen=True)
class Int8(Technique):
    """Quantize convolutions, linear layers and embeddings to 8 bits, weights and activations, after training.

    Weights get one symmetric scale per output channel, of least squared error; activations one asymmetric scale per
    tensor, from ranges observed on calibration data. Pairs of quantize and dequantize stand where the target's kernels
    want them. Batch norms are folded first.

    Needs calibration inputs: a hundred or more, no labels. Cost: two forward passes over them. No gradients.

    Attributes:
        observer: how activation ranges are chosen: ``minmax``, ``percentile`` or ``mse``.
        percentile: share of all elements inside the range, for that observer.
        weight_steps: ranges tried per weight channel; 1 takes the largest magnitude.
        skip: globs of sites that stay in float.

    Reference: Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference, 2018.
    """

    name: ClassVar[str] = "int8"
    family: ClassVar[Literal["precision"]] = "precision"

    observer: str = "mse"
    percentile: float = 99.99
    weight_steps: int = 40
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        doing = "checking the options of int8"
        if isinstance(self.skip, str) or not all(
            re.fullmatch(r"[^\s,|]([^,|\n]*[^\s,|])?", glob) for glob in self.skip
        ):
            raise OptionError(doing, got=f"skip={self.skip!r}", expected="globs of sites, without ',' and '|'")
        require_known(self.observer, OBSERVERS, "observer", doing)
        if not 50 < self.percentile <= 100:
            raise OptionError(doing, got=f"percentile={self.percentile}", expected="more than 50, at most 100")
        if self.weight_steps < 1:
            raise OptionError(doing, got=f"weight_steps={self.weight_steps}", expected="at least 1")

    def sites(self, program: Program, target: Target) -> tuple[str, ...]:
        """Convolutions and linear layers that the target has int8 kernels for."""
        return tuple(place(program, _rules(target)).layers)

    def apply(self, program: Program, inputs: Mapping[str, np.ndarray], target: Target) -> Program:
        """The quantized program; see the class."""
        return self.quantize(self.calibrate(program, inputs, target))

    def calibrate(self, program: Program, inputs: Mapping[str, np.ndarray], target: Target) -> Calibration:
        """Fold batch norms and observe the ranges of all values that any choice of ``skip`` may quantize."""
        rules = _rules(target)
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
        values = {*placement.behind.values(), *placement.before}
        for layer in placement.layers.values():
            if dialect.op_class(layer) in COMPUTING:
                values.add(layer.args[0])  # pyright: ignore[reportArgumentType]
        ranges = observe_ranges(folded, inputs, values, self.observer, self.percentile)
        return Calibration(folded, rules, ranges)

    def quantize(self, calibration: Calibration) -> Program:
        """Insert the pairs, leaving out the sites in ``skip``.

        Raises:
            UnknownName: a glob of ``skip`` matches no site.
            UnsupportedOp: ``skip`` leaves nothing to quantize.
        """
        program, rules = calibration.program, calibration.rules
        placement = place(program, rules, self.skip)
        if not placement.layers:
            raise UnsupportedOp(
                f"quantizing {program.name} to int8", got="every layer excluded", expected="at least one left"
            )
        return _Quantizer(program, rules, placement, calibration.ranges, self.weight_steps).quantize(str(self))


@dataclass(frozen=True)
class Calibration:
    """What calibration found; serves every choice of excluded layers.

    Attributes:
        program: with batch norms folded.
        rules: of the target.
        ranges: smallest and largest real value by node of ``program``.
    """

    program: Program
    rules: QuantizerPlacement
    ranges: Mapping[fx.Node, tuple[float, float]]


def _rules(target: Target) -> QuantizerPlacement:
    if target.facts.quantizers is None:
        raise UnsupportedOp(
            f"quantizing for {target}", got="a target without int8 kernels", expected="a target with them"
        )
    return target.facts.quantizers


def int8_layers(program: Program) -> dict[str, fx.Node]:
    """The convolutions and linear layers of a program that read quantized inputs and weights, by site name."""
    return {
        name: node
        for name, node in weighted_sites(program).items()
        if dialect.op_class(node) in COMPUTING
        and all(isinstance(used, fx.Node) and used.target is dialect.dequantize for used in node.args[:2])
    }


class _Quantizer:
    """Inserts the pairs of one placement."""

    def __init__(
        self,
        program: Program,
        rules: QuantizerPlacement,
        placement: Placement,
        ranges: Mapping[fx.Node, tuple[float, float]],
        weight_steps: int,
    ) -> None:
        self._program = program
        self._rules = rules
        self._placement = placement
        self._ranges = ranges
        self._weight_steps = weight_steps
        self._edit = Edit(program)
        self._grids: dict[fx.Node, tuple[fx.Node, fx.Node]] = {}
        self._scales: dict[fx.Node, float] = {}

    def quantize(self, note: str) -> Program:
        """Insert all pairs and finish the edit."""
        for value, origin in self._placement.behind.items():
            self._pair(value, origin, readers=None)
        for value, readers in self._placement.before.items():
            self._pair(value, value, readers)
        for node in self._placement.layers.values():
            self._quantize_layer(node)
        return self._edit.finish(note)

    def _pair(self, value: fx.Node, origin: fx.Node, readers: list[fx.Node] | None) -> None:
        """Quantize and dequantize ``value`` on the grid of ``origin``, for all readers or for those given."""
        scale, zero_point = self._grid(origin)
        low, high = self._rules.activation.code_range
        copy = self._edit.node(value)
        described = tensor_value(value)
        quantized = self._edit.after(
            copy, f"{value.name}_quantize", dialect.quantize, (copy, scale, zero_point, None, low, high), described
        )
        pair = self._edit.after(
            quantized, f"{value.name}_dequantize", dialect.dequantize, (quantized, scale, zero_point, None), described
        )
        users = (
            [user for user in copy.users if user is not quantized] if readers is None else map(self._edit.node, readers)
        )
        self._edit.replace(copy, pair, list(users))

    def _grid(self, origin: fx.Node) -> tuple[fx.Node, fx.Node]:
        """Scale and zero point of a value's grid, as stored tensors."""
        if origin not in self._grids:
            lowest, highest = (torch.tensor(end, dtype=torch.float32) for end in self._ranges[origin])
            scheme = self._rules.activation
            low, high = scheme.code_range
            if scheme.symmetric:
                scale, zero = symmetric_grid(torch.maximum(lowest.abs(), highest.abs()), high)
            else:
                scale, zero = affine_grid(lowest, highest, low, high)
            self._scales[origin] = float(scale)
            self._grids[origin] = (
                self._buffer(f"{origin.name}.scale", scale),
                self._buffer(f"{origin.name}.zero_point", zero),
            )
        return self._grids[origin]

    def _buffer(self, name: str, value: Tensor) -> fx.Node:
        """Store a new tensor; a name that the model itself uses is made another one."""
        while name in self._program.tensors:
            name += "_"
        return self._edit.tensor(name, value, "buffer")

    def _quantize_layer(self, node: fx.Node) -> None:
        rule = self._rules.ops[dialect.op_class(node)]
        arguments = dialect.bound_arguments(node)
        weight: fx.Node = arguments["weight"]
        bias: fx.Node | None = arguments.get("bias")
        copy = self._edit.node(node)
        scales = self._weight_scales(weight, per_channel=rule.weight == "channel")
        new_weight = self._constant_pair(copy, weight, f"{node.name}.weight", scales, self._rules.weight)
        if dialect.op_class(node) == "embedding":
            copy.args = (new_weight, *copy.args[1:])
            return
        new_bias = self._edit.node(bias) if bias is not None else None
        if bias is not None and rule.bias == "int32":
            input_scale = self._scales[self._input_origin(node)]
            new_bias = self._constant_pair(copy, bias, f"{node.name}.bias", scales * input_scale, None)
        copy.args = (copy.args[0], new_weight, new_bias, *copy.args[3:])

    def _input_origin(self, node: fx.Node) -> fx.Node:
        source = node.args[0]
        assert isinstance(source, fx.Node)
        return self._placement.behind.get(source, source)

    def _weight_scales(self, weight: fx.Node, *, per_channel: bool) -> Tensor:
        """(channels,) scales along axis 0, or one of shape ()."""
        values = _constant_value(self._program, weight).float()
        _, high = self._rules.weight.code_range
        if per_channel:
            return best_symmetric_scale(values, axis=0, high=high, steps=self._weight_steps)
        return best_symmetric_scale(values.reshape(1, -1), axis=0, high=high, steps=self._weight_steps)[0]

    def _constant_pair(
        self, layer: fx.Node, constant: fx.Node, name: str, scales: Tensor, scheme: Scheme | None
    ) -> fx.Node:
        """A pair on a stored tensor, right before the layer that reads it; 32-bit codes without a scheme.

        Scales of shape () serve the whole tensor, (channels,) its axis 0.
        """
        low, high = scheme.code_range if scheme else (-_BIAS_RANGE, _BIAS_RANGE)
        scale = self._buffer(f"{name}_scale", scales.float())
        zero = self._buffer(f"{name}_zero_point", torch.zeros_like(scales).float())
        copy, value = self._edit.node(constant), tensor_value(constant)
        base = name.replace(".", "_")
        axis = 0 if scales.dim() else None
        quantized = self._edit.before(
            layer, f"{base}_quantize", dialect.quantize, (copy, scale, zero, axis, low, high), value
        )
        return self._edit.before(layer, f"{base}_dequantize", dialect.dequantize, (quantized, scale, zero, axis), value)


@torch.no_grad()
def _constant_value(program: Program, node: fx.Node) -> Tensor:
    if node.op == "get_attr":
        return program.tensors[str(node.target)]
    args, kwargs = map_arg((node.args, node.kwargs), lambda used: _constant_value(program, used))
    return node.target(*args, **kwargs)  # pyright: ignore[reportCallIssue]
