"""Runtimes by name: their facts, and opening model files in them. Importing this brings in no runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from gossamer.core.errors import MissingExtra
from gossamer.core.names import require_known
from gossamer.core.runnable import Executable
from gossamer.core.specs import Signature
from gossamer.core.target import Target, TargetFacts, parse_target
from gossamer.runtimes.onnxruntime.target import CPU as ONNXRUNTIME_CPU

KNOWN: Mapping[str, Mapping[str, TargetFacts]] = {"onnxruntime": {"cpu": ONNXRUNTIME_CPU}}
"""Facts by runtime and device."""


def resolve_target(text: str) -> Target:
    """The target written ``runtime[:device][,threads=N][,batch=N]``, with its facts.

    Raises:
        UnknownName: no such runtime, device or option; offers the nearest.
        OptionError: an option with a value that it cannot take.
    """
    return parse_target(text, KNOWN)


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


def import_runtime(target: Target) -> Callable[..., Executable]:
    """Import the runtime of a target; gives the class that opens its files.

    Raises:
        MissingExtra: it is not installed.
    """
    require_known(target.runtime, KNOWN, "runtime", f"opening a file for {target}")
    try:
        # The only runtime so far; from the second on, a match on target.runtime.
        from gossamer.runtimes.onnxruntime.runtime import OnnxRuntimeExecutable
    except ImportError as error:
        extra = f"[{target.facts.extra}]" if target.facts.extra else ""
        raise MissingExtra(
            f"importing {target.runtime}", got=str(error), try_=f"pip install 'gossamer{extra}'"
        ) from error
    return OnnxRuntimeExecutable
