"""Files in the comparison: how right, how near to fp32 and how fast each one is on a runtime, and who is the peer.

Every file is opened by the plain sessions of ``sessions``, whoever made it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import sessions
from assets import Samples

from gossamer.metrics import METRICS
from gossamer.verification.paired import drop_interval

POINTS_LOST = 1.0
TEST_BATCH = 32
RANKING_S, FEWEST_TURNS = 60.0, 5


@dataclass
class Entrant:
    """One file on one runtime.

    Attributes:
        name: ``fp32``, ``bf16``, ``ours`` or a peer setting.
        path: the file.
        runtime: one of ``sessions.RUNTIMES``.
        right: 1 for every test sample it classifies rightly, else 0; shape (samples,).
        outputs: what it gives for the test samples, by name, each (samples, ...).
        precision: of what is not quantized; only OpenVINO has a choice.
        quick_ms: processor time of a call by batch, from a short round-robin over all files; only for ranking.
        fixed: by batch, whether the session is faster with that batch fixed at load; OpenVINO's is always fixed.
    """

    name: str
    path: Path
    runtime: str
    right: np.ndarray
    outputs: Mapping[str, np.ndarray]
    precision: str = "f32"
    quick_ms: dict[int, float] = field(default_factory=dict)
    fixed: dict[int, bool] = field(default_factory=dict)

    @property
    def accuracy(self) -> float:
        """Top-1 in percent."""
        return 100 * float(self.right.mean())

    def opening(self, batch: int) -> dict[str, Any]:
        """The arguments of ``sessions.prepare`` as JSON values, so that another process can open the same."""
        fixed = batch if self.fixed.get(batch, True) else None
        return {"path": str(self.path), "runtime": self.runtime, "batch": fixed, "precision": self.precision}

    def to_json(self, fp32: Entrant) -> dict[str, Any]:
        """Figures of this file alone, and its paired difference to fp32."""
        layers = {
            batch: sessions.executed_in_int8(self.path, self.runtime, batch if fixed else None)
            for batch, fixed in self.fixed.items()
        }
        return {
            "name": self.name,
            "top1": self.accuracy,
            "against_fp32": difference(self, fp32),
            "divergence": divergence(self, fp32),
            "bytes": sessions.bytes_on_disk(self.path),
            "layers": layers,
            "quick_ms": self.quick_ms,
            "fixed_batch": self.fixed,
        }


def examine(name: str, path: Path, runtime: str, test: Samples, precision: str = "f32") -> Entrant:
    """Run a file on all test samples."""
    outputs = _run(path, runtime, test, precision)
    return _entrant(name, path, runtime, test, precision, outputs)


def examine_once(name: str, path: Path, runtime: str, test: Samples) -> Entrant:
    """``examine`` that keeps the outputs beside the file and takes them from there the next time."""
    kept = path.with_name(f"{path.name}.{runtime}.npz")
    if not kept.exists():
        outputs = _run(path, runtime, test, "f32")
        np.savez(kept, **outputs)  # pyright: ignore[reportArgumentType]
    with np.load(kept) as stored:
        return _entrant(name, path, runtime, test, "f32", {key: stored[key] for key in stored.files})


def _run(path: Path, runtime: str, test: Samples, precision: str) -> dict[str, np.ndarray]:
    session = sessions.prepare(str(path), runtime, TEST_BATCH if runtime == "openvino" else None, precision)()
    parts = [session.run(inputs) for inputs in _batches(test)]
    session.close()
    return {name: np.concatenate([part[name] for part in parts])[: len(test)] for name in parts[0]}


def _entrant(
    name: str, path: Path, runtime: str, test: Samples, precision: str, outputs: dict[str, np.ndarray]
) -> Entrant:
    scores = next(iter(outputs.values()))
    right = METRICS["top1"].per_sample({"scores": scores}, test.labels)
    assert right is not None
    return Entrant(name, path, runtime, right, outputs, precision)


def _batches(test: Samples) -> Iterator[dict[str, np.ndarray]]:
    """Inputs in batches of one size; the last one begins again with the first samples."""
    for start in range(0, len(test), TEST_BATCH):
        yield test.take(np.arange(start, start + TEST_BATCH) % len(test)).inputs


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


def divergence(candidate: Entrant, reference: Entrant) -> float:
    """Distance of the outputs over the test samples, |candidate - reference| / |reference|; of several the largest.

    Outputs are paired by position: exporters name them as they like.
    """
    pairs = zip(candidate.outputs.values(), reference.outputs.values(), strict=True)
    return max(float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)) for ours, theirs in pairs)


def rank_speed(entrants: Sequence[Entrant], samples: Samples, batch: int, turns: int) -> None:
    """Fill in ``quick_ms`` and ``fixed`` for a batch: a few calls of every file in turn.

    ONNX Runtime's sessions are tried with the fixed and the dynamic batch. On one thread the processor time is the time
    of a call without what the machine did for others meanwhile. Slow files get fewer turns: a minute, five at least.
    """
    inputs = samples.take(slice(0, batch)).inputs
    calls = max(2, 20 // batch)
    keys = [(entrant, fixed) for entrant in entrants for fixed in _choices(entrant.runtime)]
    opened = [
        sessions.prepare(**{**entrant.opening(batch), "batch": batch if fixed else None})() for entrant, fixed in keys
    ]
    started = time.perf_counter()
    for session in opened:  # to warm up
        session.run(inputs)
    affordable = int(RANKING_S / (time.perf_counter() - started))
    calls = min(max(affordable // turns, 1), calls)
    times_ms: list[list[float]] = [[] for _ in keys]
    for _ in range(min(max(affordable, FEWEST_TURNS), turns)):
        for session, times in zip(opened, times_ms, strict=True):
            for _ in range(calls):
                start = time.process_time()
                session.run(inputs)
                times.append(1e3 * (time.process_time() - start))
    for session in opened:
        session.close()
    for entrant in entrants:
        entrant.quick_ms.pop(batch, None)
    for (entrant, fixed), times in zip(keys, times_ms, strict=True):
        median = float(np.median(times))
        if median < entrant.quick_ms.get(batch, np.inf):
            entrant.quick_ms[batch], entrant.fixed[batch] = median, fixed


def _choices(runtime: str) -> tuple[bool, ...]:
    return (False, True) if runtime == "onnxruntime" else (True,)


def strongest(peers: Sequence[Entrant], fp32: Entrant) -> Entrant:
    """The most accurate variant; of equals the nearest to fp32."""
    return min(peers, key=lambda peer: (-peer.right.sum(), divergence(peer, fp32)))


def fastest_peer(peers: Sequence[Entrant], fp32: Entrant, test: Samples, batch: int, turns: int) -> Entrant:
    """The fastest of the variants that lose at most one point: the four best of a short ranking are ranked again."""
    kept = [peer for peer in peers if fp32.accuracy - peer.accuracy <= POINTS_LOST] or [strongest(peers, fp32)]
    rank_speed(kept, test, batch, turns)
    leading = sorted(kept, key=lambda peer: peer.quick_ms[batch])[:4]
    rank_speed(leading, test, batch, 4 * turns)
    return min(leading, key=lambda peer: peer.quick_ms[batch])
