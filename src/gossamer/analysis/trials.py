"""What a proof runs: the program in another float type with random parameters, and random inputs of stated sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from gossamer.core.specs import Signature, TensorSpec
from gossamer.program import dialect
from gossamer.program.dialect import aten
from gossamer.program.edit import Edit
from gossamer.program.program import Program
from gossamer.program.sizes import size_value
from gossamer.program.values import DTYPE_NAMES, TORCH_DTYPES, TensorValue

_FLOATS = frozenset({"float64", "float32", "float16", "bfloat16"})

_MOVING = frozenset(
    {aten.reshape.default, aten.permute.default, aten.unsqueeze.default, aten.squeeze.dims, aten.expand.default,
     aten.slice.Tensor, aten.select.int, aten.to.dtype}
)  # fmt: skip
"""What hands whole numbers on as they are."""


def random_program(program: Program, dtype: torch.dtype, generator: torch.Generator) -> Program:
    """The same graph in one float type, with random parameters that keep values at the size of one, layer by layer.

    A sign that all values of a tensor share is kept, since roots, logarithms and variances want it. Buffers and
    constants stay as they are, but for the statistics of batch norms.
    """
    edit = Edit(program)
    made: dict[int, Tensor] = {}
    statistics = _statistics(program)
    for name, tensor in program.tensors.items():
        if id(tensor) not in made:
            vary = program.roles[name] == "parameter" or name in statistics
            made[id(tensor)] = _converted(tensor, dtype, generator, vary=vary)
        edit.tensors[name] = made[id(tensor)]
    for node in edit.graph.nodes:
        if node.op != "output":
            node.meta["value"] = _value(node.meta["value"], DTYPE_NAMES[dtype])
        node.args = tuple(_argument(argument, dtype) for argument in node.args)
        node.kwargs = {name: _argument(argument, dtype) for name, argument in node.kwargs.items()}
    before = program.signature
    inputs, outputs = (
        tuple(_spec(spec, DTYPE_NAMES[dtype]) for spec in specs) for specs in (before.inputs, before.outputs)
    )
    signature = Signature(inputs, outputs, before.dims)
    return Program(program.name, edit.graph, edit.tensors, program.roles, signature, program.provenance)


def _statistics(program: Program) -> set[str]:
    return {
        str(node.target)
        for norm in program.call_nodes
        if norm.target is aten.batch_norm.default
        for node in norm.all_input_nodes
        if node.op == "get_attr"
    }


def _converted(tensor: Tensor, dtype: torch.dtype, generator: torch.Generator, *, vary: bool) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    tensor = tensor.detach().cpu().to(torch.float64)
    if vary and tensor.numel():
        if bool((tensor > 0).all()) or bool((tensor < 0).all()):
            tensor = tensor.sign() * (0.5 + torch.rand(tensor.shape, generator=generator, dtype=torch.float64))
        else:
            normal = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            tensor = normal * (0.3 if tensor.dim() < 2 else math.sqrt(2 * len(tensor) / tensor.numel()))
    return tensor.to(dtype)


def _value(value: Any, dtype: str) -> Any:
    if isinstance(value, tuple):
        return tuple(_value(item, dtype) for item in value)
    if isinstance(value, TensorValue) and value.dtype in _FLOATS:
        return TensorValue(dtype, value.shape)
    return value


def _argument(argument: Any, dtype: torch.dtype) -> Any:
    return dtype if isinstance(argument, torch.dtype) and argument.is_floating_point else argument


def _spec(spec: TensorSpec, dtype: str) -> TensorSpec:
    return TensorSpec(spec.name, dtype if spec.dtype in _FLOATS else spec.dtype, spec.shape)


def trial_sizes(signature: Signature, trial: int) -> dict[str, int]:
    """A size for each named dim, another one in each trial: two or three samples, some six or nine of all else."""
    first = {spec.shape[0] for spec in signature.inputs if spec.shape}
    sizes: dict[str, int] = {}
    for name, (low, high) in signature.dims.items():
        wanted = (2, 3)[trial % 2] if name in first else (6, 9)[trial % 2]
        sizes[name] = max(low, 1, wanted if high is None else min(wanted, high))
    return sizes


def random_inputs(program: Program, sizes: Mapping[str, int], generator: torch.Generator) -> dict[str, Tensor]:
    """Standard normal floats; whole numbers below the rows of the tables they are looked up in, else ones."""
    inputs: dict[str, Tensor] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            value = node.meta["value"]
            shape, dtype = [size_value(size, sizes) for size in value.shape], TORCH_DTYPES[value.dtype]
            if dtype.is_floating_point:
                inputs[str(node.target)] = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
            else:
                rows = _rows_reached(node)
                numbers = torch.randint(0, rows, shape, generator=generator) if rows else torch.ones(shape)
                inputs[str(node.target)] = numbers.to(dtype)
    return inputs


def _rows_reached(node: fx.Node) -> int:
    """Rows of the smallest table in which an input's own values are looked up, 0 if there is none."""
    found: list[int] = []
    waiting = [node]
    while waiting:
        one = waiting.pop()
        for user in one.users:
            if user.target in _MOVING:
                waiting.append(user)
            elif user.target is aten.embedding.default and dialect.bound_arguments(user)["indices"] is one:
                found.append(dialect.bound_arguments(user)["weight"].meta["value"].shape[0])
    return min(found, default=0)
