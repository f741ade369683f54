"""The street: one verb a stage, in the order of use. Each is short; the work is in the folder it names.

    capture -> analyze -> compress -> (save) -> load -> verify -> measure -> report

Nothing here imports torch until a verb needs it: ``load`` and ``measure`` run with the base install.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gossamer.core.extras import require_extra
from gossamer.core.progress import Progress, Silent

if TYPE_CHECKING:
    from gossamer.analysis.overview import Analysis
    from gossamer.artifacts import Artifact
    from gossamer.core.target import Target
    from gossamer.datasets.sources import Source
    from gossamer.lowering import Lowered
    from gossamer.program.program import Program
    from gossamer.search.audit import Audit
    from gossamer.search.front import Front
    from gossamer.search.sensitivity import Sensitivity
    from gossamer.verification.verdict import Verdict

DEFAULT_TARGET = "onnxruntime:cpu"


def capture(model: Any, example_inputs: Any = None, *, weights: Any = None, dynamic: Any = "batch") -> Program:
    """Turn a model into a Program.

    Args:
        model: an ``nn.Module``, a ``.pt2`` file, a local Hugging Face folder, ``file.py:factory``, a saved program, or
            an artifact, which holds one.
        example_inputs: tensors or arrays for a module: one, a tuple, or a mapping by argument name.
        weights: ``.safetensors``, or ``.pt`` read weights-only, for ``file.py:factory``.
        dynamic: dims that may vary: ``"batch"``, ``None``, or ``{"tokens": {0: "batch", 1: "seq=2..512"}}``.

    Raises:
        CaptureError: it cannot be captured; says where and what to change.
        ModelError: it is missing, unreadable, or does not run.
    """
    require_extra("torch", "compress", "capturing a model")
    from gossamer.frontends import read_model

    if isinstance(model, str | Path) and (Path(model) / "manifest.json").is_file():
        load(model).close()  # every file is checked
        model = Path(model) / "program"
    return read_model(model, weights=weights, example=example_inputs, dynamic=dynamic)


def analyze(model: Any, example_inputs: Any = None, *, prove: bool = False, **options: Any) -> Analysis:
    """What can be cut from a model: groups of dimensions that change together, their shares, what is frozen and why.

    Args:
        model: a Program, or as for ``capture``.
        example_inputs: as for ``capture``.
        prove: prove the cut of each group, and freeze those that fail.
        options: for ``capture``: ``weights``, ``dynamic``.
    """
    program = capture(model, example_inputs, **options)
    from gossamer.analysis.overview import analyze_program

    return analyze_program(program, prove=prove)


def compress(  # noqa: PLR0913 - the one verb with all the knobs
    model: Any,
    data: Source,
    eval_data: Source | None = None,
    *,
    metric: str = "top1",
    target: str | Target = DEFAULT_TARGET,
    budget: str = "",
    time: str | None = None,
    seed: int = 0,
    example_inputs: Any = None,
    weights: Any = None,
    dynamic: Any = "batch",
    transform: Any = None,
    progress: Progress | None = None,
) -> Front:
    """Make a model smaller and faster for a target within a budget, and prove it on your metric.

    Args:
        model: as for ``capture``; a Program is taken as it is.
        data: calibration data: a ``.npz``, an image folder, ``file.py:loader``, arrays, or an iterable of batches.
        eval_data: labelled data for choosing and proving; without it ``data`` is split into three by sample digest.
        metric: ``top1``, ``top5``, ``f1``, ``mae``, ``agreement`` (needs no labels), or ``file.py:function``.
        target: ``onnxruntime:cpu,threads=1,batch=1``.
        budget: ``"top1 drop <= 1pt; latency p50 <= 5ms; size <= 2MB"``; empty for none.
        time: limit for optional work: ``20m``.
        seed: of everything random.
        example_inputs: for capture; by default two samples of ``data``.
        weights: for ``file.py:factory``.
        dynamic: for capture.
        transform: for an image folder: ``file.py:function``.
        progress: told about every stage.

    Raises:
        UserError: bad input, before any work starts.
    """
    require_extra("torch", "compress", "compressing a model")
    from gossamer.search.compress import search
    from gossamer.search.setup import make_task

    with tempfile.TemporaryDirectory(prefix="gossamer-") as folder:
        task = make_task(
            model,
            data,
            eval_data,
            metric=metric,
            target=target,
            budget=budget,
            time=time,
            seed=seed,
            example_inputs=example_inputs,
            weights=weights,
            dynamic=dynamic,
            transform=transform,
            progress=progress or Silent(),
            folder=Path(folder),
        )
        return search(task)


def scan(
    model: Any,
    data: Source,
    *,
    target: str | Target = DEFAULT_TARGET,
    time: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    **options: Any,
) -> Sensitivity:
    """What each layer of a model would cost and gain in int8: its harm alone, and the time it saves.

    Args:
        model: as for ``compress``.
        data: samples without labels; a part calibrates, another measures the harm.
        target: where the model will run.
        time: limit; layers that it cuts off have no harm.
        seed: of everything random.
        progress: told about every stage.
        options: for capture and reading: ``weights``, ``dynamic``, ``example_inputs``, ``transform``.
    """
    require_extra("torch", "compress", "scanning a model")
    from gossamer.search.sensitivity import scan_model
    from gossamer.search.setup import make_task

    asked = {"weights": None, "dynamic": "batch", "example_inputs": None, "transform": None, **options}
    limits = {"metric": "agreement", "target": target, "budget": "", "time": time, "seed": seed}
    with tempfile.TemporaryDirectory(prefix="gossamer-") as folder:
        return scan_model(
            make_task(model, data, None, **limits, **asked, progress=progress or Silent(), folder=Path(folder))
        )


def apply(
    program: Program, recipe: Any, data: Source, *, target: str = "", progress: Progress | None = None
) -> Program:
    """Replay a recipe on a program, without a search.

    Args:
        program: what to change.
        recipe: a ``Recipe``, its TOML text, a file, or steps in one line: ``prune{macs=0.7} | int8``.
        data: to calibrate on.
        target: in place of the recipe's own; steps in one line name none and are for ``onnxruntime:cpu``.
        progress: told about every step.

    Raises:
        OptionError: the recipe does not parse, or names no target and none is given.
        UnknownName: an unknown technique, option, target or layer.
    """
    require_extra("torch", "compress", "applying a recipe")
    from gossamer.search.setup import replay

    return replay(program, recipe, data, target or None, progress or Silent(), DEFAULT_TARGET)


def try_recipe(
    model: Any, recipe: Any, data: Source, *, progress: Progress | None = None, capturing: Any = None, **asked: Any
) -> Front:
    """Apply a recipe and measure the result beside the original: size, latency, layers, and the metric if asked.

    Args:
        model: a Program, or as for ``capture``.
        recipe: as for ``apply``.
        data: to calibrate on; with labels if it is to be fine-tuned.
        progress: told about every stage.
        capturing: options for ``capture``.
        asked: ``eval_data``, ``metric``, ``target``, ``budget``, ``fine_tune`` (steps), ``transform``; see
            ``search.trial.Trial``.

    Returns:
        A front whose ``best`` is what the recipe makes, also where that is no gain; ``best.save`` writes the artifact,
        with the evidence of its surgery.
    """
    require_extra("torch", "compress", "applying a recipe")
    from gossamer.search.trial import Trial, try_recipe

    trial = Trial(recipe, data, inline=DEFAULT_TARGET, **asked)
    program = capture(model, example_of(data), **(capturing or {}))
    with tempfile.TemporaryDirectory(prefix="gossamer-") as folder:
        return try_recipe(program, trial, progress or Silent(), Path(folder))


def lower(program: Program, target: str = DEFAULT_TARGET) -> Lowered:
    """The file that the target's runtime loads, as bytes, with the map from program nodes to its nodes."""
    from gossamer.runtimes import lower_for, resolve_target

    return lower_for(resolve_target(target), program)


