"""Makes a trained model small and fast for the device you name, proves it on your metric, and runs it there."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gossamer.core.errors import GossamerError as GossamerError
    from gossamer.flow import analyze as analyze
    from gossamer.flow import apply as apply
    from gossamer.flow import capture as capture
    from gossamer.flow import compress as compress
    from gossamer.flow import load as load
    from gossamer.flow import lower as lower
    from gossamer.flow import measure as measure
    from gossamer.flow import report as report
    from gossamer.flow import verify as verify

_HOME = {
    "GossamerError": "gossamer.core.errors",
    **dict.fromkeys(
        ("analyze", "apply", "capture", "compress", "load", "lower", "measure", "report", "verify"), "gossamer.flow"
    ),
}

__version__ = "0.1.0"
__all__ = ["GossamerError", "analyze", "apply", "capture", "compress", "load", "lower", "measure", "report", "verify"]


def __getattr__(name: str) -> Any:
    """Public names are imported when first used, so that ``import gossamer`` stays light."""
    if name not in _HOME:
        raise AttributeError(f"module 'gossamer' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
