"""An artifact measured on this machine, alone or beside another one. Torch-free."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gossamer.artifacts import Artifact
from gossamer.core.errors import DataError, OptionError
from gossamer.core.measurement import Measurement
from gossamer.core.progress import Progress
from gossamer.core.specs import Signature
from gossamer.core.target import Target
from gossamer.core.units import format_amount
from gossamer.metrics.comparison import Comparison, require_comparable
from gossamer.metrics.conditions import machine_fingerprint, noise_probe
from gossamer.metrics.latency import compare_latency, measure_latency
from gossamer.metrics.lock import measuring_alone
from gossamer.metrics.process import probe_process
from gossamer.metrics.scenarios import Scenario, measure_scenario, read_milliseconds
from gossamer.metrics.subject import Subject, write_inputs
from gossamer.runtimes import resolve_target
from gossamer.search.synthetic import size_in_range, synthetic_inputs

LIBRARIES = ("gossamer", "numpy", "onnxruntime", "openvino")
_INPUTS = 8
_OTHER_DIMS = 64
"""Size of dims that may vary, other than the batch: a short sentence."""


@dataclass(frozen=True)
class Bench:
    """What was measured.

    Attributes:
        measurements: latency, throughput, size, load time, first inference, peak memory.
        comparison: against the other artifact (its ``a``), if one was given.
        conditions: machine, versions, target; ``noise``, how steady the machine was just before.
        earlier: one line for each figure that an earlier result has too. Not interleaved, so these claim nothing.
    """

    measurements: tuple[Measurement, ...]
    comparison: Comparison | None
    conditions: dict[str, Any]
    earlier: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value."""
        return {
            "measurements": [item.to_json() for item in self.measurements],
            "comparison": self.comparison.to_json() if self.comparison else None,
            "conditions": self.conditions,
            "earlier": list(self.earlier),
        }


def bench(  # noqa: PLR0913 - one parameter an option of the command
    artifact: Artifact,
    against: Artifact | None = None,
    *,
    target: str | None = None,
    scenario: str = "stream",
    rate: float | None = None,
    bound: str | None = None,
    seconds: float | None = None,
    seed: int = 0,
    earlier: str | Path | None = None,
    progress: Progress | None = None,
) -> Bench:
    """Measure an artifact with synthetic inputs of its target's batch size, or the nearest that it takes.

    Args:
        artifact: what to measure.
        against: another artifact with the same inputs, measured interleaved as the reference.
        target: ``onnxruntime:cpu,threads=1,batch=32``; the packed one if ``None``.
        scenario: ``stream``, ``batch``, ``paced`` or ``server``: ``metrics.scenarios.KINDS`` says when each calls.
        rate: calls per second, for ``paced`` and ``server``.
        bound: longest response that is in time: ``10ms``; by default ``paced`` calls are due before the next one.
        seconds: of arrivals, for ``paced`` and ``server``; 10 by default.
        seed: of the inputs, coins and arrivals.
        earlier: a file that holds ``Bench.to_json`` of this or another artifact, measured in the same environment.
        progress: is told every load, and who is waited for.

    Raises:
        DataError: the two artifacts take different inputs; the earlier figures are of another environment.
        OptionError: a scenario without its rate or bound, or a comparison on a schedule.
    """
    plan = Scenario(scenario, rate, None if bound is None else read_milliseconds(bound), seconds)
    if against is not None:
        _require_same_calls(artifact, against, plan)
    before = {} if earlier is None else _read_earlier(Path(earlier))
    packed = artifact.manifest.targets[next(iter(artifact.manifest.targets))].target
    resolved = resolve_target(target or packed)
    resolved = replace(resolved, batch=_batch(artifact, resolved))
    conditions = {"target": str(resolved), **machine_fingerprint(libraries=LIBRARIES)}
    sizes = {dim: resolved.batch for dim in artifact.signature.inputs[0].shape[:1] if isinstance(dim, str)}
    inputs = [synthetic_inputs(artifact.signature, sizes, _OTHER_DIMS, seed + index) for index in range(_INPUTS)]
    common: dict[str, Any] = {"conditions": conditions, "progress": progress}
    with tempfile.TemporaryDirectory(prefix="gossamer-bench-") as folder, measuring_alone(progress):
        file = write_inputs(Path(folder) / "inputs.npz", inputs)

        def subject(one: Artifact) -> Subject:
            return file_subject(one.deploy_file(str(resolved)), one.signature, resolved, file, sizes)

        noise = noise_probe()
        doubts = [f"the machine is unusable for timing, {noise}"] if noise.word == "unusable" else []
        comparison = None
        if against is not None:
            comparison = compare_latency(subject(against), subject(artifact), batch=resolved.batch, seed=seed, **common)
            latency = comparison.b
        elif plan.scheduled:
            latency = measure_scenario(subject(artifact), plan, seed=seed, **common)
        else:
            latency = measure_latency(subject(artifact), batch=resolved.batch, doubts=doubts, **common)
        if plan.kind == "batch":
            latency = tuple(item for item in latency if item.name in ("throughput", "latency mean"))
        process = probe_process(subject(artifact), files=[artifact.deploy_file(str(resolved))], **common)
    size = Measurement("size", float(artifact.size_bytes), "B", "lower")
    measurements = (*latency, size, *process)
    lines = tuple(_beside(before[item.name], item) for item in measurements if item.name in before)
    return Bench(measurements, comparison, {**conditions, "noise": noise.to_json()}, lines)


def _require_same_calls(artifact: Artifact, against: Artifact, scenario: Scenario) -> None:
    if against.signature.inputs != artifact.signature.inputs:
        raise DataError("comparing two artifacts", got="different inputs", expected="the same names and shapes")
    if scenario.scheduled:
        raise OptionError(
            "comparing two artifacts",
            got=f"the scenario {scenario}",
            expected="stream or batch: responses on a schedule depend on more than speed",
            try_="measure each alone",
        )


def file_subject(
    path: Path, signature: Signature, target: Target, inputs: Path, dims: Mapping[str, int] | None = None
) -> Subject:
    """A model file as what a measured process opens.

    Args:
        path: the file.
        signature: its own.
        target: where and how to run it.
        inputs: as ``write_inputs`` wrote them.
        dims: sizes to fix at load.
    """
    arguments = {"path": str(path.absolute()), "specs": signature.to_json(), "target": str(target)}
    return Subject(
        "gossamer.runtimes:prepare_file", inputs, {**arguments, "dims": dict(dims or {})}, threads=target.threads
    )


def _read_earlier(path: Path) -> dict[str, Measurement]:
    try:
        stored = [Measurement.from_json(item) for item in json.loads(path.read_bytes())["measurements"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        got = f"{type(error).__name__}: {error}"
        raise DataError(f"reading the earlier result {path}", got=got, expected="gossamer bench --json") from error
    return {item.name: item for item in stored}


def _beside(then: Measurement, now: Measurement) -> str:
    require_comparable(then, now)
    figures = [format_amount(item.value, item.unit) for item in (then, now)]
    return f"{now.name}: {figures[0]} then, {figures[1]} now"


def _batch(artifact: Artifact, target: Target) -> int:
    """Samples that one call takes: the first dim of the first input, where that is fixed or has a range."""
    first = next(iter(artifact.signature.inputs[0].shape), 1)
    return first if isinstance(first, int) else size_in_range(artifact.signature, first, target.batch)
