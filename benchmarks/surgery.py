"""Coverage of structured pruning on architectures with random weights, beside Torch-Pruning.

Run: ``python benchmarks/surgery.py [--models own-resnet20,...] [--no-peer] [--peer-env DIR] [--tiny]``.

Each architecture of the zoo is captured, its coupled dims are found and each cut is proven. Then one half of every free
group is cut at random, all at once; multiply-accumulates are counted before and after, and the result is lowered and
compared in ONNX Runtime with its own reference. Nothing is told about any model. An architecture is covered when it is
captured, at least 80 % of its weights can be cut, at most 60 % of the multiply-accumulates stay, every cut is proven,
and the result runs. Weights are the trained matrices and kernels of convolutions, linear and recurrent layers,
embeddings and products with a stored factor; an entry can be cut if a free group holds its place on at least one axis.

Torch-Pruning prunes the same modules to one half; it is told the output layers, which one rule finds for all.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import peers_torch_pruning as peer
import torch
from record import conditions
from rich.console import Console
from rich.table import Table
from zoo import ZOO

from gossamer.analysis.counts import count
from gossamer.analysis.coupling import Coupling
from gossamer.analysis.overview import weights_of
from gossamer.analysis.proof import Proof, proven
from gossamer.core.errors import GossamerError, UserError
from gossamer.core.files import write_atomic
from gossamer.core.names import require_known
from gossamer.core.target import Target
from gossamer.frontends.torch_module import capture
from gossamer.program import Interpreter, Program
from gossamer.runtimes import lower_for, open_executable, resolve_target
from gossamer.verification.policies import FP32

ARCHITECTURES = 60
FREE = 0.8
MACS = 0.6
COVERED = 0.95
SEED = 0
TINY = ("own-resnet20", "own-shufflenet", "own-packed-vit", "own-lstm", "bert", "llama-gqa")
LIBRARIES = ("numpy", "onnx", "onnxruntime", "torch", "transformers")


def examine(name: str, target: Target) -> dict[str, Any]:
    """What becomes of one architecture; a JSON value. ``misses`` says why it is not covered, empty if it is."""
    started = time.perf_counter()
    result: dict[str, Any] = {"model": name, "family": ZOO[name].family, "stage": "build", "misses": []}
    try:
        model, inputs = ZOO[name].build()
        result["stage"] = "capture"
        program = capture(model, inputs, dynamic=ZOO[name].dynamic, name=name)
        result |= {
            "stage": "couple",
            "nodes": len(program.call_nodes),
            "seconds_capture": time.perf_counter() - started,
        }
        coupling, proof = proven(program, seed=SEED)
        result |= {"stage": "cut", **coverage(coupling), **evidence(proof)}
        small = halved(coupling)
        before, after = count(program), count(small)
        result |= {
            "stage": "run", "macs": before.total, "macs_after": after.total, "macs_kept": after.total / before.total,
            "parameters": before.parameters, "parameters_after": after.parameters,
        }  # fmt: skip
        result["deviation_of_runtime"] = difference(small, inputs, target)
        result["stage"] = "done"
    except GossamerError as error:
        result["misses"].append(f"{result['stage']}: {' '.join(str(error).split())}"[:400])
    except Exception as error:  # noqa: BLE001 - a crash of ours is a finding, too, and the others are still to be seen
        line = (str(error).strip().splitlines() or [""])[0]
        result["misses"].append(f"{result['stage']}: {type(error).__name__}: {line}"[:400])
    result["misses"] += misses_of(result)
    return {**result, "seconds": time.perf_counter() - started}


def misses_of(result: Mapping[str, Any]) -> list[str]:
    """The limits that an architecture does not keep."""
    misses = []
    frozen = "; ".join(f"{reason} ({entries:,} entries)" for reason, entries in result.get("frozen", [])[:2])
    if result.get("free", 1.0) < FREE:
        misses.append(f"{result['free']:.0%} of the weights free, frozen: {frozen}")
    if result.get("macs_kept", 0.0) > MACS:
        misses.append(f"{result['macs_kept']:.0%} of the MACs stay, frozen: {frozen or 'nothing'}")
    if refuted := result.get("refuted"):
        group, reason = next(iter(refuted.items()))
        misses.append(f"{len(refuted)} of {result['proofs']} cuts refuted, first {group}: {reason}")
    if result.get("deviation_of_runtime", 0.0) > FP32.scaled_max:
        misses.append(f"ONNX Runtime differs from the reference by {result['deviation_of_runtime']:.1e} of the largest")
    return misses


def coverage(coupling: Coupling) -> dict[str, Any]:
    """Share of the weights' entries that can be cut, and how many others each reason for freezing holds."""
    total = free = 0
    reasons: Counter[str] = Counter()
    members: dict[str, list[tuple[Any, Any]]] = {}
    for group in coupling.groups:
        for member in group.members:
            members.setdefault(member.tensor, []).append((group, member))
    for name in weights_of(coupling.program):
        shape = tuple(coupling.program.tensors[name].shape)
        masks = [np.zeros(size, bool) for size in shape]
        for group, member in members.get(name, ()):
            if not group.frozen and group.size > 1:
                masks[member.axis] |= member.index >= 0
        stuck = math.prod(int((~mask).sum()) for mask in masks)
        total, free = total + math.prod(shape), free + math.prod(shape) - stuck
        if stuck:
            why = sorted({group.frozen for group, _ in members.get(name, ()) if group.frozen})
            reasons[" and ".join(why) or "in no group"] += stuck
    return {
        "weights": total,
        "free": free / max(total, 1),
        "groups": len(coupling.groups),
        "groups_free": len(coupling.free),
        "kinds": dict(Counter(group.kind for group in coupling.free)),
        "unknown": list(coupling.unknown),
        "frozen": [[reason, entries] for reason, entries in reasons.most_common()],
    }


