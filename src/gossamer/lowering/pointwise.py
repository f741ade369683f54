"""Element-wise operations and activations. They compute in flat form where their inputs are in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from gossamer.core.errors import UnsupportedOp
from gossamer.lowering.emitter import ONNX_DTYPES, Emitter
from gossamer.program.dialect import aten
from gossamer.program.values import DTYPE_NAMES, TensorValue, tensor_value

Rule = Callable[..., Any]


def write_unary(e: Emitter, node: fx.Node, x: fx.Node, write: Callable[[str], str]) -> None:
    """Apply ``write`` to whichever form of ``x`` exists and record the result in the same form."""
    if e.has_flat(x):
        e.set(node, flat=write(e.flat(x)))
    else:
        e.set(node, full=write(e.full(x)))


def _unary(kind: str, **attributes: Any) -> Rule:
    def rule(e: Emitter, node: fx.Node, self: fx.Node, **_: Any) -> None:
        write_unary(e, node, self, lambda x: e.op(kind, [x], **attributes))

    return rule


def _composed(write: Callable[[Emitter, str, str], str]) -> Rule:
    """A unary rule of several ONNX nodes: ``write(emitter, input, dtype) -> output``."""

    def rule(e: Emitter, node: fx.Node, self: fx.Node, **_: Any) -> None:
        write_unary(e, node, self, lambda x: write(e, x, tensor_value(node).dtype))

    return rule


def _promoted(*arguments: Any) -> str:
    """The dtype in which PyTorch computes a binary operation on these arguments."""
    samples: list[Any] = []
    for argument in arguments:
        if isinstance(argument, fx.Node):
            value = argument.meta["value"]
            if isinstance(value, TensorValue):
                samples.append(torch.empty([1] * len(value.shape), dtype=getattr(torch, value.dtype)))
            else:
                samples.append(1)
        else:
            samples.append(argument)
    if len(samples) == 1 or not any(isinstance(sample, torch.Tensor) for sample in samples):
        return DTYPE_NAMES[torch.as_tensor(samples[0]).dtype]
    return DTYPE_NAMES[torch.result_type(samples[0], samples[1])]


def operand(e: Emitter, argument: Any, dtype: str, *, flat: bool = False) -> str:
    """An argument as an ONNX tensor of ``dtype``: a node in the wanted form, or a rank-0 constant."""
    if not isinstance(argument, fx.Node) or not isinstance(argument.meta["value"], TensorValue):
        return e.scalar(argument, dtype)
    name = e.flat(argument) if flat and len(tensor_value(argument).shape) > 1 else e.full(argument)
    return name if tensor_value(argument).dtype == dtype else e.cast(name, dtype)


def _computes_flat(e: Emitter, node: fx.Node, arguments: tuple[Any, ...]) -> bool:
    """Whether a broadcasting operation may compute in flat form: some input is in it, and no other needs its axes."""
    if not any(e.has_flat(argument) for argument in arguments):
        return False
    shape = tensor_value(node).shape
    for argument in arguments:
        if isinstance(argument, fx.Node) and isinstance(argument.meta["value"], TensorValue):
            other = tensor_value(argument).shape
            if other != shape and (len(other) > 1 or argument not in e.constants):
                return False
    return True


def write_broadcast(
    e: Emitter, node: fx.Node, arguments: tuple[Any, ...], dtype: str, write: Callable[..., str]
) -> None:
    """Apply ``write`` to operands of one dtype that broadcast, in flat form where possible."""
    flat = _computes_flat(e, node, arguments)
    result = write(*[operand(e, argument, dtype, flat=flat) for argument in arguments])
    e.set(node, **{"flat" if flat else "full": result})


def _binary(kind: str, *, dtype: str | None = None) -> Rule:
    def rule(e: Emitter, node: fx.Node, self: Any, other: Any, **_: Any) -> None:
        computed = dtype or _promoted(self, other)
        write_broadcast(e, node, (self, other), computed, lambda a, b: e.op(kind, [a, b]))

    return rule


def _not_equal(e: Emitter, node: fx.Node, self: Any, other: Any) -> None:
    write_broadcast(e, node, (self, other), _promoted(self, other), lambda a, b: e.op("Not", [e.op("Equal", [a, b])]))


def _divide(e: Emitter, node: fx.Node, self: Any, other: Any, rounding_mode: str | None = None) -> None:
    dtype = tensor_value(node).dtype if rounding_mode is None else _promoted(self, other)

    def write(a: str, b: str) -> str:
        if rounding_mode == "floor" and dtype.startswith(("int", "uint")):
            return e.op("Div", [e.op("Sub", [a, e.op("Mod", [a, b])]), b])
        quotient = e.op("Div", [a, b])
        if rounding_mode is None or (rounding_mode == "trunc" and dtype.startswith(("int", "uint"))):
            return quotient
        if rounding_mode == "floor":
            return e.op("Floor", [quotient])
        return e.op("Mul", [e.op("Sign", [quotient]), e.op("Floor", [e.op("Abs", [quotient])])])

    write_broadcast(e, node, (self, other), dtype, write)


def _remainder(e: Emitter, node: fx.Node, self: Any, other: Any) -> None:
    dtype = _promoted(self, other)

    def write(a: str, b: str) -> str:
        if dtype.startswith(("int", "uint")):
            return e.op("Mod", [a, b])
        return e.op("Sub", [a, e.op("Mul", [b, e.op("Floor", [e.op("Div", [a, b])])])])

    write_broadcast(e, node, (self, other), dtype, write)


def _power(e: Emitter, node: fx.Node, self: Any, exponent: Any) -> None:
    dtype = tensor_value(node).dtype
    if exponent == 2:
        write_unary(e, node, self, lambda x: e.op("Mul", [x, x]))
    else:
        write_broadcast(e, node, (self, exponent), dtype, lambda a, b: e.op("Pow", [a, b]))


def _where(e: Emitter, node: fx.Node, condition: fx.Node, self: Any, other: Any) -> str:
    dtype = tensor_value(node).dtype
    return e.op("Where", [e.full(condition), operand(e, self, dtype), operand(e, other, dtype)])


def _cast(e: Emitter, node: fx.Node, self: fx.Node, dtype: torch.dtype, **_: Any) -> None:
    write_unary(e, node, self, lambda x: e.op("Cast", [x], to=ONNX_DTYPES[DTYPE_NAMES[dtype]]))


def _identity(e: Emitter, node: fx.Node, input: fx.Node, **_: Any) -> None:  # noqa: A002 - the schema's name
    e.forms[node] = e._forms(input)  # noqa: SLF001 - the same value under another node


def _clip(e: Emitter, x: str, low: Any, high: Any, dtype: str) -> str:
    bounds = [None if bound is None else e.constant(bound, dtype) for bound in (low, high)]
    return e.op("Clip", [x, *bounds])


def _hardtanh(e: Emitter, node: fx.Node, self: fx.Node, min_val: Any = -1, max_val: Any = 1) -> None:
    write_unary(e, node, self, lambda x: _clip(e, x, min_val, max_val, tensor_value(node).dtype))


def _clamp(e: Emitter, node: fx.Node, self: fx.Node, min: Any = None, max: Any = None) -> None:  # noqa: A002 - the schema's names
    write_unary(e, node, self, lambda x: _clip(e, x, min, max, tensor_value(node).dtype))


def _gelu(e: Emitter, node: fx.Node, self: fx.Node, approximate: str = "none") -> None:
    write_unary(e, node, self, lambda x: e.op("Gelu", [x], approximate=approximate))


def _leaky_relu(e: Emitter, node: fx.Node, self: fx.Node, negative_slope: float = 0.01) -> None:
    write_unary(e, node, self, lambda x: e.op("LeakyRelu", [x], alpha=float(negative_slope)))


def _elu(e: Emitter, node: fx.Node, self: fx.Node, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> None:
    if scale != 1 or input_scale != 1:
        raise UnsupportedOp("lowering to ONNX", got="elu with scale or input_scale", expected="plain elu")
    write_unary(e, node, self, lambda x: e.op("Elu", [x], alpha=float(alpha)))


def _softplus(e: Emitter, node: fx.Node, self: fx.Node, beta: float = 1, threshold: float = 20) -> None:
    dtype = tensor_value(node).dtype

    def write(x: str) -> str:
        if beta == 1:
            return e.op("Softplus", [x])
        return e.op("Div", [e.op("Softplus", [e.op("Mul", [x, e.constant(beta, dtype)])]), e.constant(beta, dtype)])

    write_unary(e, node, self, write)


def _prelu(e: Emitter, node: fx.Node, self: fx.Node, weight: fx.Node) -> str:
    rank = len(tensor_value(self).shape)
    slope = e.full(weight)
    if rank > 2:
        slope = e.op("Reshape", [slope, e.constant([-1] + [1] * (rank - 2), "int64")])
    return e.op("PRelu", [e.full(self), slope])


def _silu(e: Emitter, x: str, dtype: str) -> str:
    return e.op("Mul", [x, e.op("Sigmoid", [x])])


def _rsqrt(e: Emitter, x: str, dtype: str) -> str:
    return e.op("Reciprocal", [e.op("Sqrt", [x])])


RULES: Mapping[Any, Rule] = {
    aten.relu.default: _unary("Relu"),
    aten.gelu.default: _gelu,
    aten.silu.default: _composed(_silu),
    aten.sigmoid.default: _unary("Sigmoid"),
    aten.tanh.default: _unary("Tanh"),
    aten.hardtanh.default: _hardtanh,
    aten.hardswish.default: _unary("HardSwish"),
    aten.hardsigmoid.default: _unary("HardSigmoid", alpha=1.0 / 6.0, beta=0.5),
    aten.leaky_relu.default: _leaky_relu,
    aten.elu.default: _elu,
    aten.softplus.default: _softplus,
    aten.mish.default: _unary("Mish"),
    aten.prelu.default: _prelu,
    aten.clamp.default: _clamp,
    aten.dropout.default: _identity,
    aten.abs.default: _unary("Abs"),
    aten.neg.default: _unary("Neg"),
    aten.exp.default: _unary("Exp"),
    aten.log.default: _unary("Log"),
    aten.sqrt.default: _unary("Sqrt"),
    aten.rsqrt.default: _composed(_rsqrt),
    aten.reciprocal.default: _unary("Reciprocal"),
    aten.erf.default: _unary("Erf"),
    aten.sin.default: _unary("Sin"),
    aten.cos.default: _unary("Cos"),
    aten.tan.default: _unary("Tan"),
    aten.floor.default: _unary("Floor"),
    aten.ceil.default: _unary("Ceil"),
    aten.round.default: _unary("Round"),
    aten.sign.default: _unary("Sign"),
    aten.logical_not.default: _unary("Not"),
    aten.isnan.default: _unary("IsNaN"),
    aten.isinf.default: _unary("IsInf"),
    aten.to.dtype: _cast,
    aten.add.Tensor: _binary("Add"),
    aten.sub.Tensor: _binary("Sub"),
    aten.mul.Tensor: _binary("Mul"),
    aten.div.Tensor: _divide,
    aten.div.Tensor_mode: _divide,
    aten.remainder.Tensor: _remainder,
    aten.remainder.Scalar: _remainder,
    aten.pow.Tensor_Tensor: _power,
    aten.pow.Tensor_Scalar: _power,
    aten.pow.Scalar: _power,
    aten.maximum.default: _binary("Max"),
    aten.minimum.default: _binary("Min"),
    aten.eq.Tensor: _binary("Equal"),
    aten.eq.Scalar: _binary("Equal"),
    aten.ne.Tensor: _not_equal,
    aten.ne.Scalar: _not_equal,
    aten.lt.Tensor: _binary("Less"),
    aten.lt.Scalar: _binary("Less"),
    aten.le.Tensor: _binary("LessOrEqual"),
    aten.le.Scalar: _binary("LessOrEqual"),
    aten.gt.Tensor: _binary("Greater"),
    aten.gt.Scalar: _binary("Greater"),
    aten.ge.Tensor: _binary("GreaterOrEqual"),
    aten.ge.Scalar: _binary("GreaterOrEqual"),
    aten.logical_and.default: _binary("And", dtype="bool"),
    aten.logical_or.default: _binary("Or", dtype="bool"),
    aten.logical_xor.default: _binary("Xor", dtype="bool"),
    aten.where.self: _where,
    aten.where.ScalarSelf: _where,
    aten.where.ScalarOther: _where,
    aten.where.Scalar: _where,
}
