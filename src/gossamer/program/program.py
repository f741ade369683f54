"""Program: an ATen graph in the canonical dialect, with its signature and its tensors under their original names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, fx, nn

from gossamer.core.digest import Digest, canonical_json, digest_bytes
from gossamer.core.specs import Signature
from gossamer.program import dialect

Role = Literal["parameter", "buffer", "constant"]


@dataclass(frozen=True)
class Program:
    """A model as one graph.

    Immutable by convention: nobody writes to ``graph`` or ``tensors``; ``Edit`` makes a changed copy that shares what
    it did not touch.

    Attributes:
        name: what to call it in tables and files.
        graph: nodes of the dialect; each carries its dtype and shape in ``meta["value"]``, the module it comes from in
            ``meta["module"]`` and the user's source line in ``meta["source"]``.
        tensors: parameters, buffers and constants under their original names; tied weights are one tensor twice.
        roles: what each tensor is.
        signature: inputs, outputs and named dims.
        provenance: one line for each thing that was done to it, capture first.
    """

    name: str
    graph: fx.Graph
    tensors: Mapping[str, Tensor]
    roles: Mapping[str, Role]
    signature: Signature
    provenance: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        dialect.check(self.graph)

    @cached_property
    def digest(self) -> Digest:
        """Digest of graph, attributes, signature and tensor bytes; not of name, provenance and source lines."""
        from gossamer.program.storage import graph_to_json

        content = {
            "graph": graph_to_json(self.graph, with_source=False),
            "signature": self.signature.to_json(),
            "roles": dict(self.roles),
        }
        parts = [canonical_json(content).encode()]
        for name in sorted(self.tensors):
            tensor = self.tensors[name].detach().cpu().contiguous()
            parts += [f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode(), tensor_bytes(tensor)]
        return digest_bytes(*parts)

    def __str__(self) -> str:
        from gossamer.program.text import program_text

        return program_text(self)

    def __repr__(self) -> str:
        counts = f"{len(self.call_nodes)} nodes, {self.parameter_count} parameters"
        return f"<Program {self.name}: {counts}, {self.digest[:12]}>"

    @property
    def call_nodes(self) -> list[fx.Node]:
        """The nodes that compute something, in order of execution."""
        return [node for node in self.graph.nodes if node.op == "call_function"]

    @property
    def parameter_count(self) -> int:
        """Number of trained values, each tied weight counted once."""
        distinct = {
            id(self.tensors[name]): self.tensors[name] for name, role in self.roles.items() if role == "parameter"
        }
        return sum(tensor.numel() for tensor in distinct.values())

    def __call__(self, *args: Any, **kwargs: Any) -> np.ndarray | dict[str, np.ndarray]:
        """Run on arrays with the reference interpreter; one output is returned bare, several by name."""
        from gossamer.program.interpreter import Interpreter

        outputs = Interpreter(self).run(self.signature.bind(*args, **kwargs))
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs

    def module(self, *, training: bool = False) -> fx.GraphModule:
        """A ``GraphModule`` with copies of the tensors, ready to run or to train.

        Takes the inputs in the order of the signature and returns the outputs as a tuple. With ``training`` batch norms
        use and update batch statistics, dropouts drop, and parameters require gradients.
        """
        copies: dict[int, Tensor] = {}
        root = nn.Module()
        for name, tensor in self.tensors.items():
            copy = copies.get(id(tensor))
            if copy is None:
                copy = tensor.detach().clone()
                if self.roles[name] == "parameter" and copy.is_floating_point():
                    copy = nn.Parameter(copy, requires_grad=training)
                copies[id(tensor)] = copy
            _attach(root, name, copy)
        graph = fx.Graph()
        graph.output(graph.graph_copy(self.graph, {}))
        if training:
            _switch_to_training(graph)
        return fx.GraphModule(root, graph)

    def with_tensors_of(self, module: nn.Module, note: str) -> Program:
        """This program with the parameters and buffers of a trained ``module()``."""
        tensors: dict[str, Tensor] = {}
        seen: dict[int, Tensor] = {}
        for name in self.tensors:
            tensor: Any = module
            for part in name.split("."):
                tensor = getattr(tensor, part)
            tensors[name] = seen.setdefault(id(tensor), tensor.detach().clone())
        return Program(self.name, self.graph, tensors, self.roles, self.signature, (*self.provenance, note))


def _attach(root: nn.Module, name: str, tensor: Tensor) -> None:
    *path, leaf = name.split(".")
    owner = root
    for part in path:
        if not hasattr(owner, part):
            owner.add_module(part, nn.Module())
        owner = getattr(owner, part)
    if isinstance(tensor, nn.Parameter):
        owner.register_parameter(leaf, tensor)
    else:
        owner.register_buffer(leaf, tensor)


def _switch_to_training(graph: fx.Graph) -> None:
    positions = {dialect.aten.batch_norm.default: 5, dialect.aten.dropout.default: 2}
    for node in graph.nodes:
        position = positions.get(node.target)
        if position is not None:
            node.args = (*node.args[:position], True, *node.args[position + 1 :])


def tensor_bytes(tensor: Tensor) -> bytes:
    """The bytes of a contiguous CPU tensor, whatever its dtype (NumPy knows no bfloat16)."""
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def outputs_of(graph: fx.Graph) -> Sequence[fx.Node]:
    """The nodes a graph returns, in order."""
    (output,) = (node for node in graph.nodes if node.op == "output")
    return output.args[0]
