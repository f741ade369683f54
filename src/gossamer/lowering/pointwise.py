"""Element-wise operations and activations. They compute in flat form where their inputs are in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from gossamer.lowering.call import Call
from gossamer.lowering.emitter import Emitter
from gossamer.program.dialect import aten
from gossamer.program.values import DTYPE_NAMES, TORCH_DTYPES, TensorValue, tensor_value

Rule = Callable[[Emitter, Call], str | None]
"""Writes one call. Returns the ONNX tensor with the result in full form, or records the result itself."""

_EXACT_SOFTPLUS = 15.0
"""Beyond this, log(1 + exp(x)) and x are the same float32."""


def is_integer(dtype: str) -> bool:
    """Whether a dtype counts in whole numbers (bool does not)."""
    return dtype.startswith(("int", "uint"))


def operand(e: Emitter, argument: Any, dtype: str, *, flat: bool = False) -> str:
    """An argument as an ONNX tensor of ``dtype``: a node in the wanted form, or a rank-0 constant."""
    if not isinstance(argument, fx.Node) or not isinstance(argument.meta["value"], TensorValue):
        return e.scalar(argument, dtype)
    value = tensor_value(argument)
    name = e.form(argument, flat=flat and len(value.shape) > 1)
    return name if value.dtype == dtype else e.cast(name, dtype)


def write_unary(e: Emitter, call: Call, x: fx.Node, write: Callable[[str], str], dtype: str = "") -> None:
    """Apply ``write`` to ``x``, cast to ``dtype`` if given, in whichever form it exists; the result has that form."""
    flat = e.is_only_flat(x)
    e.set(call.node, write(operand(e, x, dtype or tensor_value(x).dtype, flat=flat)), flat=flat)


def write_broadcast(e: Emitter, call: Call, arguments: tuple[Any, ...], dtype: str, write: Callable[..., str]) -> None:
    """Apply ``write`` to operands of one dtype that broadcast, in flat form where possible."""
    flat = _computes_flat(e, call, arguments)
    e.set(call.node, write(*[operand(e, argument, dtype, flat=flat) for argument in arguments]), flat=flat)


def _computes_flat(e: Emitter, call: Call, arguments: tuple[Any, ...]) -> bool:
    """Whether a broadcasting operation may compute in flat form: some input is in it, and no other needs its axes."""
    if not any(e.is_only_flat(argument) for argument in arguments):
        return False
    for argument in arguments:
        if isinstance(argument, fx.Node) and isinstance(argument.meta["value"], TensorValue):
            shape = tensor_value(argument).shape
            if shape != call.shape and len(shape) > 1:
                return False
    return True


def _promoted(*arguments: Any) -> str:
    """The dtype in which PyTorch computes a binary operation on these arguments."""
    samples = [_sample(argument) for argument in arguments]
    return DTYPE_NAMES[torch.result_type(samples[0], samples[1])]


def _sample(argument: Any) -> Any:
    """Something of the argument's kind: promotion goes by dtype and by whether it is a number, a scalar or a tensor."""
    if not isinstance(argument, fx.Node):
        return argument
    value = argument.meta["value"]
    if isinstance(value, TensorValue):
        return torch.empty([1] * len(value.shape), dtype=TORCH_DTYPES[value.dtype])
    return 1


def _unary(kind: str, **attributes: Any) -> Rule:
    """One ONNX node that computes in the dtype of the result (``sqrt`` of whole numbers is a float)."""

    def rule(e: Emitter, call: Call) -> None:
        write_unary(e, call, call.tensor("self"), lambda x: e.op(kind, [x], **attributes), call.dtype)

    return rule


def _unary_with(kind: str, **attributes: str) -> Rule:
    """As ``_unary``, with ONNX attributes taken from arguments of the call: ``alpha="negative_slope"``."""

    def rule(e: Emitter, call: Call) -> None:
        values = {name: call[argument] for name, argument in attributes.items()}
        floats: dict[str, Any] = {
            name: value if isinstance(value, str) else float(value) for name, value in values.items()
        }
        write_unary(e, call, call.tensor("self"), lambda x: e.op(kind, [x], **floats), call.dtype)

    return rule


def _rounding(kind: str) -> Rule:
    """Whole numbers are round already, and ONNX rounds floats only."""

    def rule(e: Emitter, call: Call) -> None:
        if is_integer(call.dtype):
            e.same(call.node, call.tensor("self"))
        else:
            write_unary(e, call, call.tensor("self"), lambda x: e.op(kind, [x]))

    return rule


def _float_test(kind: str) -> Rule:
    def rule(e: Emitter, call: Call) -> None:
        dtype = call.input_value().dtype
        computed = dtype if dtype.startswith("float") else "float32"
        write_unary(e, call, call.tensor("self"), lambda x: e.op(kind, [x]), computed)

    return rule


