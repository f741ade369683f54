"""Linear layers, matrix products, einsum and embeddings: one axis is summed away, the others pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gossamer.analysis.axes import Axis
from gossamer.analysis.rules.pointwise import broadcast
from gossamer.analysis.trace import AxesOf, Call, Rule, Trace
from gossamer.program.dialect import aten


def _linear(t: Trace, call: Call) -> AxesOf:
    """Weight (out, in), or (in,) for one output without an axis."""
    x, weight = call.axes("input"), call.axes("weight")
    t.unify(x[-1], weight[-1])
    t.contract(call, "input", len(x) - 1)
    t.axes.mark(weight[-1], "hidden")
    t.role(call, call["weight"], len(weight) - 1, "consumer")
    if len(weight) == 1:
        return x[:-1]
    t.axes.mark(weight[0], "hidden")
    t.role(call, call["weight"], 0, "producer")
    if call.has("bias"):
        t.unify(call.axes("bias")[-1], weight[0])
        t.role(call, call["bias"], 0, "follower")
    return (*x[:-1], weight[0])


def _matmul(t: Trace, call: Call) -> AxesOf:
    """(.., m, k) by (.., k, n); a vector on either side has k alone."""
    x, y = call.axes("self"), call.axes("other")
    inner = len(y) - 2 if len(y) > 1 else 0
    t.unify(x[-1], y[inner])
    t.contract(call, "self", len(x) - 1)
    rows, columns = (x[-2:-1], y[-1:] if len(y) > 1 else ())
    batch = broadcast(t, [x[:-2], y[:-2]])
    stored = [name for name in ("self", "other") if t.is_stored(call[name])]
    for name, k, own in (("self", len(x) - 1, len(x) - 2), ("other", inner, len(y) - 1)):
        if name in stored:
            t.role(call, call[name], k, "consumer")
            if len(call.axes(name)) > 1:
                t.role(call, call[name], own, "producer")
    if not stored and len(x) > 2 and len(y) > 2:
        mark_heads(t, x[-3])
        t.axes.mark(x[-1], "head_dim")
        t.axes.mark(y[-1], "value_dim")
    return (*batch, *rows, *columns)


def mark_heads(t: Trace, axis: Axis) -> None:
    """The leaves of a heads axis: heads, or heads of keys and values and their repeats."""
    leaves = t.axes.leaves(axis)
    t.axes.mark(axis, "heads_per_kv" if len(leaves) > 1 else "heads")
    if len(leaves) > 1:
        t.axes.mark(leaves[0], "kv_heads")


def _einsum(t: Trace, call: Call) -> AxesOf:
    """Equal letters are one axis; letters that the result lacks are summed away."""
    operands = [t.axes_of(tensor) for tensor in call["tensors"]]
    inputs, _, output = call["equation"].replace(" ", "").partition("->")
    terms = [_letters(term, len(axes)) for term, axes in zip(inputs.split(","), operands, strict=True)]
    if "->" not in call["equation"]:
        single = {letter for term in terms for letter in term if sum(one.count(letter) for one in terms) == 1}
        longest = max((term for term in terms), key=lambda term: sum(letter.isdigit() for letter in term))
        wanted = [letter for letter in longest if letter.isdigit()] + sorted(x for x in single if x.isalpha())
    else:
        dots = max(sum(letter.isdigit() for letter in term) for term in terms)
        wanted = _letters(output, dots + len(output.replace("...", "")))
    found: dict[str, Axis] = {}
    for term, axes in zip(terms, operands, strict=True):
        for letter, axis in zip(term, axes, strict=True):
            if term.count(letter) > 1:
                t.freeze(axis, "diagonal")
            if letter in found and 1 not in (axis.size, found[letter].size):
                t.unify(found[letter], axis)
            if letter not in found or found[letter].size == 1:
                found[letter] = axis
    _einsum_roles(t, call, terms, wanted)
    return tuple(t.axes.resolve(found[letter]) for letter in wanted)


def _einsum_roles(t: Trace, call: Call, terms: list[list[str]], wanted: list[str]) -> None:
    masked: set[str] = set()
    for item, term in enumerate(terms):
        for dim, letter in enumerate(term):
            summed = letter not in wanted
            if summed and letter not in masked:
                t.contract(call, "tensors", dim, item)
                masked.add(letter)
            shared = sum(letter in one for one in terms) > 1
            t.role(call, call["tensors"][item], dim, "consumer" if summed else "follower" if shared else "producer")


def _letters(term: str, rank: int) -> list[str]:
    """One letter an axis; the axes of an ellipsis are digits, counted from the right."""
    before, dots, after = term.partition("...")
    count = rank - len(before) - len(after) if dots else 0
    return [*before, *(str(count - 1 - index) for index in range(count)), *after]


def _embedding(t: Trace, call: Call) -> AxesOf:
    """Weight (rows, width): indices are values, so rows stay."""
    weight, indices = call.axes("weight"), call.axes("indices")
    t.freeze(weight[0], "indices are values")
    t.axes.mark(weight[1], "embedding")
    t.role(call, call["weight"], 0, "follower")
    t.role(call, call["weight"], 1, "producer")
    return (*indices, weight[1])


RULES: Mapping[Any, Rule] = {
    aten.linear.default: _linear,
    aten.matmul.default: _matmul,
    aten.einsum.default: _einsum,
    aten.embedding.default: _embedding,
}
