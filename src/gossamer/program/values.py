"""What a node of a Program yields: a tensor, several tensors, or a whole number computed from sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch import fx

from gossamer.core.errors import InternalError
from gossamer.core.specs import Dim, short_dtype

TORCH_DTYPES = {
    name: getattr(torch, name)
    for name in (
        "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool",
    )
}  # fmt: skip
DTYPE_NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}


@dataclass(frozen=True)
class TensorValue:
    """dtype and shape of a tensor; sizes are ints, dim names, or expressions in dim names."""

    dtype: str
    shape: tuple[Dim, ...]

    def __str__(self) -> str:
        return f"{short_dtype(self.dtype)}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class SizeValue:
    """A whole number that follows from the sizes of inputs, as an expression in dim names."""

    expression: Dim

    def __str__(self) -> str:
        return f"size({self.expression})"


Value = TensorValue | SizeValue | tuple[TensorValue, ...]


def tensor_value(node: fx.Node) -> TensorValue:
    """The dtype and shape of a node that yields one tensor."""
    value = node.meta.get("value")
    if not isinstance(value, TensorValue):
        raise InternalError("reading the shape of a node", got=f"{node.format_node()} with {value}")
    return value


def value_of(val: Any, names: dict[sympy.Symbol, str]) -> Value:
    """Describe a (fake) tensor, symbolic int, or tensors; ``names`` renames export's symbols to dim names."""
    if isinstance(val, torch.Tensor):
        return TensorValue(DTYPE_NAMES[val.dtype], tuple(_dim(size, names) for size in val.shape))
    if isinstance(val, int | torch.SymInt):
        return SizeValue(_dim(val, names))
    if isinstance(val, tuple | list) and all(isinstance(item, torch.Tensor) for item in val):
        return tuple(TensorValue(DTYPE_NAMES[item.dtype], tuple(_dim(s, names) for s in item.shape)) for item in val)
    raise InternalError("describing a captured value", got=f"{type(val).__name__}")


def _dim(size: int | torch.SymInt, names: dict[sympy.Symbol, str]) -> Dim:
    if isinstance(size, int):
        return size
    expression = size.node.expr
    if expression.is_Integer:
        return int(expression)
    renamed = {symbol: sympy.Symbol(names[symbol], integer=True, positive=True) for symbol in expression.free_symbols}
    return str(expression.xreplace(renamed)).replace(" ", "")


def value_to_json(value: Value) -> Any:
    """Plain JSON form; ``value_from_json`` reads it back."""
    if isinstance(value, TensorValue):
        return {"dtype": value.dtype, "shape": list(value.shape)}
    if isinstance(value, SizeValue):
        return {"size": value.expression}
    return [value_to_json(item) for item in value]


def value_from_json(value: Any) -> Value:
    """Inverse of ``value_to_json``."""
    if isinstance(value, list):
        items = tuple(value_from_json(item) for item in value)
        return tuple(item for item in items if isinstance(item, TensorValue))
    if "size" in value:
        return SizeValue(value["size"])
    return TensorValue(str(value["dtype"]), tuple(value["shape"]))
