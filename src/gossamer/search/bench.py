"""An artifact measured on this machine, alone or beside another one. Torch-free."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gossamer.artifacts import Artifact
from gossamer.core.errors import DataError
from gossamer.core.measurement import Measurement
from gossamer.core.runnable import Executable
from gossamer.core.specs import Signature
from gossamer.core.target import Target
from gossamer.metrics.comparison import Comparison
from gossamer.metrics.conditions import machine_fingerprint
from gossamer.metrics.latency import compare_latency, measure_latency
from gossamer.metrics.process import probe_process
from gossamer.runtimes import resolve_target
from gossamer.search.synthetic import size_in_range, synthetic_inputs

LIBRARIES = ("gossamer", "numpy", "onnxruntime")
_INPUTS = 8
_OTHER_DIMS = 64
"""Size of dims that may vary, other than the batch: a short sentence."""


@dataclass(frozen=True)
class Bench:
    """What was measured.

    Attributes:
        measurements: latency, throughput, size, load time, first inference, peak memory.
        comparison: against the other artifact (its ``a``), if one was given.
        conditions: machine, versions, target.
    """

    measurements: tuple[Measurement, ...]
    comparison: Comparison | None
    conditions: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value."""
        return {
            "measurements": [item.to_json() for item in self.measurements],
            "comparison": self.comparison.to_json() if self.comparison else None,
            "conditions": self.conditions,
        }


def bench(artifact: Artifact, against: Artifact | None = None, *, target: str | None = None, seed: int = 0) -> Bench:
    """Measure an artifact with synthetic inputs of its target's batch size, or the nearest that it takes.

    Args:
        artifact: what to measure.
        against: another artifact with the same inputs, measured interleaved as the reference.
        target: ``onnxruntime:cpu,threads=1,batch=32``; the packed one if ``None``.
        seed: of the inputs and coins.

    Raises:
        DataError: the two artifacts take different inputs.
    """
    packed = artifact.manifest.targets[next(iter(artifact.manifest.targets))].target
    resolved = resolve_target(target or packed)
    resolved = replace(resolved, batch=_batch(artifact, resolved))
    conditions = {"target": str(resolved), **machine_fingerprint(libraries=LIBRARIES)}
    sizes = {dim: resolved.batch for dim in artifact.signature.inputs[0].shape[:1] if isinstance(dim, str)}
    inputs = [synthetic_inputs(artifact.signature, sizes, _OTHER_DIMS, seed + index) for index in range(_INPUTS)]

    def opener(one: Artifact):
        def open_() -> Executable:
            return one.open(str(resolved), dims=sizes)

        return open_

    comparison = None
    if against is not None:
        if against.signature.inputs != artifact.signature.inputs:
            raise DataError("comparing two artifacts", got="different inputs", expected="the same names and shapes")
        comparison = compare_latency(
            opener(against), opener(artifact), inputs, batch=resolved.batch, seed=seed, conditions=conditions
        )
        latency = comparison.b
    else:
        latency = measure_latency(opener(artifact), inputs, batch=resolved.batch, conditions=conditions)
    size = Measurement("size", float(artifact.size_bytes), "B", "lower")
    return Bench(
        (*latency, size, *probe_model(artifact.deploy_file(), artifact.signature, resolved, inputs[0])),
        comparison,
        conditions,
    )


def probe_model(
    model: Path, signature: Signature, target: Target, inputs: Mapping[str, np.ndarray]
) -> tuple[Measurement, ...]:
    """Load time, first inference and peak memory of a model file in a fresh process."""
    with tempfile.TemporaryDirectory(prefix="gossamer-bench-") as folder:
        specs, arrays = Path(folder) / "signature.json", Path(folder) / "inputs.npz"
        specs.write_text(json.dumps(signature.to_json()), encoding="utf-8")
        np.savez(arrays, **inputs)  # pyright: ignore[reportArgumentType] - inputs are no options
        probe = [sys.executable, "-m", "gossamer.runtimes.probe"]
        return probe_process([*probe, str(model), str(specs), str(target), str(arrays)])


def _batch(artifact: Artifact, target: Target) -> int:
    """Samples that one call takes: the first dim of the first input, where that is fixed or has a range."""
    first = next(iter(artifact.signature.inputs[0].shape), 1)
    return first if isinstance(first, int) else size_in_range(artifact.signature, first, target.batch)
