"""Evidence about one candidate: parity, predictions, executed kernels, latency, memory."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gossamer.core.measurement import Measurement
from gossamer.core.runnable import Executable
from gossamer.datasets.samples import Samples
from gossamer.metrics.comparison import Comparison
from gossamer.metrics.conditions import machine_fingerprint
from gossamer.metrics.latency import compare_latency
from gossamer.program.interpreter import Interpreter
from gossamer.runtimes import executed_layers
from gossamer.search.bench import probe_model
from gossamer.search.task import Candidate, Task, open_candidate, predict
from gossamer.techniques.quantize.placement import weighted_sites
from gossamer.verification.inputs import parity_cases
from gossamer.verification.parity import Parity, compare_runnables
from gossamer.verification.policies import Policy

PARITY_SAMPLES = 128
"""So many real samples that one changed decision among them does not yet break an agreement of 99 %."""

LIBRARIES = ("gossamer", "numpy", "onnxruntime", "torch", "onnx")
LATENCY_INPUTS = 8


def check_parity(task: Task, candidate: Candidate, policy: Policy) -> Parity:
    """The candidate's file against its program in the reference interpreter, on real and edge-shape inputs."""
    cases = parity_cases(candidate.program.signature, task.choose.inputs, count=PARITY_SAMPLES, seed=task.seed)
    executable = open_candidate(task, candidate)
    try:
        return compare_runnables(
            Interpreter(candidate.program), executable, cases, policy, len(weighted_sites(candidate.program))
        )
    finally:
        executable.close()


def outputs_on(task: Task, candidate: Candidate, samples: Samples) -> dict[str, np.ndarray]:
    """Outputs of the candidate's file on all samples."""
    executable = open_candidate(task, candidate)
    try:
        return predict(executable, samples)
    finally:
        executable.close()


def divergence(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> float:
    """Mean over the float outputs of the relative L2 distance: |before - after| / |before|."""
    ratios = []
    for name, reference in before.items():
        if np.issubdtype(reference.dtype, np.floating):
            exact = reference.astype(np.float64)
            norm = float(np.linalg.norm(exact))
            ratios.append(float(np.linalg.norm(exact - after[name])) / max(norm, 1e-30))
    return float(np.mean(ratios)) if ratios else 0.0


def run_kernels(task: Task, candidate: Candidate) -> dict[str, str]:
    """The kernel that computed each weighted layer, by site name, from the runtime's own profile."""
    sites = {name: node.name for name, node in weighted_sites(candidate.program).items()}
    batch = next(task.choose.batches(_call_size(task)))
    return executed_layers(
        candidate.path, candidate.program.signature, task.target, batch, candidate.lowered.name_map, sites
    )


def _call_size(task: Task) -> int:
    first = task.program.signature.inputs[0].shape[0]
    return first if isinstance(first, int) else task.target.batch


def latency_inputs(task: Task) -> list[dict[str, np.ndarray]]:
    """Real inputs of the target's batch size, in rotation; few samples are repeated."""
    size = _call_size(task)
    count = len(task.choose)
    return [
        task.choose.take(np.arange(index * size, (index + 1) * size) % count).inputs for index in range(LATENCY_INPUTS)
    ]  # pyright: ignore[reportReturnType]


def compare_speed(task: Task, baseline: Candidate, candidate: Candidate, resolution: float | None) -> Comparison:
    """The candidate beside the baseline, interleaved, at the target's batch size."""

    def opener(one: Candidate):
        def open_() -> Executable:
            return open_candidate(task, one, batch=task.target.batch)

        return open_

    conditions = {"target": str(task.target), **machine_fingerprint(libraries=LIBRARIES)}
    return compare_latency(
        opener(baseline),
        opener(candidate),
        latency_inputs(task),
        rounds=4,
        leg_ms=30.0,
        warmup_ms=500.0,
        batch=_call_size(task),
        seed=task.seed,
        resolution=resolution,
        conditions=conditions,
    )


def measure_process(task: Task, candidate: Candidate) -> list[Measurement]:
    """Size of the file; load time, first inference and peak memory of a fresh process."""
    inputs = next(task.choose.batches(_call_size(task)))
    size = Measurement("size", float(candidate.size_bytes), "B", "lower")
    return [size, *probe_model(candidate.path, candidate.program.signature, task.target, inputs)]
