"""An int8 file on processors without integer dot products: what it answers, what the audit says, what repair costs.

Run: ``python benchmarks/cross_cpu.py [--assets DIR] [--models proxyless,resnet20,...] [--runtime openvino] [--tiny]``.

Each network is quantized, audited (emulated sums, on samples set apart) and repaired; then the files run in processes
that take this processor for an older one, so on the very kernels that the runtime ships for those, on up to 2,000 test
samples that the audit did not see. Accuracy is compared with the newest kernels on the same samples (paired score
interval). Latency of the files is interleaved in one process on one thread, one sample a call. ``planted`` is a network
made to saturate.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from assets import Samples, add_assets_option, calibration_and_test, load_network
from record import conditions
from rich.console import Console
from rich.table import Table

from gossamer import flow
from gossamer.core.errors import UserError
from gossamer.core.files import write_atomic
from gossamer.core.isa import host_profile
from gossamer.core.specs import Signature
from gossamer.core.target import Target
from gossamer.datasets import samples as data
from gossamer.demo import load_digits
from gossamer.metrics import METRICS
from gossamer.metrics.conditions import contention
from gossamer.program import Program
from gossamer.program.interpreter import Interpreter
from gossamer.runtimes import lower_for, open_deployed, resolve_target
from gossamer.search.audit import Question, audit, repair
from gossamer.search.emulation import Emulation, kernel_layers
from gossamer.search.task import predict
from gossamer.techniques.quantize.int8 import Int8
from gossamer.testing.older_cpu import older_cpu, why_not
from gossamer.testing.saturating import averaging_network
from gossamer.verification.paired import drop_interval

NETWORKS = ("proxyless", "resnet20", "resnet56", "cnn", "vit", "text", "keywords", "planted")
OLDER = ("avx2", "avx512")
TOP1 = Question(METRICS["top1"], "drop <= 1pt")
SEED = 0
COMPARED = 128
"""Samples on which emulated outputs are compared with those of real kernels."""


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
        calibration: samples for the ranges.
        audit: samples for the audit and for choosing the repair.
        test: other samples, for the accuracies.
        rounds: of the timing.
    """

    calibration: int = 256
    audit: int = 500
    test: int = 2000
    rounds: int = 20


TINY = Scale(64, 100, 200, 2)


