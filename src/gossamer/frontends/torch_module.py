"""Capture of a ``torch.nn.Module``: export it, rewrite it in the dialect, and prove that it still computes the same."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export
from torch.utils import _pytree as pytree

from gossamer.core.errors import CaptureError, DataError, ModelError, UnknownName
from gossamer.core.names import nearest
from gossamer.core.specs import Signature, TensorSpec, format_range
from gossamer.frontends.agreement import require_agreement, to_arrays
from gossamer.frontends.explain import explain
from gossamer.frontends.torch_output import plain_line, quiet_torch
from gossamer.program.normalize import normalize
from gossamer.program.program import Program, Role
from gossamer.program.values import DTYPE_NAMES, TensorValue

DynamicDims = Mapping[str, Mapping[int, str]] | str | None
"""Which dims may vary: ``"batch"`` (the first of every input, the default), ``None`` (none), or by input and axis:
``{"tokens": {0: "batch", 1: "seq=2..512"}}``."""


@dataclass(frozen=True)
class NamedDim:
    """A dim that may vary, with its inclusive range."""

    name: str
    low: int = 1
    high: int | None = None


def capture(
    model: nn.Module, example_inputs: Any, *, dynamic: DynamicDims = "batch", name: str | None = None
) -> Program:
    """Turn a PyTorch module into a Program.

    Args:
        model: captured in eval mode and left in the mode it was in. Its parameters are shared, not copied.
        example_inputs: a tensor or array, a tuple of them, or a mapping by the names of ``forward``'s arguments.
        dynamic: which dims may vary; see ``DynamicDims``. A first dim of 1 is repeated for tracing.
        name: what to call the program; the class name by default.

    Raises:
        CaptureError: the model runs but cannot be captured; says where, why and the usual fix.
        DataError: the example inputs do not fit ``forward``, or lie outside of a range in ``dynamic``.
        ModelError: the model fails on the example inputs.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise CaptureError(
            f"capturing {type(model).__name__}",
            problem="scripted module",
            expected="an nn.Module in Python",
            try_="give the original nn.Module, not the result of torch.jit.script or torch.jit.trace",
        )
    inputs = _named_inputs(model, example_inputs)
    dims = _parse_dynamic(inputs, dynamic)
    _require_in_range(inputs, dims)
    with _eval_mode(model), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"torch\.")  # of its own prototypes, such as nested tensors
        _require_runs(model, inputs)
        traced = {key: _traceable(tensor, dims.get(key, {})) for key, tensor in inputs.items()}
        exported, rung = _export(model, traced, dims)
        program = from_exported(
            exported, dims, name or type(model).__name__, note=f"captured with torch.export ({rung})"
        )
        dtypes = {key: tensor.dtype for key, tensor in inputs.items()}
        example = dict(zip(inputs, to_arrays(list(inputs.values())), strict=True))
        require_agreement(program, lambda values: _call(model, values, dtypes), example)
    return program


def from_exported(
    exported: ExportedProgram, dims: Mapping[str, Mapping[int, NamedDim]], name: str, note: str
) -> Program:
    """Rewrite an exported program in the dialect; symbolic sizes not named in ``dims`` get names of their own."""
    module = exported.module(check_guards=False)
    symbols, ranges = _name_symbols(exported, dims)
    signature = exported.graph_signature
    buffers = frozenset(signature.inputs_to_buffers.values())
    graph = normalize(module, symbols, buffers)
    parameters = set(signature.inputs_to_parameters.values())
    tensors: dict[str, Tensor] = {}
    roles: dict[str, Role] = {}
    for node in graph.nodes:
        if node.op == "get_attr":
            tensors[node.target] = _attribute(module, node.target)
            roles[node.target] = (
                "parameter" if node.target in parameters else "buffer" if node.target in buffers else "constant"
            )
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    (output,) = (node for node in graph.nodes if node.op == "output")
    names = _output_names(exported, len(output.args[0]))
    shapes = " ".join(str(dim) for node in placeholders for dim in node.meta["value"].shape)
    used = set(re.findall(r"[A-Za-z_]\w*", shapes))  # a name may stand in an expression only: 2*half
    names = [f"{key}_output" if key in {node.target for node in placeholders} else key for key in names]
    specs = Signature(
        tuple(_spec(node.target, node.meta["value"]) for node in placeholders),
        tuple(_spec(key, node.meta["value"]) for key, node in zip(names, output.args[0], strict=True)),
        {dim: ends for dim, ends in ranges.items() if dim in used},
    )
    return Program(name, graph, tensors, roles, specs, (note,))


