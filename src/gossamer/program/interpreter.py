"""The reference interpreter: what a Program means, one node after the other, on the CPU in float.

Every runtime is compared with it, never with another runtime. Quantize yields whole-number codes, and a convolution or
linear layer between dequantize and quantize sums products of these exactly up to float rounding, so an int8 program
has the results of integer arithmetic to within the rounding of its requantization.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from gossamer.core.errors import UnknownName
from gossamer.core.names import nearest
from gossamer.core.specs import Signature
from gossamer.program.program import Program, outputs_of
from gossamer.program.values import TORCH_DTYPES

Observe = Callable[[fx.Node, Tensor], None]
Instead = Mapping[fx.Node, Callable[..., Tensor]]
"""What computes some nodes in place of their own operation, from the same arguments."""


class Interpreter:
    """Runs a Program; a ``Runnable``.

    Args:
        program: what to run.
        instead: computed otherwise, for whoever wants to know what that does to the outputs.
    """

    def __init__(self, program: Program, instead: Instead | None = None) -> None:
        self.program = program
        self._instead = instead

    @property
    def specs(self) -> Signature:
        """Inputs, outputs and named dims of the program."""
        return self.program.signature

    @property
    def fingerprint(self) -> str:
        """Interpreter, torch version and program digest."""
        return f"interpreter torch={torch.__version__} program={self.program.digest[:16]}"

    def run(self, inputs: Mapping[str, np.ndarray], taps: Sequence[str] = ()) -> dict[str, np.ndarray]:
        """Outputs by name, and the values of the nodes named in ``taps``.

        Raises:
            DataError: inputs do not fit the signature.
            UnknownName: a tap names no node.
        """
        names = {node.name for node in self.program.graph.nodes if node.op != "output"}
        for tap in taps:
            if tap not in names:
                close = ", ".join(nearest(tap, names))
                raise UnknownName(
                    "tapping inner values", got=f"node {tap!r}", expected="a node of the program", try_=close
                )
        tapped: dict[str, Tensor] = {}
        wanted = set(taps)

        def observe(node: fx.Node, value: Tensor) -> None:
            if node.name in wanted:
                tapped[node.name] = value

        arrays = self.specs.check(inputs)
        tensors = {
            spec.name: torch.from_numpy(arrays[spec.name]).to(TORCH_DTYPES[spec.dtype]) for spec in self.specs.inputs
        }
        outputs = execute(self.program, tensors, observe if wanted else None, self._instead)
        named = {spec.name: _to_numpy(output) for spec, output in zip(self.specs.outputs, outputs, strict=True)}
        return named | {name: _to_numpy(tapped[name]) for name in taps}


@torch.no_grad()
def execute(
    program: Program, inputs: Mapping[str, Tensor], observe: Observe | None = None, instead: Instead | None = None
) -> list[Tensor]:
    """Run a program on tensors; ``observe`` sees each tensor as it is made. Values die after their last use."""
    outputs = outputs_of(program.graph)
    found: dict[fx.Node, Any] = dict.fromkeys(outputs)
    for node, value in steps(program, inputs, instead):
        if observe is not None and isinstance(value, Tensor):
            observe(node, value)
        if node in found:
            found[node] = value
        del value  # or it would live on while the next one is computed
    return [found[output] for output in outputs]


@torch.no_grad()
def steps(
    program: Program, inputs: Mapping[str, Tensor], instead: Instead | None = None
) -> Iterator[tuple[fx.Node, Any]]:
    """Run a program node by node, for whoever follows two programs at once; as ``execute``."""
    left = {node: len(node.users) for node in program.graph.nodes}
    values: dict[fx.Node, Any] = {}
    for node in program.graph.nodes:
        if node.op == "output":
            return
        if node.op == "placeholder":
            values[node] = inputs[node.target]
        elif node.op == "get_attr":
            values[node] = program.tensors[node.target]
        else:
            args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
            compute = instead.get(node, node.target) if instead else node.target
            values[node] = compute(*args, **kwargs)
            del args, kwargs
        yield node, values[node]
        for used in node.all_input_nodes:
            left[used] -= 1
            if not left[used]:
                del values[used]


def _to_numpy(value: Tensor) -> np.ndarray:
    tensor = value.detach()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).contiguous().numpy()
