"""Models from the user's Python files (``file.py:factory``), and weights from files that cannot run code."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gossamer.core.errors import GossamerError, ModelError
from gossamer.core.extras import require_extra
from gossamer.core.pyfile import describe_exception, load_object
from gossamer.frontends.torch_output import plain_line

WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth")


def load_module(text: str) -> nn.Module:
    """The model behind ``file.py:name``: an ``nn.Module``, or what a factory without required arguments returns.

    Raises:
        ModelError: no such file or name, the name is not callable, calling it fails, or it yields no ``nn.Module``.
    """
    doing = f"building the model from {text!r}"
    found = load_object(text, error=ModelError)
    if isinstance(found, nn.Module):
        return found
    if not callable(found):
        raise ModelError(doing, got=f"a {type(found).__name__}", expected="a function that returns an nn.Module")
    _require_no_arguments(found, doing)
    path = Path(text.rpartition(":")[0]).resolve()
    try:
        model = found()
    except GossamerError:
        raise
    except Exception as error:
        raise ModelError(doing, got=describe_exception(error, path), expected="a factory that runs") from error
    if not isinstance(model, nn.Module):
        raise ModelError(
            doing,
            got=f"the factory returned a {type(model).__name__}",
            expected="an nn.Module",
            try_="return the model alone, without optimizer or tokenizer",
        )
    return model


def load_weights(module: nn.Module, path: Path | str) -> None:
    """Read weights into a module, in place and strictly: each tensor of the module must be in the file, and no other.

    The file is ``.safetensors``, or ``.pt``/``.pth`` read weights-only: pickled code is refused, never run. A file may
    hold the state dict itself or have it under ``state_dict`` or ``model``; a ``module.`` before all names is dropped.

    Raises:
        ModelError: the file is missing, unreadable, holds code, or does not fit; the first differing name is given.
        MissingExtra: safetensors is not installed.
    """
    path = Path(path)
    doing = f"loading the weights {path}"
    state = _state_dict(_read(path, doing), doing)
    if state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    _require_fit(module.state_dict(), state, doing)
    module.load_state_dict(state)


def _require_no_arguments(factory: Any, doing: str) -> None:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # a builtin without a signature: calling it will tell
        return
    required = [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if required:
        raise ModelError(
            doing,
            got=f"a factory that needs arguments: {', '.join(required)}",
            expected="a factory that can be called without any",
            try_="give them defaults, or wrap it: def model(): return Net(10)",
        )


def _read(path: Path, doing: str) -> Any:
    if path.suffix not in WEIGHT_SUFFIXES:
        raise ModelError(
            doing, got=f"a {path.suffix or 'nameless'} file", expected=f"one of {', '.join(WEIGHT_SUFFIXES)}"
        )
    if not path.is_file():
        raise ModelError(doing, got="no such file", expected="a file of weights")
    if path.suffix == ".safetensors":
        return _read_safetensors(path, doing)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            doing,
            got=f"objects other than tensors, or a damaged file: {plain_line(error)}",
            expected="tensors only: a file that holds code is never run",
            try_="save the weights alone: torch.save(model.state_dict(), path), or save them as .safetensors",
        ) from error
    except Exception as error:  # torch's reader raises many types on damaged files, RuntimeError to EOFError
        raise ModelError(
            doing, got=f"{type(error).__name__}: {plain_line(error)}", expected="a file written by torch.save"
        ) from error


def _read_safetensors(path: Path, doing: str) -> dict[str, Tensor]:
    require_extra("safetensors", "compress", doing)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(doing, got=plain_line(error) or type(error).__name__, expected="a safetensors file") from error


def _state_dict(content: Any, doing: str) -> dict[str, Tensor]:
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping):
        raise ModelError(doing, got=f"a {type(content).__name__}", expected="a state dict: tensors by name")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ModelError(
                doing,
                got=f"{name!r} is a {type(value).__name__}; the file holds {', '.join(map(str, [*content][:5]))}",
                expected="a state dict, alone or under 'state_dict' or 'model'",
                try_="torch.save(model.state_dict(), path)",
            )
    return dict(content)


def _require_fit(wanted: Mapping[str, Any], state: Mapping[str, Tensor], doing: str) -> None:
    missing = [name for name in wanted if name not in state]
    unexpected = [name for name in state if name not in wanted]
    reshaped = [
        name
        for name, value in wanted.items()
        if name in state and isinstance(value, Tensor) and value.shape != state[name].shape
    ]
    if not missing and not unexpected and not reshaped:
        return
    # "First" is the model's own order; what the model does not have comes last.
    differing = [name for name in wanted if name in missing or name in reshaped] + unexpected
    first = differing[0]
    if first in missing:
        what = f"{first!r} is missing in the file"
    elif first in reshaped:
        what = (
            f"{first!r} has shape {list(state[first].shape)} in the file and {list(wanted[first].shape)} in the model"
        )
    else:
        what = f"{first!r} is in the file and not in the model"
    raise ModelError(
        doing,
        got=f"{what} ({len(missing)} missing, {len(unexpected)} unexpected, {len(reshaped)} of another shape)",
        expected=f"the {len(wanted)} tensors of the model",
        try_="the factory that made these weights, with the same options",
    )
