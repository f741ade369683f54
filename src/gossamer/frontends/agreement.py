"""Proof of capture: the Program and the model it came from agree on more than the example they were traced with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from gossamer.core.errors import CaptureError
from gossamer.core.specs import LARGEST_TRIED_END, Signature
from gossamer.program.interpreter import Interpreter
from gossamer.program.program import Program

Eager = Callable[[Mapping[str, np.ndarray]], list[np.ndarray]]

RELATIVE_TOLERANCE = 1e-4
"""Largest difference allowed, as a share of the largest output: the same float32 operations in the same order differ by
rounding only; 1e-4 is the fp32 policy's bound on the scaled maximum."""


def require_agreement(program: Program, eager: Eager, example: Mapping[str, np.ndarray]) -> None:
    """Compare eager and captured outputs on the example, other sizes, repeats, and scaled, zero and flipped copies.

    Raises:
        CaptureError: a dim or a Python decision was frozen at capture, or the forward pass is random.
    """
    doing = f"checking the captured {program.name} against the model"
    run = Interpreter(program).run
    first, again = eager(example), eager(example)
    if any(not np.array_equal(a, b, equal_nan=True) for a, b in zip(first, again, strict=True)):
        raise CaptureError(
            doing,
            problem="randomness or hidden state inside forward",
            got="two eager runs on the same input differ",
            expected="a forward that depends on its inputs only",
            try_="make the random numbers an input, and keep no state between calls",
        )
    _compare(
        doing, "on the example inputs", list(run(example).values()), first, "the captured graph differs from the model"
    )
    for label, inputs in _other_sizes(program.signature, example):
        try:
            expected = eager(inputs)
        except Exception as error:
            raise CaptureError(
                doing,
                problem="dimension frozen by arithmetic",
                got=f"the model itself fails {label}: {type(error).__name__}: {error}",
                try_="give the dim its true range (dynamic={'x': {1: 'seq=2..512'}}), or fix it (dynamic=None)",
            ) from error
        _compare(doing, label, list(run(inputs).values()), expected, "a dimension was frozen at capture")
    for label, inputs in _probes(example):
        expected = eager(inputs)
        _compare(doing, label, list(run(inputs).values()), expected, "a Python decision was frozen at capture")


def to_arrays(result: Any) -> list[np.ndarray]:
    """The tensors in what a module returned, in order, as arrays; bfloat16 is widened to float32."""
    tensors = [leaf.detach() for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
    return [(tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy() for tensor in tensors]


def _compare(doing: str, label: str, got: list[np.ndarray], expected: list[np.ndarray], problem: str) -> None:
    if len(got) != len(expected):
        raise CaptureError(doing, problem=problem, got=f"{len(got)} outputs {label}", expected=f"{len(expected)}")
    for index, (a, b) in enumerate(zip(got, expected, strict=True)):
        if a.shape != b.shape:
            raise CaptureError(
                doing, problem=problem, got=f"output {index} has shape {a.shape} {label}", expected=str(b.shape)
            )
        finite = np.isfinite(b)
        scale = float(np.abs(b[finite], dtype=np.float64).max(initial=0.0))
        same_nonfinite = np.array_equal(a[~finite], b[~finite], equal_nan=True)
        difference = float(np.abs(a[finite].astype(np.float64) - b[finite]).max(initial=0.0))
        if not same_nonfinite or difference > RELATIVE_TOLERANCE * max(scale, 1e-6):
            raise CaptureError(
                doing,
                problem=problem,
                got=f"output {index} differs by {difference:.3g} at a scale of {scale:.3g} {label}",
                expected=f"at most {RELATIVE_TOLERANCE:g} of the scale",
                try_="replace Python branches on values by torch.where, and literal sizes by x.shape",
            )


def _other_sizes(signature: Signature, example: Mapping[str, np.ndarray]) -> list[tuple[str, dict[str, np.ndarray]]]:
    """The example at 1, 2, 3 and the range ends of every named dim; no upper end at which the inputs are large."""
    cases = []
    for name, (low, high) in signature.dims.items():
        sizes = {low, *(size for size in (1, 2, 3) if low <= size and (high is None or size <= high))}
        if high is not None and max(_elements(signature, example, name, high), high**2) <= LARGEST_TRIED_END:
            sizes.add(high)
        for size in sorted(sizes):
            resized = dict(example)
            for spec in signature.inputs:
                for axis, dim in enumerate(spec.shape):
                    if dim == name:
                        resized[spec.name] = np.take(
                            resized[spec.name], np.arange(size) % resized[spec.name].shape[axis], axis
                        )
            cases.append((f"at {name}={size}", resized))
    return cases


def _elements(signature: Signature, example: Mapping[str, np.ndarray], name: str, size: int) -> int:
    """Elements of all inputs together, were the named dim of this size."""
    return sum(
        math.prod(size if dim == name else seen for dim, seen in zip(spec.shape, example[spec.name].shape, strict=True))
        for spec in signature.inputs
    )


def _probes(example: Mapping[str, np.ndarray]) -> list[tuple[str, dict[str, np.ndarray]]]:
    """Scaled, zero and sign-flipped copies of the float inputs, and masks with their tail masked.

    Whole numbers may be indices and stay as they are, except where all are 0 or 1: such an input is taken for a mask.
    """
    cases = []
    masks = {name: _tail_masked(array) for name, array in example.items() if _is_mask(array)}
    if masks:
        cases.append(("with the tail of the mask set to 0", {**example, **masks}))
    if not any(np.issubdtype(array.dtype, np.floating) for array in example.values()):
        return cases
    for label, factor in (
        ("scaled by 10", 10.0),
        ("scaled by 0.1", 0.1),
        ("set to zero", 0.0),
        ("with the sign flipped", -1.0),
    ):
        changed = {
            name: array * np.asarray(factor, array.dtype) if np.issubdtype(array.dtype, np.floating) else array
            for name, array in example.items()
        }
        cases.append((f"with the inputs {label}", changed))
    return cases


def _is_mask(array: np.ndarray) -> bool:
    return array.ndim > 1 and array.dtype.kind in "bi" and bool(np.isin(array, (0, 1)).all())


def _tail_masked(array: np.ndarray) -> np.ndarray:
    """A copy whose last third along the last axis is 0; the first entry stays."""
    masked = array.copy()
    masked[..., max(1, array.shape[-1] * 2 // 3) :] = 0
    return masked
