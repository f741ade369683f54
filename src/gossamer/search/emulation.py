"""Int8 layers of a Program as the kernels of a class of processors compute them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, fx

from gossamer.core.errors import InternalError
from gossamer.numerics.saturation import (
    Kernel,
    Window,
    deviation,
    input_columns,
    kernel_for,
    operands_form,
    pairs_at_risk,
    weight_rows,
)
from gossamer.program import dialect
from gossamer.program.interpreter import Interpreter
from gossamer.program.program import Program
from gossamer.techniques.quantize.int8 import int8_layers
from gossamer.techniques.quantize.pairs import constant_value

_ELEMENTS = 2**24
"""Packed inputs held at once."""


@dataclass(frozen=True)
class KernelLayer:
    """A convolution or linear layer on integers.

    Attributes:
        site: its name.
        node: it.
        kernel: how its products are summed.
        window: how it reads its input.
        weights: packed codes of each group, (outputs, reduction).
        unit: real value of one in a sum, (outputs,) or ().
        scale: of the input's codes.
        zero_point: of the input's codes.
        codes: smallest and largest code of the input.
    """

    site: str
    node: fx.Node
    kernel: Kernel
    window: Window
    weights: tuple[Tensor, ...]
    unit: Tensor
    scale: float
    zero_point: float
    codes: tuple[int, int]

    @property
    def channels(self) -> int:
        """Output channels."""
        return sum(len(weight) for weight in self.weights)

    @property
    def pairs(self) -> int:
        """Pairs of products for one output position."""
        return sum(weight.numel() // 2 for weight in self.weights)

    @property
    def at_risk(self) -> int:
        """Pairs that could saturate for some input."""
        arithmetic = self.kernel.arithmetic
        return sum(int(pairs_at_risk(weight, *self.codes, arithmetic).sum()) for weight in self.weights)

    @property
    def deviates(self) -> bool:
        """Whether the layer can yield anything but the exact sums."""
        return self.kernel.arithmetic == "half_weight" or self.at_risk > 0


def kernel_layers(program: Program, runtime: str, profile: str) -> list[KernelLayer]:
    """The layers of a quantized program that compute on integers, with their kernels.

    Raises:
        UnknownName: it is not known how the runtime multiplies on these processors.
    """
    return [_read_layer(program, site, node, runtime, profile) for site, node in int8_layers(program).items()]


def _read_layer(program: Program, site: str, node: fx.Node, runtime: str, profile: str) -> KernelLayer:
    arguments = dialect.bound_arguments(node)
    source, weight = (_quantizer(arguments[name]) for name in ("input", "weight"))
    scale, zero_point, weight_scale = (
        constant_value(program, quantizer[name])
        for quantizer, name in ((source, "scale"), (source, "zero_point"), (weight, "scale"))
    )
    parameters = (constant_value(program, weight[name]) for name in ("x", "scale", "zero_point"))
    codes = dialect.quantize(*parameters, weight["axis"], weight["low"], weight["high"])
    form = operands_form((source["low"], source["high"]), (weight["low"], weight["high"]))
    window, groups = Window(), 1
    if codes.dim() > 2:
        rank, groups = codes.dim() - 2, arguments["groups"]
        steps = (tuple(_per_axis(arguments[name], rank)) for name in ("stride", "padding", "dilation"))
        window = Window(tuple(codes.shape[2:]), *steps)
    kernel = kernel_for(runtime, profile, form, codes.shape, groups)
    return KernelLayer(
        site,
        node,
        kernel,
        window,
        tuple(weight_rows(part.float(), kernel.packing) for part in codes.chunk(groups)),
        scale * weight_scale,
        float(scale),
        float(zero_point),
        (source["low"], source["high"]),
    )


def _quantizer(pair: fx.Node) -> dict[str, Any]:
    """Arguments of the quantize in front of a dequantize."""
    codes = pair.args[0]
    if not isinstance(codes, fx.Node) or codes.target is not dialect.quantize:
        raise InternalError("reading a quantized layer", got=pair.format_node() or "", expected="a pair")
    return dialect.bound_arguments(codes)


def _per_axis(value: int | Sequence[int], rank: int) -> Sequence[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * rank if len(values) == 1 else values


@dataclass
class Tally:
    """What happened in one layer over all samples.

    Attributes:
        pairs: pairs of products.
        saturated: those that saturated.
        outputs: sums.
        affected: those that are not exact.
        error: squared difference to the exact outputs.
        size: squared exact outputs.
    """

    pairs: int = 0
    saturated: int = 0
    outputs: int = 0
    affected: int = 0
    error: float = 0.0
    size: float = 0.0


@final
class Emulation:
    """A quantized Program run as on a class of processors: sums of products as their kernels give them.

    Exact sums are left to the interpreter, in float; what saturation takes off them is subtracted.

    Attributes:
        runnable: runs it.
        tallies: what happened, by site, of the layers that can deviate.

    Args:
        program: quantized.
        layers: of this program, from ``kernel_layers``.
    """

    def __init__(self, program: Program, layers: Sequence[KernelLayer]) -> None:
        deviating = [layer for layer in layers if layer.deviates]
        self.tallies: Mapping[str, Tally] = {layer.site: Tally() for layer in deviating}
        self.runnable = Interpreter(program, {layer.node: partial(self._compute, layer) for layer in deviating})

    def _compute(self, layer: KernelLayer, x: Tensor, *others: Any, **named: Any) -> Tensor:
        exact = layer.node.target(x, *others, **named)  # pyright: ignore[reportCallIssue]
        codes = torch.round(x / layer.scale) + layer.zero_point
        lost = torch.empty_like(exact)
        reduction = sum(weight.shape[1] for weight in layer.weights)
        step = max(1, _ELEMENTS * len(exact) // max(1, reduction * exact.numel() // layer.channels))
        for start in range(0, len(exact), step):
            lost[start : start + step] = self._lost(layer, codes[start : start + step], exact.shape[1:])
        tally = self.tallies[layer.site]
        tally.error += float(torch.linalg.vector_norm(lost, dtype=torch.float64)) ** 2
        tally.size += float(torch.linalg.vector_norm(exact, dtype=torch.float64)) ** 2
        return exact - lost

    def _lost(self, layer: KernelLayer, codes: Tensor, size: Sequence[int]) -> Tensor:
        """What the kernel's sums lack, (samples, *size) in real values."""
        tally, parts = self.tallies[layer.site], []
        groups = codes.chunk(len(layer.weights), 1) if layer.window.kernel else [codes]
        for weight, part in zip(layer.weights, groups, strict=True):
            columns = input_columns(part, layer.window, layer.kernel.packing, layer.zero_point)
            found = deviation(columns, weight, layer.kernel.arithmetic)
            tally.pairs += columns.shape[1] * weight.numel() // 2
            tally.outputs += found.amount.numel()
            tally.saturated += found.saturated
            tally.affected += int(torch.count_nonzero(found.amount))
            parts.append(found.amount)
        lost = torch.cat(parts) * (layer.unit[:, None] if layer.unit.dim() else layer.unit)
        if layer.window.kernel:
            return lost.reshape(-1, len(codes), *size[1:]).transpose(0, 1)
        return lost.T.reshape(len(codes), *size)
