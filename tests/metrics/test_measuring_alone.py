"""The lock between measurements, and the cores they run on."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gossamer.core.errors import OptionError
from gossamer.metrics import cores, lock
from gossamer.metrics.cores import Cores, choose_cores, stay_off
from gossamer.metrics.lock import holder, lock_path, measuring_alone


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock of this test's own: nobody is waited for, and nobody waits."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


class Notes:
    """Progress that remembers."""

    def __init__(self) -> None:
        self.stages: list[str] = []

    def stage(self, name: str, total: int | None = None) -> None:
        self.stages.append(name)

    def advance(self, note: str = "") -> None:
        pass


TURNS = """
import os, sys, time
from gossamer.metrics.lock import measuring_alone
log = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
for _ in range(5):
    with measuring_alone():
        os.write(log, f"{os.getpid()} begins\\n".encode())
        time.sleep(0.01)
        os.write(log, f"{os.getpid()} ends\\n".encode())
"""


def test_measurements_of_several_processes_never_overlap(tmp_path: Path):
    log = tmp_path / "log"
    log.touch()
    running = [subprocess.Popen([sys.executable, "-c", TURNS, str(log)]) for _ in range(3)]
    assert [one.wait(60) for one in running] == [0, 0, 0]
    lines = log.read_text().splitlines()
    assert len(lines) == 3 * 5 * 2
    for begin, end in zip(lines[::2], lines[1::2], strict=True):
        assert (begin.split()[0], begin.split()[1], end.split()[1]) == (end.split()[0], "begins", "ends")


HOLDS = """
import sys, time
from gossamer.metrics.lock import measuring_alone
with measuring_alone():
    print("held", flush=True)
    time.sleep(60)
"""


def test_who_waits_is_told_for_whom_and_a_killed_holder_holds_nothing():
    other = subprocess.Popen([sys.executable, "-c", HOLDS, "bench"], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    assert holder() == f"pid {other.pid} (-c bench)"
    notes = Notes()
    threading.Timer(0.3, other.kill).start()
    with measuring_alone(notes):
        assert other.wait(60) == -9
    assert notes.stages == [f"waiting for another measurement: pid {other.pid} (-c bench)", "measuring"]
    other.stdout.close()


def test_the_lock_can_be_taken_again_by_who_has_it():
    assert holder() == ""
    notes = Notes()
    with measuring_alone(notes), measuring_alone(notes):
        assert holder() == f"pid {os.getpid()}, this process"
    assert (notes.stages, holder()) == ([], "")


def test_threads_of_one_process_take_turns():
    inside: list[str] = []

    def turn() -> None:
        with measuring_alone():
            inside.append("begins")
            time.sleep(0.01)
            inside.append("ends")

    threads = [threading.Thread(target=turn) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert inside == ["begins", "ends"] * 4


def test_a_lock_that_cannot_be_opened(tmp_path: Path):
    lock_path().mkdir()
    with pytest.raises(OptionError, match=r"opening the lock of measurements[\s\S]*set TMPDIR"), measuring_alone():
        pass
    assert not lock._HELD


def machine(root: Path, siblings: list[str]) -> Path:
    for core, text in enumerate(siblings):
        folder = root / f"sys/devices/system/cpu/cpu{core}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(text + "\n")
    return root


@pytest.mark.parametrize(
    ("siblings", "threads", "expected"),
    [
        (["0", "1", "2", "3"], 1, Cores((3,), (0, 1, 2), 4)),
        (["0", "1", "2", "3"], 4, Cores((0, 1, 2, 3), (), 4)),
        (["0,2", "1,3", "0,2", "1,3"], 1, Cores((1,), (0, 2), 2)),  # the sibling stays idle
        (["0-1", "0-1", "2-3", "2-3"], 2, Cores((0, 2), (), 2)),
        (["0-1", "0-1", "2-3", "2-3"], 3, Cores((0, 1, 2, 3), (), 2)),  # more threads than cores
        (["nonsense"], 2, Cores((2, 3), (0, 1), 4)),
    ],
)
def test_cores_are_physical_ones_from_the_end(tmp_path: Path, monkeypatch, siblings, threads, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    assert choose_cores(threads, root=machine(tmp_path, siblings)) == expected


def test_systems_that_cannot_pin(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.delattr(os, "sched_setaffinity")
    assert choose_cores(2) == Cores((), (), 0)
    assert cores.pin((0,)) == ()
    with stay_off(choose_cores(2)):
        pass


def test_the_coordinator_stays_off_and_comes_back():
    before = os.sched_getaffinity(0)
    only = min(before)
    inside = []

    def fail() -> None:
        inside.append(os.sched_getaffinity(0))
        raise KeyError

    with pytest.raises(KeyError), stay_off(Cores((99,), (only,), 2)):
        fail()
    assert (inside, os.sched_getaffinity(0)) == ([{only}], before)
