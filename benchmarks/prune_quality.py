"""Structured pruning of CIFAR ResNets without training: accuracy against multiply-accumulates, beside Torch-Pruning.

Run: ``python benchmarks/prune_quality.py [--models resnet20,resnet56] [--scores l1,...] [--samples 2000] [--no-peer]
[--assets DIR] [--tiny]``, and ``--latency`` for the time that pruned networks take.

For each network and share of the multiply-accumulates to keep: ``prune`` at its defaults, ``drop_blocks``, and half of
either, on all test images; every score, on 2,000 of them (``--samples``). *Plain* is the cut alone: weights sliced,
nothing fitted and no batch norm estimated again. *Compensated* is what ``prune`` gives: the least-squares fits and the
norms. All calibrate on the same 512 training images; labels are used by the peer only. What is judged is the file that
ONNX Runtime runs.

Torch-Pruning runs with five importances, uniform and global, *everywhere* as it comes, and *inside blocks*, told layer
by layer to leave the residual stream whole. For each of the two the best of its networks with at least our
multiply-accumulates is compared, chosen on the very test set, which favours it: the best two on the few images, of
these the better on all; beside them *as documented*, the setting of its introduction. Both sides are captured and
counted alike. The last table has the paired 95 % interval of each difference, the original's difference (which a cut
without training hardly passes), and the limit. For information, the peer's networks also run with their batch norms
estimated again on the calibration images, which the peer itself does not do.

``--latency`` compares the pruned networks with the originals on both runtimes, on one thread, and names the layers
whose time stays behind their multiply-accumulates. Rows of earlier runs are kept unless they are made again.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import peers_torch_pruning as peer
import torch
from assets import Samples, add_assets_option, calibration_and_test, find, load_network
from check_baselines import agrees
from prune_verdicts import cell, packed, show, show_latency, verdict
from record import conditions
from rich.console import Console

from gossamer.analysis.counts import count
from gossamer.core.errors import GossamerError, ModelError, UserError
from gossamer.core.files import write_atomic
from gossamer.core.names import require_known
from gossamer.core.target import Target
from gossamer.frontends.torch_module import capture
from gossamer.metrics import METRICS
from gossamer.metrics.conditions import contention, noise_probe
from gossamer.metrics.latency import compare_latency
from gossamer.metrics.lock import measuring_alone
from gossamer.metrics.subject import write_inputs
from gossamer.program import Program
from gossamer.runtimes import layer_times, lower_for, open_executable, resolve_target
from gossamer.search.bench import file_subject
from gossamer.techniques.prune.blocks import DropBlocks
from gossamer.techniques.prune.channels import Prune
from gossamer.techniques.prune.scores import SCORES
from gossamer.techniques.quantize.placement import weighted_sites

NETWORKS = ("resnet20", "resnet56")
SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
TIMED = (0.7, 0.5)
RUNTIMES = ("onnxruntime", "openvino")
BATCHES = (1, 32)
CALIBRATION = 512
DEFAULT_SCORE = Prune(macs=1).score
DOCUMENTED = "as documented"
LIBRARIES = ("numpy", "onnxruntime", "openvino", "torch")
FINALISTS = 2
SEED = 0
BEHIND = 0.01
"""A layer is named if what its time lacks of following its MACs is this share of the network's time."""

_BATCH = 100


@dataclass(frozen=True)
class Scale:
    """How much is run.

    Attributes:
        shares: of the multiply-accumulates, to keep.
        calibration: training images.
        test: test images; None for all.
        importances: of the peer.
        timed: shares at which time is measured.
        timing: options of ``compare_latency``.
    """

    shares: Sequence[float] = SHARES
    calibration: int = CALIBRATION
    test: int | None = None
    importances: Sequence[str] = peer.IMPORTANCES
    timed: Sequence[float] = TIMED
    timing: Mapping[str, Any] = field(
        default_factory=lambda: {"loads": 8, "rounds": 4, "leg_ms": 30.0, "warmup_ms": 500.0}
    )


@dataclass(frozen=True)
class Options:
    """The command line; see the description of the options."""

    models: Sequence[str]
    scores: Sequence[str]
    parts: Sequence[str]
    shares: Sequence[float]
    samples: int
    test: int | None
    assets: Path
    out: Path
    peer_env: Path
    tiny: bool


