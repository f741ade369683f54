"""Int8 post-training quantization beside NNCF and ONNX Runtime's quantizer, on ONNX Runtime and on OpenVINO.

Run: ``python benchmarks/ptq.py [--assets DIR] [--models resnet20,...] [--runtimes onnxruntime,openvino] [--tiny]``.

For each network: fp32 exported by PyTorch, every recommended setting of both quantizers, and gossamer for each runtime,
all calibrated on the same samples and run by the same plain sessions on one thread, with floats in fp32. Files of ONNX
Runtime's quantizer also run in OpenVINO, and those that NNCF makes from ONNX in ONNX Runtime. Two peers are kept for
each runtime, chosen on the very test set, which favours them: the *better* one is the most accurate of all variants,
the *fastest* one is the fastest of those that lose at most one point. Accuracy is compared on the same samples (paired
score interval), latency interleaved over fresh processes. The last table sets every row beside its limit.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import sessions
import torch
from assets import Samples, add_assets_option, calibration_and_test, find, load_network, load_samples
from check_baselines import agrees
from entrants import Entrant, difference, divergence, examine, examine_once, fastest_peer, rank_speed, strongest
from peers_nncf import NNCF_CONVOLUTION, NNCF_TRANSFORMER, quantize_onnx, quantize_openvino
from peers_ort import STATIC, TRANSFORMER, Variant, export_fp32, quantize_all
from record import commit, conditions
from rich.console import Console
from verdicts import accuracy_row, latency_row, show_result, show_verdict, store

from gossamer.core.errors import UserError
from gossamer.core.names import require_known
from gossamer.metrics.comparison import Comparison
from gossamer.metrics.conditions import contention, noise_probe
from gossamer.metrics.latency import compare_latency
from gossamer.metrics.subject import Subject, write_inputs

BATCHES = (1, 32)
BUDGET = "top1 drop <= 1pt"
SEED = 0


@dataclass(frozen=True)
class Network:
    """How a network takes part.

    Attributes:
        transformer: such get other settings of the peers.
        calibration: samples for all quantizers, where there are training data.
        outputs: names for what it returns.
    """

    transformer: bool = False
    calibration: int = 512
    outputs: tuple[str, ...] = ("scores",)


NETWORKS = {
    "resnet20": Network(),
    "resnet56": Network(),
    "proxyless": Network(),
    "keywords": Network(),
    "vit": Network(transformer=True),
    "text": Network(transformer=True),
    # of 128 tokens each; twenty variants of a network this large take their time
    "minilm": Network(transformer=True, calibration=128, outputs=("scores", "sentence_embedding")),
    "cnn": Network(),
}
DEFAULT = [name for name in NETWORKS if name != "cnn"]

Say = Callable[[str], None]


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
        calibration: at most so many samples for all quantizers.
        test: test samples; None for all.
        all_settings: every setting of the peers; else the first of each.
        timing: options of ``compare_latency``.
        turns: of the quick timing that ranks the variants.
    """

    calibration: int = 512
    test: int | None = None
    all_settings: bool = True
    timing: Mapping[str, Any] = field(
        default_factory=lambda: {"loads": 8, "rounds": 4, "leg_ms": 30.0, "warmup_ms": 500.0}
    )
    turns: int = 12


TINY = Scale(64, 300, False, {"loads": 2, "rounds": 1, "leg_ms": 2.0, "warmup_ms": 20.0}, turns=2)


@dataclass(frozen=True)
class Job:
    """One network, ready to be compared on any runtime.

    Attributes:
        name: of the network.
        network: the trained torch module.
        given: calibration samples.
        test: test samples.
        folder: where files are made.
        fp32: exported by PyTorch.
        variants: of the peers, made or failed.
        baseline: accuracy of fp32 on the whole test set in percent; None where only a part of it is read.
        scale: how much is measured.
    """

    name: str
    network: torch.nn.Module
    given: Samples
    test: Samples
    folder: Path
    fp32: Path
    variants: Sequence[Variant]
    baseline: float | None
    scale: Scale


def prepare_job(name: str, runtimes: Sequence[str], root: Path, scale: Scale, folder: Path, say: Say) -> Job:
    """Export a network and quantize it with every setting of the peers."""
    kind, network = NETWORKS[name], load_network(name, root)
    given, test = calibration_and_test(name, min(kind.calibration, scale.calibration), root, SEED)
    fp32 = export_fp32(network, given.inputs, folder / "fp32.onnx", kind.outputs)
    baseline = None
    if scale.test is None:
        baseline = examine("fp32", fp32, "onnxruntime", load_samples(name, "test", root)).accuracy
    else:
        test = test.shuffled(scale.test, SEED)
    made = folder / "variants.json"
    if made.exists():
        return Job(name, network, given, test, folder, fp32, _remembered(made), baseline, scale)
    ort_settings = TRANSFORMER if kind.transformer else STATIC
    nncf_settings = NNCF_TRANSFORMER if kind.transformer else NNCF_CONVOLUTION
    if not scale.all_settings:
        ort_settings, nncf_settings = ort_settings[:1], nncf_settings[:1]
    say(f"{name}: quantizing with ONNX Runtime")
    variants = quantize_all(fp32, given.inputs, folder, ort_settings)
    say(f"{name}: quantizing with NNCF")
    variants += quantize_onnx(fp32, given.inputs, folder, nncf_settings)
    if "openvino" in runtimes:
        variants += quantize_openvino(fp32, given.inputs, folder, nncf_settings)
    entries = [[one.setting.name, one.path and one.path.name, one.failure] for one in variants]
    made.write_text(json.dumps(entries), encoding="utf-8")
    return Job(name, network, given, test, folder, fp32, variants, baseline, scale)


