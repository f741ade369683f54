"""Where an error at the outputs comes from: one part at a time replaced, the rest kept as it should be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

SHOWN = 5

LEAST, MOST = 0.5, 2.0
"""Share of the noise that the parts together must explain for it to be theirs. Where errors know nothing of each
other it is 1, up to the cross terms of one draw."""

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Attribution:
    """Shares of the noise at the outputs: |d|^2 / |reference|^2, the mean over the float outputs.

    Errors that know nothing of each other add up in it.

    Attributes:
        total: noise of the candidate.
        parts: noise with this part alone from the candidate, by name, largest first.
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
        return LEAST <= self.explained <= MOST

    def __str__(self) -> str:
        shares = ", ".join(
            f"{name} {noise / self.total:.0%}" for name, noise in list(self.parts.items())[:SHOWN] if noise
        )
        text = (
            f"relative error at the outputs {self.total**0.5:.2e}; the parts explain {self.explained:.0%} of its square"
        )
        return f"{text}: {shares}" if shares else text

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value."""
        return {"total": self.total, "parts": dict(self.parts), "explained": self.explained}


def noise(reference: Arrays, other: Arrays) -> float:
    """|d|^2 / |reference|^2, the mean over the float outputs; only values finite on both sides count."""
    ratios = []
    for name, values in reference.items():
        if np.issubdtype(values.dtype, np.floating) and other[name].shape == values.shape:
            wanted, got = values.astype(np.float64), other[name].astype(np.float64)
            both = np.isfinite(wanted) & np.isfinite(got)
            power, signal = float(np.sum((got[both] - wanted[both]) ** 2)), float(np.sum(wanted[both] ** 2))
            ratios.append(power / signal if signal else power)
    return float(np.mean(ratios)) if ratios else 0.0


def attribute(reference: Arrays, candidate: Arrays, replaced: Mapping[str, Arrays]) -> Attribution:
    """Rank the parts of a model by the noise that each alone causes at the outputs.

    Args:
        reference: outputs of the reference, by output name.
        candidate: outputs of the candidate on the same inputs.
        replaced: by part, outputs of the reference with this part from the candidate.
    """
    parts = {name: noise(reference, outputs) for name, outputs in replaced.items()}
    return Attribution(noise(reference, candidate), dict(sorted(parts.items(), key=lambda item: -item[1])))
