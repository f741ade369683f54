"""Axis descriptions: what every position along an axis is made of, and which axes must change together.

An axis is described by one of four forms:

    Dim(id, size)       a leaf: a dimension variable of its own; leaves that stay free are what can be cut
    Fixed(size)         never cut: inputs, outputs, spatial and symbolic sizes
    Product(a, b, ..)   row-major factors: flattening (channels, 7, 7) gives Product(channels, 7, 7)
    Concat(a, b, ..)    parts one after the other

Operations *unify* axes. Unifying a leaf with another leaf makes them one; unifying it with a product or a concatenation
refines it everywhere it occurs; what has no common refinement is frozen, with the reason. No torch here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Dim:
    """A leaf; ``Axes.resolve`` says what became of it."""

    id: int
    size: int


@dataclass(frozen=True)
class Fixed:
    """Positions that are never cut.

    Attributes:
        size: how many; for a size that varies, its value with a large prime for each named dim.
        why: who fixed it, for messages.
        text: the expression in named dims where the size varies, else empty.
    """

    size: int
    why: str = field(default="", compare=False)
    text: str = ""


@dataclass(frozen=True)
class Product:
    """Row-major factors, the last one running fastest."""

    factors: tuple[Axis, ...]

    @property
    def size(self) -> int:
        """Number of positions."""
        return math.prod(factor.size for factor in self.factors)


@dataclass(frozen=True)
class Concat:
    """Parts one after the other."""

    parts: tuple[Axis, ...]

    @property
    def size(self) -> int:
        """Number of positions."""
        return sum(part.size for part in self.parts)


Axis = Dim | Fixed | Product | Concat
Keep = Mapping[int, np.ndarray]
"""Kept indices by leaf id; leaves that are not named stay whole."""

SizeOf = Callable[[Fixed], int]

ONE = Fixed(1)

_KINDS = ("", "padding", "repeats", "hidden", "channels", "embedding", "groups", "heads_per_kv", "value_dim",
          "head_dim", "kv_heads", "heads")  # fmt: skip
"""Kinds of leaves; of two that meet, the later one in this list names both."""


@dataclass
class _Facts:
    kind: str = ""
    frozen: str = ""
    renormalising: bool = False


class Axes:
    """Union-find over leaves, with refinement: the state of one analysis."""

    def __init__(self) -> None:
        self._bound: dict[int, Axis] = {}
        self._facts: list[_Facts] = []

    # Making and reading

    def new(self, size: int, kind: str = "", frozen: str = "") -> Dim:
        """A fresh leaf; nothing can be cut from one of size 1."""
        self._facts.append(_Facts(kind, "size 1" if size == 1 else frozen))
        return Dim(len(self._facts) - 1, size)

    def resolve(self, axis: Axis) -> Axis:
        """The description in terms of today's leaves, nested products and concatenations flattened."""
        if isinstance(axis, Dim):
            if axis.id not in self._bound:
                return axis
            self._bound[axis.id] = found = self.resolve(self._bound[axis.id])
            return found
        if isinstance(axis, Fixed):
            return axis
        if isinstance(axis, Product):
            return _joined(Product, [self.resolve(factor) for factor in axis.factors], 1)
        return _joined(Concat, [self.resolve(part) for part in axis.parts], 0)

    def product(self, factors: Iterable[Axis]) -> Axis:
        """Row-major product, size-1 factors left out."""
        return self.resolve(Product(tuple(factors)))

    def concat(self, parts: Iterable[Axis]) -> Axis:
        """Parts one after the other, empty ones left out."""
        return self.resolve(Concat(tuple(parts)))

    def leaves(self, axis: Axis) -> tuple[Dim, ...]:
        """The distinct leaves of an axis, in order."""
        return tuple(dict.fromkeys(_leaves(self.resolve(axis))))

    def frozen(self, leaf: Dim) -> str:
        """Why a leaf may not be cut; empty if it may."""
        return self._facts[leaf.id].frozen

    def kind(self, leaf: Dim) -> str:
        """What a leaf counts: ``channels``, ``heads``, ..."""
        return self._facts[leaf.id].kind

    def renormalising(self, leaf: Dim) -> bool:
        """Whether a norm takes mean or variance over it."""
        return self._facts[leaf.id].renormalising

    # Facts

    def freeze(self, axis: Axis, why: str) -> None:
        """Forbid cutting any leaf of an axis; the first reason stays."""
        for leaf in self.leaves(axis):
            self._facts[leaf.id].frozen = self._facts[leaf.id].frozen or why

    def mark(self, axis: Axis, kind: str) -> None:
        """Say what the leaves of an axis count, unless something stronger is known."""
        for leaf in self.leaves(axis):
            facts = self._facts[leaf.id]
            facts.kind = max(facts.kind, kind, key=_KINDS.index)

    def mark_renormalising(self, axis: Axis) -> None:
        """Say that a norm takes mean or variance over the leaves of an axis."""
        for leaf in self.leaves(axis):
            self._facts[leaf.id].renormalising = True

    # Unifying

    def unify(self, a: Axis, b: Axis, at: str) -> None:
        """Make two axes one; what cannot be is frozen, and the reason says where: ``at`` which operation."""
        a, b = self.resolve(a), self.resolve(b)
        if a == b or (a.size == b.size == 1):
            return
        if a.size != b.size:
            self._freeze_all([a, b], f"sizes {a.size} and {b.size} meet at {at}")
        elif isinstance(a, Dim):
            self._bind(a, b, at)
        elif isinstance(b, Dim):
            self._bind(b, a, at)
        elif isinstance(a, Fixed):
            self.freeze(b, _met(a, at))
        elif isinstance(b, Fixed):
            self.freeze(a, _met(b, at))
        elif isinstance(a, Concat):
            self._unify_parts(a, b, at)
        elif isinstance(b, Concat):
            self._unify_parts(b, a, at)
        else:
            self._unify_factors(list(a.factors), list(b.factors), at)

    def _bind(self, leaf: Dim, term: Axis, at: str) -> None:
        if isinstance(term, Fixed):
            self.freeze(leaf, _met(term, at))
            return
        facts = self._facts[leaf.id]
        if leaf in _leaves(term):
            self.freeze(term, f"an axis meets a part of itself at {at}")
            return
        if facts.frozen:
            self.freeze(term, facts.frozen)
        if facts.renormalising:
            self.mark_renormalising(term)
        self.mark(term, facts.kind)
        self._bound[leaf.id] = term

    def _unify_parts(self, a: Concat, b: Axis, at: str) -> None:
        rest: Axis = b
        for index, part in enumerate(a.parts):
            if index == len(a.parts) - 1:
                self.unify(part, rest, at)
                return
            cut = self.split(rest, part.size)
            if cut is None:
                self._freeze_all([*a.parts[index:], rest], f"boundaries of a concatenation do not fit at {at}")
                return
            self.unify(part, cut[0], at)
            rest = cut[1]

    def _unify_factors(self, a: list[Axis], b: list[Axis], at: str) -> None:
        while a and b:
            x, y = a.pop(0), b.pop(0)
            if x.size < y.size:
                a, b, x, y = b, a, y, x
            if x.size > y.size:
                cut = self.factor(x, x.size // y.size) if x.size % y.size == 0 else None
                if cut is None:
                    self._freeze_all([x, y, *a, *b], f"factors of a product do not fit at {at}")
                    return
                x = cut[0]
                a.insert(0, cut[1])
            self.unify(x, y, at)

    def _freeze_all(self, axes: Iterable[Axis], why: str) -> None:
        for axis in axes:
            self.freeze(axis, why)

    # Refining

    def split(self, axis: Axis, at: int) -> tuple[Axis, Axis] | None:
        """The parts in front of and behind a position, refining leaves; ``None`` if the axis has no such boundary."""
        axis = self.resolve(axis)
        if not 0 <= at <= axis.size:
            return None
        if at in (0, axis.size):
            return (Fixed(0), axis) if at == 0 else (axis, Fixed(0))
        if isinstance(axis, Dim):
            parts = self.new(at), self.new(axis.size - at)
            self._bind(axis, Concat(parts), "")
            return parts
        if isinstance(axis, Fixed):
            return None if axis.text else (Fixed(at, axis.why), Fixed(axis.size - at, axis.why))
        return self._split_concat(axis, at) if isinstance(axis, Concat) else self._split_product(axis, at)

    def _split_product(self, axis: Product, at: int) -> tuple[Axis, Axis] | None:
        first, *rest = axis.factors
        inner = math.prod(factor.size for factor in rest)
        cut = self.split(first, at // inner) if at % inner == 0 else None
        return None if cut is None else (self.product((cut[0], *rest)), self.product((cut[1], *rest)))

    def _split_concat(self, axis: Concat, at: int) -> tuple[Axis, Axis] | None:
        start = 0
        for index, part in enumerate(axis.parts):
            if at < start + part.size:
                cut = self.split(part, at - start)
                if cut is None:
                    return None
                return self.concat((*axis.parts[:index], cut[0])), self.concat((cut[1], *axis.parts[index + 1 :]))
            start += part.size
        return None

    def factor(self, axis: Axis, inner: int) -> tuple[Axis, Axis] | None:
        """An outer and an inner factor, the inner of a given size, refining leaves; ``None`` if there are none."""
        axis = self.resolve(axis)
        if inner < 1 or axis.size % inner:
            return None
        if inner in (1, axis.size):
            return (axis, ONE) if inner == 1 else (ONE, axis)
        if isinstance(axis, Dim):
            factors = self.new(axis.size // inner), self.new(inner)
            self._bind(axis, Product(factors), "")
            return factors
        if isinstance(axis, Fixed):
            text = f"({axis.text})//{inner}" if axis.text else ""
            return Fixed(axis.size // inner, axis.why, text), Fixed(inner, axis.why)
        if isinstance(axis, Concat):
            return self._factor_concat(axis, inner)
        return self._factor_product(axis, inner)

    def _factor_concat(self, axis: Concat, inner: int) -> tuple[Axis, Axis] | None:
        cuts = [self.factor(part, inner) for part in axis.parts]
        outers: list[Axis] = []
        first: Axis | None = None
        for cut in cuts:
            if cut is None:
                return None
            outers.append(cut[0])
            if first is not None:
                self.unify(first, cut[1], "the parts of a concatenation are divided alike")
            first = cut[1] if first is None else first
        return self.concat(outers), self.resolve(first or ONE)

    def _factor_product(self, axis: Product, inner: int) -> tuple[Axis, Axis] | None:
        taken: list[Axis] = []
        rest = list(axis.factors)
        need = inner
        while need > 1:
            last = rest.pop()
            if need % last.size == 0:
                taken.insert(0, last)
                need //= last.size
                continue
            cut = self.factor(last, need)
            if cut is None:
                return None
            rest.append(cut[0])
            taken.insert(0, cut[1])
            need = 1
        return self.product(rest), self.product(taken)

    # Evaluating

    def touched(self, axis: Axis, keep: Keep) -> bool:
        """Whether a cut changes an axis."""
        return any(leaf.id in keep for leaf in self.leaves(axis))

    def kept(self, axis: Axis, keep: Keep, size_of: SizeOf = lambda fixed: fixed.size) -> np.ndarray:
        """The positions of an axis that survive a cut, ascending."""
        return _kept(self.resolve(axis), keep, size_of)[0]

    def kept_size(self, axis: Axis, keep: Keep) -> int:
        """How many positions of an axis survive a cut; named dims as in ``Fixed.size``."""
        axis = self.resolve(axis)
        if isinstance(axis, Dim):
            return len(keep[axis.id]) if axis.id in keep else axis.size
        if isinstance(axis, Product):
            return math.prod(self.kept_size(factor, keep) for factor in axis.factors)
        if isinstance(axis, Concat):
            return sum(self.kept_size(part, keep) for part in axis.parts)
        return axis.size

    def index(self, axis: Axis, leaf: Dim) -> np.ndarray:
        """For each position the index within ``leaf``, -1 where the position is not of this leaf; shape (size,)."""
        return _index(self.resolve(axis), leaf)

    def repeats_a_leaf(self, axis: Axis) -> bool:
        """Whether a leaf stands twice among the factors of a product: such an axis is a diagonal affair."""
        axis = self.resolve(axis)
        if isinstance(axis, Concat):
            return any(self.repeats_a_leaf(part) for part in axis.parts)
        if not isinstance(axis, Product):
            return False
        found = [leaf for factor in axis.factors for leaf in set(_leaves(factor))]
        return len(found) != len(set(found)) or any(self.repeats_a_leaf(factor) for factor in axis.factors)


def is_symbolic(axis: Axis) -> bool:
    """Whether the size of a resolved axis varies with the inputs."""
    if isinstance(axis, Fixed):
        return bool(axis.text)
    inner: Sequence[Axis] = (
        axis.factors if isinstance(axis, Product) else axis.parts if isinstance(axis, Concat) else ()
    )
    return any(is_symbolic(one) for one in inner)


def describe(axis: Axis) -> str:
    """A resolved axis as text: ``Product(d3[8], 49)``."""
    if isinstance(axis, Dim):
        return f"d{axis.id}[{axis.size}]"
    if isinstance(axis, Fixed):
        return axis.text or str(axis.size)
    name, inner = ("Product", axis.factors) if isinstance(axis, Product) else ("Concat", axis.parts)
    return f"{name}({', '.join(map(describe, inner))})"


def _met(fixed: Fixed, at: str) -> str:
    return f"meets {fixed.why or 'a fixed axis'} at {at}"


def _joined(form: type[Product] | type[Concat], inner: list[Axis], neutral: int) -> Axis:
    flat: list[Axis] = []
    for axis in inner:
        if isinstance(axis, form):
            flat += axis.factors if isinstance(axis, Product) else axis.parts
        elif axis.size != neutral:
            flat.append(axis)
    if not flat:
        return Fixed(neutral)
    return flat[0] if len(flat) == 1 else form(tuple(flat))


def _leaves(axis: Axis) -> Iterator[Dim]:
    if isinstance(axis, Dim):
        yield axis
    elif isinstance(axis, Product | Concat):
        for one in axis.factors if isinstance(axis, Product) else axis.parts:
            yield from _leaves(one)


def _kept(axis: Axis, keep: Keep, size_of: SizeOf) -> tuple[np.ndarray, int]:
    """Kept positions and the size before the cut."""
    if isinstance(axis, Dim):
        return (keep[axis.id] if axis.id in keep else np.arange(axis.size)), axis.size
    if isinstance(axis, Fixed):
        return np.arange(size_of(axis)), size_of(axis)
    if isinstance(axis, Product):
        positions, size = np.zeros(1, np.int64), 1
        for factor in axis.factors:
            inner, inner_size = _kept(factor, keep, size_of)
            positions = (positions[:, None] * inner_size + inner).reshape(-1)
            size *= inner_size
        return positions, size
    start, found = 0, [np.zeros(0, np.int64)]
    for part in axis.parts:
        positions, size = _kept(part, keep, size_of)
        found.append(positions + start)
        start += size
    return np.concatenate(found), start


def _index(axis: Axis, leaf: Dim) -> np.ndarray:
    if isinstance(axis, Dim):
        return np.arange(axis.size) if axis == leaf else np.full(axis.size, -1)
    if isinstance(axis, Fixed):
        return np.full(axis.size, -1)
    if isinstance(axis, Concat):
        return np.concatenate([_index(part, leaf) for part in axis.parts])
    found = np.full(1, -1)
    for factor in axis.factors:
        inner = _index(factor, leaf)
        found = np.maximum(np.repeat(found, len(inner)), np.tile(inner, len(found)))
    return found
