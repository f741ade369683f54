"""Parity cases: the inputs on which two runnables are compared."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gossamer.core.errors import DataError
from gossamer.core.specs import LARGEST_TRIED_END, Dim, Signature, TensorSpec

REAL_BATCH = 8
"""Samples in a real case, where the batch may vary: small enough for a slow interpreter."""

LARGE_BATCH = 13
"""Prime, so that no vector width or unrolling divides it."""

FAINT, AMPLIFIED = 1e-2, 1e4
"""Factors of the cases that show what hides at the data's own size: an epsilon below a root, an overflow."""

CaseKind = Literal["real", "shape", "faint", "stress"]


@dataclass(frozen=True)
class Case:
    """Inputs of one comparison.

    Attributes:
        name: for reports, ``real 0-7``, ``batch=1``, ``zeros``.
        kind: ``real`` samples decide on agreement; ``shape`` cases look for other sizes and degenerate values;
            ``faint`` ones are so small that rounding of real size is large beside them, ``stress`` ones so large that
            rounding is amplified.
        inputs: arrays by name, within the declared dtypes and ranges.
    """

    name: str
    kind: CaseKind
    inputs: Mapping[str, np.ndarray]


def parity_cases(
    signature: Signature, real: Mapping[str, np.ndarray], *, count: int = 32, seed: int = 0
) -> tuple[Case, ...]:
    """Real samples, and shapes and values that the data lack, for comparing a model before and after lowering.

    Real cases: ``count`` samples by seeded choice, in batches of 8 where the batch may vary. Shape cases: batch 1, 2
    and 13; the smallest size of every other named dim, one more than the data's (odd where that is even) and one half
    as large again, by cropping and repeating real samples; the upper end of every range, where the inputs stay small
    there; float inputs constant, all zero, and the real samples of largest magnitude; masks of 0 and 1 with their tail
    at 0. A faint case holds float inputs a hundredth as large, a stress case ten thousand times as large. Every case
    stays in the declared ranges, and inputs that share a named dim change together. Otherwise integer inputs only hold
    values seen in the data, and masks (two values or fewer) are never made constant: indices and masks that no data
    have would compare undefined behaviour. Random normal inputs are not used: they pass models that are wrong on real
    ones.

    Args:
        signature: of the model.
        real: preprocessed arrays by input name, samples on axis 0.
        count: real samples, fewer if there are fewer.
        seed: of the choice.

    Raises:
        DataError: an input is missing, empty, or does not fit the signature.
    """
    plan = _Plan(signature, {spec.name: _rows_of(spec, real) for spec in signature.inputs}, seed)
    return (*plan.real_cases(count), *plan.size_cases(), *plan.value_cases())


