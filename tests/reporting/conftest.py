"""Evidence of real searches; the tests of this folder import what stands beside them."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gossamer import flow
from gossamer.reporting.html import artifact_facts
from gossamer.search.front import Front
from gossamer.search.thumbnails import thumbnails

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def facts(digit_artifact: Path) -> dict[str, Any]:
    """What the report of the digits' int8 network is written from; a copy to change."""
    with flow.load(digit_artifact) as artifact:
        return copy.deepcopy(artifact_facts(artifact))


def group(
    name: str, before: float, after: float, interval: tuple[float, float] | None = None, note: str = ""
) -> dict[str, Any]:
    """A class or slice as verification writes it."""
    figures = {"n": 58, "before": before, "after": after, "drop": before - after}
    return {"name": name, **figures, "interval": interval and list(interval), "note": note, "flips": None}


@pytest.fixture
def rich(facts: dict[str, Any], digits: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
    """The same with every group that the fast search of the tests leaves out."""
    evidence = facts["evidence"]
    times = np.sort(np.random.default_rng(0).gamma(60, 1 / 60, 101))
    evidence["performance"]["against_baseline"]["quantiles_ms"] = {"a": (1.3 * times).tolist(), "b": times.tolist()}
    evidence["command"] = "gossamer compress net.py:net --data calib.npz --out small"
    evidence["behaviour"] = {
        "n": 534,
        "unit": "pt",
        "four_way": {"both_right": 480, "lost": 9, "won": 5, "both_wrong": 40, "changed": 20},
        "negative_flips": 9 / 534,
        "positive_flips": 5 / 534,
        "churn": 20 / 534,
        "per_class": [group(f"class {digit}", 92.0 + digit % 3, 91.0 + digit % 4) for digit in range(10)],
        "worst_class": group("class 8", 94.0, 91.0, (-0.5, 6.5)),
        "slices": [group("brightness below 0.2", 90.0, 88.5, (-1.0, 4.0), "exploratory")],
        "calibration": {"before": 0.031, "after": 0.034, "change": 0.003, "interval": [-0.002, 0.008]},
        "negative_flip_ids": [3, 14, 159],
    }
    pictures = thumbnails(digits[0][:2]) or []
    evidence["lost_samples"] = [
        {"row": row, "label": 8, "before": 8, "after": 3, "picture": picture} for row, picture in enumerate(pictures)
    ]
    return facts


@pytest.fixture
def kept(digit_program, digits: tuple[np.ndarray, np.ndarray], measuring) -> Front:
    """A search in which int8 is slower, so the original is kept."""
    measuring.default = 0.8
    images, labels = digits
    return flow.compress(digit_program, images[:300], (images[900:], labels[900:]), target="onnxruntime:cpu,batch=8")
