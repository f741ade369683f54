"""Values of sizes: whole numbers, named dims, and expressions of these (``2*batch+1``)."""

from __future__ import annotations

import ast
import functools
import operator
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import sympy

from gossamer.core.errors import InternalError
from gossamer.core.specs import Dim

_OPERATORS: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: operator.pow,
}
_FUNCTIONS: Mapping[str, tuple[Callable[..., Any], Any]] = {
    "Mod": (operator.mod, sympy.Mod),
    "Max": (max, sympy.Max),
    "Min": (min, sympy.Min),
}


def size_value(dim: Dim, sizes: Mapping[str, int]) -> int:
    """The number that a size stands for, given that of each named dim.

    Raises:
        InternalError: it holds a name or an operation that sizes do not have.
    """
    return dim if isinstance(dim, int) else sizes[dim] if dim in sizes else _evaluate(_parsed(dim), sizes, 0, dim)


def scaled_size(dim: Dim, share: Fraction) -> Dim:
    """A size of which a share stays: ``24*batch`` times 2/3 is ``16*batch``.

    Raises:
        InternalError: as ``size_value``, or no whole number stays.
    """
    if share == 1:
        return dim
    if isinstance(dim, int):
        value = sympy.Integer(dim)
    else:
        value = _evaluate(_parsed(dim), {name: _symbol(name) for name in _names(_parsed(dim))}, 1, dim)
    result = sympy.expand(value * sympy.Rational(share.numerator, share.denominator))
    if result.atoms(sympy.Function):  # no name for these in sizes: say the share itself
        return f"{share.numerator}*({dim})//{share.denominator}"
    if sympy.fraction(sympy.together(result))[1] != 1:
        raise InternalError("computing a size after a cut", got=f"{share} of {dim}", expected="a whole number")
    return int(result) if result.is_Integer else str(result).replace(" ", "")


@functools.lru_cache(maxsize=4096)
def _parsed(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


def _names(tree: ast.expr) -> set[str]:
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in called}


def _symbol(name: str) -> sympy.Symbol:
    return sympy.Symbol(name, integer=True, positive=True)


def _evaluate(tree: ast.expr, sizes: Mapping[str, Any], form: int, text: str) -> Any:
    """``form`` 0 computes with numbers, 1 with sympy's."""
    match tree:
        case ast.Constant(value=int(number)):
            return sympy.Integer(number) if form else number
        case ast.Name(id=name) if name in sizes:
            return sizes[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_evaluate(operand, sizes, form, text)
        case ast.BinOp(left=left, op=kind, right=right) if type(kind) in _OPERATORS:
            return _OPERATORS[type(kind)](_evaluate(left, sizes, form, text), _evaluate(right, sizes, form, text))
        case ast.Call(func=ast.Name(id=name), args=arguments) if name in _FUNCTIONS:
            return _FUNCTIONS[name][form](*(_evaluate(argument, sizes, form, text) for argument in arguments))
        case _:
            raise InternalError("reading a size", got=text, expected="named dims and whole numbers in + - * // **")
