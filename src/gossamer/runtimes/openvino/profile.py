"""What OpenVINO really runs: the graph after its rewrites, with kernel and precision of every operation. Torch-free.

OpenVINO keeps the names of the nodes that an operation came from (``originalLayersNames``), folds weights and biases
into names of its own (``conv1/WithoutBiases``). An operation that took in a batch norm has the name of the last
node only, and the model's last one that of the output: such layers are looked for a little behind, and then in order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gossamer.core.specs import Signature
from gossamer.core.target import Target
from gossamer.runtimes.openvino.runtime import OpenVinoExecutable

_INTEGER = frozenset({"i8", "u8"})
_WEIGHTED = frozenset({"Convolution", "Deconvolution", "FullyConnected"})
COMPUTING = _WEIGHTED | {"MatMul", "Gather", "RNNSeq"}
"""Operations with a weight, and the lookup of rows."""

_REACH = 3
"""A layer is also looked for under the names of so many nodes behind it: norm, activation, output."""


@dataclass(frozen=True)
class Operation:
    """One operation as executed.

    Attributes:
        kind: ``Convolution``, ``FullyConnected``, ``Subgraph``, ...
        precision: ``int8``, ``float32``, ``bfloat16``, or OpenVINO's name of another.
        kernel: its primitive, such as ``brgconv_avx512_amx_I8``.
        names: of the nodes in the file that it stands for.
        microseconds: of one call, the median over the calls.
    """

    kind: str
    precision: str
    kernel: str
    names: tuple[str, ...]
    microseconds: float

    def __str__(self) -> str:
        return f"{self.kind} {self.precision}"


def executed_operations(
    path: Path,
    specs: Signature,
    target: Target,
    inputs: Mapping[str, np.ndarray],
    *,
    dims: Mapping[str, int] | None = None,
    calls: int = 1,
) -> list[Operation]:
    """Run a model file under the runtime's counters: what it executed, in order.

    Cost: one load, ``calls`` inferences.
    """
    executable = OpenVinoExecutable(path, specs, target, dims=dims, profile=True)
    try:
        times: dict[str, list[float]] = {}
        for _ in range(calls):
            executable.run(inputs)
            for name, microseconds in executable.microseconds().items():
                times.setdefault(name, []).append(microseconds)
        return [
            _operation(node.get_rt_info(), times.get(node.get_friendly_name(), [0.0]))
            for node in executable.executed_model().get_ordered_ops()
        ]
    finally:
        executable.close()


def _operation(info: Mapping[str, object], microseconds: Sequence[float]) -> Operation:
    facts = {name: str(getattr(info[name], "value", info[name])) for name in info}
    known = {"f32": "float32", "bf16": "bfloat16", **dict.fromkeys(_INTEGER, "int8")}
    return Operation(
        facts["layerType"],
        known.get(facts["runtimePrecision"], facts["runtimePrecision"]),
        facts["primitiveType"],
        tuple(filter(None, facts["originalLayersNames"].split(","))),
        float(np.median(microseconds)),
    )


def layer_kernels(
    operations: Sequence[Operation], name_map: Mapping[str, Sequence[str]], layers: Mapping[str, str]
) -> dict[str, str]:
    """Kind and precision of the operation that computed each layer: ``Convolution int8``, or ``not found``."""
    found = layer_operations(operations, name_map, layers)
    return {layer: str(found[layer]) if layer in found else "not found" for layer in layers}


def layer_microseconds(  # noqa: PLR0913 - the profile of one run
    path: Path,
    specs: Signature,
    target: Target,
    inputs: Mapping[str, np.ndarray],
    name_map: Mapping[str, Sequence[str]],
    layers: Mapping[str, str],
    *,
    dims: Mapping[str, int] | None = None,
    calls: int = 20,
) -> dict[str, float]:
    """Microseconds that each layer takes in one call; to rank by. Layers not found are absent."""
    operations = executed_operations(path, specs, target, inputs, dims=dims, calls=calls)
    return {layer: found.microseconds for layer, found in layer_operations(operations, name_map, layers).items()}


def layer_operations(
    operations: Sequence[Operation], name_map: Mapping[str, Sequence[str]], layers: Mapping[str, str]
) -> dict[str, Operation]:
    """The operation that computed each layer; layers not found are absent.

    Args:
        operations: as executed.
        name_map: from lowering: names in the file by program node.
        layers: program node by the name wanted in the result.
    """
    computing = {
        part: operation
        for operation in operations
        if operation.kind in COMPUTING
        for name in operation.names
        for part in (name, name.partition("/")[0])
    }
    order = list(name_map)
    found: dict[str, Operation] = {}
    for layer, node in layers.items():
        known = [computing[name] for name in name_map.get(node, ()) if name in computing]
        found.update({layer: known[0]} if known else {})
    for layer, node in layers.items():
        if layer not in found and node in name_map:
            behind = order[order.index(node) + 1 :][:_REACH]
            names = [name for follower in behind for name in name_map[follower]]
            free = [computing[name] for name in names if name in computing and computing[name] not in found.values()]
            found.update({layer: free[0]} if free else {})
    missing = [layer for layer in layers if layer not in found]
    left = [one for one in operations if one.kind in _WEIGHTED and one not in found.values()]
    return found | (dict(zip(missing, left, strict=True)) if len(missing) == len(left) else {})
