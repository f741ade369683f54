"""LSTM and GRU: each gate has a copy of the hidden axis; all layers and directions keep their states in one tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import fx

from gossamer.analysis.axes import Axis
from gossamer.analysis.trace import AxesOf, Call, Rule, Trace
from gossamer.program.dialect import aten


def _lstm(t: Trace, call: Call) -> list[AxesOf]:
    return _recurrent(t, call, list(call["hx"]), 4)


def _gru(t: Trace, call: Call) -> list[AxesOf]:
    return _recurrent(t, call, [call["hx"]], 3)


def _recurrent(t: Trace, call: Call, states: list[fx.Node], gates: int) -> list[AxesOf]:
    x, cells = call.axes("input"), t.axes_of(states[-1])
    hidden, out = cells[-1], t.axes_of(states[0])[-1]
    directions = 2 if call["bidirectional"] else 1
    layers = call["num_layers"] * directions
    each = len(call["params"]) // layers
    for state in states:
        t.freeze(t.axes_of(state)[0], "layers and directions")
    incoming = x[-1]
    for layer in range(layers):
        if layer and layer % directions == 0:
            incoming = t.axes.concat([out] * directions)
        _cell(t, call, range(layer * each, (layer + 1) * each), (incoming, hidden, out), gates)
    last = t.axes.concat([out] * directions)
    return [(*x[:-1], last), *(t.axes_of(state) for state in states)]


def _cell(t: Trace, call: Call, places: range, axes: tuple[Axis, Axis, Axis], gates: int) -> None:
    """One layer in one direction: (gates * hidden, in), (gates * hidden, out), two biases, perhaps (out, hidden)."""
    incoming, hidden, out = axes
    projected = len(places) in (3, 5)
    if not projected:
        t.unify(hidden, out)
    copies = t.axes.concat([hidden] * gates)
    for order, place in enumerate(places):
        weight = call["params"][place]
        own = t.axes_of(weight)
        if projected and order == len(places) - 1:
            rows, columns = out, hidden
        else:
            rows, columns = copies, incoming if order == 0 else out
        t.unify(own[0], rows)
        t.role(call, weight, 0, "producer" if len(own) == 2 else "follower")
        if len(own) == 2:
            t.unify(own[1], columns)
            t.contract(call, "params", 1, place)
            t.role(call, weight, 1, "consumer")
    t.axes.mark(hidden, "hidden")
    t.axes.mark(out, "hidden")


RULES: Mapping[Any, Rule] = {aten.lstm.input: _lstm, aten.gru.input: _gru}
