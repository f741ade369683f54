"""Bias correction: what rounding moves the mean of each output channel by is taken off the layer's bias.

    b' = b + E[y] - E[y~]        y: the layer's output in float, y~: in the quantized program, corrected up to here

In the order of the graph, so that each layer is measured behind layers already corrected. All samples advance together,
layer by layer, so that this takes one pass and not one for each layer.

All positions count alike, so padding does too: on sentences that are mostly padding it was seen to do harm.

Reference: Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, 2019, section 4.2, in
the form with data.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from gossamer.analysis.statistics import batches, run_batches
from gossamer.numerics.quantizers import fake_quantize
from gossamer.program import dialect
from gossamer.program.edit import Edit
from gossamer.program.program import Program
from gossamer.program.values import tensor_value
from gossamer.techniques.quantize.pairs import constant_value
from gossamer.techniques.quantize.placement import is_constant

_MEMORY = 2**28
"""Bytes of values held at once; of more samples than fit, an even choice is taken."""


def correct_biases(
    program: Program, exact: Program, layers: Collection[str], inputs: Mapping[str, np.ndarray], memory: int = _MEMORY
) -> Program:
    """The quantized program with corrected biases.

    Cost: one pass of each program, and one batch more.

    Args:
        program: quantized; each layer has a bias of its own.
        exact: the same in float; nodes have the same names.
        layers: convolutions and linear layers, by node name.
        inputs: calibration inputs by name, first axis the samples.
        memory: bytes of values held at once.
    """
    kept = _samples_that_fit(program, inputs, memory)
    wanted = channel_means(exact, layers, kept)
    advance = _Advance(program, list(batches(program, kept)))
    edit = Edit(program)
    for node in program.call_nodes:
        advance.step(node)
        if node.name in wanted:
            values = advance.values(node)
            bias, moved = _shifted(program, node, wanted[node.name] - _mean(node, values))
            advance.replace(node, [value + moved.reshape(-1, *[1] * (-1 - _channel_axis(node))) for value in values])
            name = str(_bias_of(node)[0].target)
            edit.tensor(name, bias, program.roles[name])
    return edit.finish(f"corrected {len(wanted)} biases")


def channel_means(program: Program, layers: Collection[str], inputs: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Mean output of each layer over samples and positions, float64 (channels,), by node name. Cost: one pass."""
    sums: dict[str, Tensor] = {}
    rows: dict[str, int] = {}

    def see(node: fx.Node, value: Tensor) -> None:
        if node.name in layers:
            table = _rows(node, value)
            sums[node.name] = sums.get(node.name, 0) + table.sum(0)
            rows[node.name] = rows.get(node.name, 0) + len(table)

    run_batches(program, inputs, see)
    return {name: total / rows[name] for name, total in sums.items()}


def _samples_that_fit(program: Program, inputs: Mapping[str, np.ndarray], memory: int) -> dict[str, np.ndarray]:
    first = next(batches(program, inputs))
    trial = _Advance(program, [first])
    for node in program.call_nodes:
        trial.step(node)
    total, size = len(next(iter(inputs.values()))), len(next(iter(first.values())))
    count = min(total, max(1, memory // trial.peak) * size)
    chosen = np.linspace(0, total - 1, count).round().astype(int)
    return {name: array[chosen] for name, array in inputs.items()}


class _Advance:
    """Runs a program node by node on several batches at once. Values die after their last use.

    Attributes:
        peak: the most bytes that the values of all batches took.
    """

    def __init__(self, program: Program, batches: Sequence[Mapping[str, Tensor]]) -> None:
        self._program = program
        self._batches = [
            {node: batch[str(node.target)] for node in program.graph.nodes if node.op == "placeholder"}
            for batch in batches
        ]
        self._left = {node: len(node.users) for node in program.graph.nodes}
        self._constants: dict[fx.Node, Any] = {}
        self.peak = 1

    @torch.no_grad()
    def step(self, node: fx.Node) -> None:
        """Compute one node for all batches; its inputs must have been."""
        if is_constant(node):
            return
        for batch in self._batches:
            args, kwargs = map_arg((node.args, node.kwargs), lambda used, batch=batch: self._value(used, batch))
            batch[node] = node.target(*args, **kwargs)  # pyright: ignore[reportCallIssue]
        held = [value for batch in self._batches for value in batch.values() if isinstance(value, Tensor)]
        self.peak = max(self.peak, sum(value.nbytes for value in held))
        for used in node.all_input_nodes:
            self._left[used] -= 1
            if not self._left[used]:
                self._constants.pop(used, None)
                for batch in self._batches:
                    batch.pop(used, None)

    def values(self, node: fx.Node) -> list[Any]:
        """The value of a node, batch by batch."""
        return [batch[node] for batch in self._batches]

    def replace(self, node: fx.Node, values: list[Any]) -> None:
        """Go on with other values of a node."""
        for batch, value in zip(self._batches, values, strict=True):
            batch[node] = value

    def _value(self, node: fx.Node, batch: Mapping[fx.Node, Any]) -> Any:
        if node in batch:
            return batch[node]
        if node not in self._constants:
            self._constants[node] = constant_value(self._program, node)
        return self._constants[node]


def _channel_axis(layer: fx.Node) -> int:
    """Axis of the output channels, counted from behind: the last of a linear layer, before the positions of others."""
    return 1 - len(tensor_value(dialect.bound_arguments(layer)["weight"]).shape)


def _rows(layer: fx.Node, value: Tensor) -> Tensor:
    """The output of a layer as float64 (samples and positions, channels)."""
    return value.double().movedim(_channel_axis(layer), -1).flatten(0, -2)


def _mean(layer: fx.Node, values: Sequence[Tensor]) -> Tensor:
    """Mean of each channel over all batches, float64 (channels,)."""
    tables = [_rows(layer, value) for value in values]
    return torch.stack([table.sum(0) for table in tables]).sum(0) / sum(map(len, tables))


def _bias_of(layer: fx.Node) -> tuple[fx.Node, fx.Node | None]:
    """The stored bias of a layer, and the quantize between them if there is one."""
    bias: fx.Node = dialect.bound_arguments(layer)["bias"]
    if bias.target is not dialect.dequantize:
        return bias, None
    quantize: fx.Node = dialect.bound_arguments(bias)["codes"]
    return dialect.bound_arguments(quantize)["x"], quantize


def _shifted(program: Program, layer: fx.Node, shift: Tensor) -> tuple[Tensor, Tensor]:
    """The new bias of a layer, and what it adds to the output: rounded to the grid of the bias, where it has one."""
    source, quantize = _bias_of(layer)
    used = program.tensors[str(source.target)].detach()
    if quantize is None:
        after = (used.double() + shift).to(used.dtype)
        return after, after - used
    scale, zero, axis, low, high = (dialect.bound_arguments(quantize)[name] for name in _GRID)
    grid = program.tensors[scale.target], program.tensors[zero.target]
    used = fake_quantize(used, *grid, axis, low, high)
    after = (used.double() + shift).to(used.dtype)
    return after, fake_quantize(after, *grid, axis, low, high) - used


_GRID = ("scale", "zero_point", "axis", "low", "high")