TINY = Scale(
    (0.7, 0.5), 64, 300, ("l2",), (0.5,), {"loads": 2, "rounds": 1, "leg_ms": 2.0, "warmup_ms": 20.0}
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One network and its data.

    Attributes:
        name: of the network.
        network: the trained torch module.
        program: it, captured.
        given: calibration images.
        test: test images.
        folder: for files.
        target: where networks are judged.
        few: so many of the first test images judge the scores and rank the peer's settings.
    """

    name: str
    network: torch.nn.Module
    program: Program
    given: Samples
    test: Samples
    folder: Path
    target: Target
    few: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the original for one image."""
        return count(self.program).total

    def right(self, program: Program, images: int) -> np.ndarray:
        """1 for each of the first test images that the program's file classifies rightly, else 0; (images,)."""
        path = self.folder / "judged.onnx"
        path.write_bytes(lower_for(self.target, program).model)
        executable = open_executable(path, program.signature, self.target)
        test = self.test.take(slice(0, images))
        parts = [
            next(iter(executable.run(test.take(slice(at, at + _BATCH)).inputs).values()))
            for at in range(0, len(test), _BATCH)
        ]
        executable.close()
        right = METRICS["top1"].per_sample({"scores": np.concatenate(parts)}, test.labels)
        assert right is not None
        return right


Add = Callable[[dict[str, Any]], None]
Say = Callable[[str], None]


def captured(network: torch.nn.Module, name: str) -> Program:
    """The program of a ResNet whose batch size is free."""
    return capture(network, {"x": torch.zeros(2, 3, 32, 32)}, dynamic={"x": {0: "batch"}}, name=name)


def row(job: Job, by: str, name: str, share: float, program: Program, right: np.ndarray, **more: Any) -> dict[str, Any]:
    """The figures of one network; those judged on all test images keep which of them were right."""
    macs = count(program).total
    whole = len(right) == len(job.test)
    return {
        "model": job.name, "by": by, "name": name, "share": share, "macs": macs, "macs_kept": macs / job.macs,
        "images": len(right), "top1": 100 * float(right.mean()), **more,
        **({"right": packed(right)} if whole else {}),
    }  # fmt: skip


def run_widths(job: Job, technique: Prune, share: float, images: int) -> Callable[[str, str, int], dict[str, Any]]:
    """Prune and judge one way, plain and compensated; gives rows of the first so many of those images."""
    started = time.perf_counter()
    pruning = technique.prune(job.program, job.given.inputs, job.target)
    seconds = time.perf_counter() - started
    plain = job.right(pruning.coupling.cut(pruning.keep), images)
    right = job.right(pruning.program, images)

    def first(by: str, name: str, count: int) -> dict[str, Any]:
        more = {"recipe": str(technique), "top1_plain": 100 * float(plain[:count].mean()), "seconds": seconds}
        return row(job, by, name, share, pruning.program, right[:count], **more)

    return first


def run_ours(job: Job, scale: Scale, add: Add) -> None:
    """Rows of the original and of the defaults on all images; of their score on few as well."""
    right = job.right(job.program, len(job.test))
    stated = find(job.name).accuracy["test"]
    reproduced = None if scale.test else agrees(100 * float(right.mean()), stated)
    add(row(job, "original", "original", 1.0, job.program, right, stated=stated, reproduced=reproduced))
    for share in scale.shares:
        first = run_widths(job, Prune(macs=share), share, len(job.test))
        add(first("ours", "prune", len(job.test)))
        add(first("score", DEFAULT_SCORE, job.few))


def run_scores(job: Job, scores: Sequence[str], scale: Scale, add: Add) -> None:
    """Rows of every other score on few images."""
    for score in scores:
        for share in scale.shares if score != DEFAULT_SCORE else ():
            try:
                add(run_widths(job, Prune(score=score, macs=share), share, job.few)("score", score, job.few))
            except GossamerError as error:
                add(failure_of(job, "score", score, share, error))


def run_depth(job: Job, scale: Scale, add: Add) -> None:
    """Rows of whole blocks, and of blocks and widths that give half of it each."""
    for share in scale.shares:
        for name, first in (("drop_blocks", share), ("drop_blocks, then prune", math.sqrt(share))):
            started = time.perf_counter()
            try:
                steps: list[DropBlocks | Prune] = [DropBlocks(macs=first)]
                program = steps[0].apply(job.program, job.given.inputs, job.target)
                left = share * job.macs / count(program).total
                if left < 1:
                    steps.append(Prune(macs=left))
                    program = steps[1].apply(program, job.given.inputs, job.target)
            except GossamerError as error:
                add(failure_of(job, "depth", name, share, error))
                continue
            more = {"recipe": " + ".join(map(str, steps)), "seconds": time.perf_counter() - started}
            right = job.right(program, len(job.test))
            add(row(job, "depth", name, share, program, right, **more))


def failure_of(job: Job, by: str, name: str, share: float, error: Exception) -> dict[str, Any]:
    """A row without figures."""
    return {"model": job.name, "by": by, "name": name, "share": share, "failure": " ".join(str(error).split())[:300]}


def run_peer(job: Job, ours: Mapping[float, Mapping[str, Any]], scale: Scale, options: Options, add: Add) -> None:
    """Rows of the peer's settings on few images, and of its best at each share on all."""
    found: dict[tuple[float, str], list[tuple[float, str, torch.nn.Module]]] = {}
    for share, result in cut_by_peer(job, ours, scale.importances, options):
        setting = result["setting"]
        entry = {"model": job.name, "by": "setting", "name": setting, "share": share}
        if result["failure"]:
            add({**entry, "failure": result["failure"]})
            continue
        network = torch.load(result["file"], weights_only=False)
        rank = 100 * float(right_in_torch(network, job.test.take(slice(0, job.few))).mean())
        entry |= {"macs": result["macs"], "macs_kept": result["macs"] / job.macs, "images": job.few}
        add({**entry, "top1": rank})
        found.setdefault((share, setting.rsplit(", ", 1)[1]), []).append((rank, setting, network))
    for (share, where), candidates in found.items():
        finalists = sorted(candidates, key=lambda one: -one[0])[:FINALISTS]
        judged = [(job.right(captured(one[2], job.name), len(job.test)), *one[1:]) for one in finalists]
        right, setting, network = max(judged, key=lambda one: one[0].sum())
        add(row_of_peer(job, where, share, network, setting, right))


def run_documented(job: Job, ours: Mapping[float, Mapping[str, Any]], options: Options, add: Add) -> None:
    """Rows of the setting that the peer's introduction shows, on all images."""
    for share, result in cut_by_peer(job, ours, peer.DOCUMENTED[:1], options):
        if result["setting"] != ", ".join(peer.DOCUMENTED):
            continue
        if result["failure"]:
            add({"model": job.name, "by": "setting", "name": DOCUMENTED, "share": share, "failure": result["failure"]})
            continue
        network = torch.load(result["file"], weights_only=False)
        right = job.right(captured(network, job.name), len(job.test))
        add(row_of_peer(job, DOCUMENTED, share, network, result["setting"], right))


def cut_by_peer(
    job: Job, ours: Mapping[float, Mapping[str, Any]], importances: Sequence[str], options: Options
) -> Iterator[tuple[float, dict[str, Any]]]:
    """Share and result of each setting of the peer that reaches the multiply-accumulates of ours.

    Raises:
        ModelError: its process did not get to the end.
    """
    np.savez(job.folder / "samples.npz", x=job.given.inputs["x"], y=job.given.labels)
    shares = {entry["macs"]: share for share, entry in ours.items()}
    task = {
        "model": job.name, "assets": str(options.assets), "macs": list(shares), "importances": list(importances),
        "samples": str(job.folder / "samples.npz"),
    }  # fmt: skip
    results = 0
    for result in peer.cut_resnet(task, options.peer_env, job.folder):
        results += 1
        yield shares[result["least"]], result
    expected = len(importances) * len(peer.SCOPES) * len(peer.WHERE) * len(shares)
    if results < expected:
        raise ModelError("pruning with Torch-Pruning", got=f"{results} of {expected} results, then it died or hung")


def row_of_peer(
    job: Job, name: str, share: float, network: torch.nn.Module, setting: str, right: np.ndarray
) -> dict[str, Any]:
    """A network of the peer's on all images, and with its norms estimated again."""
    again = job.right(captured(renormed(network, job.given), job.name), len(job.test))
    more = {"setting": setting, "top1_norms_estimated_again": 100 * float(again.mean())}
    return row(job, "peer", name, share, captured(network, job.name), right, **more)


@torch.inference_mode()
def right_in_torch(network: torch.nn.Module, test: Samples) -> np.ndarray:
    """1 for each image that a torch module classifies rightly, else 0; to rank."""
    images, labels = torch.from_numpy(test.inputs["x"]), torch.from_numpy(test.labels)
    found = [network(part).argmax(1) for part in images.split(_BATCH)]
    return (torch.cat(found) == labels).double().numpy()


@torch.no_grad()
def renormed(network: torch.nn.Module, given: Samples) -> torch.nn.Module:
    """A copy whose batch norms have the statistics of the calibration images."""
    network = copy.deepcopy(network)
    norms = [layer for layer in network.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over batches
        norm.train()
    for part in torch.from_numpy(given.inputs["x"]).split(128):
        network(part)
    return network.eval()


# Latency


def run_latency(job: Job, scale: Scale, add: Add, say: Say) -> None:
    """Rows of time beside the original on both runtimes."""
    for runtime in RUNTIMES:
        for share in scale.timed:
            small = Prune(macs=share).apply(job.program, job.given.inputs, resolve_target(f"{runtime}:cpu,threads=1"))
            for batch in BATCHES:
                say(f"{job.name} on {runtime}, batch {batch}: timing {share:.0%} of the MACs")
                add(time_one(job, small, share, resolve_target(f"{runtime}:cpu,threads=1,batch={batch}"), scale))


def time_one(job: Job, small: Program, share: float, target: Target, scale: Scale) -> dict[str, Any]:
    """A pruned network beside the original, interleaved, and the layers whose time does not follow."""
    size, dims = target.batch, {"batch": target.batch}
    chosen = [job.test.take(np.arange(at * size, (at + 1) * size) % len(job.test)).inputs for at in range(8)]
    inputs = write_inputs(job.folder / f"inputs-{size}.npz", chosen)
    paths, times = [], []
    for name, program in (("original", job.program), ("pruned", small)):
        lowered = lower_for(target, program)
        path = job.folder / f"{name}.onnx"
        path.write_bytes(lowered.model)
        layers = {site: node.name for site, node in weighted_sites(program).items()}
        with measuring_alone():
            times.append(layer_times(path, program.signature, target, chosen[0], lowered.name_map, layers, dims=dims))
        paths.append(path)
    a, b = (file_subject(path, job.program.signature, target, inputs, dims) for path in paths)
    found = compare_latency(a, b, batch=size, seed=SEED, **scale.timing)
    macs = count(small).total
    return {
        "model": job.name, "by": "latency", "name": f"{target.runtime}, batch {size}", "share": share,
        "macs": macs, "macs_kept": macs / job.macs, "time_kept": 1 / found.speedup, "word": found.word,
        "text": str(found), "layers_behind": layers_behind(job.program, small, *times), "layer_us": times,
        "comparison": found.to_json(), "noise": noise_probe().to_json(), "contention": contention().to_json(),
    }  # fmt: skip


def layers_behind(
    original: Program, small: Program, before_us: Mapping[str, float], after_us: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Layers that lost multiply-accumulates but not as much time, the worst first; by the runtime's own counters."""
    of_sites = [
        {site: count(program).macs.get(node.name, 0) for site, node in weighted_sites(program).items()}
        for program in (original, small)
    ]
    total = sum(before_us.values())
    found = []
    for site in before_us.keys() & after_us.keys() & of_sites[1].keys():
        kept = of_sites[1][site] / max(of_sites[0][site], 1)
        excess = after_us[site] - kept * before_us[site]
        if kept < 1 and excess > BEHIND * total:
            entry = {"layer": site, "macs_kept": kept, "time_kept": after_us[site] / max(before_us[site], 1e-9)}
            found.append({**entry, "excess_us": excess, "excess": excess / total})
    return sorted(found, key=lambda entry: -entry["excess"])


def stored(path: Path) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Rows of earlier runs by their key."""
    rows = json.loads(path.read_text(encoding="utf-8"))["results"] if path.exists() else []
    return {key(entry): entry for entry in rows}


def key(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a later row of the same replaces."""
    return entry["model"], entry["by"], entry["name"], entry["share"]


PARTS = ("ours", "peer", "documented", "depth", "scores")


def read_options() -> Options:
    """Parse and check the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_assets_option(parser)
    parser.add_argument("--models", default=",".join(NETWORKS), help="names separated by commas")
    parser.add_argument("--scores", default=",".join(SCORES), help="names separated by commas, or none")
    parser.add_argument("--samples", type=int, default=2000, help="test images for the scores and the peer's ranking")
    parser.add_argument("--shares", default=",".join(map(str, SHARES)), help="of the multiply-accumulates, to keep")
    parser.add_argument("--test", type=int, help="take so many test images for all; every figure names its number")
    parser.add_argument("--parts", default=",".join(PARTS), help="which rows to make")
    parser.add_argument("--no-peer", action="store_true", help="leave Torch-Pruning out")
    parser.add_argument("--peer-env", type=Path, default=peer.DEFAULT_ENVIRONMENT, help="where its environment is made")
    parser.add_argument("--latency", action="store_true", help="measure time, and nothing else")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "prune_quality.json")
    parser.add_argument("--tiny", action="store_true", help="a few hundred images and two sizes: does it run at all?")
    given = parser.parse_args()
    models, parts = given.models.split(","), ["latency"] if given.latency else given.parts.split(",")
    scores = [] if given.scores == "none" else given.scores.split(",")
    for names, known, what in (
        (models, NETWORKS, "models"),
        (scores, SCORES, "scores"),
        (parts, (*PARTS, "latency"), "parts"),
    ):
        for name in names:
            require_known(name, known, what[:-1], f"reading --{what}")
    if given.no_peer:
        parts = [part for part in parts if part not in ("peer", "documented")]
    shares = [float(share) for share in given.shares.split(",")]
    return Options(
        models, scores, parts, shares, given.samples, given.test, given.assets, given.out, given.peer_env, given.tiny
    )


def prepare(name: str, options: Options, data: tuple[Samples, Samples], folder: Path) -> Job:
    """One network, captured."""
    network, (given, test) = load_network(name, options.assets), data
    target = resolve_target("onnxruntime:cpu,threads=1")
    few = min(options.samples, len(test))
    return Job(name, network, captured(network, name), given, test, folder, target, few)


def main() -> int:
    """Make the rows; exit code 1 if a limit is missed. The file is written after every row."""
    options = read_options()
    scale = TINY if options.tiny else Scale(shares=options.shares, test=options.test)
    torch.set_num_threads(1)
    console = Console(width=max(190, Console().width))
    say = partial(console.print, style="dim", highlight=False)
    rows = stored(options.out)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    state = conditions(LIBRARIES, threads=1, seed=SEED, tiny=options.tiny, peer=f"torch-pruning {peer.VERSION}")

    def add(entry: dict[str, Any]) -> None:
        rows[key(entry)] = {**entry, "commit": state["commit"], "date": state["date"]}
        report = {"conditions": state, "verdict": verdict(rows.values()), "results": list(rows.values())}
        write_atomic(options.out, (json.dumps(report, indent=1) + "\n").encode())
        figure = entry.get("failure") or entry.get("text") or cell(entry)
        say(f"{entry['model']}: {entry['by']}, {entry['name']}, {entry['share']:g}: {figure}")

    given, test = calibration_and_test(options.models[0], scale.calibration, options.assets, SEED)
    data = given, test.shuffled(scale.test or len(test), SEED)  # they lie class by class; the networks share them
    for part in options.parts:
        for name in options.models:
            with tempfile.TemporaryDirectory() as folder:
                job = prepare(name, options, data, Path(folder))
                match part:
                    case "ours":
                        run_ours(job, scale, add)
                    case "peer" | "documented":
                        keys = {share: (name, "ours", "prune", share) for share in scale.shares}
                        ours = {share: rows[one] for share, one in keys.items() if one in rows}
                        if part == "peer":
                            run_peer(job, ours, scale, options, add)
                        else:
                            run_documented(job, ours, options, add)
                    case "depth":
                        run_depth(job, scale, add)
                    case "scores":
                        run_scores(job, options.scores, scale, add)
                    case _:
                        run_latency(job, scale, add, say)
    return finish(console, options, list(rows.values()))


def finish(console: Console, options: Options, rows: Sequence[Mapping[str, Any]]) -> int:
    """Print what there is; 1 if a limit is missed or an original is not what its asset states."""
    judged = verdict(rows)
    if "latency" in options.parts:
        show_latency(console, [entry for entry in rows if entry["by"] == "latency"])
        return 0
    for model in options.models:
        show(console, model, rows, judged)
    held = sum(entry["holds"] for entry in judged)
    console.print(f"{held} of {len(judged)} limits hold; written to {options.out}", highlight=False)
    wrong = [entry["model"] for entry in rows if entry.get("reproduced") is False]
    if wrong:
        console.print(f"[bold red]the originals of {', '.join(wrong)} are not as accurate as stated[/]")
    return 0 if options.tiny or (held == len(judged) and not wrong) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(str(error))
