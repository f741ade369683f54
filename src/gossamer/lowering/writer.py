"""Program to ONNX: one pass over the nodes, one rule per operation, deterministic bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx
from onnx import helper
from torch import fx

from gossamer.core.errors import UnsupportedOp
from gossamer.core.specs import TensorSpec
from gossamer.lowering import attention, indexing, linear, pointwise, quantization, recurrent, reduction, shapes
from gossamer.lowering.call import Call, describe
from gossamer.lowering.emitter import ONNX_DTYPES, Emitter, LoweringOptions
from gossamer.lowering.fold import fold_constants
from gossamer.lowering.pointwise import Rule
from gossamer.program.program import Program, outputs_of

OPSET = 23
"""First opset with Attention; onnxruntime 1.24 and later run all of it."""
IR_VERSION = 10

RULES: Mapping[Any, Rule] = {
    **attention.RULES, **indexing.RULES, **linear.RULES, **pointwise.RULES, **quantization.RULES,
    **recurrent.RULES, **reduction.RULES,
    **shapes.RULES,
}  # fmt: skip
"""How each operation of the dialect is written."""


@dataclass(frozen=True)
class Lowered:
    """An ONNX model and how it corresponds to its Program.

    Attributes:
        model: the file's bytes; equal programs give equal bytes.
        name_map: names of the ONNX nodes that were written for each program node; none for a node that needs none
            (a dropout, a reshape between linear layers) or became part of another (the transposes around attention).
        quantizers: dtype, axis, scale and zero point of each quantize node, by program node name.
    """

    model: bytes
    name_map: Mapping[str, tuple[str, ...]]
    quantizers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def lower_to_onnx(program: Program, options: LoweringOptions | None = None) -> Lowered:
    """Write a program as an ONNX model with the dim names of its signature.

    Outputs stand in the order of the signature and under its names, but for an output that is called like an input:
    names in a file are unique, so that one gets a number behind its name.

    Raises:
        UnsupportedOp: an operation has no rule, or a form of it that ONNX cannot express.
    """
    emitter = Emitter(program, fold_constants(program), options or LoweringOptions())
    for node in program.call_nodes:
        if not _is_done(emitter, node):
            emitter.begin(node)
            _write(emitter, node)
    outputs = [
        _output(emitter, node, spec)
        for node, spec in zip(outputs_of(program.graph), program.signature.outputs, strict=True)
    ]
    nodes = _live(emitter.nodes, {output.name for output in outputs})
    written = {node.name for node in nodes}
    name_map = {
        name: tuple(onnx_name for onnx_name in names if onnx_name in written)
        for name, names in emitter.name_map.items()
    }
    return Lowered(_serialize(program, emitter, nodes, outputs), name_map, emitter.quantizers)


def _is_done(emitter: Emitter, node: fx.Node) -> bool:
    """Whether a node is constant, was written together with another one, or only serves nodes that were."""
    users_done = bool(node.users) and all(emitter.is_written(user) for user in node.users)
    return node in emitter.constants or emitter.is_written(node) or users_done


def _write(emitter: Emitter, node: fx.Node) -> None:
    rule = RULES.get(node.target)
    if rule is None:
        raise UnsupportedOp(
            "lowering to ONNX", got=describe(node), expected="an operation with a rule in gossamer/lowering"
        )
    result = rule(emitter, Call.of(node))
    if result is not None:
        emitter.set(node, result)


def _output(emitter: Emitter, node: fx.Node, spec: TensorSpec) -> onnx.ValueInfoProto:
    """Give an output its own name by an Identity, since one value may be returned twice or be an input."""
    emitter.begin(node)
    source = emitter.full(node)
    is_input = any(spec.name == given.name for given in emitter.program.signature.inputs)
    name = emitter.unique(spec.name) if is_input else spec.name
    emitter.nodes.append(helper.make_node("Identity", [source], [name], name=emitter.unique(f"{spec.name}/output")))
    return helper.make_tensor_value_info(name, ONNX_DTYPES[spec.dtype], list(spec.shape))


def _live(nodes: list[onnx.NodeProto], wanted: set[str]) -> list[onnx.NodeProto]:
    """The nodes that the outputs need: rules may look through nodes written before them, which then serve nobody."""
    needed, live = set(wanted), []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(node.input)
            live.append(node)
    return live[::-1]


def _serialize(
    program: Program, emitter: Emitter, nodes: list[onnx.NodeProto], outputs: list[onnx.ValueInfoProto]
) -> bytes:
    inputs = [
        helper.make_tensor_value_info(spec.name, ONNX_DTYPES[spec.dtype], list(spec.shape))
        for spec in program.signature.inputs
    ]
    used = {name for node in nodes for name in node.input}
    initializers = [tensor for name, tensor in emitter.initializers.items() if name in used]
    graph = helper.make_graph(nodes, program.name, inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="gossamer")
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model)
    return model.SerializeToString(deterministic=True)
