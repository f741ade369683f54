"""What goes into and comes out of a program: names, dtypes, shapes with named dims, and the ranges of these dims."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gossamer.core.errors import DataError

Dim = int | str
"""A size, or the name of a dim that may vary ("batch"), or an expression in such names ("2*batch")."""

NUMPY_DTYPES: Mapping[str, type] = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": np.float32,  # NumPy has none: bfloat16 values are widened when they leave a program
    "int64": np.int64,
    "int32": np.int32,
    "int16": np.int16,
    "int8": np.int8,
    "uint8": np.uint8,
    "bool": np.bool_,
}

LARGEST_TRIED_END = 2**22
"""Elements of all inputs together, and square of the size, up to which the upper end of a dim's range is tried by
running it: attention needs the square."""

_SHORT = {"float": "f", "bfloat": "bf", "int": "i", "uint": "u"}


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype and shape of one tensor; prints as ``x: f32[batch, 3, 32, 32]``."""

    name: str
    dtype: str
    shape: tuple[Dim, ...]

    def __str__(self) -> str:
        return f"{self.name}: {short_dtype(self.dtype)}[{', '.join(map(str, self.shape))}]"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value; ``from_json`` reads it back."""
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TensorSpec:
        """Inverse of ``to_json``."""
        return cls(str(value["name"]), str(value["dtype"]), tuple(value["shape"]))


@dataclass(frozen=True)
class Signature:
    """Inputs, outputs and named dims of a program.

    Attributes:
        inputs: in the order of the model's own arguments.
        outputs: in the order the model returns them.
        dims: inclusive range of every named dim; an upper end of ``None`` is unbounded.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dims: Mapping[str, tuple[int, int | None]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value; ``from_json`` reads it back."""
        return {
            "inputs": [spec.to_json() for spec in self.inputs],
            "outputs": [spec.to_json() for spec in self.outputs],
            "dims": {name: list(ends) for name, ends in self.dims.items()},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Signature:
        """Inverse of ``to_json``."""
        return cls(
            tuple(TensorSpec.from_json(spec) for spec in value["inputs"]),
            tuple(TensorSpec.from_json(spec) for spec in value["outputs"]),
            {
                str(name): (int(ends[0]), None if ends[1] is None else int(ends[1]))
                for name, ends in value["dims"].items()
            },
        )

    def bind(self, *args: Any, **kwargs: Any) -> dict[str, np.ndarray]:
        """Turn call arguments (arrays by position or name, or one mapping) into checked arrays by input name."""
        if len(args) == 1 and isinstance(args[0], Mapping) and not kwargs:
            kwargs, args = dict(args[0]), ()
        names = [spec.name for spec in self.inputs]
        given = [*names[: len(args)], *kwargs]
        if len(args) > len(names) or sorted(given) != sorted(names):
            raise DataError(
                "binding the inputs of a program",
                got=f"{len(args)} positional and {', '.join(sorted(kwargs)) or 'none'} by name",
                expected=f"each once: {', '.join(names)}",
            )
        arrays = dict(zip(names, args, strict=False)) | kwargs
        return self.check({name: as_array(arrays[name]) for name in names})

    def check(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Inputs in order and in the declared dtype, if they fit; named dims must agree between inputs.

        Integers and floats of another width are converted where no value changes kind; a float where an integer is
        declared is an error, and so is an integer that the declared width cannot hold.

        Raises:
            DataError: an input is missing or has another rank, size or kind; the message names it.
        """
        sizes: dict[str, int] = {}
        checked: dict[str, np.ndarray] = {}
        for spec in self.inputs:
            if spec.name not in inputs:
                raise DataError(
                    f"reading input {spec.name!r}", got=f"inputs named {', '.join(sorted(inputs))}", expected=str(spec)
                )
            checked[spec.name] = self._check_one(spec, np.asarray(inputs[spec.name]), sizes)
        return checked

    def _check_one(self, spec: TensorSpec, array: np.ndarray, sizes: dict[str, int]) -> np.ndarray:
        got = f"{array.dtype}{list(array.shape)}"
        if len(array.shape) != len(spec.shape):
            raise DataError(f"reading input {spec.name!r}", got=got, expected=f"{len(spec.shape)} dims: {spec}")
        for axis, (size, dim) in enumerate(zip(array.shape, spec.shape, strict=True)):
            where = f"reading input {spec.name!r}, dim {axis}"
            if isinstance(dim, int):
                if size != dim:
                    raise DataError(where, got=got, expected=str(spec))
                continue
            low, high = self.dims.get(dim, (0, None))
            if size < low or (high is not None and size > high):
                raise DataError(where, got=got, expected=f"{dim} in {format_range(low, high)}")
            if sizes.setdefault(dim, size) != size:
                raise DataError(where, got=f"{dim}={size}", expected=f"{dim}={sizes[dim]}, as in an earlier input")
        wanted = np.dtype(NUMPY_DTYPES[spec.dtype])
        if array.dtype != wanted:
            if not np.can_cast(array.dtype, wanted, casting="same_kind"):
                raise DataError(f"reading input {spec.name!r}", got=got, expected=str(spec))
            if wanted.kind in "iu" and array.size:
                low, high = np.iinfo(wanted.str).min, np.iinfo(wanted.str).max
                for value in (array.min(), array.max()):
                    if not low <= int(value) <= high:
                        raise DataError(
                            f"reading input {spec.name!r}", got=f"{got} holding {value}", expected=str(spec)
                        )
            array = array.astype(wanted)
        return array


def as_array(value: Any) -> np.ndarray:
    """An array from an array, nested lists of numbers, or a torch tensor (bfloat16 widened to float32)."""
    if hasattr(value, "detach"):
        tensor = value.detach().cpu()
        value = (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
    return np.asarray(value)


def format_range(low: int, high: int | None) -> str:
    """``[1, 64]`` or ``[1, ...]``."""
    return f"[{low}, {'...' if high is None else high}]"


def short_dtype(dtype: str) -> str:
    """``float32`` -> ``f32``."""
    kind = dtype.rstrip("0123456789")
    return f"{_SHORT.get(kind, kind)}{dtype[len(kind) :]}"
