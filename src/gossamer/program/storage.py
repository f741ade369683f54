"""Programs on disk: ``graph.json`` and ``tensors.safetensors``, never pickle.

Reading calls nothing named in the file: each operation is looked up in the closed table of the dialect, each dtype in a
closed table, and everything else is a number, a text, a list or the name of an earlier node. The layout is in
docs/formats/program.md.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from gossamer.core.digest import canonical_json
from gossamer.core.errors import ArtifactError, InternalError
from gossamer.core.files import write_atomic
from gossamer.core.specs import Signature
from gossamer.program import dialect, wellformed
from gossamer.program.program import Program, outputs_of
from gossamer.program.values import DTYPE_NAMES, TORCH_DTYPES, value_from_json, value_to_json

FORMAT_VERSION = 1
GRAPH_FILE = "graph.json"
TENSOR_FILE = "tensors.safetensors"


def graph_to_json(graph: fx.Graph, *, with_source: bool = True) -> dict[str, Any]:
    """The graph as plain JSON; tensors are referred to by name."""
    nodes = []
    for node in graph.nodes:
        if node.op in ("output", "get_attr"):
            continue
        entry: dict[str, Any] = {"name": node.name, "value": value_to_json(node.meta["value"])}
        if node.op == "placeholder":
            entry["input"] = node.target
        else:
            entry["op"] = dialect.NAMES[node.target]
            entry["args"] = [_argument_to_json(argument) for argument in node.args]
            if node.kwargs:
                entry["kwargs"] = {name: _argument_to_json(argument) for name, argument in node.kwargs.items()}
            entry["module"] = node.meta.get("module", "")
            if with_source and node.meta.get("source"):
                entry["source"] = node.meta["source"]
        nodes.append(entry)
    return {"nodes": nodes, "outputs": [_argument_to_json(node) for node in outputs_of(graph)]}


def save_program(program: Program, folder: Path) -> None:
    """Write a program into an existing folder; equal programs give equal bytes."""
    import safetensors.torch

    owners: dict[int, str] = {}
    aliases: dict[str, str] = {}
    stored: dict[str, Tensor] = {}
    for name in sorted(program.tensors):
        tensor = program.tensors[name]
        if id(tensor) in owners:
            aliases[name] = owners[id(tensor)]
        else:
            owners[id(tensor)] = name
            stored[name] = tensor.detach().cpu().contiguous().clone()
    content = {
        "format": "gossamer-program",
        "version": FORMAT_VERSION,
        "name": program.name,
        "signature": program.signature.to_json(),
        "roles": dict(program.roles),
        "aliases": aliases,
        "graph": graph_to_json(program.graph),
        "provenance": list(program.provenance),
    }
    write_atomic(folder / GRAPH_FILE, canonical_json(content).encode())
    write_atomic(folder / TENSOR_FILE, safetensors.torch.save(stored))


def load_program(folder: Path) -> Program:
    """Read a program back.

    Raises:
        ArtifactError: a file is missing, damaged, of an unknown version, or names something outside the closed tables.
    """
    import safetensors
    import safetensors.torch

    doing = f"reading the program in {folder}"
    try:
        content = json.loads((folder / GRAPH_FILE).read_text(encoding="utf-8"))
        stored = safetensors.torch.load((folder / TENSOR_FILE).read_bytes())
    except (OSError, ValueError, RecursionError, safetensors.SafetensorError) as error:
        raise ArtifactError(doing, got=str(error), expected=f"{GRAPH_FILE} and {TENSOR_FILE}") from error
    if (
        not isinstance(content, dict)
        or content.get("format") != "gossamer-program"
        or content.get("version") != FORMAT_VERSION
    ):
        raise ArtifactError(
            doing, got="another format or version", expected=f"gossamer-program version {FORMAT_VERSION}"
        )
    try:
        tensors = {**stored, **{str(name): stored[owner] for name, owner in content["aliases"].items()}}
        signature = Signature.from_json(content["signature"])
        wellformed.check_tables(tensors, content["roles"], signature)
        graph = graph_from_json(content["graph"], tensors)
        wellformed.check_graph(graph, signature.inputs, signature.outputs)
        return Program(
            str(content["name"]),
            graph,
            {name: tensors[name] for name in sorted(tensors)},
            content["roles"],
            signature,
            tuple(map(str, content["provenance"])),
        )
    except ArtifactError:
        raise
    except (KeyError, TypeError, IndexError, AttributeError, ValueError, OverflowError, RecursionError) as error:
        raise ArtifactError(doing, got=f"{type(error).__name__}: {error}", expected="a graph of the dialect") from error
    except (InternalError, RuntimeError) as error:  # fx's own checks raise RuntimeError
        raise ArtifactError(doing, got=str(error), expected="a graph of the dialect") from error


def graph_from_json(content: dict[str, Any], tensors: dict[str, Tensor]) -> fx.Graph:
    """Rebuild a graph; every name in it must be known by the time it is used."""
    graph = fx.Graph()
    known: dict[str, fx.Node] = {}
    attributes = {name: _get_attr(graph, name, tensors[name]) for name in _tensor_names(content)}
    for entry in content["nodes"]:
        if "input" in entry:
            node = graph.create_node("placeholder", str(entry["input"]), name=str(entry["name"]))
        else:
            if entry["op"] not in dialect.TARGETS:
                raise ArtifactError(
                    "reading a program", got=f"operation {entry['op']!r}", expected="one of the dialect"
                )
            args = tuple(_argument_from_json(argument, known, attributes) for argument in entry["args"])
            kwargs = {str(k): _argument_from_json(v, known, attributes) for k, v in entry.get("kwargs", {}).items()}
            node = graph.create_node(
                "call_function", dialect.TARGETS[entry["op"]], args, kwargs, name=str(entry["name"])
            )
            node.meta["module"] = str(entry["module"])
            node.meta["source"] = str(entry.get("source", ""))
        node.meta["value"] = value_from_json(entry["value"])
        if node.name != entry["name"] or node.name in known:
            raise ArtifactError(
                "reading a program", got=f"node name {entry['name']!r}", expected="distinct identifiers"
            )
        known[node.name] = node
    graph.output(tuple(_argument_from_json(argument, known, attributes) for argument in content["outputs"]))
    return graph


def _tensor_names(content: dict[str, Any]) -> list[str]:
    names: set[str] = set()

    def visit(argument: Any) -> None:
        if isinstance(argument, list):
            for item in argument:
                visit(item)
        elif isinstance(argument, dict) and "tensor" in argument:
            names.add(str(argument["tensor"]))

    for entry in content["nodes"]:
        visit(entry.get("args", []))
        visit(list(entry.get("kwargs", {}).values()))
    visit(content["outputs"])
    return sorted(names)


def _get_attr(graph: fx.Graph, name: str, tensor: Tensor) -> fx.Node:
    node = graph.create_node("get_attr", name)
    node.meta["value"] = value_from_json({"dtype": DTYPE_NAMES[tensor.dtype], "shape": list(tensor.shape)})
    return node


def _argument_to_json(argument: Any) -> Any:
    if isinstance(argument, fx.Node):
        return {"tensor": argument.target} if argument.op == "get_attr" else {"node": argument.name}
    if isinstance(argument, list | tuple):
        return [_argument_to_json(item) for item in argument]
    if isinstance(argument, torch.dtype):
        return {"dtype": DTYPE_NAMES[argument]}
    if isinstance(argument, float) and argument in (float("inf"), float("-inf")):
        return {"float": "inf" if argument > 0 else "-inf"}
    if argument is None or isinstance(argument, bool | int | float | str):
        return argument
    raise InternalError(
        "writing a program", got=f"argument {argument!r}", expected="a node, number, text, dtype or list"
    )


def _argument_from_json(argument: Any, known: dict[str, fx.Node], attributes: dict[str, fx.Node]) -> Any:
    if isinstance(argument, list):
        return [_argument_from_json(item, known, attributes) for item in argument]
    if not isinstance(argument, dict):
        return argument
    ((kind, value),) = argument.items()
    if kind == "node":
        return known[value]
    if kind == "tensor":
        return attributes[value]
    if kind == "dtype":
        return TORCH_DTYPES[value]
    if kind == "float" and value in ("inf", "-inf"):
        return float(value)
    raise ArtifactError("reading a program", got=f"argument {argument!r}", expected="node, tensor, dtype or float")
