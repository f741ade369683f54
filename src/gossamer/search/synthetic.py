"""Inputs made up from a signature, where no sample of the user's may be used. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gossamer.core.specs import NUMPY_DTYPES, Signature


def synthetic_inputs(signature: Signature, sizes: Mapping[str, int], other: int, seed: int) -> dict[str, np.ndarray]:
    """Standard normal floats, and whole numbers and booleans of 0 and 1.

    These are small enough for any table of indices, and valid masks: the first position is always 1, so nothing is
    masked as a whole.

    Args:
        signature: what to make inputs for.
        sizes: wanted sizes of dims that may vary; kept within their ranges.
        other: wanted size of those not named.
        seed: of the values.
    """
    generator = np.random.default_rng(seed)
    inputs: dict[str, np.ndarray] = {}
    for spec in signature.inputs:
        shape = [
            dim if isinstance(dim, int) else size_in_range(signature, dim, sizes.get(dim, other)) for dim in spec.shape
        ]
        if spec.dtype.startswith(("float", "bfloat")):
            values = generator.standard_normal(shape)
        else:
            values = generator.integers(0, 2, shape)
            values[..., :1] = 1
        inputs[spec.name] = values.astype(NUMPY_DTYPES[spec.dtype])
    return inputs


def size_in_range(signature: Signature, dim: str, wanted: int) -> int:
    """The size nearest to the wanted one that a dim may have."""
    low, high = signature.dims[dim]
    return max(low, wanted if high is None else min(wanted, high))
