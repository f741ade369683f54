"""Convolutions and linear layers as least squares sees them: one matrix, rows of inputs, rows of outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from gossamer.numerics.least_squares import sample_positions, sampled_outputs, sampled_windows
from gossamer.numerics.saturation import Window
from gossamer.program.dialect import CONVOLUTIONS, aten, bound_arguments
from gossamer.program.program import Program

POSITIONS = 16
"""Output positions of a convolution that are looked at in each sample."""

TOKENS = 64
"""The same for linear layers on sequences."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution or linear layer whose weight and bias nobody else reads.

    Attributes:
        node: the layer.
        source: what it reads.
        weight: name of its weight: (outputs, inputs a group, *kernel).
        bias: name of its bias, empty if it has none.
        groups: of a convolution.
        window: how a convolution reads, empty for a linear layer.
    """

    node: fx.Node
    source: fx.Node
    weight: str
    bias: str
    groups: int
    window: Window

    @property
    def columns(self) -> int:
        """Columns of the matrix of a group."""
        return math.prod(bound_arguments(self.node)["weight"].meta["value"].shape[1:])

    @property
    def taps(self) -> int:
        """Columns of the matrix for each input channel."""
        return math.prod(self.window.kernel)

    @property
    def is_depthwise(self) -> bool:
        """Whether each output sees one channel."""
        return self.groups > 1 and self.columns == self.taps

    @property
    def channel_axis(self) -> int:
        """Of inputs and outputs."""
        return 1 if self.window.kernel else -1

    def rows(self, x: Tensor, seed: int, y: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """What the layer reads at some positions, and what it yields there.

        Args:
            x: (samples, ...), its input.
            seed: of the choice of positions; take another for each batch.
            y: (samples, ...), its output or whatever is wanted in its place.

        Returns:
            (rows, groups, inputs a group * taps) and (rows, groups, outputs a group); as many rows for each sample.
        """
        if self.window.kernel:
            positions = sample_positions(len(x), x.shape[2:], self.window, POSITIONS, seed)
            rows = sampled_windows(x, self.window, positions)
            targets = None if y is None else sampled_outputs(y, positions)
        else:
            chosen = _tokens(math.prod(x.shape[1:-1]), seed)
            rows, targets = (
                None if one is None else one.reshape(len(x), -1, one.shape[-1])[:, chosen].flatten(0, 1)
                for one in (x, y)
            )
            assert rows is not None
        split = (self.groups, -1)
        return rows.unflatten(1, split), None if targets is None else targets.unflatten(1, split)


def _tokens(count: int, seed: int) -> Tensor:
    if count <= TOKENS:
        return torch.arange(count)
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:TOKENS].sort().values


def layer_of(program: Program, node: fx.Node) -> Layer | None:
    """The layer that a node is; ``None`` if it is none, or its weight or bias is computed or read elsewhere too."""
    convolution = node.target in CONVOLUTIONS
    if not convolution and node.target is not aten.linear.default:
        return None
    arguments = bound_arguments(node)
    weight, bias, source = arguments["weight"], arguments["bias"], arguments["input"]
    if not all(part is None or is_own(program, part) for part in (weight, bias)):
        return None
    name = "" if bias is None else str(bias.target)
    if not convolution:
        return Layer(node, source, str(weight.target), name, 1, Window())
    kernel = weight.meta["value"].shape[2:]
    if len(source.meta["value"].shape) != len(kernel) + 2:
        return None
    stride, padding, dilation = (_spread(arguments[key], len(kernel)) for key in ("stride", "padding", "dilation"))
    return Layer(
        node, source, str(weight.target), name, arguments["groups"], Window(tuple(kernel), stride, padding, dilation)
    )


def is_own(program: Program, node: fx.Node) -> bool:
    """Whether a node is a stored tensor that one node reads, under one name."""
    if node.op != "get_attr" or len(node.users) != 1:
        return False
    tensor = program.tensors[str(node.target)]
    return sum(other is tensor for other in program.tensors.values()) == 1


def norm_behind(node: fx.Node) -> fx.Node | None:
    """The batch norm over the output channels of a layer that is its only reader, if there is one with statistics."""
    (norm, *others) = node.users or (None,)
    if norm is None or others or norm.target is not aten.batch_norm.default:
        return None
    if node.target is aten.linear.default and len(node.meta["value"].shape) != 2:
        return None  # the norm's channels are not the layer's
    return norm if bound_arguments(norm)["running_mean"] is not None else None


def norm_factor(norm: fx.Node, tensors: Mapping[str, Tensor]) -> Tensor:
    """What a batch norm with statistics multiplies with, gamma / sqrt(variance + eps): (channels,) float64."""
    arguments = bound_arguments(norm)
    factor = torch.rsqrt(tensors[str(arguments["running_var"].target)].detach().double() + arguments["eps"])
    weight = arguments["weight"]
    return factor if weight is None else factor * tensors[str(weight.target)].detach()


def _spread(values: Any, rank: int) -> tuple[int, ...]:
    values = [values] if isinstance(values, int) else list(values)
    return tuple(values * rank if len(values) == 1 else values)
