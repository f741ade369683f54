"""The ONNX graph under construction: nodes, initializers, and the forms in which a Program's values exist in it."""

from __future__ import annotations

import ast
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, fx

from gossamer.core.digest import Digest, digest_bytes
from gossamer.core.errors import InternalError
from gossamer.core.specs import Dim
from gossamer.program.program import Program, tensor_bytes
from gossamer.program.values import TORCH_DTYPES, SizeValue, TensorValue, tensor_value

ONNX_DTYPES = {
    "float64": onnx.TensorProto.DOUBLE, "float32": onnx.TensorProto.FLOAT, "float16": onnx.TensorProto.FLOAT16,
    "bfloat16": onnx.TensorProto.BFLOAT16, "int64": onnx.TensorProto.INT64, "int32": onnx.TensorProto.INT32,
    "int16": onnx.TensorProto.INT16, "int8": onnx.TensorProto.INT8, "uint8": onnx.TensorProto.UINT8,
    "bool": onnx.TensorProto.BOOL,
}  # fmt: skip

_SIZE_KINDS = {ast.Add: "Add", ast.Sub: "Sub", ast.Mult: "Mul", ast.FloorDiv: "FloorDiv", ast.Pow: "Pow"}
_SIZE_FUNCTIONS = {"Mod": "Mod", "Max": "Max", "Min": "Min"}


@dataclass(frozen=True)
class LoweringOptions:
    """What a target wants of the writer.

    Attributes:
        input_channel_multiple: quantized convolutions with fewer input channels than this are padded up to it with
            zeros, which changes no result.
        shield_float_layers: keep the runtime from quantizing on its own what is float between two pairs.
    """

    input_channel_multiple: int = 1
    shield_float_layers: bool = False


@dataclass
class Forms:
    """The ONNX tensors that hold one value.

    Attributes:
        full: with the value's own shape.
        flat: as (rows, columns), all axes but the last merged. Linear layers compute in this form, and what stands
            between two of them stays in it, so that no reshape is written until something needs the full shape.
    """

    full: str | None = None
    flat: str | None = None


