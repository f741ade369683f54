"""What a program file must be, beyond parsing: checked before anything in it is used.

Names of inputs and tensors end up in generated code when a program becomes an ``fx.GraphModule``, so an input is named
by an identifier and no tensor name can end a string. Arguments must be of the kinds that the operation's schema
declares. Shapes are not computed again: a file whose sizes contradict each other fails when it is run.
"""

from __future__ import annotations

import keyword
import operator
import re
from collections.abc import Mapping
from typing import Any, get_args

import torch
from torch import fx

from gossamer.core.specs import Signature, TensorSpec
from gossamer.program import dialect
from gossamer.program.program import Role, outputs_of
from gossamer.program.values import TORCH_DTYPES, SizeValue, TensorValue, Value

_TENSOR_NAME = re.compile(r"[^\"'\\\x00-\x1f]+")
_DIM = re.compile(r"[A-Za-z_(][\w*+/,() -]*|\d+\*[\w*+/,() -]+", re.ASCII)
_LARGEST = 2**63


def check_tables(tensors: Mapping[str, Any], roles: Any, signature: Signature) -> None:
    """Raise ``ValueError`` unless names, roles, dtypes, shapes and ranges are what they should be."""
    if set(roles) != set(tensors) or not all(role in get_args(Role) for role in roles.values()):
        raise ValueError(f"roles of {sorted(map(str, roles))[:5]} for the tensors {sorted(tensors)[:5]}")
    for name in tensors:
        parts = name.split(".")
        if not all(_TENSOR_NAME.fullmatch(part) and not part.startswith("__") for part in parts):
            raise ValueError(f"the tensor name {name!r}")
    for spec in (*signature.inputs, *signature.outputs):
        check_value(TensorValue(spec.dtype, spec.shape))
    for spec in signature.inputs:
        if not spec.name.isidentifier() or keyword.iskeyword(spec.name):
            raise ValueError(f"the input name {spec.name!r}")
    for names in ([spec.name for spec in signature.inputs], [spec.name for spec in signature.outputs]):
        if len(set(names)) != len(names):
            raise ValueError(f"two of one name in {names}")
    for name, (low, high) in signature.dims.items():
        if not name.isidentifier() or not 0 <= low < _LARGEST or (high is not None and not low <= high < _LARGEST):
            raise ValueError(f"the range {[low, high]} of {name!r}")


def check_value(value: Value) -> None:
    """Raise ``ValueError`` unless dtype and sizes are possible ones."""
    if isinstance(value, tuple):
        for item in value:
            check_value(item)
        return
    if isinstance(value, TensorValue) and value.dtype not in TORCH_DTYPES:
        raise ValueError(f"the dtype {value.dtype!r}")
    for dim in value.shape if isinstance(value, TensorValue) else (value.expression,):
        known = type(dim) is int and (0 if isinstance(value, TensorValue) else -_LARGEST) <= dim < _LARGEST
        if not known and not (isinstance(dim, str) and _DIM.fullmatch(dim)):
            raise ValueError(f"the size {dim!r}")


def check_graph(graph: fx.Graph, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
    """Raise ``ValueError`` unless the graph has the signature's inputs and outputs and calls fit their schemas."""
    names = [node.target for node in graph.nodes if node.op == "placeholder"]
    if names != [spec.name for spec in inputs]:
        raise ValueError(f"a graph with the inputs {names} for {[spec.name for spec in inputs]}")
    results = outputs_of(graph)
    if not results or len(results) != len(outputs) or not all(_is_tensor(result) for result in results):
        raise ValueError(f"a graph with the outputs {list(results)} for {[spec.name for spec in outputs]}")
    for node in graph.nodes:
        if node.op != "output":
            check_value(node.meta["value"])
        if node.op == "call_function" and not _fits(node):
            raise ValueError(
                f"the arguments of {node.name}: {dialect.op_name(node.target)}{node.args}{node.kwargs or ''}"
            )


def _fits(node: fx.Node) -> bool:
    if node.target is operator.getitem:
        return _fits_getitem(node)
    if node.target in dialect.SIZE_ARITHMETIC:
        count = 1 if node.target is operator.neg else 2
        return len(node.args) == count and not node.kwargs and all(_is_integer(argument) for argument in node.args)
    assert isinstance(node.target, torch._ops.OpOverload)
    arguments = node.target._schema.arguments
    positional = [argument for argument in arguments if not argument.kwarg_only]
    if len(node.args) > len(positional):
        return False
    given = {argument.name: value for argument, value in zip(positional, node.args, strict=False)}
    if set(node.kwargs) & set(given) or not set(node.kwargs) <= {argument.name for argument in arguments}:
        return False
    given |= node.kwargs
    return all(
        _is_kind(given[argument.name], str(argument.real_type))
        if argument.name in given
        else argument.has_default_value()
        for argument in arguments
    )


def _fits_getitem(node: fx.Node) -> bool:
    if len(node.args) != 2 or node.kwargs or not isinstance(node.args[0], fx.Node):
        return False
    value, index = node.args[0].meta["value"], node.args[1]
    return isinstance(value, tuple) and type(index) is int and 0 <= index < len(value)


def _is_kind(value: Any, kind: str) -> bool:
    """Whether an argument is of a type of torch's schemas: ``Tensor``, ``Optional[List[int]]``, ``number``, ..."""
    inner = kind.partition("[")[2][:-1]
    if kind.startswith("Optional["):
        return value is None or _is_kind(value, inner)
    if kind.startswith("List["):
        several = isinstance(value, list | tuple) and all(_is_kind(item, inner) for item in value)
        return several or (inner in ("int", "SymInt") and _is_integer(value))
    if kind == "Tensor":  # a number may stand where a tensor is expected: mul.Tensor(x, 2.0)
        return _is_tensor(value) or _is_number(value)
    if kind in ("int", "SymInt"):
        return _is_integer(value)
    if kind in ("float", "number", "Scalar"):
        return _is_number(value)
    expected = {"bool": bool, "str": str, "ScalarType": torch.dtype}.get(kind)
    return expected is not None and isinstance(value, expected)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, fx.Node) and isinstance(value.meta["value"], TensorValue)


def _is_integer(value: Any) -> bool:
    if isinstance(value, fx.Node):
        return isinstance(value.meta["value"], SizeValue)
    return type(value) is int and -_LARGEST <= value < _LARGEST


def _is_number(value: Any) -> bool:
    return isinstance(value, bool | float) or _is_integer(value)
