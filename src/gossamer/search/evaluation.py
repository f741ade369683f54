"""Evidence about one candidate: parity, predictions, executed kernels, latency, memory."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Any

import numpy as np

from gossamer.core.measurement import Measurement
from gossamer.core.runnable import Executable
from gossamer.datasets.samples import Samples
from gossamer.metrics.comparison import Comparison
from gossamer.metrics.conditions import machine_fingerprint
from gossamer.metrics.latency import compare_latency
from gossamer.metrics.lock import measuring_alone
from gossamer.metrics.process import probe_process
from gossamer.metrics.subject import Subject, write_inputs
from gossamer.runtimes import executed_layers, layer_times
from gossamer.search.bench import file_subject
from gossamer.search.diagnosis import compare_lowered_nodes, diagnose_lowered
from gossamer.search.rounding import compare_with_program
from gossamer.search.task import Candidate, Task, open_candidate, predict
from gossamer.techniques.quantize.placement import weighted_sites
from gossamer.verification.bisect import Diagnosis
from gossamer.verification.inputs import Case, parity_cases
from gossamer.verification.parity import Parity
from gossamer.verification.policies import Policy

PARITY_SAMPLES = 128
"""So many real samples that one changed decision among them does not yet break an agreement of 99 %."""

LIBRARIES = ("gossamer", "numpy", "onnxruntime", "openvino", "torch", "onnx")
LATENCY_INPUTS = 8
_QUICK_S, _QUICK_TURNS, _FEWEST_TURNS, _QUICK_CALLS = 60.0, 24, 5, 3


def _cases(task: Task, candidate: Candidate) -> list[Case]:
    return list(parity_cases(candidate.program.signature, task.choose.inputs, count=PARITY_SAMPLES, seed=task.seed))


def diagnose_candidate(task: Task, candidate: Candidate, parity: Parity) -> Diagnosis:
    """The first node at which the candidate's file leaves its program. Cost: up to forty small compilations."""
    cases = _cases(task, candidate)
    task.progress.stage(f"{candidate.name}: looking for the first diverging node")
    return diagnose_lowered(
        candidate.program, candidate.target, cases, parity.policy, model=candidate.path, parity=parity
    )


def check_parity(task: Task, candidate: Candidate, policy: Policy) -> Parity:
    """The candidate's file against its program in the reference interpreter, on real and edge-shape inputs.

    What is quantized is compared node by node as well. Where rounding alone moves the outputs by more than the policy
    leaves to a file, the file is judged beside that.
    """
    cases, program = _cases(task, candidate), candidate.program
    with closing(open_candidate(candidate)) as executable:
        parity = compare_with_program(program, executable, cases, policy, len(weighted_sites(program)))
    return compare_lowered_nodes(program, candidate.target, cases, parity.policy, parity)


def outputs_on(candidate: Candidate, samples: Samples) -> dict[str, np.ndarray]:
    """Outputs of the candidate's file on all samples, in the order of the samples."""
    executable = open_candidate(candidate)
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
    batch = next(task.choose.batches(_call_size(task)))
    specs, name_map = candidate.program.signature, candidate.lowered.name_map
    return executed_layers(candidate.path, specs, candidate.target, batch, name_map, _lowered_sites(candidate))


def layer_microseconds(task: Task, candidate: Candidate) -> dict[str, float]:
    """Time of each weighted layer inside the whole model, by the runtime's own counters: to rank, not to quote."""
    batch = next(task.choose.batches(_call_size(task)))
    specs, name_map = candidate.program.signature, candidate.lowered.name_map
    sites = _lowered_sites(candidate)
    return layer_times(candidate.path, specs, candidate.target, batch, name_map, sites, dims=_latency_dims(task))


def _lowered_sites(candidate: Candidate) -> dict[str, str]:
    """Node names of the weighted layers by site, without those that lowering computed: embeddings of positions."""
    sites = weighted_sites(candidate.program)
    return {name: node.name for name, node in sites.items() if node.name in candidate.lowered.name_map}


def quick_times(task: Task, candidates: Sequence[Candidate]) -> list[float]:
    """Milliseconds of one call of each candidate, in one process and by turns: to rank, not to quote.

    Slow candidates get fewer turns, as noise counts less in long calls: a minute for all of them, five turns at least.
    With one thread the time of the processor is taken, which leaves out what the machine did for others meanwhile.
    """
    clock = time.process_time_ns if task.target.threads == 1 else time.perf_counter_ns
    inputs = itertools.cycle(latency_inputs(task))
    with measuring_alone(task.progress), ExitStack() as stack:
        opened = [open_candidate(candidate, batch=task.target.batch) for candidate in candidates]
        for executable in opened:
            stack.callback(executable.close)

        def turn(calls: int) -> list[float]:
            return [
                float(np.median([_clocked(executable, next(inputs), clock) for _ in range(calls)]))
                for executable in opened
            ]

        started = time.perf_counter()
        turn(1)  # warms up
        affordable = int(_QUICK_S / (time.perf_counter() - started))
        calls = min(max(affordable // _QUICK_TURNS, 1), _QUICK_CALLS)
        times_ns = [turn(calls) for _ in range(min(max(affordable, _FEWEST_TURNS), _QUICK_TURNS))]
    return (np.median(times_ns, axis=0) / 1e6).tolist()


def _clocked(executable: Executable, inputs: Mapping[str, np.ndarray], clock: Callable[[], int]) -> int:
    start = clock()
    executable.run(inputs)
    return clock() - start


def _latency_dims(task: Task) -> dict[str, int]:
    first = task.program.signature.inputs[0].shape[0]
    return {first: task.target.batch} if isinstance(first, str) else {}


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
    inputs = write_inputs(task.folder / "latency-inputs.npz", latency_inputs(task))
    dims = _latency_dims(task)

    def subject(one: Candidate) -> Subject:
        return file_subject(one.path, one.program.signature, one.target, inputs, dims)

    return compare_latency(
        subject(baseline),
        subject(candidate),
        loads=8,
        rounds=4,
        leg_ms=30.0,
        warmup_ms=500.0,
        batch=_call_size(task),
        seed=task.seed,
        resolution=resolution,
        conditions=_conditions(task),
        progress=task.progress,
    )


def measure_process(task: Task, candidate: Candidate) -> list[Measurement]:
    """Size of the file; load time, first inference and peak memory of a fresh process."""
    first = next(task.choose.batches(_call_size(task)))
    inputs = write_inputs(task.folder / "first-inputs.npz", [first])
    subject = file_subject(candidate.path, candidate.program.signature, candidate.target, inputs)
    size = Measurement("size", float(candidate.size_bytes), "B", "lower")
    probed = probe_process(subject, files=[candidate.path], conditions=_conditions(task), progress=task.progress)
    return [size, *probed]


def _conditions(task: Task) -> dict[str, Any]:
    return {"target": str(task.target), **machine_fingerprint(libraries=LIBRARIES)}
