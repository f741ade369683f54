"""A measured process: one subject, opened and timed on command.

    python -m gossamer.metrics.worker

Commands come as lines of JSON on standard input, answers go to standard output: a line of JSON, and after it as many
bytes of float64 milliseconds as it says under ``bytes``. It ends with its input, after an error, or with its parent.
What the model itself prints goes to standard error. Only NumPy is imported before the subject's own opener.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from gossamer.core.errors import GossamerError
from gossamer.metrics.contestant import LocalContestant
from gossamer.metrics.cores import pin
from gossamer.metrics.counters import peak_rss_bytes
from gossamer.metrics.subject import Subject, read_inputs

_PR_SET_PDEATHSIG = 1

Answer = tuple[dict[str, Any], np.ndarray]


class Worker:
    """The subject of this process, and what can be asked of it."""

    def __init__(self) -> None:
        self._contestant: LocalContestant | None = None

    def answer(self, request: Mapping[str, Any]) -> Answer:
        """Do what a request says under ``do``: facts, and times in ms."""
        if request["do"] == "open":
            return self._open(Subject.from_json(request["subject"]), tuple(request["cores"]))
        contestant = self._contestant
        assert contestant is not None, "open comes first"
        if request["do"] == "warm_up":
            call_ms = contestant.warm_up(request["limit_ms"])
            return {"call_ms": call_ms, "facts": contestant.facts}, np.empty(0)
        if request["do"] == "leg":
            leg = contestant.leg(request["calls"])
            return {"switches": leg.switches, "peak_rss_bytes": peak_rss_bytes()}, leg.calls_ms
        served = contestant.serve(np.array(request["arrivals_ms"]))
        return {}, np.concatenate([served.starts_ms, served.ends_ms])

    def _open(self, subject: Subject, cores: tuple[int, ...]) -> Answer:
        pinned = pin(cores)  # first, since a runtime looks at its cores when it is imported or opened
        contestant = LocalContestant(subject.prepare(), read_inputs(subject.inputs))
        base = peak_rss_bytes()
        start = time.perf_counter()
        contestant.open()
        load_ms = (time.perf_counter() - start) * 1e3
        contestant.facts["cores"] = list(pinned)
        self._contestant = contestant
        return {"load_ms": load_ms, "base_rss_bytes": base, "facts": contestant.facts}, np.empty(0)


def main() -> int:
    """Answer until the input ends; the exit status."""
    commands, answers = _take_pipes()
    _end_with_parent()
    worker = Worker()
    _send(answers, {"ready": os.getpid()})
    for line in commands:
        try:
            facts, times = worker.answer(json.loads(line))
        except Exception as error:  # noqa: BLE001 - whatever the model raises is for the parent to report
            _send(answers, {"error": _described(error)})
            return 1
        _send(answers, facts, times)
    return 0


def _take_pipes() -> tuple[IO[str], IO[bytes]]:
    """Standard input and output for the protocol alone; what anybody prints goes to standard error."""
    commands, answers = os.fdopen(os.dup(0), "r", encoding="utf-8"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return commands, answers


def _end_with_parent() -> None:
    """Be killed when the parent ends, even in the middle of a leg. Elsewhere than on Linux: with the input."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the request was heard
            os._exit(1)


def _send(answers: IO[bytes], facts: Mapping[str, Any], times: np.ndarray | None = None) -> None:
    payload = b"" if times is None else times.astype("<f8").tobytes()
    answers.write(json.dumps({**facts, "bytes": len(payload)}).encode() + b"\n" + payload)
    answers.flush()


def _described(error: Exception) -> dict[str, str]:
    """What the parent needs to raise the same error."""
    if isinstance(error, GossamerError):
        described = {"doing": error.doing, "got": error.got, "expected": error.expected, "try_": error.try_}
        return {"type": type(error).__name__, **described}
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return {"type": "ModelError", "got": f"{type(error).__name__}: {error}{where}"}


if __name__ == "__main__":
    os._exit(main())  # without the clean-up of libraries, which takes longer than a small model's measurement