class _Plan:
    """Sizes the data have, and a seeded order of their rows."""

    def __init__(self, signature: Signature, data: Mapping[str, np.ndarray], seed: int) -> None:
        self.signature = signature
        self.data = data
        rng = np.random.default_rng(seed)
        rows = sorted({len(array) for array in data.values() if array.ndim})
        self.order = {count: rng.permutation(count) for count in rows}
        self.batch_dims = _batch_dims(signature)
        self.sizes = _data_sizes(signature, data, self.batch_dims)
        _require_fit(signature, data, self.batch_dims, self.sizes)

    def real_cases(self, count: int) -> Iterator[Case]:
        """Consecutive pieces of the seeded order."""
        per_case = self._rows_per_case()
        total = min(count, max(self.order, default=1))
        for start in range(0, max(total, 1), per_case):
            rest = min(per_case, max(total - start, 1))
            sizes = {**self.sizes, **{name: self._clamp(name, rest) for name in self.batch_dims}}
            yield self._case(f"real {start}-{start + rest - 1}", "real", sizes, start=start)

    def size_cases(self) -> Iterator[Case]:
        """One dim at a time away from the data's size; the batch at 2 meanwhile."""
        small = self._small()
        for name, size in self.sizes.items():
            if name in self.batch_dims:
                wanted = [self._clamp(name, value) for value in (1, 2, LARGE_BATCH)]
            else:
                wanted = [self._clamp(name, value) for value in (1, size + 1, size + (size + 1) // 2)]
                wanted = [value for value in wanted if value != size]
            _, high = self.signature.dims.get(name, (1, None))
            if (
                high is not None
                and high != size
                and max(self._elements({**small, name: high}), high**2) <= LARGEST_TRIED_END
            ):
                wanted.append(high)
            for value in dict.fromkeys(wanted):
                yield self._case(f"{name}={value}", "shape", {**small, name: value})

    def value_cases(self) -> Iterator[Case]:
        """Constant, zero, small and large values, and masked tails, at the data's size."""
        small = self._small()
        plain = self._case("constant", "shape", small)
        yield self._replaced(plain, "constant", lambda array, seen: np.full_like(array, _middle(seen)), integers=True)
        if masks := {name: _tail_masked(array) for name, array in plain.inputs.items() if _is_mask(array)}:
            yield Case("padded", "shape", {**plain.inputs, **masks})
        if not any(np.issubdtype(array.dtype, np.floating) for array in plain.inputs.values()):
            return
        yield self._replaced(plain, "zeros", lambda array, _: np.zeros_like(array))
        yield self._replaced(plain, "faint", lambda array, _: _scaled(array, FAINT), kind="faint")
        largest = self._case("largest", "shape", small, order=self._largest_first())
        yield largest
        yield self._replaced(largest, "amplified", lambda array, _: _scaled(array, AMPLIFIED), kind="stress")

    def _replaced(
        self,
        case: Case,
        name: str,
        change: Callable[[np.ndarray, np.ndarray], np.ndarray],
        *,
        kind: CaseKind = "shape",
        integers: bool = False,
    ) -> Case:
        inputs = {}
        for key, array in case.inputs.items():
            seen = np.atleast_1d(self.data[key])[:256]
            is_float = np.issubdtype(array.dtype, np.floating)
            touched = is_float or (integers and len(np.unique(seen)) > 2)
            inputs[key] = change(array, seen) if touched else array
        return Case(name, kind, inputs)

    def _case(
        self,
        name: str,
        kind: CaseKind,
        sizes: Mapping[str, int],
        *,
        start: int = 0,
        order: Mapping[int, np.ndarray] | None = None,
    ) -> Case:
        order = order or self.order
        inputs = {}
        for spec in self.signature.inputs:
            array = self.data[spec.name]
            for axis, dim in enumerate(spec.shape):
                places = np.arange(dim_size(dim, sizes))
                if axis == 0:
                    places = order[len(array)][(places + start) % len(array)]
                array = np.take(array, places % array.shape[axis], axis=axis)
            inputs[spec.name] = array
        return Case(name, kind, self.signature.check(inputs))

    def _rows_per_case(self) -> int:
        if self.batch_dims:
            return max(self.sizes[name] for name in self.batch_dims)
        fixed = [spec.shape[0] for spec in self.signature.inputs if spec.shape]
        return max((size for size in fixed if isinstance(size, int)), default=1)

    def _small(self) -> dict[str, int]:
        return {**self.sizes, **{name: self._clamp(name, 2) for name in self.batch_dims}}

    def _elements(self, sizes: Mapping[str, int]) -> int:
        return sum(math.prod(dim_size(dim, sizes) for dim in spec.shape) for spec in self.signature.inputs)

    def _clamp(self, name: str, size: int) -> int:
        low, high = self.signature.dims.get(name, (1, None))
        return max(low, 1, size if high is None else min(size, high))

    def _largest_first(self) -> dict[int, np.ndarray]:
        order = dict(self.order)
        for spec in reversed(self.signature.inputs):
            array = self.data[spec.name]
            if array.ndim and np.issubdtype(array.dtype, np.floating):
                flat = array.reshape(len(array), -1)
                order[len(array)] = np.argsort(-np.maximum(flat.max(axis=1), -flat.min(axis=1)), kind="stable")
        return order


def dim_size(dim: Dim, sizes: Mapping[str, int]) -> int:
    """Value of a size, a named dim, or an expression of whole numbers and named dims (``2*batch + 1``)."""
    if isinstance(dim, int):
        return dim
    return sizes[dim] if dim in sizes else _evaluate(ast.parse(dim, mode="eval").body, sizes)


_OPERATORS: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


def _evaluate(node: ast.expr, sizes: Mapping[str, int]) -> int:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.Name) and node.id in sizes:
        return sizes[node.id]
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_evaluate(node.left, sizes), _evaluate(node.right, sizes))
    raise DataError("building parity cases", got=f"dim {ast.unparse(node)!r}", expected="named dims, numbers, + - * //")


def _batch_dims(signature: Signature) -> tuple[str, ...]:
    """Named dims on axis 0, where the samples lie."""
    names = (spec.shape[0] for spec in signature.inputs if spec.shape)
    return tuple(dict.fromkeys(name for name in names if isinstance(name, str) and name.isidentifier()))