def load(path: str | Path) -> Artifact:
    """Load an artifact; call it with arrays. Needs the base install only.

    Warns where the artifact is known to answer otherwise on processors of this machine's class.

    Raises:
        ArtifactError: it is not an artifact, damaged, or of an unknown version.
    """
    from gossamer.artifacts import load_artifact
    from gossamer.core.isa import hazard_here, hazards_of
    from gossamer.runtimes import open_deployed

    artifact = load_artifact(path, opener=open_deployed)
    if hazard := hazard_here(hazards_of(artifact.evidence.get("other_processors", {}))):
        warnings.warn(f"{path}: {hazard}", stacklevel=2)
    return artifact


def verify(artifact: str | Path | Artifact, against: Any = None, data: Source | None = None, **options: Any) -> Verdict:
    """Check an artifact on this machine: digests, golden outputs, and, if given, the original model on data.

    Args:
        artifact: folder or loaded artifact.
        against: the original model, as for ``capture``.
        data: samples for the comparison; with labels the metric of the artifact's budget is tested again.
        options: for ``capture`` of the original (``weights``, ``dynamic``, ``example_inputs``) and ``transform``.
    """
    from gossamer.search.recheck import recheck

    return recheck(_loaded(artifact), against, data, options)


def audit(artifact: str | Path | Artifact, data: Source, *, claim: str = "drop <= 1pt", transform: Any = None) -> Audit:
    """Find out what an int8 artifact would answer on processors that saturate sums of 8-bit products.

    Args:
        artifact: folder or loaded artifact.
        data: real samples; with labels the metric of the artifact is tested, else its agreement with itself.
        claim: how much of the metric saturation may cost.
        transform: for an image folder.
    """
    from gossamer.search.recheck import audit_artifact

    return audit_artifact(_loaded(artifact), data, claim, transform)


