"""How long work tells what it is doing; the terminal decides how that looks."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives the stages of a run."""

    def stage(self, name: str, total: int | None = None) -> None:
        """A stage begins; ``total`` steps if that is known."""
        ...

    def advance(self, note: str = "") -> None:
        """One step of the stage is done."""
        ...


class Silent:
    """Progress that nobody sees."""

    def stage(self, name: str, total: int | None = None) -> None:
        """Ignored."""

    def advance(self, note: str = "") -> None:
        """Ignored."""
