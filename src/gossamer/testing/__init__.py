"""Contract kits: what every technique, runtime and metric must pass. Inherit one class, and pytest runs the checks.

    class TestMine(TechniqueContract):
        technique = Mine()

Needs pytest. ``gossamer.testing.strategies`` has hypothesis strategies, and needs that as well.
"""

from gossamer.core.extras import require_extra

require_extra("pytest", "dev", "importing the contract kits")

import pytest  # noqa: E402 - after the check, whose message says what to install

pytest.register_assert_rewrite(
    *(f"{__name__}.{part}" for part in ("metric", "op_matrix", "runtime", "technique", "tester"))
)

from gossamer.testing.gaps import Disagreement, Gap  # noqa: E402 - after the assertions' rewriting
from gossamer.testing.metric import MetricContract  # noqa: E402
from gossamer.testing.runtime import RuntimeContract  # noqa: E402
from gossamer.testing.technique import TechniqueContract  # noqa: E402
from gossamer.testing.tester import Tester  # noqa: E402

__all__ = ["Disagreement", "Gap", "MetricContract", "RuntimeContract", "TechniqueContract", "Tester"]
