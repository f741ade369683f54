"""What each operation of the dialect does to the axes it reads and makes: one table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gossamer.analysis.rules import (
    attention,
    convolution,
    indexing,
    norms,
    pointwise,
    products,
    recurrent,
    reductions,
    shapes,
)
from gossamer.analysis.trace import Rule

RULES: Mapping[Any, Rule] = {
    **convolution.RULES,
    **products.RULES,
    **attention.RULES,
    **norms.RULES,
    **pointwise.RULES,
    **reductions.RULES,
    **indexing.RULES,
    **shapes.RULES,
    **recurrent.RULES,
}
"""A rule for every operation of the dialect that yields tensors; sizes are followed by the walk itself."""
