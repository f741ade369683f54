"""The ONNX graph under construction: nodes, initializers, and the forms in which a Program's values exist in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, fx

from gossamer.core.errors import InternalError
from gossamer.core.specs import Dim
from gossamer.program.program import Program
from gossamer.program.values import SizeValue, TensorValue, tensor_value

ONNX_DTYPES = {
    "float64": onnx.TensorProto.DOUBLE, "float32": onnx.TensorProto.FLOAT, "float16": onnx.TensorProto.FLOAT16,
    "bfloat16": onnx.TensorProto.BFLOAT16, "int64": onnx.TensorProto.INT64, "int32": onnx.TensorProto.INT32,
    "int16": onnx.TensorProto.INT16, "int8": onnx.TensorProto.INT8, "uint8": onnx.TensorProto.UINT8,
    "bool": onnx.TensorProto.BOOL,
}  # fmt: skip


@dataclass(frozen=True)
class LoweringOptions:
    """What a target wants of the writer.

    Attributes:
        input_channel_multiple: quantized convolutions with fewer input channels than this are padded up to it with
            zeros, which changes no result.
    """

    input_channel_multiple: int = 1


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

    def __init__(self, program: Program, constants: dict[fx.Node, Tensor], options: LoweringOptions) -> None:
        self.program = program
        self.constants = constants
        self.options = options
        self.quantizers: dict[str, dict[str, Any]] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.name_map: dict[str, list[str]] = {}
        self.forms: dict[fx.Node, Forms] = {}
        self._sizes: dict[Dim, str] = {}
        self._names: set[str] = set()
        self._small: dict[str, str] = {}
        self._current: fx.Node | None = None

    def begin(self, node: fx.Node) -> None:
        """From now on emitted nodes belong to this program node."""
        self._current = node
        self.name_map.setdefault(node.name, [])

    def unique(self, name: str) -> str:
        """``name``, or with a number behind it if it is taken."""
        candidate, count = name, 1
        while candidate in self._names:
            candidate, count = f"{name}/{count}", count + 1
        self._names.add(candidate)
        return candidate

    def op(
        self, kind: str, inputs: Sequence[str | None], *, outputs: int = 1, name: str = "", **attributes: Any
    ) -> Any:
        """Write one ONNX node; returns the name of its output (a list if it has several)."""
        base = name or (self._current.name if self._current is not None else kind)
        node_name = self.unique(base)
        results = [node_name if outputs == 1 else self.unique(f"{node_name}/{index}") for index in range(outputs)]
        attributes = {key: value for key, value in attributes.items() if value is not None}
        node = helper.make_node(kind, [entry or "" for entry in inputs], results, name=node_name, **attributes)
        self.nodes.append(node)
        if self._current is not None:
            self.name_map[self._current.name].append(node_name)
        return results[0] if outputs == 1 else results

    def constant(self, values: Any, dtype: str, name: str = "constant") -> str:
        """An initializer; equal constants are stored once."""
        array = np.asarray(values, dtype=np.float32 if dtype == "bfloat16" else np.dtype(dtype))
        key = f"{name}:{dtype}:{array.shape}:{array.tobytes().hex()}" if array.size <= 64 else ""
        known = self._small.get(key) if key else None
        if known:
            return known
        unique = self.unique(name)
        tensor = torch.from_numpy(array.copy().reshape(array.shape))
        self.initializers[unique] = _tensor_proto(unique, tensor.bfloat16() if dtype == "bfloat16" else tensor)
        if key:
            self._small[key] = unique
        return unique

    def initializer(self, name: str, tensor: Tensor) -> str:
        """A stored tensor under its own name; a second call with the same name returns the first."""
        if name not in self.initializers:
            self._names.add(name)
            self.initializers[name] = _tensor_proto(name, tensor)
        return name

    # Forms of values

    def set(self, node: fx.Node, full: str | None = None, flat: str | None = None) -> None:
        """Record in which form a value was written; for rank 2 both are the same."""
        if len(tensor_value(node).shape) == 2:
            full = flat = full or flat
        self.forms[node] = Forms(full, flat)

    def has_flat(self, node: Any) -> bool:
        """Whether a value exists in flat form and not in full."""
        return isinstance(node, fx.Node) and node in self.forms and self.forms[node].full is None

    def full(self, node: fx.Node) -> str:
        """The tensor with the value's own shape."""
        forms = self._forms(node)
        if forms.full is None:
            shape = tensor_value(node).shape
            forms.full = self.op("Reshape", [forms.flat, self.shape(shape)], name=f"{node.name}/full")
        return forms.full

    def flat(self, node: fx.Node) -> str:
        """The tensor as (rows, columns)."""
        forms = self._forms(node)
        if forms.flat is None:
            columns = tensor_value(node).shape[-1]
            if not isinstance(columns, int):
                raise InternalError("flattening a value", got=f"{node.name} with a last dim that may vary")
            forms.flat = self.op(
                "Reshape", [forms.full, self.constant([-1, columns], "int64")], name=f"{node.name}/flat"
            )
        return forms.flat

    def any(self, node: fx.Node) -> str:
        """Whichever form is there, for consumers that do not look at the shape."""
        forms = self._forms(node)
        return forms.full or self.flat(node)

    def _forms(self, node: fx.Node) -> Forms:
        if node not in self.forms:
            if node in self.constants:
                name = str(node.target) if node.op == "get_attr" else self.unique(node.name)
                self.forms[node] = Forms(self.initializer(name, self.constants[node]))
            else:
                raise InternalError("lowering", got=f"{node.name} is used before it is written")
        return self.forms[node]

    # Sizes

    def size(self, entry: Any) -> str:
        """A one-element int64 tensor for a size: a number, a size node, or a dim expression."""
        if isinstance(entry, fx.Node):
            value = entry.meta["value"]
            if isinstance(value, SizeValue) and entry in self.forms:
                return self._forms(entry).full or ""
            entry = value.expression
        if isinstance(entry, int):
            return self.constant([entry], "int64")
        if entry not in self._sizes:
            self._sizes[entry] = self._find_size(entry)
        return self._sizes[entry]

    def _find_size(self, expression: str) -> str:
        for node, forms in self.forms.items():
            value = node.meta["value"]
            if isinstance(value, SizeValue) and value.expression == expression and forms.full:
                return forms.full
            if isinstance(value, TensorValue) and forms.full and expression in value.shape:
                axis = value.shape.index(expression)
                return self.op("Shape", [forms.full], start=axis, end=axis + 1, name=f"size/{expression}")
        raise InternalError("lowering", got=f"size {expression} of no value written so far")

    def shape(self, dims: Sequence[Dim], like: Sequence[Dim] = ()) -> str:
        """A shape for Reshape: one varying dim is -1; a dim equal to the same one of ``like`` is 0 (copied)."""
        varying = [index for index, dim in enumerate(dims) if isinstance(dim, str)]
        entries: list[Any] = list(dims)
        if len(varying) == 1:
            entries[varying[0]] = -1
        elif varying and all(index < len(like) and like[index] == dims[index] for index in varying[:-1]):
            for index in varying[:-1]:
                entries[index] = 0
            last = varying[-1]
            entries[last] = 0 if last < len(like) and like[last] == dims[last] else -1
        elif varying:
            return self.op("Concat", [self.size(dim) for dim in dims], axis=0, name="shape")
        return self.constant(entries, "int64")

    def sizes(self, entries: Sequence[Any]) -> str:
        """An int64 vector of sizes; entries may be numbers or size nodes."""
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


def _tensor_proto(name: str, tensor: Tensor) -> onnx.TensorProto:
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        raw = tensor.view(torch.int16).numpy().tobytes()
        return helper.make_tensor(name, onnx.TensorProto.BFLOAT16, list(tensor.shape), raw, raw=True)
    return numpy_helper.from_array(tensor.numpy(), name)


def element_count(shape: Sequence[Dim]) -> int | None:
    """Number of elements, or ``None`` if a dim may vary."""
    return math.prod(dim for dim in shape if isinstance(dim, int)) if all(isinstance(d, int) for d in shape) else None