def evidence(proof: Proof) -> dict[str, Any]:
    """The figures of a proof."""
    together = proof.together
    refuted = dict(proof.refuted)
    if together is not None and together.refuted:
        refuted[together.group] = together.refuted
    return {
        "proofs": len(proof.entries),
        "proofs_run": sum(not entry.shared_with for entry in proof.entries),
        "renormalising": sum(entry.renormalising for entry in proof.entries),
        "deviation": proof.deviation,
        "deviation_fp32": max((entry.deviation_fp32 for entry in proof.entries), default=0.0),
        "refuted": refuted,
    }


def halved(coupling: Coupling) -> Program:
    """The program with a random half of every free group, the larger half where the size is odd."""
    random = np.random.default_rng(SEED)
    keep = {
        group.name: sorted(random.choice(group.size, group.size - group.size // 2, replace=False).tolist())
        for group in coupling.free
        if group.size > 1
    }
    return coupling.cut(keep)


def difference(program: Program, inputs: Mapping[str, torch.Tensor], target: Target) -> float:
    """Largest difference of any output between the runtime and the reference, by the output's largest value."""
    arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(lower_for(target, program).model)
        executable = open_executable(path, program.signature, target)
        got = executable.run(arrays)
        executable.close()
    expected = Interpreter(program).run(arrays)
    return max(float(np.abs(got[k] - expected[k]).max() / max(np.abs(expected[k]).max(), 1e-9)) for k in expected)


def table_of(results: Sequence[Mapping[str, Any]], peers: Mapping[str, Mapping[str, Any]]) -> Table:
    """A row for each architecture, the peer's beside ours."""
    table = Table("model", "family", "free", "MACs", "groups", "proven", "runs", "covered", "peer MACs", "peer")
    for result in results:
        other = peers.get(result["model"], {})
        proven_all = (
            "-" if "proofs" not in result else f"{result['proofs'] - len(result['refuted'])}/{result['proofs']}"
        )
        table.add_row(
            result["model"],
            result["family"],
            _percent(result.get("free")),
            _percent(result.get("macs_kept")),
            f"{result['groups_free']}/{result['groups']}" if "groups" in result else "-",
            proven_all,
            "yes" if result["stage"] == "done" else f"no: {result['stage']}",
            "no" if result["misses"] else "yes",
            _percent(_kept(other)),
            ("yes" if _covers(other) else "no: " + (other["failure"] or "too many MACs stay")[:60]) if other else "-",
        )
    return table


def summary_of(
    results: Sequence[Mapping[str, Any]], peers: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """The totals beside their limits."""
    captured = [result for result in results if result["stage"] not in ("build", "capture")]
    covered = [result for result in captured if not result["misses"]]
    share = len(covered) / max(len(captured), 1)
    summary = {
        "architectures": {"value": len(results), "at least": ARCHITECTURES, "holds": len(results) >= ARCHITECTURES},
        "captured": {"value": len(captured)},
        "covered": {"value": len(covered)},
        "covered of those captured": {"value": round(share, 4), "at least": COVERED, "holds": share >= COVERED},
    }
    if peers:
        summary |= {
            "peer: graph built": {"value": sum(one["stage"] not in ("build", "graph") for one in peers.values())},
            "peer: runs after the cut": {"value": sum(one["stage"] in ("shape", "done") for one in peers.values())},
            "peer: runs, shape right, 60 % of MACs": {"value": sum(map(_covers, peers.values()))},
        }
    return summary


def _kept(other: Mapping[str, Any]) -> float | None:
    return other["macs_after"] / other["macs"] if other.get("macs_after") is not None else None


def _covers(other: Mapping[str, Any]) -> bool:
    kept = _kept(other)
    return other["stage"] == "done" and not other["failure"] and kept is not None and kept <= MACS


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"


def _kept_rows(
    out: Path, names: Sequence[str], *, with_peer: bool
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Rows of an earlier run that this one does not make again: a long list can be run in parts."""
    if not out.exists():
        return {}, {}
    report = json.loads(out.read_text(encoding="utf-8"))
    ours = {row["model"]: row for row in report["results"] if row["model"] in ZOO and row["model"] not in names}
    others = (row for row in report["peer"] if row["model"] in ZOO)
    return ours, {row["model"]: row for row in others if not with_peer or row["model"] not in names}


def _ordered(rows: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows in the order of the zoo."""
    return [rows[name] for name in ZOO if name in rows]


def main() -> int:
    """Examine all, then the peer; exit code 1 if a limit is not kept. The file is written after every row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", help="names separated by commas; all by default")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "surgery.json")
    parser.add_argument("--no-peer", action="store_true", help="leave Torch-Pruning out")
    parser.add_argument("--peer-env", type=Path, default=peer.DEFAULT_ENVIRONMENT, help="where its environment is made")
    parser.add_argument("--tiny", action="store_true", help="six architectures: does it run at all?")
    options = parser.parse_args()
    names = options.models.split(",") if options.models else list(TINY if options.tiny else ZOO)
    for name in names:
        require_known(name, ZOO, "architecture", "reading --models")
    torch.set_num_threads(1)
    console = Console(width=max(190, Console().width))
    say = partial(console.print, style="dim", highlight=False)
    target = resolve_target("onnxruntime:cpu,threads=1")
    rows, peers = _kept_rows(options.out, names, with_peer=not options.no_peer)

    def save(row: dict[str, Any], into: dict[str, dict[str, Any]]) -> None:
        into[row["model"]] = row
        report = {"conditions": state, "limits": {"free": FREE, "macs_kept": MACS}}
        report |= {"summary": summary_of(_ordered(rows), peers), "results": _ordered(rows), "peer": _ordered(peers)}
        write_atomic(options.out, (json.dumps(report, indent=1) + "\n").encode())

    state = conditions(LIBRARIES, threads=1, seed=SEED, tiny=options.tiny, peer=f"torch-pruning {peer.VERSION}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for name in names:
        save(examine(name, target), rows)
        say(f"{name}: {'; '.join(rows[name]['misses']) or 'covered'} ({rows[name]['seconds']:.1f} s)")
    if not options.no_peer:

        def show(row: dict[str, Any]) -> None:
            save(row, peers)
            say(f"peer: {row['model']}: {row['failure'] or row['stage']}")

        peer.run_peer(names, options.peer_env, show)
    results = _ordered(rows)
    summary = summary_of(results, peers)
    console.print(table_of(results, peers))
    for result in results:
        for miss in result["misses"]:
            console.print(f"{result['model']}: {miss}", highlight=False, style="dim")
    for what, entry in summary.items():
        limit = (
            f" (at least {entry['at least']}: {'holds' if entry['holds'] else 'MISSED'})" if "at least" in entry else ""
        )
        console.print(f"{what}: {entry['value']}{limit}", highlight=False)
    console.print(f"written to {options.out}")
    enough = [entry["holds"] for what, entry in summary.items() if "holds" in entry and what != "architectures"]
    return 0 if all(enough) and (summary["architectures"]["holds"] or bool(options.models) or options.tiny) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(str(error))
