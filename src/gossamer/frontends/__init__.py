"""Frontends: one file per kind of model, each yields a Program.

| what | how it is recognised | file |
|---|---|---|
| PyTorch module | an ``nn.Module`` | ``torch_module.py`` |
| exported program | a path ending in ``.pt2`` | ``pt2.py`` |
| Hugging Face model | a folder with ``config.json`` | ``huggingface.py`` |
| our own program | a ``Program``, or a folder with ``graph.json`` | ``program/storage.py`` |
| function in a Python file | ``file.py:factory`` | ``python_file.py`` |
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from gossamer.core.errors import ModelError
from gossamer.frontends.huggingface import CONFIG_FILE, read_huggingface
from gossamer.frontends.pt2 import read_pt2
from gossamer.frontends.python_file import load_module, load_weights
from gossamer.frontends.torch_module import DynamicDims, capture
from gossamer.program.program import Program
from gossamer.program.storage import GRAPH_FILE, load_program

__all__ = ["capture", "load_weights", "read_huggingface", "read_model", "read_pt2"]

FORMS = (
    "an nn.Module, a Program, file.py:factory, a .pt2 file, or a folder with config.json (Hugging Face) or graph.json"
)
_NOT_YET = {".onnx": "ONNX files", ".keras": "Keras files", ".h5": "Keras files", ".tflite": "LiteRT files"}
_WEIGHTS_ONLY = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")


def read_model(
    source: nn.Module | Program | str | Path,
    *,
    weights: str | Path | None = None,
    example: Any = None,
    dynamic: DynamicDims = "batch",
) -> Program:
    """Turn whatever the user has into a Program.

    Args:
        source: an ``nn.Module``, ``file.py:factory``, a ``.pt2`` file, a Hugging Face folder, a saved program's folder,
            or a Program, which is returned as it is.
        weights: a file of weights for ``file.py:factory``; every other source brings its own.
        example: inputs to capture with. Required for modules and factories; made from the config for Hugging Face
            folders; for a ``.pt2`` file compared on in place of its own; not used where the source is a Program.
        dynamic: which dims may vary, for sources that are captured here; see ``capture``.

    Raises:
        ModelError: no such file, a form that is not known, or what is there cannot be used.
        CaptureError: the model cannot be turned into a Program.
        ArtifactError: a saved program is damaged.
        MissingExtra: an optional package is needed; the message names the extra.
    """
    if isinstance(source, Program | nn.Module):
        doing = f"reading a {type(source).__name__}"
        _require_no_weights(weights, doing)
        if isinstance(source, Program):
            return source
        return capture(source, _require_example(example, doing), dynamic=dynamic)
    if not isinstance(source, str | Path):
        try_ = "the module with them: model.load_state_dict(state), then model" if isinstance(source, Mapping) else ""
        raise ModelError("reading the model", got=f"a {type(source).__name__}", expected=FORMS, try_=try_)
    doing = f"reading the model {str(source)!r}"
    file, colon, _ = str(source).rpartition(":")
    if colon and file.endswith(".py"):
        model = load_module(str(source))
        if weights is not None:
            load_weights(model, weights)
        return capture(model, _require_example(example, doing), dynamic=dynamic, name=str(source).rpartition(":")[2])
    if Path(source).suffix != ".py":  # that lacks the factory's name, which is the thing to say
        _require_no_weights(weights, doing)
    return _read_path(Path(source), example, dynamic, doing)


def _read_path(path: Path, example: Any, dynamic: DynamicDims, doing: str) -> Program:
    if path.suffix in _NOT_YET:
        raise ModelError(
            doing,
            got=f"a {path.suffix} file",
            expected=FORMS,
            try_=f"{_NOT_YET[path.suffix]} are not read yet in this version: give the PyTorch model",
        )
    if not path.exists():
        raise ModelError(doing, got="no such file or folder", expected=FORMS)
    if path.suffix == ".pt2":
        return read_pt2(path, example=example)
    if (path / GRAPH_FILE).is_file():
        return load_program(path)
    if (path / CONFIG_FILE).is_file():
        return read_huggingface(path, example=example, dynamic=dynamic)
    if path.is_dir():
        raise ModelError(doing, got="a folder without config.json and graph.json", expected=FORMS)
    if path.suffix == ".py":
        raise ModelError(doing, got="a Python file without a name", expected=FORMS, try_=f"{path}:NAME_OF_THE_FACTORY")
    if path.suffix in _WEIGHTS_ONLY:
        raise ModelError(
            doing,
            got="weights without a model",
            expected=FORMS,
            try_=f"the factory as the model and this file as its weights: model.py:factory --weights {path}",
        )
    raise ModelError(doing, got=f"a {path.suffix or 'nameless'} file", expected=FORMS)


def _require_no_weights(weights: str | Path | None, doing: str) -> None:
    if weights is not None:
        raise ModelError(
            doing,
            got=f"weights {str(weights)!r} beside a model that brings its own",
            expected="weights only with file.py:factory",
            try_="gossamer.frontends.load_weights(module, path) first",
        )


def _require_example(example: Any, doing: str) -> Any:
    if example is None:
        raise ModelError(
            doing,
            got="no example inputs",
            expected="one batch of what the model takes: a tensor, a tuple, or a mapping by argument name",
            try_="example=torch.randn(2, 3, 32, 32), or --data",
        )
    return example
