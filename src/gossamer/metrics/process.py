"""Measured processes from the coordinator's side: start, ask, end; and what only a fresh one can tell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import numpy as np

from gossamer.core import errors
from gossamer.core.digest import digest_json
from gossamer.core.errors import GossamerError, InternalError, ModelError, OptionError
from gossamer.core.measurement import Measurement
from gossamer.core.progress import Progress
from gossamer.metrics.contestant import Leg, Served
from gossamer.metrics.cores import Cores, choose_cores, stay_off
from gossamer.metrics.lock import measuring_alone
from gossamer.metrics.subject import Subject

ANSWER_S = 300.0
"""A measured process that has not answered after this long is killed."""

_END_S = 2.0
_THREAD_COUNTS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@final
class WorkerProcess:
    """A ``Contestant`` in a fresh process and session of its own, pinned; waits on a pipe while it is not asked.

    The process starts at once; ``open`` waits for it. It ends with this object's ``close`` or with this process.

    Args:
        subject: what it opens.
        cores: to pin it to.
        answer_s: it is killed when an answer takes longer.

    Raises:
        ModelError: it failed, ended or took too long. An error of gossamer in it is raised here as what it was there.
    """

    def __init__(self, subject: Subject, cores: Sequence[int] = (), *, answer_s: float = ANSWER_S) -> None:
        self._subject, self._cores, self._answer_s = subject, list(cores), answer_s
        self.facts: dict[str, Any] = {}
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        self._late = False
        threads = dict.fromkeys(_THREAD_COUNTS, str(subject.threads))
        # The same packages as here, and (-P) not whatever lies in the current folder.
        path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "gossamer.metrics.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={**os.environ, **threads, "PYTHONPATH": path},
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    def open(self) -> None:
        """Load the model there; ``facts`` then say how long it took and on which cores it runs."""
        self._read()  # it has started
        answer, _ = self._ask({"do": "open", "subject": self._subject.to_json(), "cores": self._cores})
        self.facts = {**answer.pop("facts"), **answer}

    def warm_up(self, limit_ms: float) -> float:
        """As ``Contestant.warm_up``."""
        answer, _ = self._ask({"do": "warm_up", "limit_ms": limit_ms})
        self.facts |= answer["facts"]
        return answer["call_ms"]

    def leg(self, calls: int) -> Leg:
        """As ``Contestant.leg``; ``facts`` then has the high-water mark of its memory."""
        answer, times = self._ask({"do": "leg", "calls": calls})
        self.facts["peak_rss_bytes"] = answer["peak_rss_bytes"]
        return Leg(times, answer["switches"])

    def serve(self, arrivals_ms: np.ndarray) -> Served:
        """As ``Contestant.serve``."""
        patience_s = self._answer_s + float(arrivals_ms[-1]) / 1e3
        _, times = self._ask({"do": "serve", "arrivals_ms": arrivals_ms.tolist()}, patience_s)
        starts, ends = np.split(times, 2)
        return Served(arrivals_ms, starts, ends)

    def close(self) -> None:
        """End the process: kindly if it listens, else not."""
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                pipe.close()  # pyright: ignore[reportOptionalMemberAccess] - both are pipes
            except BrokenPipeError:
                continue
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stderr.close()

    def _ask(self, request: Mapping[str, Any], patience_s: float | None = None) -> tuple[dict[str, Any], np.ndarray]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended; what it said before tells why
        return self._read(patience_s)

    def _read(self, patience_s: float | None = None) -> tuple[dict[str, Any], np.ndarray]:
        """The next answer; pipes cannot be read with a limit everywhere, so a timer kills a process that is late."""
        assert self._process.stdout is not None
        timer = threading.Timer(patience_s or self._answer_s, self._give_up)
        timer.start()
        line = b""
        try:
            line = self._process.stdout.readline()
            answer = json.loads(line) if line.endswith(b"\n") else None
            payload = self._process.stdout.read(answer["bytes"]) if answer else b""
        except ValueError as error:
            raise InternalError(self._doing(), got=repr(line[:200]), expected="a line of JSON") from error
        finally:
            timer.cancel()
        if answer is None or len(payload) < answer["bytes"]:
            raise self._ended()
        if "error" in answer:
            raise self._typed(answer["error"])
        return answer, np.frombuffer(payload, "<f8")

    def _give_up(self) -> None:
        self._late = True
        self._process.kill()

    def _doing(self) -> str:
        return f"measuring {self._subject.opener} in a process of its own"

    def _ended(self) -> ModelError:
        if self._late:
            return ModelError(self._doing(), got=f"no answer in {self._answer_s:g} s", expected="an answer")
        try:
            status = self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            status = "unknown"
        return ModelError(self._doing(), got=f"it ended with status {status}{self._tail()}", expected="an answer")

    def _typed(self, told: dict[str, str]) -> GossamerError:
        kind = getattr(errors, told.pop("type"), ModelError)
        kind = ModelError if kind is errors.CaptureError else kind  # which has more to say than came over the pipe
        if "doing" in told:
            return kind(told.pop("doing"), **told)
        return kind(self._doing(), got=told["got"] + self._tail(), expected="a model that runs")

    def _tail(self) -> str:
        """The end of what it wrote to standard error."""
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()[-8:]
        return "".join(f"\n       {line}" for line in lines)


@contextmanager
def measuring(
    subjects: Sequence[Subject], conditions: Mapping[str, Any], progress: Progress | None = None
) -> Iterator[tuple[Callable[[Subject], WorkerProcess], dict[str, Any]]]:
    """Nobody else measures, this thread is off the measured cores, and the conditions are known.

    Args:
        subjects: what will be measured in here.
        conditions: facts of the environment: machine, versions, target. Figures may be compared under equal ones only.
        progress: is told who is waited for.

    Yields:
        What starts a process on the measured cores, and the facts to keep: the conditions with threads and cores, and
        their digest under ``environment``.

    Raises:
        OptionError: the subjects differ in threads: such figures are not comparable.
    """
    counts = sorted({subject.threads for subject in subjects})
    if len(counts) > 1:
        raise OptionError(
            "preparing a measurement",
            got=f"threads {' and '.join(map(str, counts))}",
            expected="the same number of threads for everything that is compared",
        )
    with measuring_alone(progress):
        cores = choose_cores(counts[0])
        with stay_off(cores):
            yield lambda subject: WorkerProcess(subject, cores.measured), _facts(conditions, counts[0], cores)


def _facts(conditions: Mapping[str, Any], threads: int, cores: Cores) -> dict[str, Any]:
    facts = {**conditions, "threads": threads, "cores_pinned": len(cores.measured)}
    return {**facts, "environment": digest_json(facts)}


def probe_process(
    subject: Subject,
    *,
    files: Sequence[Path] = (),
    conditions: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> tuple[Measurement, ...]:
    """Load time, time of the first inference, and peak memory of a fresh process.

    Args:
        subject: what it opens and runs.
        files: what it reads. Where they can be put out of the system's file cache, a process before the other one
            measures a cold load; the libraries of the runtime stay in the cache.
        conditions: as for ``measuring``.
        progress: is told who is waited for.

    Returns:
        ``load`` in ms (files in the cache), ``load cold`` where possible, ``first inference`` in ms, ``peak memory`` in
        bytes above that of the process before it loaded. One observation each.

    Raises:
        ModelError: the process failed or took too long.
    """
    with measuring([subject], conditions or {}, progress) as (start, facts):
        dropped = [drop_from_cache(file) for file in files]
        cold = _fresh(start(subject)) if dropped and all(dropped) else None
        warm = _fresh(start(subject))

    def entry(name: str, value: float, unit: str = "ms") -> Measurement:
        return Measurement(name, value, unit, "lower", conditions=facts)

    above_base = max(warm["peak_rss_bytes"] - warm["base_rss_bytes"], 0)
    return (
        entry("load", warm["load_ms"]),
        *([entry("load cold", cold["load_ms"])] if cold else []),
        entry("first inference", warm["first_ms"]),
        entry("peak memory", float(above_base), "B"),
    )


def drop_from_cache(path: Path) -> bool:
    """Put a file out of the system's file cache; whether it is out: never on a file system in memory."""
    if not (hasattr(os, "posix_fadvise") and hasattr(os, "RWF_NOWAIT")):
        return False
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)  # only what is on disk is dropped
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.preadv(file, [bytearray(1)], 0, os.RWF_NOWAIT)
    except BlockingIOError:  # reading would have to wait for the disk
        return True
    except OSError:
        return False
    finally:
        os.close(file)
    return False


def _fresh(process: WorkerProcess) -> dict[str, float]:
    try:
        process.open()
        first = process.leg(1)
        return {**process.facts, "first_ms": float(first.calls_ms[0])}
    finally:
        process.close()