def _not(e: Emitter, call: Call) -> None:
    write_unary(e, call, call.tensor("self"), lambda x: e.op("Not", [x]), "bool")


def _binary(kind: str, for_bool: str = "") -> Rule:
    """An operation with the dtype of its promoted operands; ONNX has other names for it on bools."""

    def rule(e: Emitter, call: Call) -> None:
        dtype = _promoted(call["self"], call["other"])
        chosen = for_bool if dtype == "bool" and for_bool else kind
        write_broadcast(e, call, (call["self"], call["other"]), dtype, lambda a, b: e.op(chosen, [a, b]))

    return rule


def _comparison(kind: str, *, negated: bool = False) -> Rule:
    def rule(e: Emitter, call: Call) -> None:
        dtype = _promoted(call["self"], call["other"])
        ordered_bools = dtype == "bool" and kind != "Equal"

        def write(a: str, b: str) -> str:
            result = e.op(kind, [a, b])
            return e.op("Not", [result]) if negated else result

        write_broadcast(e, call, (call["self"], call["other"]), "int32" if ordered_bools else dtype, write)

    return rule


def _logical(kind: str) -> Rule:
    def rule(e: Emitter, call: Call) -> None:
        write_broadcast(e, call, (call["self"], call["other"]), "bool", lambda a, b: e.op(kind, [a, b]))

    return rule


def _divide(e: Emitter, call: Call) -> None:
    write_broadcast(e, call, (call["self"], call["other"]), call.dtype, lambda a, b: e.op("Div", [a, b]))


def _divide_rounded(e: Emitter, call: Call) -> None:
    mode, dtype = call["rounding_mode"], call.dtype

    def write(a: str, b: str) -> str:
        if mode == "floor":
            whole = e.op("Div", [e.op("Sub", [a, _modulo(e, a, b, dtype)]), b])
            return whole if is_integer(dtype) else e.op("Round", [whole])
        quotient = e.op("Div", [a, b])
        if mode is None or is_integer(dtype):  # ONNX divides whole numbers towards zero
            return quotient
        return e.op("Mul", [e.op("Sign", [quotient]), e.op("Floor", [e.op("Abs", [quotient])])])

    write_broadcast(e, call, (call["self"], call["other"]), dtype, write)


def _remainder(e: Emitter, call: Call) -> None:
    dtype = call.dtype
    write_broadcast(e, call, (call["self"], call["other"]), dtype, lambda a, b: _modulo(e, a, b, dtype))


def _modulo(e: Emitter, a: str, b: str, dtype: str) -> str:
    """The remainder with the sign of the divisor. For floats ONNX has only C's fmod, with the sign of the dividend.

    ``a - b * floor(a / b)`` would not do: for 1.0 and 0.1 the quotient rounds up to 10 although 9 is right.
    """
    if is_integer(dtype):
        return e.op("Mod", [a, b])
    rest = e.op("Mod", [a, b], fmod=1)
    other_sign = e.op("Less", [e.op("Mul", [rest, e.op("Sign", [b])]), e.constant(0, dtype)])
    return e.op("Where", [other_sign, e.op("Add", [rest, b]), rest])


def _power(e: Emitter, call: Call) -> None:
    base, exponent = call["self"], call["exponent"]
    if not isinstance(exponent, fx.Node) and exponent == 2:
        write_unary(e, call, base, lambda x: e.op("Mul", [x, x]), call.dtype)
    else:
        write_broadcast(e, call, (base, exponent), call.dtype, lambda a, b: e.op("Pow", [a, b]))


def _where(e: Emitter, call: Call) -> str:
    condition = e.full_as(call.tensor("condition"), "bool")
    return e.op("Where", [condition, *(operand(e, call[name], call.dtype) for name in ("self", "other"))])


def _cast(e: Emitter, call: Call) -> None:
    write_unary(e, call, call.tensor("self"), lambda x: x, call.dtype)


def _dropout(e: Emitter, call: Call) -> None:
    if call["train"]:
        raise call.unsupported("dropout in training mode", "a model captured in eval mode")
    e.same(call.node, call.tensor("input"))


def _clip(low: str, high: str) -> Rule:
    """Clip between the arguments of these names; ``None`` is no bound."""

    def rule(e: Emitter, call: Call) -> None:
        bounds = [None if call[name] is None else e.scalar(call[name], call.dtype) for name in (low, high)]
        write_unary(e, call, call.tensor("self"), lambda x: e.op("Clip", [x, *bounds]), call.dtype)

    return rule


def _elu(e: Emitter, call: Call) -> None:
    if call["scale"] != 1 or call["input_scale"] != 1:
        raise call.unsupported("elu with scale or input_scale", "plain elu")
    _unary_with("Elu", alpha="alpha")(e, call)