class Emitter:
    """Collects the ONNX graph; the op rules call it."""

    def __init__(self, program: Program, constants: Mapping[fx.Node, Any], options: LoweringOptions) -> None:
        self.program = program
        self.constants = constants
        self.options = options
        self.quantizers: dict[str, dict[str, Any]] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.name_map: dict[str, list[str]] = {}
        self._forms: dict[fx.Node, Forms] = {}
        self._sizes: dict[Dim, str] = {}
        # What the signature and the weights are called is taken from the start: a node of that name gets a number.
        signature = program.signature
        self._names = {*program.tensors, *(spec.name for spec in (*signature.inputs, *signature.outputs))}
        self._stored: dict[tuple[str, Digest], str] = {}
        self._current = ""
        for node in program.graph.nodes:
            if node.op == "placeholder":
                self.set(node, str(node.target))

    # Nodes and initializers

    def begin(self, node: fx.Node) -> None:
        """From now on emitted nodes belong to this program node."""
        self._current = node.name
        self.name_map.setdefault(node.name, [])

    def unique(self, name: str) -> str:
        """``name``, or with a number behind it if it is taken."""
        candidate, count = name, 1
        while candidate in self._names:
            candidate, count = f"{name}/{count}", count + 1
        self._names.add(candidate)
        return candidate

    def op(self, kind: str, inputs: Sequence[str | None], *, name: str = "", **attributes: Any) -> str:
        """Write one ONNX node; returns the name of its output."""
        return self.ops(kind, inputs, 1, name=name, **attributes)[0]

    def ops(
        self, kind: str, inputs: Sequence[str | None], outputs: int, *, name: str = "", **attributes: Any
    ) -> list[str]:
        """Write one ONNX node with several outputs; returns their names. Attributes that are ``None`` are left out."""
        node_name = self.unique(name or self._current)
        results = [node_name] if outputs == 1 else [self.unique(f"{node_name}/{index}") for index in range(outputs)]
        given = {key: value for key, value in attributes.items() if value is not None}
        self.nodes.append(helper.make_node(kind, [entry or "" for entry in inputs], results, name=node_name, **given))
        self.name_map[self._current].append(node_name)
        return results

    def constant(self, values: Any, dtype: str, name: str = "constant") -> str:
        """An initializer from numbers; equal constants are stored once."""
        return self._store(name, torch.as_tensor(np.asarray(values)).to(TORCH_DTYPES[dtype]), is_own=False)

    def initializer(self, name: str, tensor: Tensor) -> str:
        """A stored tensor. Equal tensors of one name are stored once; a different one gets a number behind its name."""
        return self._store(name, tensor, is_own=name in self.program.tensors and name not in self.initializers)

    def _store(self, name: str, tensor: Tensor, *, is_own: bool) -> str:
        tensor = tensor.detach().cpu().contiguous()
        content = digest_bytes(f"{tensor.dtype}{tuple(tensor.shape)}".encode(), tensor_bytes(tensor))
        if (name, content) not in self._stored:
            unique = name if is_own else self.unique(name)
            self.initializers[unique] = _tensor_proto(unique, tensor)
            self._stored[name, content] = unique
        return self._stored[name, content]

    # Forms of values

    def set(self, node: fx.Node, result: str, *, flat: bool = False) -> None:
        """Record the tensor that holds a value, in full or in flat form; for rank 2 they are the same."""
        value = node.meta["value"]
        both = isinstance(value, TensorValue) and len(value.shape) == 2
        self._forms[node] = Forms(None if flat and not both else result, result if flat or both else None)

    def same(self, node: fx.Node, other: fx.Node) -> None:
        """Record that a node yields the value of another one."""
        self._forms[node] = self._forms_of(other)

    def set_items(self, node: fx.Node, parts: Sequence[str], *, flat: bool = False) -> None:
        """Record the results of an operation with several as those of the ``getitem`` nodes behind it."""
        for user in node.users:
            if user.target is operator.getitem:
                index = user.args[1]
                assert isinstance(index, int)
                self.set(user, parts[index], flat=flat)

    def is_written(self, node: fx.Node) -> bool:
        """Whether a value exists in the ONNX graph already."""
        return node in self._forms

    def is_flat(self, node: fx.Node) -> bool:
        """Whether a value exists in flat form; for rank 2 that is the full one, too."""
        return node in self._forms and self._forms[node].flat is not None

    def is_only_flat(self, node: Any) -> bool:
        """Whether a value exists in flat form and not in full."""
        return isinstance(node, fx.Node) and node in self._forms and self._forms[node].full is None

    def form(self, node: fx.Node, *, flat: bool) -> str:
        """The tensor in the wanted form."""
        return self.flat(node) if flat else self.full(node)

    def full(self, node: fx.Node) -> str:
        """The tensor with the value's own shape."""
        forms = self._forms_of(node)
        if forms.full is None:
            shape = self.shape(tensor_value(node).shape)
            forms.full = self.op("Reshape", [forms.flat, shape], name=f"{node.name}/full")
        return forms.full

    def flat(self, node: fx.Node) -> str:
        """The tensor as (rows, columns)."""
        forms = self._forms_of(node)
        if forms.flat is None:
            columns = tensor_value(node).shape[-1]
            if not isinstance(columns, int):
                raise InternalError("flattening a value", got=f"{node.name} with a last dim that may vary")
            shape = self.constant([-1, columns], "int64")
            forms.flat = self.op("Reshape", [forms.full, shape], name=f"{node.name}/flat")
        return forms.flat

    def _forms_of(self, node: fx.Node) -> Forms:
        if node not in self._forms:
            if node not in self.constants:
                raise InternalError("lowering", got=f"{node.name} is used before it is written")
            self.set(node, self.initializer(stored_name(node), self.constants[node]))
        return self._forms[node]

    # Sizes

    def size(self, entry: Dim | fx.Node) -> str:
        """A one-element int64 tensor for a size: a number, a size node, or an expression in dim names."""
        if isinstance(entry, fx.Node):
            if self.is_written(entry):
                return self.full(entry)
            entry = size_value(entry).expression
        if isinstance(entry, int):
            return self.constant([entry], "int64")
        if entry not in self._sizes:
            self._sizes[entry] = self._find_size(entry)
        return self._sizes[entry]

    def size_arithmetic(self, kind: str, sizes: Sequence[str]) -> str:
        """Compute with sizes; ``FloorDiv`` rounds down as Python does."""
        if kind != "FloorDiv":
            return self.op(kind, sizes)
        rest = self.op("Mod", sizes)  # has the sign of the divisor, so what is left divides evenly
        return self.op("Div", [self.op("Sub", [sizes[0], rest]), sizes[1]])

    def _find_size(self, expression: str) -> str:
        for node, forms in self._forms.items():
            value = node.meta["value"]
            if forms.full is None:
                continue
            if isinstance(value, SizeValue) and value.expression == expression:
                return forms.full
            if isinstance(value, TensorValue) and expression in value.shape:
                axis = value.shape.index(expression)
                return self.op("Shape", [forms.full], start=axis, end=axis + 1, name=f"size/{expression}")
        return self._computed_size(ast.parse(expression, mode="eval").body, expression)

    def _computed_size(self, tree: ast.expr, expression: str) -> str:
        """Write out an expression in dim names as sympy prints it: ``2*batch``, ``seq//2 + 1``, ``Mod(seq, 2)``."""
        match tree:
            case ast.Constant(value=int(number)):
                return self.size(number)
            case ast.Name(id=name) if name != expression:
                return self.size(name)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return self.op("Neg", [self._computed_size(operand, expression)])
            case ast.BinOp(left=left, op=kind, right=right) if type(kind) in _SIZE_KINDS:
                parts = [self._computed_size(part, expression) for part in (left, right)]
                return self.size_arithmetic(_SIZE_KINDS[type(kind)], parts)
            case ast.Call(func=ast.Name(id=name), args=arguments) if name in _SIZE_FUNCTIONS:
                parts = [self._computed_size(part, expression) for part in arguments]
                return self.size_arithmetic(_SIZE_FUNCTIONS[name], parts)
        raise InternalError("lowering", got=f"size {expression}, of no value written so far")

    def shape(self, dims: Sequence[Dim], like: Sequence[Dim] = ()) -> str:
        """A shape for Reshape of a tensor of shape ``like``: dims that stay are 0 (copied), one that changes is -1."""
        varying = [index for index, dim in enumerate(dims) if isinstance(dim, str)]
        changing = [index for index in varying if index >= len(like) or like[index] != dims[index]]
        if len(varying) <= 1:
            return self.constant([-1 if isinstance(dim, str) else dim for dim in dims], "int64")
        if len(changing) > 1:
            return self.sizes(dims)
        entries = [0 if isinstance(dim, str) else dim for dim in dims]
        for index in changing:
            entries[index] = -1
        return self.constant(entries, "int64")

    def sizes(self, entries: Sequence[Dim | fx.Node]) -> str:
        """An int64 vector of sizes."""
        if all(isinstance(entry, int) for entry in entries):
            return self.constant(list(entries), "int64")
        return self.op("Concat", [self.size(entry) for entry in entries], axis=0, name="shape")

    # Scalars and casts

    def scalar(self, value: Any, dtype: str) -> str:
        """A rank-0 tensor of a number or a size node."""
        if isinstance(value, fx.Node):
            scalar = self.op("Squeeze", [self.size(value), self.constant([0], "int64")])
            return scalar if dtype == "int64" else self.cast(scalar, dtype)
        return self.constant(value, dtype)

    def cast(self, name: str, dtype: str) -> str:
        """A Cast node."""
        return self.op("Cast", [name], to=ONNX_DTYPES[dtype])

    def full_as(self, node: fx.Node, dtype: str) -> str:
        """The tensor with the value's own shape, cast where its dtype is another."""
        return self.full(node) if tensor_value(node).dtype == dtype else self.cast(self.full(node), dtype)


def stored_name(node: fx.Node) -> str:
    """What a constant is called in the file: a tensor of the program by its own name, a folded value by its node's."""
    return str(node.target) if node.op == "get_attr" else node.name


def size_value(node: fx.Node) -> SizeValue:
    """The size that a node yields."""
    value = node.meta["value"]
    if not isinstance(value, SizeValue):
        raise InternalError("reading a size", got=f"{node.name} with {value}", expected="a size")
    return value


def _tensor_proto(name: str, tensor: Tensor) -> onnx.TensorProto:
    if tensor.dtype == torch.bfloat16:
        raw = tensor_bytes(tensor)
        return helper.make_tensor(name, onnx.TensorProto.BFLOAT16, list(tensor.shape), raw, raw=True)
    return numpy_helper.from_array(tensor.numpy(), name)