def _data_sizes(signature: Signature, data: Mapping[str, np.ndarray], batch_dims: tuple[str, ...]) -> dict[str, int]:
    """Size of every named dim: a batch of ``REAL_BATCH`` within its range, and what the data have elsewhere."""
    sizes: dict[str, int] = {}
    for spec in signature.inputs:
        for axis, dim in enumerate(spec.shape):
            if not isinstance(dim, str) or dim in sizes:
                continue
            if dim in batch_dims:
                low, high = signature.dims.get(dim, (1, None))
                sizes[dim] = max(low, 1, min(REAL_BATCH, high or REAL_BATCH, len(data[spec.name])))
            elif dim.isidentifier():
                sizes[dim] = data[spec.name].shape[axis]
    for spec in signature.inputs:
        for axis, dim in enumerate(spec.shape):
            if isinstance(dim, str) and not dim.isidentifier():
                unknown = _names(dim) - set(sizes)
                for name in unknown:
                    low, high = signature.dims.get(name, (1, None))
                    if axis == 0:
                        sizes[name] = max(low, 1, min(REAL_BATCH, high or REAL_BATCH))
                    else:
                        sizes[name] = _solve(dim, name, data[spec.name].shape[axis], sizes, max(low, 1))
    return sizes


def _require_fit(
    signature: Signature, data: Mapping[str, np.ndarray], batch_dims: tuple[str, ...], sizes: Mapping[str, int]
) -> None:
    """Cropping and repeating would hide data of a wrong size, so sizes are checked before."""
    rows: dict[Dim, int] = {}
    for spec in signature.inputs:
        shape = data[spec.name].shape
        doing, got = f"building parity cases for input {spec.name!r}", f"{data[spec.name].dtype}{list(shape)}"
        if spec.shape and rows.setdefault(spec.shape[0], shape[0]) != shape[0] and isinstance(spec.shape[0], str):
            raise DataError(doing, got=got, expected=f"{rows[spec.shape[0]]} samples, as in an earlier input")
        for axis, dim in enumerate(spec.shape):
            fixed = isinstance(dim, int) or not _names(dim) & set(batch_dims)
            if axis and fixed and shape[axis] != dim_size(dim, sizes):
                raise DataError(f"{doing}, dim {axis}", got=got, expected=f"{dim} = {dim_size(dim, sizes)}: {spec}")


def _solve(dim: str, name: str, size: int, sizes: Mapping[str, int], low: int) -> int:
    """Smallest value of ``name`` at which the expression gives ``size``."""
    for value in range(low, size + 1):
        if dim_size(dim, {**sizes, name: value}) == size:
            return value
    raise DataError("building parity cases", got=f"{dim} = {size} in the data", expected=f"a whole {name}")


def _names(expression: str) -> set[str]:
    return {node.id for node in ast.walk(ast.parse(expression, mode="eval")) if isinstance(node, ast.Name)}


def _rows_of(spec: TensorSpec, real: Mapping[str, np.ndarray]) -> np.ndarray:
    doing = f"building parity cases for input {spec.name!r}"
    if spec.name not in real:
        raise DataError(doing, got=f"data named {', '.join(sorted(real))}", expected=str(spec))
    array = np.asarray(real[spec.name])
    if array.ndim != len(spec.shape) or not array.size:
        raise DataError(
            doing, got=f"{array.dtype}{list(array.shape)}", expected=f"{spec}, samples on axis 0, not empty"
        )
    return array


def _scaled(array: np.ndarray, factor: float) -> np.ndarray:
    """The array times a factor, within what its dtype holds."""
    limits = np.finfo(array.dtype)
    return np.clip(array.astype(np.float64) * factor, limits.min, limits.max).astype(array.dtype)


def _is_mask(array: np.ndarray) -> bool:
    """Whether an integer or boolean input holds nothing but 0 and 1, with 1 at the start of every row."""
    return array.ndim > 1 and array.dtype.kind in "bi" and bool(np.isin(array, (0, 1)).all() and array[..., 0].all())


def _tail_masked(array: np.ndarray) -> np.ndarray:
    """A copy whose last third along the last axis is 0; the first entry stays."""
    masked = array.copy()
    masked[..., max(1, array.shape[-1] * 2 // 3) :] = 0
    return masked


def _middle(seen: np.ndarray) -> float | int:
    """A typical value: the mean of floats, the median of the values seen for integers (itself a value seen)."""
    if np.issubdtype(seen.dtype, np.floating):
        return float(seen.mean(dtype=np.float64))
    return np.sort(seen, axis=None)[seen.size // 2].item()
