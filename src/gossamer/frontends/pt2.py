"""Programs saved by ``torch.export.save``: a ``.pt2`` file -> Program, without running anything the file brings.

``torch.export.load`` unpickles sample inputs, and evaluates size expressions and names, as they stand in the file. So
it never sees the file: pt2_archive.py writes a copy that holds checked members only, and that copy is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, TensorArgument
from torch.utils import _pytree as pytree

from gossamer.core.errors import DataError, ModelError
from gossamer.frontends.agreement import require_agreement, to_arrays
from gossamer.frontends.pt2_archive import checked_copy
from gossamer.frontends.torch_module import from_exported
from gossamer.frontends.torch_output import plain_line
from gossamer.program.program import Program
from gossamer.program.values import TORCH_DTYPES


def read_pt2(path: Path | str, *, example: Any = None, name: str | None = None) -> Program:
    """Read a ``.pt2`` file.

    Dims that were exported as dynamic stay so: ``batch`` for the first of an input, ``dim1``, ``dim2``, ... for others.
    The program is compared with the exported module on the sample inputs in the file, or on ``example``.

    Args:
        path: a file written by ``torch.export.save``.
        example: inputs to compare on: a tensor or array, a tuple of them, or a mapping by input name.
        name: what to call the program; the file's name by default.

    Raises:
        ModelError: the file is missing, damaged, hostile, or not a plain exported program.
        CaptureError: the program is random, changes its state, or does not agree with the exported module.
        UnsupportedOp: it holds an operation outside the dialect.
    """
    path = Path(path)
    doing = f"reading {path}"
    exported = _load(path, doing)
    program = from_exported(exported, {}, name or path.stem, note=f"read from {path.name} (torch.export.load)")
    inputs = _example(program, exported, example, doing)
    if inputs is not None:
        module = exported.module(check_guards=False)
        require_agreement(program, lambda values: _call(module, exported, _tensors(program, values)), inputs)
    return program


def _load(path: Path, doing: str) -> ExportedProgram:
    copy = checked_copy(path, doing)
    try:
        return torch.export.load(copy)
    except Exception as error:  # the deserialiser raises whatever a damaged graph leads to; nothing in it is run
        raise ModelError(
            doing,
            got=f"{type(error).__name__}: {plain_line(error)}",
            expected=f"a program saved by torch.export.save (here torch {torch.__version__})",
            try_="export it again with this version of torch; register custom operations before reading",
        ) from error


def _example(program: Program, exported: ExportedProgram, given: Any, doing: str) -> dict[str, np.ndarray] | None:
    """Inputs to compare on, by the program's input names; ``None`` where the file has none and none were given."""
    names = [spec.name for spec in program.signature.inputs]
    if given is None:
        if exported.example_inputs is None:
            return None
        leaves = [leaf for leaf in pytree.tree_leaves(exported.example_inputs) if isinstance(leaf, Tensor)]
        values: Mapping[str, Any] = dict(zip(names, leaves, strict=False))
    elif isinstance(given, Mapping):
        values = given
    else:
        values = dict(zip(names, given if isinstance(given, tuple | list) else [given], strict=False))
    arrays = {
        name: to_arrays(value)[0] if isinstance(value, Tensor) else np.asarray(value) for name, value in values.items()
    }
    try:
        return program.signature.check(arrays)
    except DataError as error:
        if given is not None:
            raise
        raise ModelError(doing, got=f"sample inputs that do not fit: {error.got}", expected=error.expected) from error


def _tensors(program: Program, arrays: Mapping[str, np.ndarray]) -> list[Tensor]:
    return [torch.from_numpy(arrays[spec.name]).to(TORCH_DTYPES[spec.dtype]) for spec in program.signature.inputs]


def _call(module: torch.nn.Module, exported: ExportedProgram, inputs: Sequence[Tensor]) -> list[np.ndarray]:
    """The exported module on tensors; arguments that were fixed at export keep their values."""
    tensors = iter(inputs)
    leaves = [
        next(tensors) if isinstance(spec.arg, TensorArgument) else getattr(spec.arg, "value", None)
        for spec in exported.graph_signature.input_specs
        if spec.kind is InputKind.USER_INPUT
    ]
    assert exported.call_spec.in_spec is not None
    args, kwargs = pytree.tree_unflatten(leaves, exported.call_spec.in_spec)
    with torch.no_grad():
        return to_arrays(module(*args, **kwargs))
