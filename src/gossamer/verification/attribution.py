"""Where an error at the outputs comes from: one part at a time replaced, the rest kept as it should be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

SHOWN = 5

UNEXPLAINED = 0.5
"""Share of the error that the parts may leave unexplained, or explain twice, for it still to be theirs."""

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Attribution:
    """Shares of an error at the outputs.

    The share of a part is <d_part, d> / |d|^2, with d the error of the candidate and d_part that with this part alone from
    the candidate. Where errors add up, all shares together are 1; a part that cancels others has a negative one.

    Attributes:
        total: |d| / |reference|, outputs counting alike.
        parts: share by name, largest first.
    """

    total: float
    parts: Mapping[str, float]

    @property
    def explained(self) -> float:
        """All shares together."""
        return sum(self.parts.values())

    @property
    def accumulates(self) -> bool:
        """Whether the errors of the parts by themselves are what is seen at the outputs."""
        return abs(self.explained - 1) <= UNEXPLAINED

    def __str__(self) -> str:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in list(self.parts.items())[:SHOWN] if share)
        text = f"relative error at the outputs {self.total:.2e}, of which the parts explain {self.explained:.0%}"
        return f"{text}: {shares}" if shares else text

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value."""
        return {"total": self.total, "parts": dict(self.parts), "explained": self.explained}


def attribute(reference: Arrays, candidate: Arrays, replaced: Mapping[str, Arrays]) -> Attribution:
    """Rank the parts of a model by what each alone does to the outputs.

    Args:
        reference: outputs of the reference, by output name.
        candidate: outputs of the candidate on the same inputs.
        replaced: by part, outputs of the reference with this part from the candidate.
    """
    whole = _difference(reference, candidate)
    power = float(whole @ whole)
    shares = {name: float(_difference(reference, outputs) @ whole) / power if power else 0.0 for name, outputs in replaced.items()}
    return Attribution(noise(reference, candidate) ** 0.5, dict(sorted(shares.items(), key=lambda item: -item[1])))


def noise(reference: Arrays, other: Arrays) -> float:
    """|d|^2 / |reference|^2, the mean over the float outputs; only values finite on both sides count."""
    floats = [name for name, values in reference.items() if _comparable(values, other[name])]
    difference = _difference(reference, other)
    return float(difference @ difference) / len(floats) if floats else 0.0


def _difference(reference: Arrays, other: Arrays) -> np.ndarray:
    """All float outputs in a row, each in units of the norm of its reference."""
    parts = []
    for name, values in reference.items():
        if _comparable(values, other[name]):
            wanted, got = values.astype(np.float64).ravel(), other[name].astype(np.float64).ravel()
            both = np.isfinite(wanted) & np.isfinite(got)
            delta = np.zeros_like(wanted)
            delta[both] = got[both] - wanted[both]
            norm = float(np.linalg.norm(wanted[both]))
            parts.append(delta / norm if norm else delta)
    return np.concatenate(parts) if parts else np.zeros(0)


def _comparable(values: np.ndarray, other: np.ndarray) -> bool:
    return np.issubdtype(values.dtype, np.floating) and other.shape == values.shape
