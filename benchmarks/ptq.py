"""Int8 post-training quantization beside ONNX Runtime's own quantizer, on real networks and their full test sets.

Run: ``python benchmarks/ptq.py [--assets DIR] [--models resnet20,resnet56,vit,text] [--out FILE] [--tiny]``.

For each network: fp32 exported by PyTorch, every recommended setting of ONNX Runtime's quantizer, and gossamer, all
calibrated on the same training samples and run by plain ONNX Runtime sessions on one thread. Two peers are kept, chosen
on the very test set, which favours them: the most accurate variant, and the fastest of those that lose at most one
point. Every session is opened with the fixed or the dynamic batch, whichever is faster for that file. Accuracy is
compared on the same samples (paired score interval), latency interleaved over fresh sessions.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from assets import Samples, add_assets_option, calibration, find, load_network, load_samples
from check_baselines import agrees
from peers_ort import STATIC, TRANSFORMER, OrtSession, Setting, executed_in_int8, export_fp32, quantize_all
from rich.console import Console
from rich.table import Table

from gossamer.core.errors import UserError
from gossamer.core.files import write_atomic
from gossamer.core.units import format_amount
from gossamer.metrics import METRICS
from gossamer.metrics.comparison import Comparison
from gossamer.metrics.conditions import contention, machine_fingerprint, noise_probe
from gossamer.metrics.latency import compare_latency
from gossamer.verification.paired import drop_interval

SETTINGS: dict[str, tuple[Setting, ...]] = {
    "resnet20": STATIC,
    "resnet56": STATIC,
    "cnn": STATIC,
    "vit": TRANSFORMER,
    "text": TRANSFORMER,
}
BATCHES = (1, 32)
BUDGET = "top1 drop <= 1pt"
DROP_LIMIT = 0.01
SEED = 0


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
        calibration: training samples for all quantizers.
        test: test samples; None for all.
        all_settings: every setting of the peer; else the first and the last.
        timing: options of ``compare_latency``.
        turns: of the quick timing that ranks the variants.
    """

    calibration: int = 512
    test: int | None = None
    all_settings: bool = True
    timing: Mapping[str, Any] = field(default_factory=lambda: {"loads": 8, "warmup_ms": 1000.0})
    turns: int = 12


TINY = Scale(64, 300, False, {"loads": 2, "rounds": 1, "leg_ms": 2.0, "warmup_ms": 20.0}, turns=2)


@dataclass
class Entrant:
    """One ONNX file in the comparison.

    Attributes:
        name: ``fp32``, ``ours`` or a peer setting.
        path: the file.
        right: 1 for every test sample it classifies rightly, else 0; shape (samples,).
        quick_ms: median call by batch, from a short round-robin over all files; only for ranking.
        fixed: by batch, whether the session is faster with that batch fixed at load.
    """

    name: str
    path: Path
    right: np.ndarray
    quick_ms: dict[int, float] = field(default_factory=dict)
    fixed: dict[int, bool] = field(default_factory=dict)

    @property
    def accuracy(self) -> float:
        """Top-1 in percent."""
        return 100 * float(self.right.mean())

    def open(self, batch: int) -> OrtSession:
        """A fresh session for calls of ``batch`` samples."""
        return OrtSession(self.path, batch if self.fixed.get(batch) else None)

    def to_json(self, fp32: Entrant) -> dict[str, Any]:
        """Figures of this file alone, and its paired difference to fp32."""
        layers = {batch: executed_in_int8(self.path, batch if self.fixed[batch] else None) for batch in self.fixed}
        return {
            "name": self.name,
            "top1": self.accuracy,
            "against_fp32": difference(self, fp32),
            "bytes": self.path.stat().st_size,
            "layers": layers,
            "quick_ms": self.quick_ms,
            "fixed_batch": self.fixed,
        }


def compress(network: torch.nn.Module, given: Samples, test: Samples, folder: Path) -> Path:
    """The ONNX file that gossamer makes of the network; everything else here treats all files alike."""
    import gossamer as gs

    front = gs.compress(
        network,
        data=_arrays(given),
        eval_data=_arrays(test),
        metric="top1",
        target="onnxruntime:cpu,threads=1,batch=1",
        budget=BUDGET,
        seed=SEED,
    )
    return front.best.save(folder, force=True).deploy_file()


def _arrays(samples: Samples) -> tuple[np.ndarray, np.ndarray]:
    """Input and labels of a network with one input."""
    (x,) = samples.inputs.values()
    return x, samples.labels


