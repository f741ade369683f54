"""LSTM and GRU, layer by layer: ONNX has one node a layer, with the gates in another order than PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from gossamer.lowering.call import Call
from gossamer.lowering.emitter import Emitter
from gossamer.lowering.pointwise import Rule
from gossamer.lowering.shapes import slice_axis
from gossamer.program.dialect import aten

_LSTM_GATES = (0, 3, 1, 2)
"""Input, forget, cell, output in PyTorch; input, output, forget, cell in ONNX."""

_GRU_GATES = (1, 0, 2)
"""Reset, update, new in PyTorch; update, reset, new in ONNX."""


def _lstm(e: Emitter, call: Call) -> None:
    _write(e, call, "LSTM", _LSTM_GATES, call["hx"])


def _gru(e: Emitter, call: Call) -> None:
    # PyTorch applies the reset gate behind the recurrent product, bias included.
    _write(e, call, "GRU", _GRU_GATES, [call["hx"]], linear_before_reset=1)


def _write(e: Emitter, call: Call, kind: str, gates: Sequence[int], states: list[fx.Node], **attributes: Any) -> None:
    """Results: outputs of the last layer, then the last value of each state, layers in PyTorch's order."""
    directions = 2 if call["bidirectional"] else 1
    if len(call.input_value("input").shape) != 3:
        raise call.unsupported("a recurrent layer without a batch dim", "a batch dim: x.unsqueeze(0)")
    if call["train"]:
        raise call.unsupported("a recurrent layer in training mode", "a program in eval mode")
    x = e.full(call.tensor("input"))
    if call["batch_first"]:
        x = e.op("Transpose", [x], perm=[1, 0, 2])
    last: list[list[str]] = [[] for _ in states]
    for layer in range(call["num_layers"]):
        rows = (layer * directions, (layer + 1) * directions)
        begin = [slice_axis(e, e.full(state), 0, *rows) for state in states]
        weights, hidden = _weights(e, call, range(*rows), gates)
        y, *ends = e.ops(
            kind,
            [x, *weights, None, *begin],
            1 + len(states),
            hidden_size=hidden,
            direction="bidirectional" if directions == 2 else "forward",
            **attributes,
        )
        merged = e.op("Transpose", [y], perm=[0, 2, 1, 3])  # (time, batch, direction, hidden)
        x = e.op("Reshape", [merged, e.constant([0, 0, directions * hidden], "int64")])
        for entries, end in zip(last, ends, strict=True):
            entries.append(end)
    if call["batch_first"]:
        x = e.op("Transpose", [x], perm=[1, 0, 2])
    e.set_items(call.node, [x, *(e.op("Concat", entries, axis=0) for entries in last)])


def _weights(e: Emitter, call: Call, cells: range, gates: Sequence[int]) -> tuple[list[str], int]:
    """Input weights, recurrent weights and biases of one layer, one slice a direction, and the hidden size."""
    count = 4 if call["has_biases"] else 2
    parameters: list[fx.Node] = call["params"]
    if len(parameters) % count or not all(node in e.constants for node in parameters):
        raise call.unsupported("a recurrent layer with projections or computed weights", "plain stored weights")
    stored = [[e.constants[node] for node in parameters[cell * count : (cell + 1) * count]] for cell in cells]
    hidden = stored[0][1].shape[1]
    tensors = [torch.stack([_reordered(cell[index], gates) for cell in stored]) for index in range(2)]
    if call["has_biases"]:
        tensors.append(torch.stack([torch.cat([_reordered(bias, gates) for bias in cell[2:]]) for cell in stored]))
    names = [e.initializer(f"{call.node.name}/{name}", t) for name, t in zip(("w", "r", "b"), tensors, strict=False)]
    return (names if len(names) == 3 else [*names, ""]), hidden


def _reordered(tensor: Tensor, gates: Sequence[int]) -> Tensor:
    parts = tensor.chunk(len(gates))
    return torch.cat([parts[gate] for gate in gates])


RULES: Mapping[Any, Rule] = {aten.lstm.input: _lstm, aten.gru.input: _gru}
