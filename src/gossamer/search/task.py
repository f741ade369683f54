"""What a search is asked to do, fixed before it starts: program, data splits, metric, target, budget, limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gossamer.core.budget import Budget
from gossamer.core.deadline import Deadline
from gossamer.core.errors import DataError
from gossamer.core.progress import Progress
from gossamer.core.runnable import Executable, Runnable
from gossamer.core.target import Target
from gossamer.datasets.samples import Samples
from gossamer.lowering import Lowered
from gossamer.metrics.base import Metric
from gossamer.program.program import Program
from gossamer.runtimes import lower_for, open_executable
from gossamer.techniques.base import Technique
from gossamer.techniques.recipe import Recipe

PREDICT_BATCH = 100


@dataclass(frozen=True)
class Task:
    """One search.

    Attributes:
        program: the original.
        calibrate: samples for ranges; labels not needed.
        choose: samples on which candidates are compared.
        prove: samples on which the budget is tested, opened once for each member that gets that far.
        metric: the user's metric.
        target: where the result will run.
        budget: the limits; may be empty.
        seed: of everything random.
        deadline: optional work stops here.
        progress: told about every stage.
        folder: working files, removed by the caller.
    """

    program: Program
    calibrate: Samples
    choose: Samples
    prove: Samples
    metric: Metric
    target: Target
    budget: Budget
    seed: int
    deadline: Deadline
    progress: Progress
    folder: Path


@dataclass(frozen=True)
class Candidate:
    """A program lowered for the target.

    Attributes:
        name: for tables: ``fp32``, ``bf16``, ``int8``, ``int8, 2 layers in float``.
        program: what was lowered.
        recipe: how it was made from the original.
        lowered: file bytes and name map.
        path: the file in the working folder.
        target: the task's, or that in another float precision.
    """

    name: str
    program: Program
    recipe: Recipe
    lowered: Lowered
    path: Path
    target: Target

    @property
    def size_bytes(self) -> int:
        """Bytes of the deployed file."""
        return len(self.lowered.model)


def lower_candidate(
    task: Task, name: str, program: Program, steps: tuple[Technique, ...] = (), target: Target | None = None
) -> Candidate:
    """Lower a program for a target, by default the task's, and write the file into the working folder."""
    target = target or task.target
    lowered = lower_for(target, program)
    path = task.folder / f"{program.digest[:24]}.onnx"
    path.write_bytes(lowered.model)
    recipe = Recipe(steps, task.seed, str(target), task.calibrate.digest if steps else "")
    return Candidate(name, program, recipe, lowered, path, target)


def open_candidate(candidate: Candidate, *, batch: int | None = None) -> Executable:
    """Open a candidate's file, with its batch fixed if one is given."""
    specs = candidate.program.signature
    first = specs.inputs[0].shape[0]
    dims = {first: batch} if batch is not None and isinstance(first, str) else {}
    return open_executable(candidate.path, specs, candidate.target, dims=dims)


def predict(runnable: Runnable, samples: Samples) -> dict[str, np.ndarray]:
    """Outputs of all samples, by name, in the order of the samples.

    A program with a fixed batch runs in chunks of it; the last chunk is filled up by repeating samples.
    """
    first = runnable.specs.inputs[0].shape[0]
    size = first if isinstance(first, int) else _batch_size(runnable, PREDICT_BATCH)
    names = [spec.name for spec in runnable.specs.outputs if spec.shape[:1] == (first,) and first not in spec.shape[1:]]
    if not names:
        raise DataError(
            "predicting in batches",
            got=f"outputs {', '.join(map(str, runnable.specs.outputs))}",
            expected=f"an output with one row a sample: {first} as its first dim",
        )
    parts: list[Mapping[str, np.ndarray]] = []
    for batch in samples.batches(size):
        count = len(next(iter(batch.values())))
        if isinstance(first, int) and count < size:
            batch = {name: np.resize(array, (size, *array.shape[1:])) for name, array in batch.items()}  # noqa: PLW2901
        outputs = runnable.run(batch)
        parts.append({name: outputs[name][:count] for name in names})
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def _batch_size(runnable: Runnable, wanted: int) -> int:
    dim = runnable.specs.inputs[0].shape[0]
    _, high = runnable.specs.dims.get(str(dim), (1, None))
    return wanted if high is None else min(wanted, high)


def labels_for(
    task: Task, samples: Samples, original_outputs: Mapping[str, np.ndarray]
) -> np.ndarray | Mapping[str, np.ndarray]:
    """Labels of the samples, or the original's outputs for a metric that compares with them."""
    return samples.require_labels(task.metric.name) if task.metric.needs_labels else original_outputs
