"""Where an error at the outputs comes from: one part at a time replaced, the rest kept as it should be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

SHOWN = 5

ENOUGH = 0.5
"""Share of the noise that the parts must explain for it to be theirs."""


@dataclass(frozen=True)
class Attribution:
    """Shares of the noise at the outputs.

    Noise is |d|^2 / |reference|^2, summed over the float outputs. Errors that do not know of each other add up in it, so
    the parts should explain all of it; where they cancel or reinforce each other they explain more or less.

    Attributes:
        total: noise of the candidate.
        parts: noise with this part alone from the candidate, largest first, by name.
    """

    total: float
    parts: Mapping[str, float]

    @property
    def explained(self) -> float:
        """Noise of all parts together, as a share of the total."""
        return sum(self.parts.values()) / self.total if self.total else 0.0

    @property
    def accumulates(self) -> bool:
        """Whether the errors of the parts by themselves are what is seen at the outputs."""
        return self.explained >= ENOUGH

    def __str__(self) -> str:
        largest = list(self.parts.items())[:SHOWN]
        shares = ", ".join(f"{name} {noise / self.total:.0%}" for name, noise in largest if noise) if self.total else ""
        return (
            f"relative error at the outputs {self.total**0.5:.2e}; the parts explain {self.explained:.0%} of its square"
            + (f": {shares}" if shares else "")
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value."""
        return {"total": self.total, "parts": dict(self.parts), "explained": self.explained}


def noise(reference: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> float:
    """|d|^2 / |reference|^2 over the float outputs together; only values finite on both sides count."""
    power = signal = 0.0
    for name, values in reference.items():
        if np.issubdtype(values.dtype, np.floating) and other[name].shape == values.shape:
            wanted, got = values.astype(np.float64), other[name].astype(np.float64)
            both = np.isfinite(wanted) & np.isfinite(got)
            power += float(np.sum((got[both] - wanted[both]) ** 2))
            signal += float(np.sum(wanted[both] ** 2))
    return power / signal if signal else 0.0


def attribute(
    reference: Mapping[str, np.ndarray],
    candidate: Mapping[str, np.ndarray],
    replaced: Mapping[str, Mapping[str, np.ndarray]],
) -> Attribution:
    """Rank the parts of a model by the noise that each alone causes at the outputs.

    Args:
        reference: outputs of the reference, by output name.
        candidate: outputs of the candidate on the same inputs.
        replaced: by part, outputs of the reference with this part from the candidate.
    """
    parts = {name: noise(reference, outputs) for name, outputs in replaced.items()}
    ordered = dict(sorted(parts.items(), key=lambda item: -item[1]))
    return Attribution(noise(reference, candidate), ordered)