def _spec(name: str, value: TensorValue) -> TensorSpec:
    return TensorSpec(name, value.dtype, value.shape)


def _named_inputs(model: nn.Module, example: Any) -> dict[str, Tensor]:
    """Example inputs as tensors by argument name."""
    doing = "reading the example inputs"
    if isinstance(example, Mapping):
        given = {str(key): value for key, value in example.items() if value is not None}
    else:
        values = list(example) if isinstance(example, tuple | list) else [example]
        parameters = [
            parameter.name
            for parameter in inspect.signature(model.forward).parameters.values()
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        ]
        if len(values) > len(parameters):
            raise DataError(
                doing, got=f"{len(values)} inputs", expected=f"at most {len(parameters)}: {', '.join(parameters)}"
            )
        given = dict(zip(parameters, values, strict=False))
    if not given:
        raise DataError(doing, got="no input", expected="at least one tensor")
    tensors = {}
    for key, value in given.items():
        if not isinstance(value, Tensor | np.ndarray):
            raise DataError(
                doing,
                got=f"{key} is a {type(value).__name__}",
                expected="a tensor or a NumPy array",
                try_="flat inputs: one tensor an argument",
            )
        tensor = (
            torch.from_numpy(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value.detach().cpu()
        )
        if tensor.dtype not in DTYPE_NAMES:
            raise DataError(
                doing,
                got=f"{key} of dtype {tensor.dtype}",
                expected=f"one of {', '.join(sorted(DTYPE_NAMES.values()))}",
            )
        tensors[key] = tensor
    return tensors


def _parse_dynamic(inputs: Mapping[str, Tensor], dynamic: DynamicDims) -> dict[str, dict[int, NamedDim]]:
    """Dynamic dims by input and axis. A text names the first axis, where all inputs have one of equal size."""
    if dynamic is None:
        return {}
    if isinstance(dynamic, str):
        dim = parse_dim(dynamic)
        if "=" not in dynamic and dim.name != "batch":
            raise UnknownName(
                "reading the dynamic dims",
                got=repr(dynamic),
                expected="'batch', or name=low..high, for the first dim of every input",
                try_="'batch', or other dims by input and axis: dynamic={'x': {1: 'length'}}",
            )
        sizes = {tuple(tensor.shape[:1]) for tensor in inputs.values() if tensor.dim()}
        if len(sizes) != 1:
            return {}
        return {name: {0: dim} for name, tensor in inputs.items() if tensor.dim()}
    dims: dict[str, dict[int, NamedDim]] = {}
    for name, axes in dynamic.items():
        if name not in inputs:
            expected = f"one of: {', '.join(sorted(inputs))}"
            close = ", ".join(nearest(name, inputs))
            raise UnknownName("reading the dynamic dims", got=f"input {name!r}", expected=expected, try_=close)
        for axis, text in axes.items():
            if not 0 <= axis < inputs[name].dim():
                raise DataError(
                    "reading the dynamic dims", got=f"axis {axis} of {name}", expected=f"0 to {inputs[name].dim() - 1}"
                )
            dims.setdefault(name, {})[axis] = parse_dim(text)
    return dims


def parse_dim(text: str) -> NamedDim:
    """``seq`` or ``seq=2..512`` (both ends inclusive; ``seq=2..`` has no upper end)."""
    name, _, ends = text.partition("=")
    low, dots, high = ends.partition("..")
    valid = name.isidentifier() and (not ends or (dots and low.isdigit() and (not high or high.isdigit())))
    if not valid or (high and int(high) < int(low)):
        raise DataError("reading a dynamic dim", got=repr(text), expected="a name, or name=low..high")
    return NamedDim(name, int(low) if ends else 1, int(high) if high else None)


def _require_in_range(inputs: Mapping[str, Tensor], dims: Mapping[str, Mapping[int, NamedDim]]) -> None:
    for name, axes in dims.items():
        for axis, dim in axes.items():
            size = inputs[name].shape[axis]
            if size < dim.low or (dim.high is not None and size > dim.high):
                raise DataError(
                    "reading the dynamic dims",
                    got=f"example inputs with {dim.name}={size} (dim {axis} of {name})",
                    expected=f"{dim.name} in {format_range(dim.low, dim.high)}, as declared",
                    try_="example inputs of a size in the range, or another range",
                )


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; each submodule's own mode is restored afterwards.

    Torch's fast path for encoder layers is off inside: it writes zeros at masked positions, which the layers as they
    are written (and as they are captured) do not.
    """
    modes = {module: module.training for module in model.modules()}
    fast_path = torch.backends.mha.get_fastpath_enabled()
    model.eval()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for module, training in modes.items():
            module.training = training


def _call(model: nn.Module, inputs: Mapping[str, np.ndarray], dtypes: Mapping[str, torch.dtype]) -> list[np.ndarray]:
    with torch.no_grad():
        return to_arrays(model(**{key: torch.from_numpy(value).to(dtypes[key]) for key, value in inputs.items()}))


def _require_runs(model: nn.Module, inputs: Mapping[str, Tensor]) -> None:
    """A model that fails in eager mode gets its own error, not one about capture."""
    try:
        with torch.no_grad():
            model(**inputs)
    except Exception as error:
        got = ", ".join(f"{name}: {tensor.dtype}{list(tensor.shape)}" for name, tensor in inputs.items())
        raise ModelError(
            f"running {type(model).__name__} on the example inputs",
            got=f"{type(error).__name__}: {plain_line(error)}",
            expected="a forward pass that works in eval mode on the CPU",
            try_=f"check the inputs: {got}",
        ) from error


def _traceable(tensor: Tensor, dims: Mapping[int, NamedDim]) -> Tensor:
    """An input whose dynamic dims have size 2 or more, as tracing needs."""
    for axis, dim in dims.items():
        if tensor.shape[axis] == 1 and (dim.high is None or dim.high > 1):
            tensor = tensor.repeat_interleave(2, axis)
    return tensor


def _export(
    model: nn.Module, inputs: Mapping[str, Tensor], dims: Mapping[str, Mapping[int, NamedDim]]
) -> tuple[ExportedProgram, str]:
    """Try the rungs of the capture ladder in order."""
    made: dict[NamedDim, Any] = {}
    shapes = {
        name: {
            axis: made.setdefault(dim, Dim(dim.name, min=dim.low, max=dim.high))
            for axis, dim in dims.get(name, {}).items()
        }
        for name in inputs
    }
    failures: list[tuple[str, Exception]] = []
    for rung, strict in (("non-strict", False), ("strict", True)):
        try:
            with quiet_torch(), _named_forward(model, inputs):
                return export(model, (), dict(inputs), dynamic_shapes=shapes, strict=strict), rung
        except Exception as error:  # noqa: BLE001 - export raises whatever the traced code raises; explain() reports it
            failures.append((rung, error))
    fixed = [
        (f"dim {axis} of {name}", size)
        for name, tensor in inputs.items()
        for axis, size in enumerate(tensor.shape)
        if axis not in dims.get(name, {})
    ]
    raise explain(type(model).__name__, failures, fixed) from failures[0][1]


@contextmanager
def _named_forward(model: nn.Module, names: Iterable[str]) -> Iterator[None]:
    """``forward(**inputs)`` under the names of its inputs: torch.export loses track of the dims of collected ones."""
    original, own = model.forward, model.__dict__.get("forward")
    parameters = inspect.signature(original).parameters
    collected = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in names if name not in parameters]
    if not collected:
        yield
        return

    def forward(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs)

    kept = [parameter for parameter in parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
    forward.__signature__ = inspect.Signature([*kept, *collected])
    model.forward = forward
    try:
        yield
    finally:
        del model.forward
        if own is not None:
            model.forward = own


def _name_symbols(
    exported: ExportedProgram, dims: Mapping[str, Mapping[int, NamedDim]]
) -> tuple[dict[sympy.Symbol, str], dict[str, tuple[int, int | None]]]:
    """Names for export's symbols, and the range of each name."""
    names: dict[sympy.Symbol, str] = {}
    ranges: dict[str, tuple[int, int | None]] = {}
    for node in exported.graph.nodes:
        if node.op != "placeholder" or node.name not in exported.graph_signature.user_inputs:
            continue
        for axis, size in enumerate(getattr(node.meta["val"], "shape", ())):
            wanted = dims.get(str(node.target), {}).get(axis)
            if isinstance(size, int):
                _require_free(str(node.target), axis, wanted, size)
                continue
            symbols = sorted(size.node.expr.free_symbols, key=str)
            if not symbols:
                _require_free(str(node.target), axis, wanted, int(size))
            for symbol in symbols:
                if symbol in names:
                    continue
                own = "batch" if axis == 0 and "batch" not in names.values() else f"dim{len(names)}"
                names[symbol] = wanted.name if wanted else own
                ranges[names[symbol]] = (wanted.low, wanted.high) if wanted else _range(exported, symbol)
    return names, ranges


def _range(exported: ExportedProgram, symbol: sympy.Symbol) -> tuple[int, int | None]:
    interval: Any = exported.range_constraints.get(symbol)
    if interval is None:
        return 1, None
    return max(1, int(interval.lower)), int(interval.upper) if interval.upper.is_Integer else None


def _require_free(name: str, axis: int, wanted: NamedDim | None, size: int) -> None:
    if wanted is not None and wanted.high != wanted.low:
        raise CaptureError(
            f"capturing with dim {axis} of {name} free ({wanted.name})",
            problem="dimension frozen by arithmetic",
            got=f"the model only accepts {wanted.name}={size}",
            expected="a forward that works for every size in the range",
            try_=f"use x.shape[{axis}] instead of a literal size, or fix the dim: dynamic=None",
        )


def _attribute(module: nn.Module, name: str) -> Tensor:
    value: Any = module
    for part in name.split("."):
        value = getattr(value, part)
    return value.detach()


def _output_names(exported: ExportedProgram, count: int) -> list[str]:
    """Keys of a mapping or dataclass, ``output`` for a single tensor, else ``output_0``, ``output_1``, ..."""
    spec = exported.call_spec.out_spec
    if spec is None or (count == 1 and spec.is_leaf()):
        return ["output"] if count == 1 else [f"output_{index}" for index in range(count)]
    tree = pytree.tree_unflatten(list(range(spec.num_leaves)), spec)
    leaves, _ = pytree.tree_flatten_with_path(tree)
    kept = exported.graph_signature.user_outputs
    named = [_path_name(path) for (path, _), output in zip(leaves, kept, strict=True) if output is not None]
    return named if len(named) == count == len(set(named)) else [f"output_{index}" for index in range(count)]


def _path_name(path: Sequence[Any]) -> str:
    parts = [str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path]
    return "_".join(["output", *parts] if parts and parts[0].isdigit() else parts)