def load(name: str, root: Path, scale: Scale) -> tuple[Program, Samples, Samples, Samples]:
    """The program, and samples for calibration, audit and test, which have none in common."""
    if name == "planted":
        images, labels = load_digits()
        every = Samples({"x": np.ascontiguousarray(images[:, :, ::2, ::2])}, labels)
        given, rest = every.take(slice(0, 900)), every.take(slice(900, None))
        network = averaging_network(given.inputs["x"], given.labels)
    else:
        network = load_network(name, root)
        given, rest = calibration_and_test(name, scale.calibration, root, SEED)
    rest = rest.shuffled(scale.audit + scale.test, SEED)
    count = min(scale.audit, len(rest) // 3)
    example = {key: torch.from_numpy(array[:2]) for key, array in given.inputs.items()}
    program = flow.capture(network, example)
    return program, given, rest.take(slice(0, count)), rest.take(slice(count, None))


def run_network(name: str, root: Path, runtime: str, scale: Scale) -> dict[str, Any]:
    """Everything about one network, as a JSON value."""
    started = time.process_time()
    target = resolve_target(f"{runtime}:cpu,threads=1,batch=1")
    program, given, chosen, test = load(name, root, scale)
    technique = Int8()
    ranges = technique.calibrate(program, given.inputs, target)
    plain = technique.quantize(ranges)
    samples = data.Samples(chosen.inputs, chosen.labels, f"{name}, for the audit")
    found = audit(plain, samples, target, (*OLDER, "vnni"), TOP1, scale.audit)
    programs, report = {"int8": plain}, {"audit": found.to_json()}
    if found.hazards:
        fixed = repair(technique, ranges, found, samples, target, TOP1, scale.audit)
        programs["repaired"] = fixed.program  # gossamer's own choice; the others are applied to all layers
        report["repair"] = {"technique": str(fixed.technique), "audit": fixed.audit.to_json()}
    programs["safe pairs"] = Int8(safe_pairs=("*",)).quantize(ranges)
    programs["7-bit weights"] = Int8(narrow=("*",)).quantize(ranges)
    programs["7-bit inputs"] = Int8(narrow_activations=("*",)).quantize(ranges)
    report["seconds"] = time.process_time() - started
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_job(folder, programs, target, test, chosen, scale)
        runs = {profile: run_as(profile, folder) for profile in (host_profile(), *(OLDER if not why_not() else ()))}
    here = runs[host_profile()]
    report["files"] = {
        file: {profile: figures(run, here, file, test) for profile, run in runs.items()} for file in here.right(test)
    }
    report["latency"] = {profile: ratios(run.times) for profile, run in runs.items()}
    report["emulator"] = {profile: fidelity(plain, target, chosen, profile, runs[profile], here) for profile in runs}
    return {"model": name, "runtime": runtime, "audit_samples": len(chosen), "test_samples": len(test), **report}


def write_job(
    folder: Path, programs: Mapping[str, Program], target: Target, test: Samples, chosen: Samples, scale: Scale
) -> None:
    """What a process needs to run all files: models, signature, inputs."""
    for file, program in programs.items():
        (folder / f"{file}.onnx").write_bytes(lower_for(target, program).model)
    signature = next(iter(programs.values())).signature
    names = [spec.name for spec in signature.inputs]
    for part, samples in (("test", test), ("chosen", chosen.take(slice(0, COMPARED)))):
        np.savez(folder / f"{part}.npz", **dict(zip(names, samples.inputs.values(), strict=True)))
    job = {"files": list(programs), "signature": signature.to_json(), "target": str(target), "rounds": scale.rounds}
    (folder / "job.json").write_text(json.dumps(job))


@dataclass(frozen=True)
class Run:
    """What a process found.

    Attributes:
        outputs: first output by file and part of the samples.
        times: milliseconds of a call with one sample, by file, one for each round.
    """

    outputs: dict[tuple[str, str], np.ndarray]
    times: dict[str, list[float]]

    def right(self, test: Samples) -> dict[str, np.ndarray]:
        """By file, 1 for every test sample that it classifies rightly."""
        score = METRICS["top1"].per_sample
        found = {file: score({"y": y}, test.labels) for (file, part), y in self.outputs.items() if part == "test"}
        return {file: right for file, right in found.items() if right is not None}


def run_as(profile: str, folder: Path) -> Run:
    """Run the job in a process that takes this processor for an older one."""
    hidden = {} if profile == host_profile() else older_cpu(profile, folder)
    command = [sys.executable, __file__, "--job", str(folder)]
    subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"} | hidden, check=True)
    with np.load(folder / "outputs.npz") as stored:
        outputs = {tuple(key.split("|")): stored[key] for key in stored.files}
    return Run(outputs, json.loads((folder / "times.json").read_text()))


def do_job(folder: Path) -> None:
    """In the process: all files on all samples, then their latency in turn."""
    job = json.loads((folder / "job.json").read_text())
    signature, target = Signature.from_json(job["signature"]), job["target"]
    files = {name: open_deployed(folder / f"{name}.onnx", signature, target).run for name in job["files"]}
    if target.startswith("onnxruntime"):
        files["int8, unsigned kernels"] = unsigned_kernels(folder / "int8.onnx")
    outputs = {}
    for part in ("chosen", "test"):
        with np.load(folder / f"{part}.npz") as stored:
            inputs = dict(stored)
        size = len(next(iter(inputs.values())))
        for name, call in files.items():
            rows = [
                next(iter(call({key: array[i : i + 50] for key, array in inputs.items()}).values()))
                for i in range(0, size, 50)
            ]
            outputs[f"{name}|{part}"] = np.concatenate(rows)
    np.savez(folder / "outputs.npz", **outputs)
    one = [{key: array[i : i + 1] for key, array in inputs.items()} for i in range(8)]
    times: dict[str, list[float]] = {name: [] for name in files}
    for turn in range(-2, job["rounds"]):
        for name in list(files)[:: 1 if turn % 2 else -1]:
            taken = []
            for index in range(16):
                start = time.perf_counter()
                files[name](one[index % len(one)])
                taken.append(1e3 * (time.perf_counter() - start))
            if turn >= 0:  # the first two warm up
                times[name].append(float(np.median(taken)))
    (folder / "times.json").write_text(json.dumps(times))


def unsigned_kernels(path: Path) -> Any:
    """The file in a session that takes the slower unsigned kernels where there are no integer dot products."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda inputs: {"y": session.run(None, inputs)[0]}


def figures(run: Run, here: Run, file: str, test: Samples) -> dict[str, Any]:
    """Accuracy of a file, and its paired difference to the plain int8 file on the newest kernels."""
    right, reference = run.right(test)[file], here.right(test)["int8"]
    lost, won = int(((reference == 1) & (right == 0)).sum()), int(((reference == 0) & (right == 1)).sum())
    low, high = drop_interval(lost, won, len(right), alpha=0.025)
    difference = {"points": 100 * (won - lost) / len(right), "interval": [-100 * high, -100 * low]}
    return {"top1": 100 * float(right.mean()), **difference, "lost": lost, "won": won}


def ratios(times: Mapping[str, Sequence[float]]) -> dict[str, dict[str, Any]]:
    """Median time of each file, and its ratio to plain int8 with the 95 % interval over rounds (normal)."""
    found = {}
    for name, values in times.items():
        logs = np.log(np.array(values) / np.array(times["int8"]))
        reach = 1.96 * float(logs.std(ddof=1)) / len(logs) ** 0.5
        interval = [float(np.exp(logs.mean() + sign * reach)) for sign in (-1, 1)]
        found[name] = {"median_ms": float(np.median(values)), "ratio": float(np.exp(logs.mean())), "interval": interval}
    return found


def fidelity(program: Program, target: Target, chosen: Samples, profile: str, run: Run, here: Run) -> dict[str, float]:
    """How near emulated outputs are to those of real kernels, beside how near the interpreter is to the newest ones.

    What is left is the rounding of requantized values, which is not about sums of products.
    """
    names = [spec.name for spec in program.signature.inputs]
    inputs = dict(zip(names, chosen.take(slice(0, COMPARED)).inputs.values(), strict=True))
    samples = data.Samples(inputs, None, "compared")
    emulation = Emulation(program, kernel_layers(program, target.runtime, profile))
    emulated, exact = (next(iter(predict(one, samples).values())) for one in (emulation.runnable, Interpreter(program)))
    real, newest = run.outputs["int8", "chosen"], here.outputs["int8", "chosen"]
    size = float(np.linalg.norm(newest))
    return {
        "emulated_to_real": float(np.linalg.norm(emulated - real)) / size,
        "interpreter_to_newest": float(np.linalg.norm(exact - newest)) / size,
        "real_to_newest": float(np.linalg.norm(real - newest)) / size,
        "same_decisions": float((emulated.argmax(-1) == real.argmax(-1)).mean()),
    }


def show(console: Console, result: Mapping[str, Any]) -> None:
    """Print one network's table: a line for each file and class of processors."""
    found = {entry["profile"]: entry for entry in result["audit"]["profiles"]}
    older = found["avx2"]
    most = max((layer["saturated"] for layer in older["layers"]), default=0)
    title = (
        f"{result['model']}, {result['runtime']}, {result['test_samples']} test samples. Audit on "
        f"{result['audit_samples']} others: avx2 {older['status']}, {len(older['layers'])} of {older['layer_count']} "
        f"layers at risk, saturated up to {most:.1e}; repair: {result.get('repair', {}).get('technique', 'none')}"
    )
    table = Table(title=title, title_justify="left")
    for column in ("file", "kernels", "top-1", "against int8 on vnni [95 %]", "time against int8 [95 %]"):
        table.add_column(column, justify="left" if column in ("file", "kernels") else "right")
    for file, profiles in result["files"].items():
        for profile, entry in profiles.items():
            speed = result["latency"][profile][file]
            low, high = entry["interval"]
            table.add_row(
                file,
                profile,
                f"{entry['top1']:.2f} %",
                f"{entry['points']:+.2f} pt ({low:+.2f} to {high:+.2f})",
                "{:.2f}x ({:.2f} to {:.2f})".format(speed["ratio"], *speed["interval"]),
            )
    console.print(table)
    for profile, entry in result["emulator"].items():
        text = (
            "emulated to real outputs {emulated_to_real:.1e} (the interpreter's to the newest kernels' "
            "{interpreter_to_newest:.1e}; real to newest {real_to_newest:.1e}), {same_decisions:.1%} same decisions"
        )
        console.print(f"{profile}: {text.format(**entry)}", highlight=False)


def main() -> int:
    """Measure all networks, or those named; the file is written after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_assets_option(parser)
    parser.add_argument("--models", default=",".join(NETWORKS), help="names separated by commas (default: all)")
    parser.add_argument("--runtime", default="onnxruntime", choices=("onnxruntime", "openvino"))
    parser.add_argument(
        "--out", type=Path, help="default: results/cross_cpu.json, for OpenVINO cross_cpu_openvino.json"
    )
    parser.add_argument("--tiny", action="store_true", help="few samples: does it run at all?")
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job is not None:
        do_job(options.job)
        return 0
    torch.set_num_threads(1)
    scale = TINY if options.tiny else Scale()
    suffix = "" if options.runtime == "onnxruntime" else f"_{options.runtime}"
    out = options.out or Path(__file__).parent / "results" / f"cross_cpu{suffix}.json"
    console = Console(width=max(150, Console().width))
    report: dict[str, Any] = {
        "conditions": conditions(
            ("numpy", "onnxruntime", "openvino", "torch"),
            profile=host_profile(),
            older_kernels=why_not() or "run with newer instruction sets hidden",
            threads=1,
            seed=SEED,
            scale=vars(scale),
            claim=TOP1.claim,
            contention=contention().to_json(),
        ),
        "models": [],
    }
    for name in options.models.split(","):
        report["models"].append(run_network(name, options.assets, options.runtime, scale))
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(out, json.dumps(report, indent=1).encode())
        show(console, report["models"][-1])
    console.print(f"written to {out}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(str(error))
