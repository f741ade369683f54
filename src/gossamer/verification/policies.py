"""Parity policies: how far a lowered model may be from its source. Bounds live here, never in user code."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from gossamer.core.names import require_known

_FREE_DEPTH = 50
_TWO_DRAWS_DB = 10 * math.log10(2)
"""Two independent draws of a noise differ by twice its energy."""


@dataclass(frozen=True)
class Policy:
    """Bounds on every output of every case; ``None`` is no bound.

    Attributes:
        name: ``exact``, ``fp32``, ``bf16``, ``fp16`` or ``int8``.
        bitwise: every output equal bit by bit.
        relative_l2: upper bound of |d|_2 / |ref|_2.
        scaled_max: upper bound of max|d| / max|ref|.
        sqnr_db: lower bound of 10 log10(|ref|^2 / |d|^2).
        shape_sqnr_db: the only numeric bound on shape cases (zeros, constants, other sizes), in place of the others.
        stress_sqnr_db: the only numeric bound on stress cases: rounding is amplified there, nonsense is still nonsense.
        agreement: least share of decisions on real cases that stay, ties aside.
        proven: only a smaller share that is proven rejects: single steps of rounding grow in a deep network, and change
            a decision here and there with every node right.
        tie_margin: a decision whose top-2 margin is below this share of max|ref| is a tie.
        steps: node by node on reference integers: a quantized value may be off by so many steps of its grid, ...
        step_share: ... on this share of its elements.
    """

    name: str
    bitwise: bool = False
    relative_l2: float | None = None
    scaled_max: float | None = None
    sqnr_db: float | None = None
    shape_sqnr_db: float | None = None
    stress_sqnr_db: float = 10.0
    agreement: float = 1.0
    proven: bool = False
    tie_margin: float = 0.0
    steps: int | None = None
    step_share: float = 0.0

    def loosened(self, weighted_ops: int) -> Policy:
        """The policy for a network of this depth: fp32 bounds grow with sqrt(weighted ops / 50) beyond 50."""
        if self.name != "fp32" or weighted_ops <= _FREE_DEPTH:
            return self
        factor = math.sqrt(weighted_ops / _FREE_DEPTH)
        return replace(
            self,
            relative_l2=None if self.relative_l2 is None else self.relative_l2 * factor,
            scaled_max=None if self.scaled_max is None else self.scaled_max * factor,
        )

    def beside_rounding(self, sqnr_db: float, agreement: float) -> Policy:
        """The policy for a network whose outputs the rounding of activations alone moves this far.

        A network that amplifies rounding goes another way after one code that tips over, with every node right: the
        outputs of a faultless file are another draw of the same noise. No more is asked than that the two differ by no
        more than two such draws, where that is less than the policy's bounds.

        Args:
            sqnr_db: of the program against itself without rounding, both in the reference interpreter.
            agreement: share of the decisions that rounding keeps.
        """
        least = max(sqnr_db - _TWO_DRAWS_DB, self.stress_sqnr_db)
        sqnr = None if self.sqnr_db is None else min(self.sqnr_db, least)
        return replace(self, sqnr_db=sqnr, agreement=min(self.agreement, agreement))


EXACT = Policy("exact", bitwise=True)
FP32 = Policy("fp32", relative_l2=1e-5, scaled_max=1e-4, agreement=1.0, tie_margin=1e-4)
# A tie is what one step of the format decides: 2^-7 is the spacing of bfloat16 below 1, and of 8-bit codes on [-1, 1].
BF16 = Policy("bf16", sqnr_db=30.0, scaled_max=3e-2, agreement=0.99, tie_margin=2**-7)
FP16 = replace(BF16, name="fp16")
# Kernels of two runtimes were seen off in 0.002 % of the codes of a node, where these are no ties.
INT8 = Policy(
    "int8",
    sqnr_db=25.0,
    shape_sqnr_db=10.0,
    agreement=0.99,
    proven=True,
    tie_margin=2**-7,
    steps=1,
    step_share=5e-4,
)
# Floats in bfloat16 move a quarter of all codes by a step before they are rounded: that says nothing of a node.
INT8_BF16 = replace(INT8, name="int8 and bf16", steps=None)

POLICIES: Mapping[str, Policy] = {policy.name: policy for policy in (EXACT, FP32, BF16, FP16, INT8, INT8_BF16)}


def resolve_policy(name: str) -> Policy:
    """The policy of this name; raises ``UnknownName`` with the nearest."""
    require_known(name, POLICIES, "parity policy", f"reading the parity policy {name!r}")
    return POLICIES[name]