def run_model(name: str, root: Path, scale: Scale, with_ours: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure one network; a JSON value with all its figures."""
    network, test = load_network(name, root), load_samples(name, "test", root)
    if scale.test is not None:
        test = test.shuffled(scale.test, SEED)
    given = calibration(name, scale.calibration, root, SEED)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        say(f"{name}: exporting fp32 and quantizing with ONNX Runtime")
        fp32 = _entrant("fp32", export_fp32(network, given.inputs, folder / "fp32.onnx"), test)
        started = time.perf_counter()
        settings = SETTINGS[name] if scale.all_settings else (SETTINGS[name][0], SETTINGS[name][-1])
        variants = quantize_all(fp32.path, given.inputs, folder, settings)
        seconds = {"peers": time.perf_counter() - started}
        peers = [_entrant(variant.setting.name, variant.path, test) for variant in variants if variant.path]
        started = time.perf_counter()
        ours = []
        if with_ours:
            say(f"{name}: compressing with gossamer")
            ours = [_entrant("ours", compress(network, given, test, folder / "ours"), test)]
            seconds["ours"] = time.perf_counter() - started
        say(f"{name}: ranking {len(peers)} peer variants")
        rank_speed([fp32, *peers, *ours], test, 1, scale.turns)
        best, fastest = strongest(peers), fastest_within(peers, fp32)
        finalists = [fp32, best, *([fastest] if fastest is not best else []), *ours]
        rank_speed(finalists, test, 32, max(2, scale.turns // 2))
        latency = compare_speed(finalists, test, scale, lambda pair: say(f"{name}: timing {pair}"))
        stated = find(name).accuracy["test"]
        return {
            "model": name,
            "test_samples": len(test),
            "calibration_samples": len(given),
            "stated_top1": stated,
            "baseline_reproduced": agrees(fp32.accuracy, stated) if scale.test is None else None,
            "seconds": seconds,
            "fp32": fp32.to_json(fp32),
            "peers": [peer.to_json(fp32) for peer in peers],
            "peers_failed": [variant.to_json() for variant in variants if not variant.path],
            "peer": best.name,
            "fastest_peer": fastest.name,
            "ours": [entrant.to_json(fp32) for entrant in ours],
            "ours_against_peer": [difference(entrant, best) for entrant in ours],
            "latency": latency,
        }


def _entrant(name: str, path: Path, test: Samples) -> Entrant:
    return Entrant(name, path, correctness(path, test))


def correctness(path: Path, samples: Samples, batch: int = 100) -> np.ndarray:
    """Which samples an ONNX file classifies rightly, shape (samples,)."""
    session = OrtSession(path)
    scores = [
        next(iter(session.run(samples.take(slice(start, start + batch)).inputs).values()))
        for start in range(0, len(samples), batch)
    ]
    session.close()
    right = METRICS["top1"].per_sample({"scores": np.concatenate(scores)}, samples.labels)
    assert right is not None
    return right


def difference(candidate: Entrant, reference: Entrant) -> dict[str, Any]:
    """Accuracy of the candidate minus that of the reference in points, with the paired 95 % interval."""
    lost = int(((reference.right == 1) & (candidate.right == 0)).sum())
    won = int(((reference.right == 0) & (candidate.right == 1)).sum())
    n = len(reference.right)
    low, high = drop_interval(lost, won, n, alpha=0.025)
    return {
        "to": reference.name,
        "points": 100 * (won - lost) / n,
        "interval": [-100 * high, -100 * low],
        "lost": lost,
        "won": won,
        "n": n,
    }


def rank_speed(entrants: Sequence[Entrant], samples: Samples, batch: int, turns: int) -> None:
    """Fill in ``quick_ms`` and ``fixed`` for a batch: a few calls of every file in turn, fixed and dynamic batch."""
    inputs = samples.take(slice(0, batch)).inputs
    calls = max(2, 20 // batch)
    keys = [(entrant, fixed) for entrant in entrants for fixed in (False, True)]
    sessions = [OrtSession(entrant.path, batch if fixed else None) for entrant, fixed in keys]
    times_ms: list[list[float]] = [[] for _ in keys]
    for turn in range(turns + 1):
        for session, times in zip(sessions, times_ms, strict=True):
            for _ in range(calls):
                start = time.perf_counter()
                session.run(inputs)
                if turn:  # the first turn warms up
                    times.append(1e3 * (time.perf_counter() - start))
    medians = [float(np.median(times)) for times in times_ms]
    for entrant, dynamic_ms, fixed_ms in zip(entrants, medians[::2], medians[1::2], strict=True):
        entrant.fixed[batch] = fixed_ms < dynamic_ms
        entrant.quick_ms[batch] = min(fixed_ms, dynamic_ms)


def strongest(peers: Sequence[Entrant]) -> Entrant:
    """The most accurate variant; of equals the fastest."""
    return min(peers, key=lambda peer: (-peer.right.sum(), peer.quick_ms[1]))


def fastest_within(peers: Sequence[Entrant], fp32: Entrant) -> Entrant:
    """The fastest variant that loses at most one point against fp32; the most accurate one if none does."""
    kept = [peer for peer in peers if fp32.right.mean() - peer.right.mean() <= DROP_LIMIT]
    return min(kept, key=lambda peer: peer.quick_ms[1], default=strongest(peers))


def compare_speed(
    finalists: Sequence[Entrant], test: Samples, scale: Scale, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Every finalist against fp32, and ours against every peer, at each batch. The A/A probe is run once a batch."""
    fp32, *others = finalists
    ours = [entrant for entrant in others if entrant.name == "ours"]
    peers = [entrant for entrant in others if entrant.name != "ours"]
    pairs = [(entrant, fp32) for entrant in others] + [(entrant, peer) for entrant in ours for peer in peers]
    results = []
    for batch in BATCHES:
        inputs = [test.take(slice(i * batch, (i + 1) * batch)).inputs for i in range(min(8, len(test) // batch))]
        resolution = None
        for candidate, reference in pairs:
            say(f"{candidate.name} against {reference.name}, batch {batch}")
            before = contention()
            comparison = compare_latency(
                partial(reference.open, batch),
                partial(candidate.open, batch),
                inputs,
                batch=batch,
                seed=SEED,
                resolution=resolution,
                **scale.timing,
            )
            resolution = comparison.resolution
            results.append(_speed_json(candidate, reference, batch, comparison, before.load))
    return results


def _speed_json(
    candidate: Entrant, reference: Entrant, batch: int, comparison: Comparison, load: float | None
) -> dict[str, Any]:
    return {
        "of": candidate.name,
        "to": reference.name,
        "batch": batch,
        "text": str(comparison),
        "load_before": load,
        "load_after": contention().load,
        **comparison.to_json(),
    }


def conditions(scale: Scale) -> dict[str, Any]:
    """Where, when and from which commit the figures come."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_files": len((_git("status", "--porcelain") or "").splitlines()),
        "machine": machine_fingerprint(),
        "threads": 1,
        "seed": SEED,
        "budget": BUDGET,
        "tiny": scale is TINY,
        "contention": contention().to_json(),
        "noise": noise_probe().to_json(),
    }


def _git(*arguments: str) -> str | None:
    """Output of a reading git command in this repository, or None outside of one."""
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def show(console: Console, result: Mapping[str, Any]) -> None:
    """Print one network's table: a line for each file that was timed."""
    table = Table(title=f"{result['model']}, {result['test_samples']} test samples", title_justify="left")
    for column in ("file", "top-1", "against fp32 [95 %]", "size", "int8 layers", "speed-up, batch 1", "batch 32"):
        table.add_column(column, justify="left" if column == "file" else "right")
    peers = {peer["name"]: peer for peer in result["peers"]}
    names = dict.fromkeys((result["peer"], result["fastest_peer"]))
    for entry in (result["fp32"], *(peers[name] for name in names), *result["ours"]):
        speed = {
            item["batch"]: item for item in result["latency"] if (item["of"], item["to"]) == (entry["name"], "fp32")
        }
        table.add_row(
            entry["name"],
            format_amount(entry["top1"], "%"),
            "" if entry is result["fp32"] else _points(entry["against_fp32"]),
            format_amount(entry["bytes"], "B"),
            f"{entry['layers'][1]['int8']} of {sum(entry['layers'][1].values())}",
            *(_speed(speed[batch]) if batch in speed else "" for batch in BATCHES),
        )
    console.print(table)
    for gain in result["ours_against_peer"]:
        console.print(f"ours against {gain['to']}: {_points(gain)}")
    for item in result["latency"]:
        if item["to"] != "fp32":
            console.print(f"ours against {item['to']}, batch {item['batch']}: {item['text']}", highlight=False)
    if result["baseline_reproduced"] is False:
        console.print(f"[bold red]the fp32 baseline is not the stated {result['stated_top1']} %[/]")


def _points(gain: Mapping[str, Any]) -> str:
    low, high = gain["interval"]
    return f"{gain['points']:+.2f} pt ({low:+.2f} to {high:+.2f})"


def _speed(item: Mapping[str, Any]) -> str:
    low, high = item["interval"]
    doubt = ", unstable" if item["doubts"] else ""
    return f"{item['speedup']:.2f}x ({low:.2f} to {high:.2f}) {item['word'].removesuffix(' difference')}{doubt}"


def main() -> int:
    """Run the comparison; the file is written after every network, so that an interrupted run keeps what it has."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_assets_option(parser)
    parser.add_argument("--models", default="resnet20,resnet56,vit,text", help="names separated by commas")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "ptq.json")
    parser.add_argument("--tiny", action="store_true", help="a few hundred samples and short legs: does it run at all?")
    parser.add_argument("--peers-only", action="store_true", help="leave gossamer out")
    options = parser.parse_args()
    names = options.models.split(",")
    unknown = [name for name in names if name not in SETTINGS]
    if unknown:
        parser.error(f"unknown model {unknown[0]!r}; expected some of {', '.join(SETTINGS)}")
    torch.set_num_threads(1)
    console = Console(width=max(170, Console().width))  # the tables are wider than a log file's assumed 80 columns
    scale = TINY if options.tiny else Scale()
    report: dict[str, Any] = {"conditions": conditions(scale), "models": []}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for name in names:
        say = partial(console.print, style="dim", highlight=False)
        report["models"].append(run_model(name, options.assets, scale, not options.peers_only, say))
        write_atomic(options.out, json.dumps(report, indent=1).encode())
        show(console, report["models"][-1])
    console.print(f"written to {options.out}")
    return 1 if any(result["baseline_reproduced"] is False for result in report["models"]) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(str(error))