@dataclass(frozen=True)
class Remembered:
    """A setting of a peer whose file was made before, of which only the name is needed."""

    name: str


def _remembered(made: Path) -> list[Variant]:
    """The peers' files that an earlier run left in the folder."""
    entries = json.loads(made.read_text(encoding="utf-8"))
    return [Variant(Remembered(name), made.parent / file if file else None, failure) for name, file, failure in entries]


@dataclass(frozen=True)
class Made:
    """What gossamer made for a runtime and batch size.

    Attributes:
        file: to deploy.
        precision: of floats, as the sessions name it.
        commit: at which it was made.
    """

    file: Path
    precision: str
    commit: str | None


def compress(job: Job, runtime: str, batch: int, again: bool) -> Made:
    """Make it, or take what an earlier run left in the folder."""
    import gossamer as gs

    folder, made = (job.folder / f"ours-{runtime}-{batch}{ending}" for ending in ("", ".json"))
    if made.exists() and not again:
        return Made(gs.load(folder).deploy_file(), **json.loads(made.read_text(encoding="utf-8")))
    front = gs.compress(
        job.network,
        data={**job.given.inputs, "y": job.given.labels},
        eval_data={**job.test.inputs, "y": job.test.labels},
        metric="top1",
        target=f"{runtime}:cpu,threads=1,batch={batch}",
        budget=BUDGET,
        seed=SEED,
    )
    file = front.best.save(folder, force=True).deploy_file()
    precision = {"float32": "f32", "bfloat16": "bf16"}[front.best.candidate.target.precision]
    found = Made(file, precision, commit())
    made.write_text(json.dumps({"precision": found.precision, "commit": found.commit}), encoding="utf-8")
    return found


def run(job: Job, runtime: str, batch: int, options: argparse.Namespace, say: Say) -> dict[str, Any]:
    """Compare on one runtime at one batch size; a JSON value with all figures."""
    seconds = {}
    where = f"{job.name} on {runtime}, batch {batch}"
    say(f"{where}: running {len(job.variants)} peer variants")
    started = time.perf_counter()
    floats = [examine("fp32", job.fp32, runtime, job.test)]
    if runtime == "openvino":
        floats.append(examine("bf16", job.fp32, runtime, job.test, "bf16"))
    peers, failed = examine_peers(job, runtime)
    seconds["peers run"] = time.perf_counter() - started
    ours, made = None, None
    if not options.peers_only:
        say(f"{where}: compressing with gossamer")
        started = time.perf_counter()
        made = compress(job, runtime, batch, again=not options.reuse)
        ours = examine("ours", made.file, runtime, job.test, made.precision)
        seconds["ours made and run"] = time.perf_counter() - started
    say(f"{where}: ranking")
    better = strongest(peers, floats[0])
    fastest = fastest_peer(peers, floats[0], job.test, batch, job.scale.turns)
    rank_speed([*floats, better, *([ours] if ours else [])], job.test, batch, job.scale.turns)
    result = {
        "model": job.name,
        "runtime": runtime,
        "batch": batch,
        "conditions": conditions(
            ("numpy", "onnxruntime", "openvino", "nncf", "torch"),
            threads=1,
            seed=SEED,
            budget=BUDGET,
            tiny=job.scale is TINY,
            contention=contention().to_json(),
            noise=noise_probe().to_json(),
        ),
        "test_samples": len(job.test),
        "calibration_samples": len(job.given),
        "stated_top1": find(job.name).accuracy["test"],
        "baseline_top1": job.baseline,
        "baseline_reproduced": job.baseline and agrees(job.baseline, find(job.name).accuracy["test"]),
        "seconds": seconds,
        "floats": [entrant.to_json(floats[0]) for entrant in floats],
        "peers": [peer.to_json(floats[0]) for peer in peers],
        "peers_failed": failed,
        "better_peer": better.name,
        "fastest_peer": fastest.name,
        "ours": ours and made and {**ours.to_json(floats[0]), "made_at_commit": made.commit},
        "against_better_peer": ours and difference(ours, better),
        "original_against_better_peer": difference(floats[0], better),
        "accuracy": ours
        and accuracy_row(difference(ours, better), divergence(ours, floats[0]), divergence(better, floats[0])),
    }
    latency = time_all(job, batch, ours, fastest, floats, say)
    speed = next((latency_row(item["to"], item) for item in latency if item["limited"]), None)
    return {**result, "latency": latency, "speed": speed}


