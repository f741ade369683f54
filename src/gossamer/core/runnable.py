"""The one thing that verification and metrics know about whatever runs a program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from gossamer.core.specs import Signature


@runtime_checkable
class Runnable(Protocol):
    """Maps named input arrays to named output arrays: the reference interpreter, or a runtime's session."""

    @property
    def specs(self) -> Signature:
        """Inputs, outputs and named dims."""
        ...

    @property
    def fingerprint(self) -> str:
        """Runtime, version and options as one line: results may only be compared knowing it."""
        ...

    def run(self, inputs: Mapping[str, np.ndarray], taps: Sequence[str] = ()) -> dict[str, np.ndarray]:
        """Outputs by name; with ``taps``, also these inner values by node name. bfloat16 is widened to float32."""
        ...


@runtime_checkable
class Executable(Runnable, Protocol):
    """A Runnable that belongs to a runtime and holds resources."""

    def close(self) -> None:
        """Give the session's memory back; running it afterwards is an error."""
        ...
