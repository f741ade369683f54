"""What a Program's values are on data: in batches, on all batches side by side, and the gradients of gates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from gossamer.analysis.axes import is_symbolic
from gossamer.analysis.coupling import Coupling
from gossamer.analysis.trace import Contraction
from gossamer.core.errors import DataError
from gossamer.program.dialect import bound_arguments
from gossamer.program.interpreter import Observe, execute
from gossamer.program.program import Program, outputs_of

BATCH = 32

Loss = Callable[[list[Tensor]], Tensor]
"""A sum over samples, from the outputs of a batch."""


def batches(program: Program, inputs: Mapping[str, np.ndarray], size: int = BATCH) -> Iterator[dict[str, Tensor]]:
    """Samples in batches that a program takes; where it takes no smaller one, those of the last are repeated.

    Args:
        program: whose signature the inputs must fit.
        inputs: by name, first axis the samples.
        size: of a batch, as far as the program leaves the choice.

    Raises:
        DataError: no samples, or inputs that do not fit.
    """
    count = len(next(iter(inputs.values()))) if inputs else 0
    if not count:
        raise DataError(f"running {program.name} on samples", got="no samples", expected="a hundred or more")
    first = program.signature.inputs[0].shape[0]
    low, high = (first, first) if isinstance(first, int) else program.signature.dims.get(first, (1, None))
    size = max(low, 1, size if high is None else min(size, high))
    for start in range(0, count, size):
        batch = {name: array[start : start + size] for name, array in inputs.items()}
        if min(size, count - start) < low:
            batch = {name: np.resize(array, (low, *array.shape[1:])) for name, array in batch.items()}
        yield {name: torch.from_numpy(array) for name, array in program.signature.check(batch).items()}


def run_batches(program: Program, inputs: Mapping[str, np.ndarray], see: Observe) -> None:
    """Run a program over samples in batches that it takes; ``see`` is shown every tensor."""
    for batch in batches(program, inputs):
        execute(program, batch, see)


def evenly(inputs: Mapping[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    """At most ``count`` samples, spread evenly over those given."""
    total = len(next(iter(inputs.values()))) if inputs else 0
    if total <= count:
        return dict(inputs)
    chosen = np.linspace(0, total - 1, count).round().astype(int)
    return {name: array[chosen] for name, array in inputs.items()}


def sizes_on(program: Program, inputs: Mapping[str, np.ndarray]) -> dict[str, int]:
    """The size of each named dim on these inputs; those that no input shows have their smallest."""
    sizes = {name: low for name, (low, _) in program.signature.dims.items()}
    for spec in program.signature.inputs if inputs else ():
        sizes |= {dim: size for dim, size in zip(spec.shape, inputs[spec.name].shape, strict=True) if dim in sizes}
    batch = program.signature.inputs[0].shape[0]
    return sizes | ({batch: max(1, program.signature.dims[batch][0])} if batch in sizes else {})


class Walk:
    """A program computed node by node on several batches at once, so that it can be changed on the way.

    Attributes:
        program: what is computed.
        tensors: its stored tensors; whoever replaces one before it is read changes all that follows.
        peak: the most bytes that the values of all batches took.
    """

    def __init__(self, program: Program, inputs: Sequence[Mapping[str, Tensor]]) -> None:
        self.program = program
        self.tensors: dict[str, Tensor] = dict(program.tensors)
        self.peak = 0
        self._left = {node: len(node.users) for node in program.graph.nodes}
        self._values: list[dict[fx.Node, Any]] = [
            {node: batch[str(node.target)] for node in program.graph.nodes if node.op == "placeholder"}
            for batch in inputs
        ]

    @torch.no_grad()
    def compute(self, node: fx.Node) -> None:
        """Compute the next call; to be called with each in order. Values die after their last use."""
        for values in self._values:
            args, kwargs = map_arg((node.args, node.kwargs), lambda used, values=values: self._value(used, values))
            values[node] = node.target(*args, **kwargs)  # pyright: ignore[reportCallIssue]
        held = {id(one): one.nbytes for values in self._values for one in values.values() if isinstance(one, Tensor)}
        self.peak = max(self.peak, sum(held.values()))
        for used in node.all_input_nodes:
            self._left[used] -= 1
            if not self._left[used]:
                for values in self._values:
                    values.pop(used, None)

    def values(self, node: fx.Node) -> list[Any]:
        """The value of a node, batch by batch, from when it is computed until its last reader is."""
        return [self._value(node, values) for values in self._values]

    def has(self, node: fx.Node) -> bool:
        """Whether the value of a node is there now."""
        return node.op == "get_attr" or all(node in values for values in self._values)

    def replace(self, node: fx.Node, values: Sequence[Tensor]) -> None:
        """Go on with other values of a node."""
        for held, value in zip(self._values, values, strict=True):
            held[node] = value

    def _value(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
        return self.tensors[str(node.target)] if node.op == "get_attr" else values[node]


def gate_gradients(
    coupling: Coupling, names: Sequence[str], inputs: Mapping[str, np.ndarray], loss: Loss, size: int = BATCH
) -> dict[str, Tensor]:
    """Derivatives of a loss by a gate for each unit of a group: 1 where its readers read it, 0 takes it away.

    Gates stand where the masked program has its masks, so that the derivative of a unit is a sum over all its readers.

    Args:
        coupling: groups of a program.
        names: of groups; those that nothing sums over have no gates and are left out.
        inputs: by name, first axis the samples.
        loss: of a batch.
        size: samples in a batch.

    Returns:
        (samples, units) float64 by group. Where samples cannot be told apart, as by the weights of a recurrent layer,
        each has its share of the batch.

    Cost: one forward and backward pass.
    """
    axes = coupling.trace.axes
    gates: list[tuple[Contraction, list[tuple[str, Tensor]]]] = []
    for place in coupling.trace.contractions:
        leaves = set() if is_symbolic(axes.resolve(place.axis)) else set(axes.leaves(place.axis))
        held = [name for name in names if coupling.leaves[name] in leaves]
        if held:
            gates.append(
                (place, [(name, torch.from_numpy(axes.index(place.axis, coupling.leaves[name]))) for name in held])
            )
    found: dict[str, list[Tensor]] = {name: [] for _, held in gates for name, _ in held}
    for batch in batches(coupling.program, inputs, size) if found else ():
        count = len(next(iter(batch.values())))
        outputs, tapped = _tapped(coupling.program, batch, [place for place, _ in gates])
        gradients = torch.autograd.grad(loss(outputs), tapped, allow_unused=True)
        sums = {name: torch.zeros(count, coupling.group(name).size, dtype=torch.float64) for name in found}
        for (place, held), value, gradient in zip(gates, tapped, gradients, strict=True):
            if gradient is not None:
                products = (value.detach() * gradient).double().movedim(place.dim, -1)
                each = _by_sample(products, count, stored=place.item is not None)
                for name, index in held:
                    sums[name].index_add_(1, index[index >= 0], each[:, index >= 0])
        for name, each in sums.items():
            found[name].append(each)
    return {name: torch.cat(parts) for name, parts in found.items()}


def _tapped(
    program: Program, batch: Mapping[str, Tensor], places: Sequence[Contraction]
) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs of a program, and what stands at these places: tensors of their own, with a gradient each."""
    wanted: dict[fx.Node, list[int]] = {}
    for number, place in enumerate(places):
        wanted.setdefault(place.node, []).append(number)
    tapped: dict[int, Tensor] = {}
    values: dict[fx.Node, Any] = {}
    with torch.enable_grad():
        for node in program.graph.nodes:
            if node.op == "placeholder":
                values[node] = batch[str(node.target)]
            elif node.op == "get_attr":
                values[node] = program.tensors[str(node.target)].detach()
            elif node.op == "call_function" and node in wanted:
                given = dict(map_arg(bound_arguments(node), values.__getitem__))
                for number in wanted[node]:
                    value = places[number].operand(given)
                    own = value.clone() if value.requires_grad else value.clone().requires_grad_()
                    tapped[number] = own
                    places[number].put(given, own)
                values[node] = node.target(**given)
            elif node.op == "call_function":
                args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
                values[node] = node.target(*args, **kwargs)
    return [values[node] for node in outputs_of(program.graph)], [tapped[number] for number in range(len(places))]


def _by_sample(products: Tensor, count: int, *, stored: bool) -> Tensor:
    """(..., positions) summed to (samples, positions)."""
    if not stored and products.dim() > 1 and products.shape[0] % count == 0:
        return products.reshape(count, -1, products.shape[-1]).sum(1)
    return products.reshape(-1, products.shape[-1]).sum(0, keepdim=True).expand(count, -1) / count
