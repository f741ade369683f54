"""What a measured process runs, as data: how to open it, with what, and on which inputs."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from gossamer.core.errors import DataError, ModelError
from gossamer.core.runnable import Executable


@dataclass(frozen=True)
class Subject:
    """One thing to measure; a fresh process can open it knowing nothing else.

    Attributes:
        opener: ``module:function``. Called with ``arguments``, the function imports what it needs and returns another
            one without arguments, which opens the Executable: only that second step is load time.
        arguments: keyword arguments, as JSON values.
        inputs: a file that ``write_inputs`` wrote; its inputs are called in rotation.
        threads: that one call may use. The process is pinned to so many physical cores, and libraries that read their
            thread count from the environment are told it.
    """

    opener: str
    inputs: Path
    arguments: Mapping[str, Any] = field(default_factory=dict)
    threads: int = 1

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value; ``from_json`` reads it back."""
        return {
            "opener": self.opener,
            "inputs": str(self.inputs),
            "arguments": dict(self.arguments),
            "threads": self.threads,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Subject:
        """Inverse of ``to_json``."""
        return cls(value["opener"], Path(value["inputs"]), value["arguments"], value["threads"])

    def prepare(self) -> Callable[[], Executable]:
        """Import the opener and call it: what is returned opens the Executable.

        Raises:
            ModelError: there is no such function.
        """
        module, _, name = self.opener.partition(":")
        doing = f"importing the opener {self.opener}"
        try:
            opener = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ModelError(doing, got=str(error), expected="module:function that this Python can import") from error
        return opener(**self.arguments)


def write_inputs(path: Path, inputs: Sequence[Mapping[str, np.ndarray]]) -> Path:
    """Write inputs into an ``.npz``, each array as ``number/name``; gives the path back."""
    arrays = {f"{index}/{name}": array for index, one in enumerate(inputs) for name, array in one.items()}
    np.savez(path, **arrays)  # pyright: ignore[reportArgumentType] - arrays are no options
    return path


def read_inputs(path: Path) -> list[dict[str, np.ndarray]]:
    """Inverse of ``write_inputs``.

    Raises:
        DataError: it is no such file, or holds nothing.
    """
    inputs: dict[int, dict[str, np.ndarray]] = {}
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            for key in stored.files:
                index, _, name = key.partition("/")
                inputs.setdefault(int(index), {})[name] = stored[key]
    except (OSError, EOFError, BadZipFile, ValueError, TypeError) as error:
        raise DataError(f"reading the inputs {path}", got=str(error), expected="an .npz of write_inputs") from error
    return [inputs[index] for index in sorted(inputs)]
