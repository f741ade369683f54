"""Runtimes by name: their facts, and opening model files in them. Importing this brings in no runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gossamer.core.errors import MissingExtra
from gossamer.core.names import require_known
from gossamer.core.runnable import Executable
from gossamer.core.specs import Signature
from gossamer.core.target import Target, TargetFacts, parse_target
from gossamer.runtimes.onnxruntime.target import CPU as ONNXRUNTIME_CPU
from gossamer.runtimes.openvino.target import CPU as OPENVINO_CPU

if TYPE_CHECKING:
    from gossamer.lowering import Lowered
    from gossamer.program.program import Program

KNOWN: Mapping[str, Mapping[str, TargetFacts]] = {
    "onnxruntime": {"cpu": ONNXRUNTIME_CPU},
    "openvino": {"cpu": OPENVINO_CPU},
}
"""Facts by runtime and device."""


def resolve_target(text: str) -> Target:
    """The target written ``runtime[:device][,threads=N][,batch=N]``, with its facts.

    Raises:
        UnknownName: no such runtime, device or option; offers the nearest.
        OptionError: an option with a value that it cannot take.
    """
    return parse_target(text, KNOWN)


def installed_version(runtime: str) -> str:
    """Version of a runtime's package, or how to install it. Imports nothing."""
    try:
        return version(runtime)
    except PackageNotFoundError:
        return f'no: pip install "gossamer[{runtime}]"'


def check_runtimes() -> dict[str, str]:
    """What installed runtimes are known to get wrong on some processors, tried on this one."""
    if find_spec("openvino") is None:
        return {}
    from gossamer.runtimes.openvino.probe import probe_bf16

    return {"openvino:cpu products in bfloat16": str(probe_bf16())}


def open_executable(
    path: Path, specs: Signature, target: Target, *, dims: Mapping[str, int] | None = None
) -> Executable:
    """Load a model file in the runtime of its target.

    Args:
        path: the file.
        specs: its signature.
        target: where and how to run it.
        dims: sizes to fix at load; dims not named here stay dynamic.

    Raises:
        ArtifactError: the file is missing, or the runtime does not accept it.
        MissingExtra: the runtime is not installed.
    """
    return import_runtime(target)(path, specs, target, dims=dims)


def open_deployed(path: Path, specs: Signature, target: str, dims: Mapping[str, int] | None = None) -> Executable:
    """``open_executable`` for a target given as text: the opener that artifacts are loaded with."""
    return open_executable(path, specs, resolve_target(target), dims=dims)


def import_runtime(target: Target) -> Callable[..., Executable]:
    """Import the runtime of a target; gives the class that opens its files.

    Raises:
        MissingExtra: it is not installed.
    """
    require_known(target.runtime, KNOWN, "runtime", f"opening a file for {target}")
    try:
        if target.runtime == "openvino":
            from gossamer.runtimes.openvino.runtime import OpenVinoExecutable as Opened
        else:
            from gossamer.runtimes.onnxruntime.runtime import OnnxRuntimeExecutable as Opened
    except ImportError as error:
        extra = f"[{target.facts.extra}]" if target.facts.extra else ""
        raise MissingExtra(
            f"importing {target.runtime}", got=str(error), try_=f"pip install 'gossamer{extra}'"
        ) from error
    return Opened


def lower_for(target: Target, program: Program) -> Lowered:
    """The bytes that the target's runtime loads, with the name map.

    Raises:
        UnsupportedOp: the program has an operation that the target cannot express.
    """
    require_known(target.runtime, KNOWN, "runtime", f"lowering for {target}")
    if target.runtime == "openvino":
        from gossamer.runtimes.openvino.lower import lower
    else:
        from gossamer.runtimes.onnxruntime.lower import lower
    return lower(program)


def executed_layers(
    path: Path,
    specs: Signature,
    target: Target,
    inputs: Mapping[str, np.ndarray],
    name_map: Mapping[str, Sequence[str]],
    layers: Mapping[str, str],
) -> dict[str, str]:
    """The kernel that computed each layer, from the runtime's own profile of one run.

    Args:
        path: the model file.
        specs: its signature.
        target: where it runs.
        inputs: of one run.
        name_map: from lowering: names in the file by program node.
        layers: program node by the name wanted in the result.
    """
    if target.runtime == "openvino":
        from gossamer.runtimes.openvino.profile import executed_operations, layer_kernels

        return layer_kernels(executed_operations(path, specs, target, inputs), name_map, layers)
    from gossamer.runtimes.onnxruntime.profile import int8_sites, profile_kernels

    rules = target.facts.quantizers
    kernels = profile_kernels(path, specs, target, inputs)
    found = int8_sites(kernels, name_map, list(layers.values()), rules.int8_kernels if rules else frozenset())
    return {name: found[node].kernel or "not found" for name, node in layers.items()}


def layer_times(
    path: Path,
    specs: Signature,
    target: Target,
    inputs: Mapping[str, np.ndarray],
    name_map: Mapping[str, Sequence[str]],
    layers: Mapping[str, str],
    *,
    dims: Mapping[str, int] | None = None,
) -> dict[str, float]:
    """Microseconds that each layer takes inside the whole model, by the runtime's own counters: to rank, not to quote.

    Args:
        path: the model file.
        specs: its signature.
        target: where it runs.
        inputs: of one run.
        name_map: from lowering: names in the file by program node.
        layers: program node by the name wanted in the result.
        dims: sizes to fix at load.

    Returns:
        By layer; layers that the counters do not tell apart are absent.
    """
    if target.runtime == "openvino":
        from gossamer.runtimes.openvino.profile import layer_microseconds

        return layer_microseconds(path, specs, target, inputs, name_map, layers, dims=dims)
    from gossamer.runtimes.onnxruntime.profile import profile_times

    times = profile_times(path, specs, target, inputs, name_map, list(layers.values()), dims=dims)
    return {name: times[node] for name, node in layers.items() if node in times}


def prepare_file(
    path: str, specs: Mapping[str, Any], target: str, dims: Mapping[str, int] | None = None
) -> Callable[[], Executable]:
    """Import a file's runtime; what is returned opens it. The opener of measured processes: all arguments are JSON.

    Args:
        path: the file.
        specs: its signature, as ``Signature.to_json`` writes it.
        target: its text.
        dims: sizes to fix at load.
    """
    resolved, signature = resolve_target(target), Signature.from_json(specs)
    opened = import_runtime(resolved)
    return lambda: opened(Path(path), signature, resolved, dims=dims)