def examine_peers(job: Job, runtime: str) -> tuple[list[Entrant], list[dict[str, str]]]:
    """The variants that run in a runtime, and why others have no figure."""
    peers, failed = [], []
    for variant in job.variants:
        name = variant.path.name if variant.path else variant.setting.name
        if variant.path is None:
            failed.append({"name": name, "failure": variant.failure})
        elif runtime == "openvino" or variant.path.suffix == ".onnx":
            try:
                peers.append(examine_once(name, variant.path, runtime, job.test))
            except Exception as error:  # noqa: BLE001 - each runtime has types of its own
                failed.append({"name": name, "failure": f"{type(error).__name__}: {error}"[:300]})
    return peers, failed


def time_all(
    job: Job, batch: int, ours: Entrant | None, peer: Entrant, floats: Sequence[Entrant], say: Say
) -> list[dict[str, Any]]:
    """Ours against the fastest peer and the fastest float; without ours that peer against that float.

    The probe of a file against itself is run once.
    """
    fastest_float = min(floats, key=lambda entrant: entrant.quick_ms[batch])
    count = min(8, len(job.test) // batch)
    chosen = [job.test.take(slice(i * batch, (i + 1) * batch)).inputs for i in range(count)]
    inputs = write_inputs(job.folder / f"inputs-{batch}.npz", chosen)
    pairs = [(ours, peer), (ours, fastest_float)] if ours else [(peer, fastest_float)]
    resolution = None
    results = []
    for candidate, reference in pairs:
        say(f"{job.name} on {peer.runtime}, batch {batch}: timing {candidate.name} against {reference.name}")
        found = compare_speed(reference, candidate, batch, inputs, resolution, job.scale)
        resolution = found.resolution
        limited = candidate is ours and reference is peer
        results.append(
            {
                "of": candidate.name,
                "to": reference.name,
                "limited": limited,
                "text": str(found),
                **found.to_json(),
            }
        )
    return results


def compare_speed(
    reference: Entrant, candidate: Entrant, batch: int, inputs: Path, resolution: float | None, scale: Scale
) -> Comparison:
    """Is the candidate faster than the reference?"""
    a, b = (Subject("sessions:prepare", inputs, entrant.opening(batch)) for entrant in (reference, candidate))
    return compare_latency(a, b, batch=batch, seed=SEED, resolution=resolution, **scale.timing)


def main() -> int:
    """Run the comparison; the file is written after every row, so that an interrupted run keeps what it has."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_assets_option(parser)
    parser.add_argument("--models", default=",".join(DEFAULT), help="names separated by commas")
    parser.add_argument("--runtimes", default=",".join(sessions.RUNTIMES), help="names separated by commas")
    parser.add_argument("--batches", default=",".join(map(str, BATCHES)), help="sizes separated by commas")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "ptq.json")
    parser.add_argument("--tiny", action="store_true", help="a few hundred samples and short legs: does it run at all?")
    parser.add_argument("--peers-only", action="store_true", help="leave gossamer out")
    parser.add_argument("--keep", type=Path, help="folder for the model files; peers found there are not made again")
    parser.add_argument("--reuse", action="store_true", help="what gossamer made in --keep is timed, not made again")
    parser.add_argument("--prepare", action="store_true", help="only make the peers and run them on the test sets")
    options = parser.parse_args()
    names, runtimes = options.models.split(","), options.runtimes.split(",")
    for name in names:
        require_known(name, NETWORKS, "network", "reading --models")
    for runtime in runtimes:
        require_known(runtime, sessions.RUNTIMES, "runtime", "reading --runtimes")
    torch.set_num_threads(1)
    console = Console(width=max(190, Console().width))  # the tables are wider than a log file's assumed 80 columns
    say = partial(console.print, style="dim", highlight=False)
    fine = True
    every: list[dict[str, Any]] = []
    for name in names:
        with tempfile.TemporaryDirectory() as temporary:
            folder = options.keep / name if options.keep else Path(temporary)
            folder.mkdir(parents=True, exist_ok=True)
            job = prepare_job(name, runtimes, options.assets, TINY if options.tiny else Scale(), folder, say)
            for runtime in runtimes:
                if options.prepare:
                    examine_peers(job, runtime)
                    continue
                for batch in map(int, options.batches.split(",")):
                    result = run(job, runtime, batch, options, say)
                    every = store(options.out, [result])
                    show_result(console, result)
                    fine &= result["baseline_reproduced"] is not False
    if options.prepare:
        return 0
    show_verdict(console, every)
    console.print(f"written to {options.out}")
    return 0 if fine else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(str(error))