def measure(artifact: str | Path | Artifact, against: str | Path | Artifact | None = None, **settings: Any) -> Any:
    """Latency, size, load time and memory of an artifact on this machine; beside another one, interleaved.

    Args:
        artifact: folder or loaded artifact.
        against: another one with the same inputs, as the reference.
        settings: of ``search.bench.bench``: ``target``, ``scenario``, ``rate``, ``bound``, ``seconds``, ``seed``,
            ``earlier``, ``progress``.
    """
    from gossamer.search.bench import bench

    return bench(_loaded(artifact), None if against is None else _loaded(against), **settings)


def report(
    source: str | Path | Artifact | Front,
    path: str | Path = "report.html",
    *,
    with_samples: bool = False,
    force: bool = False,
) -> Path:
    """Write the report of an artifact, or of a search's best member, as one HTML file that opens offline.

    Args:
        source: folder, loaded artifact, or what ``compress`` returned.
        path: the file; an older report there is replaced.
        with_samples: of a search: show small pictures of the samples that were lost. An artifact shows those that it
            was saved with.
        force: replace also a file that is no report.

    Raises:
        MissingExtra: the extra ``report`` is not installed.
        OutputExists: there is something else at ``path``.
        OptionError: ``path`` lies inside an artifact, or cannot be written.
        ArtifactError: it is not an artifact, or its evidence is damaged.
    """
    from gossamer.artifacts import Artifact
    from gossamer.reporting.html import artifact_facts, require_report, write_report

    require_report(Path(path), force=force)
    if isinstance(source, str | Path | Artifact):
        return write_report(artifact_facts(_loaded(source)), Path(path), force=force)
    from gossamer.search.packing import report_facts

    return write_report(report_facts(source, with_samples=with_samples), Path(path), force=force)


def _loaded(artifact: str | Path | Artifact) -> Artifact:
    return load(artifact) if isinstance(artifact, str | Path) else artifact


def save(program: Program, folder: str | Path, *, force: bool = False) -> None:
    """Write a program into a new folder: graph and tensors, no pickle. ``capture`` reads it back.

    Raises:
        OutputExists: the folder is there and ``force`` is not given, or it holds something else than a program.
    """
    from gossamer.core.files import new_folder, require_free
    from gossamer.program.storage import GRAPH_FILE, save_program

    require_free(Path(folder), force=force, mark=GRAPH_FILE)
    with new_folder(Path(folder).absolute(), force=force) as new:
        save_program(program, new)


def example_of(data: Source | None) -> Any:
    """Two samples of some data, to capture a model with; ``None`` without data."""
    if data is None:
        return None
    from gossamer.datasets.sources import read_samples
    from gossamer.search.setup import example_from

    return example_from(read_samples(data))


def targets() -> list[dict[str, str]]:
    """What there is to compile for: one row a runtime and device."""
    from gossamer.runtimes import KNOWN, installed_version

    return [
        {
            "target": f"{runtime}:{device}",
            "precisions": ", ".join(facts.precisions),
            "installed": installed_version(runtime),
            "notes": facts.notes,
        }
        for runtime, devices in KNOWN.items()
        for device, facts in devices.items()
    ]


def techniques() -> list[dict[str, str]]:
    """What there is to apply: one row a technique, with its options and their defaults."""
    require_extra("torch", "compress", "listing the techniques")
    from dataclasses import fields

    from gossamer.techniques import TECHNIQUES

    return [
        {
            "technique": name,
            "family": technique.family,
            "options": ", ".join(f"{field.name}={field.default!r}" for field in fields(technique)),
            "what it does": (technique.__doc__ or "").splitlines()[0],
        }
        for name, technique in TECHNIQUES.items()
    ]


def doctor() -> dict[str, dict[str, Any]]:
    """This machine: hardware and versions, how quiet it is now, which runtimes are installed, what they get wrong."""
    from gossamer.metrics.conditions import contention, machine_fingerprint, noise_probe
    from gossamer.metrics.cores import choose_cores
    from gossamer.metrics.lock import holder, measuring_alone
    from gossamer.runtimes import check_runtimes

    before, measuring = contention(), holder()
    with measuring_alone():
        noise = noise_probe()
    cores = choose_cores(1)
    return {
        "machine": machine_fingerprint(),
        "noise": {
            "verdict": noise.word,
            "p90 over p50": f"{noise.product_ratio:.2f} computing, {noise.copy_ratio:.2f} copying",
        },
        "measuring": {
            "physical cores": cores.physical,
            "pinned with one thread": list(cores.measured) or "not possible here",
            "busy with": measuring or "nothing",
        },
        "load": before.to_json(),
        "runtimes": {row["target"]: row["installed"] for row in targets()} | check_runtimes(),
    }
