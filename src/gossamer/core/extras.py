"""Optional parts of the install: a missing one is named, with the command that brings it."""

from __future__ import annotations

from importlib.util import find_spec

from gossamer.core.errors import MissingExtra


def require_extra(module: str, extra: str, doing: str) -> None:
    """Raise ``MissingExtra`` unless ``module`` is installed."""
    if find_spec(module) is None:
        raise MissingExtra(
            doing,
            got=f"{module} is not installed",
            expected=f"the extra {extra!r}",
            try_=f'pip install "gossamer[{extra}]"',
        )
