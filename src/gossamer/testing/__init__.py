"""Contract kits: what every technique, runtime and metric must pass. Inherit one class, and pytest runs the checks.

    class TestMine(TechniqueContract):
        technique = Mine()

Needs pytest. ``gossamer.testing.strategies`` has hypothesis strategies, and needs that as well.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from gossamer.core.extras import require_extra

if TYPE_CHECKING:
    from gossamer.testing.gaps import Disagreement, Gap
    from gossamer.testing.metric import MetricContract
    from gossamer.testing.runtime import RuntimeContract
    from gossamer.testing.technique import TechniqueContract
    from gossamer.testing.tester import Tester

__all__ = ["Disagreement", "Gap", "MetricContract", "RuntimeContract", "TechniqueContract", "Tester"]

_HOMES = {
    "Disagreement": "gaps",
    "Gap": "gaps",
    "MetricContract": "metric",
    "RuntimeContract": "runtime",
    "TechniqueContract": "technique",
    "Tester": "tester",
}

if "pytest" in sys.modules:  # so that failed assertions of the contracts show their values
    sys.modules["pytest"].register_assert_rewrite(*(f"{__name__}.{home}" for home in set(_HOMES.values())))


def __getattr__(name: str) -> Any:
    """Import what is asked for: most parts bring PyTorch and a runtime."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require_extra("pytest", "dev", f"importing {name}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