def _softplus(e: Emitter, call: Call) -> None:
    beta, threshold, dtype = float(call["beta"]), float(call["threshold"]), call.dtype

    def write(x: str) -> str:
        scaled = x if beta == 1 else e.op("Mul", [x, e.constant(beta, dtype)])
        soft = e.op("Softplus", [scaled])
        soft = soft if beta == 1 else e.op("Div", [soft, e.constant(beta, dtype)])
        if threshold >= _EXACT_SOFTPLUS:
            return soft
        return e.op("Where", [e.op("Greater", [scaled, e.constant(threshold, dtype)]), x, soft])

    write_unary(e, call, call.tensor("self"), write)


def _prelu(e: Emitter, call: Call) -> str:
    rank = len(call.shape)
    slope = e.full(call.tensor("weight"))
    if rank > 2:
        slope = e.op("Reshape", [slope, e.constant([-1] + [1] * (rank - 2), "int64")])
    return e.op("PRelu", [e.full(call.tensor("self")), slope])


def _silu(e: Emitter, call: Call) -> None:
    write_unary(e, call, call.tensor("self"), lambda x: e.op("Mul", [x, e.op("Sigmoid", [x])]))


def _rsqrt(e: Emitter, call: Call) -> None:
    write_unary(e, call, call.tensor("self"), lambda x: e.op("Reciprocal", [e.op("Sqrt", [x])]), call.dtype)


RULES: Mapping[Any, Rule] = {
    aten.relu.default: _unary("Relu"),
    aten.gelu.default: _unary_with("Gelu", approximate="approximate"),
    aten.silu.default: _silu,
    aten.sigmoid.default: _unary("Sigmoid"),
    aten.tanh.default: _unary("Tanh"),
    aten.hardtanh.default: _clip("min_val", "max_val"),
    aten.hardswish.default: _unary("HardSwish"),
    aten.hardsigmoid.default: _unary("HardSigmoid", alpha=1.0 / 6.0, beta=0.5),
    aten.leaky_relu.default: _unary_with("LeakyRelu", alpha="negative_slope"),
    aten.elu.default: _elu,
    aten.softplus.default: _softplus,
    aten.mish.default: _unary("Mish"),
    aten.prelu.default: _prelu,
    aten.clamp.default: _clip("min", "max"),
    aten.dropout.default: _dropout,
    aten.abs.default: _unary("Abs"),
    aten.neg.default: _unary("Neg"),
    aten.exp.default: _unary("Exp"),
    aten.log.default: _unary("Log"),
    aten.sqrt.default: _unary("Sqrt"),
    aten.rsqrt.default: _rsqrt,
    aten.reciprocal.default: _unary("Reciprocal"),
    aten.erf.default: _unary("Erf"),
    aten.sin.default: _unary("Sin"),
    aten.cos.default: _unary("Cos"),
    aten.tan.default: _unary("Tan"),
    aten.floor.default: _rounding("Floor"),
    aten.ceil.default: _rounding("Ceil"),
    aten.round.default: _rounding("Round"),
    aten.sign.default: _unary("Sign"),
    aten.logical_not.default: _not,
    aten.isnan.default: _float_test("IsNaN"),
    aten.isinf.default: _float_test("IsInf"),
    aten.to.dtype: _cast,
    aten.add.Tensor: _binary("Add", for_bool="Or"),
    aten.sub.Tensor: _binary("Sub"),
    aten.mul.Tensor: _binary("Mul", for_bool="And"),
    aten.div.Tensor: _divide,
    aten.div.Tensor_mode: _divide_rounded,
    aten.remainder.Tensor: _remainder,
    aten.remainder.Scalar: _remainder,
    aten.pow.Tensor_Tensor: _power,
    aten.pow.Tensor_Scalar: _power,
    aten.pow.Scalar: _power,
    aten.maximum.default: _binary("Max", for_bool="Or"),
    aten.minimum.default: _binary("Min", for_bool="And"),
    aten.eq.Tensor: _comparison("Equal"),
    aten.eq.Scalar: _comparison("Equal"),
    aten.ne.Tensor: _comparison("Equal", negated=True),
    aten.ne.Scalar: _comparison("Equal", negated=True),
    aten.lt.Tensor: _comparison("Less"),
    aten.lt.Scalar: _comparison("Less"),
    aten.le.Tensor: _comparison("LessOrEqual"),
    aten.le.Scalar: _comparison("LessOrEqual"),
    aten.gt.Tensor: _comparison("Greater"),
    aten.gt.Scalar: _comparison("Greater"),
    aten.ge.Tensor: _comparison("GreaterOrEqual"),
    aten.ge.Scalar: _comparison("GreaterOrEqual"),
    aten.logical_and.default: _logical("And"),
    aten.logical_or.default: _logical("Or"),
    aten.logical_xor.default: _logical("Xor"),
    aten.where.self: _where,
    aten.where.ScalarSelf: _where,
    aten.where.ScalarOther: _where,
    aten.where.Scalar: _where,
}
