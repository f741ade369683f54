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
from gossamer.lowering import attention, indexing, linear, pointwise, quantization, reduction, shapes
from gossamer.lowering.emitter import ONNX_DTYPES, Emitter, LoweringOptions
from gossamer.lowering.fold import fold_constants
from gossamer.program import dialect
from gossamer.program.program import Program, outputs_of
from gossamer.program.text import node_text

OPSET = 23
"""First opset with Attention; onnxruntime 1.24 and later run all of it."""
IR_VERSION = 10

RULES = {
    **attention.RULES, **indexing.RULES, **linear.RULES, **pointwise.RULES, **quantization.RULES, **reduction.RULES,
    **shapes.RULES,
}  # fmt: skip
"""How each operation of the dialect is written: ``rule(emitter, node, **arguments)``."""


@dataclass(frozen=True)
class Lowered:
    """An ONNX model and how it corresponds to its Program.

    Attributes:
        model: the file's bytes; equal programs give equal bytes.
        name_map: ONNX node names by program node name.
        quantizers: scale, zero point and axis of each quantize node, by program node name.
    """

    model: bytes
    name_map: Mapping[str, tuple[str, ...]]
    quantizers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def lower_to_onnx(program: Program, options: LoweringOptions | None = None) -> Lowered:
    """Write a program as an ONNX model with the dim names of its signature.

    Raises:
        UnsupportedOp: an operation has no rule, or a form of it that ONNX cannot express.
    """
    emitter = Emitter(program, fold_constants(program), options or LoweringOptions())
    for node in program.graph.nodes:
        if node.op == "placeholder":
            emitter.unique(str(node.target))
            emitter.set(node, full=str(node.target))
    for node in program.call_nodes:
        if node in emitter.constants or node in emitter.forms:
            continue
        emitter.begin(node)
        _write(emitter, node)
    outputs = [
        _output(emitter, node, spec)
        for node, spec in zip(outputs_of(program.graph), program.signature.outputs, strict=True)
    ]
    return Lowered(
        _serialize(program, emitter, outputs), {k: tuple(v) for k, v in emitter.name_map.items()}, emitter.quantizers
    )


def _write(emitter: Emitter, node: fx.Node) -> None:
    rule = RULES.get(node.target)
    if rule is None:
        raise UnsupportedOp(
            "lowering to ONNX",
            got=f"{node_text(node)} in module {node.meta.get('module', '')!r} ({node.meta.get('source', '')})",
            expected="an operation with a rule in gossamer/lowering",
        )
    result = rule(emitter, node, **dialect.bound_arguments(node))
    if isinstance(result, str):
        emitter.set(node, full=result)


def _output(emitter: Emitter, node: fx.Node, spec: TensorSpec) -> onnx.ValueInfoProto:
    """Give an output its own name by an Identity, since one value may be returned twice or be an input."""
    emitter.begin(node)
    name = emitter.unique(spec.name)
    source = emitter.full(node)
    emitter.nodes.append(helper.make_node("Identity", [source], [name], name=emitter.unique(f"{spec.name}/output")))
    return helper.make_tensor_value_info(name, ONNX_DTYPES[spec.dtype], list(spec.shape))


def _serialize(program: Program, emitter: Emitter, outputs: list[onnx.ValueInfoProto]) -> bytes:
    inputs = [
        helper.make_tensor_value_info(s.name, ONNX_DTYPES[s.dtype], list(s.shape)) for s in program.signature.inputs
    ]
    nodes = _needed(emitter.nodes, {output.name for output in outputs})
    used = {name for node in nodes for name in node.input}
    initializers = [tensor for name, tensor in emitter.initializers.items() if name in used]
    graph = helper.make_graph(nodes, program.name, inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="gossamer")
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model)
    return model.SerializeToString(deterministic=True)


def _needed(nodes: list[onnx.NodeProto], outputs: set[str]) -> list[onnx.NodeProto]:
    """The nodes that the outputs depend on, in order: a rule may have found a better form of what was written before."""
    wanted = set(outputs)
    kept = []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    return kept[::-1]
