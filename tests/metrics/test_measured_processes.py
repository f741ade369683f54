"""Real processes at the smallest sizes: what they are is asserted, never how fast."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gossamer.core.errors import ArtifactError, DataError, InternalError, ModelError, OptionError
from gossamer.core.specs import Signature
from gossamer.metrics import process, worker
from gossamer.metrics.contestant import LocalContestant
from gossamer.metrics.counters import busy_threads, peak_rss_bytes, thread_times_ns
from gossamer.metrics.latency import compare_latency, measure_latency
from gossamer.metrics.lock import lock_path
from gossamer.metrics.process import WorkerProcess, drop_from_cache, probe_process
from gossamer.metrics.subject import Subject, read_inputs, write_inputs

OPENERS = '''
"""Openers of the subjects of a test."""
import fcntl, os, sys, time
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from gossamer.core.errors import ArtifactError, CaptureError, UserError
from gossamer.metrics.lock import lock_path

class OwnError(UserError):
    pass

class Doubler:
    def __init__(self, log="", mode=""):
        self.log, self.mode = log, mode
        print("a chatty model")  # not on the pipe
        if mode == "own error":
            raise OwnError("loading the doubler", got="a mood")
        if mode == "capture":
            raise CaptureError("loading the doubler", problem="a loop", got="a knot")
        if mode == "broken":
            raise ArtifactError("loading the doubler", got="no wheels", expected="wheels", try_="another one")
        self.pool = ThreadPoolExecutor(1)
        if mode == "large":
            self.held = np.ones(4_000_000)
    def run(self, inputs, taps=()):
        if self.mode == "fails":
            print("about to fail", file=sys.stderr)
            return inputs["missing"]
        if self.mode == "dies":
            os._exit(7)
        if self.mode == "hangs":
            time.sleep(60)
        if self.mode == "spreads":
            other = self.pool.submit(work)
            work()
            other.result()
        if self.log:
            with open(self.log, "a") as log:
                log.write(f"{os.getpid()} {inputs['x'][0]:g} {sorted(os.sched_getaffinity(0))} {locked()}\\n")
        return {"y": 2 * inputs["x"]}
    def close(self):
        pass

def locked():
    with open(lock_path()) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False

def work():
    end = time.thread_time() + 0.005
    while time.thread_time() < end:
        pass

def doubler(**arguments):
    return lambda: Doubler(**arguments)
'''


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Subjects of an opener that this test's processes can import, and a lock of their own."""
    (tmp_path / "openers_of_a_test.py").write_text(OPENERS)
    (tmp_path / "tmp").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    inputs = write_inputs(tmp_path / "inputs.npz", [{"x": np.full(3, float(i))} for i in range(8)])

    def make(opener: str = "openers_of_a_test:doubler", *, threads: int = 1, **arguments: object) -> Subject:
        return Subject(opener, inputs, arguments, threads)

    return make


@pytest.fixture
def started(make):
    """Worker processes of this test, closed at its end."""
    workers: list[WorkerProcess] = []

    def start(*cores: int, answer_s: float = 60.0, **settings: object) -> WorkerProcess:
        workers.append(WorkerProcess(make(**settings), cores, answer_s=answer_s))
        return workers[-1]

    yield start
    for one in workers:
        one.close()
        assert not alive(one.pid)


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended but was not waited for yet does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_worker_is_a_contestant(started):
    one = started()
    one.open()
    assert one.warm_up(50.0) > 0
    leg = one.leg(5)
    assert (leg.calls_ms.shape, leg.calls_ms.dtype) == ((5,), np.float64)
    assert (leg.calls_ms > 0).all()
    assert leg.switches >= 0
    arrivals = np.array([0.0, 1.0, 5.0])
    served = one.serve(arrivals)
    assert (served.starts_ms >= arrivals).all()
    assert (served.ends_ms > served.starts_ms).all()
    assert one.facts["inputs"] == 8
    assert one.facts["threads_busy"] in (1, None)
    assert one.facts["clock_overhead_ms"] >= 0


def test_it_runs_in_a_session_of_its_own_pinned_and_is_told_its_threads(started):
    core = max(os.sched_getaffinity(0))
    one = started(core)
    one.open()
    assert one.facts["cores"] == [core]
    assert os.sched_getaffinity(one.pid) == {core}
    assert os.getsid(one.pid) == one.pid != os.getsid(0)
    environment = Path(f"/proc/{one.pid}/environ").read_bytes()
    assert b"OMP_NUM_THREADS=1" in environment


def test_only_numpy_is_imported_before_the_subject(started, tmp_path: Path):
    code = "import sys, gossamer.metrics.worker; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    packages = {name.partition(".")[0] for name in done.stdout.split()}
    assert not packages & {"torch", "onnxruntime", "openvino", "onnx", "scipy", "rich", "typer"}


def test_what_lies_in_the_current_folder_is_not_imported(make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "tmp" / "numpy.py").write_text("raise SystemExit('the wrong numpy')")
    monkeypatch.chdir(tmp_path / "tmp")
    one = WorkerProcess(make())
    one.open()
    one.close()


def test_a_comparison_runs_one_worker_at_a_time_alone_and_each_load_in_fresh_ones(make, tmp_path: Path):
    log = tmp_path / "log"
    log.touch()
    a, b = make(log=str(log)), make(log=str(log), mode="b")
    affinity = os.sched_getaffinity(0)
    result = compare_latency(a, b, loads=2, rounds=1, leg_ms=2.0, warmup_ms=2.0, conditions={"machine": "this one"})
    lines = [line.split(maxsplit=2) for line in log.read_text().splitlines()]
    pids = list(dict.fromkeys(pid for pid, _, _ in lines))
    assert len(pids) == 2 * 2 + 2 * 2  # the probe, then the comparison
    assert not any(alive(int(pid)) for pid in pids)
    assert {value for _, value, _ in lines} == {f"{i}" for i in range(8)}
    assert {rest for _, _, rest in lines} == {f"{result.conditions['workers']['a']['cores']} True"}
    assert os.sched_getaffinity(0) == affinity
    assert result.n == 2
    assert (result.conditions["threads"], result.conditions["cores_pinned"]) == (1, 1)
    assert result.conditions["machine"] == "this one"
    assert len(result.conditions["environment"]) == 64
    assert result.a[0].conditions["environment"] == result.b[0].conditions["environment"]


def test_subjects_with_different_threads_are_not_compared(make):
    with pytest.raises(OptionError, match=r"got: threads 1 and 2[\s\S]*the same number of threads"):
        compare_latency(make(), make(threads=2))


def test_one_subject_alone(make):
    found = {item.name: item for item in measure_latency(make(), duration_ms=5.0, warmup_ms=1.0, doubts=["loud"])}
    assert {"latency p50", "latency mean", "throughput"} <= set(found)
    assert "loud" in found["latency p50"].doubts
    assert found["latency p50"].conditions["worker"]["cores"]


def test_a_model_that_takes_more_threads_than_it_was_given_is_a_doubt(make):
    if not thread_times_ns():
        pytest.skip("this system keeps no times of threads")
    found = measure_latency(make(mode="spreads"), duration_ms=5.0, warmup_ms=1.0)
    assert found[0].conditions["worker"]["threads_busy"] == 2
    assert "2 threads worked where 1 should" in found[0].doubts


def test_an_error_of_gossamer_in_the_worker_is_the_same_error_here(started):
    with pytest.raises(ArtifactError, match="loading the doubler") as caught:
        started(mode="broken").open()
    error = caught.value
    assert (error.got, error.expected, error.try_) == ("no wheels", "wheels", "another one")


@pytest.mark.parametrize(("mode", "got"), [("own error", "a mood"), ("capture", r"a loop\n\s+a knot")])
def test_an_error_that_cannot_be_made_again_here_keeps_its_words(started, mode, got):
    with pytest.raises(ModelError, match=rf"loading the doubler\n  got: {got}"):
        started(mode=mode).open()


def test_another_error_comes_with_its_place_and_what_was_printed(started):
    one = started(mode="fails")
    one.open()
    with pytest.raises(ModelError, match=r"KeyError: 'missing' \(openers_of_a_test\.py:\d+\)[\s\S]*about to fail"):
        one.leg(1)
    with pytest.raises(ModelError, match="ended with status 1"):
        one.leg(1)


def test_a_worker_that_dies_or_hangs(started):
    one = started(mode="dies")
    one.open()
    with pytest.raises(ModelError, match="ended with status 7"):
        one.leg(1)
    late = started(mode="hangs", answer_s=1.0)
    late.open()
    with pytest.raises(ModelError, match="no answer in 1 s"):
        late.leg(1)


@pytest.mark.parametrize("opener", ["no_such_module:open", "openers_of_a_test:nothing", "openers_of_a_test", ":open"])
def test_an_opener_that_is_not_there(started, opener):
    with pytest.raises(ModelError, match=rf"importing the opener {opener}[\s\S]*module:function"):
        started(opener=opener).open()


def test_an_answer_that_is_none(started, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(process.json, "loads", lambda line: json.JSONDecoder().decode("{"))
    with pytest.raises(InternalError, match="a line of JSON"):
        started().open()


COORDINATOR = """
import sys
from pathlib import Path
from gossamer.metrics.latency import compare_latency
from gossamer.metrics.subject import Subject
subject = Subject("openers_of_a_test:doubler", Path(sys.argv[1]), {"log": sys.argv[2]})
compare_latency(subject, subject, loads=32, rounds=50, leg_ms=10_000.0)
"""


def test_killing_the_coordinator_leaves_no_worker_and_no_lock(make, tmp_path: Path):
    log = tmp_path / "log"
    log.touch()
    command = [sys.executable, "-c", COORDINATOR, str(tmp_path / "inputs.npz"), str(log)]
    coordinator = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    try:
        wait_until(lambda: len({line.split()[0] for line in log.read_text().splitlines()}) >= 2)
    finally:
        coordinator.send_signal(signal.SIGKILL)
        coordinator.wait()
    pids = {int(line.split()[0]) for line in log.read_text().splitlines()}
    wait_until(lambda: not any(map(alive, pids)))
    with lock_path().open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def wait_until(condition, seconds: float = 60.0) -> None:
    """Fail if something that will happen has not after a minute."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_load_first_inference_and_memory_of_a_fresh_process(make, tmp_path: Path):
    found = {item.name: item for item in probe_process(make(mode="large"), conditions={"cpu": "x"})}
    assert set(found) == {"load", "first inference", "peak memory"}
    assert found["load"].value > 0
    assert found["first inference"].value > 0
    # The 32 MB of the model are resident after loading, and nothing of this process, which holds far more.
    assert 32e6 <= found["peak memory"].value < 64e6
    assert found["load"].conditions["cpu"] == "x"


def test_a_cold_load_is_measured_where_the_file_leaves_the_cache(make, tmp_path: Path):
    file = tmp_path / "model"
    file.write_bytes(bytes(5_000_000))
    names = [item.name for item in probe_process(make(), files=[file])]
    assert names == ["load", *(["load cold"] if drop_from_cache(file) else []), "first inference", "peak memory"]


def test_a_file_in_memory_never_leaves_the_cache():
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK):
        pytest.skip("no file system in memory here")
    file = shared / f"gossamer-test-{os.getpid()}"
    try:
        file.write_bytes(bytes(100_000))
        assert not drop_from_cache(file)
    finally:
        file.unlink()


def test_systems_that_cannot_drop_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(os, "posix_fadvise")
    assert not drop_from_cache(tmp_path)


def test_the_high_water_mark_is_not_the_parents():
    held = np.ones(2**24)  # 128 MiB, which getrusage in the child would report
    code = "from gossamer.metrics.counters import peak_rss_bytes; print(peak_rss_bytes())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert int(done.stdout) < held.nbytes < peak_rss_bytes()


def test_without_proc_getrusage_is_read(monkeypatch: pytest.MonkeyPatch):
    # Held against its own counter: the kernel keeps VmHWM and ru_maxrss apart, and they differ by some unsynced pages.
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    monkeypatch.setattr("gossamer.metrics.counters._STATUS", Path("/no/such/file"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    got = peak_rss_bytes()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    assert 2**20 < before <= got <= after


def test_busy_threads_are_those_that_worked_a_tenth_as_long_as_the_busiest():
    assert busy_threads({1: 100, 2: 50}, {1: 1100, 2: 149, 3: 100}) == 2
    assert busy_threads({}, {}) is None


def test_inputs_survive_their_file(tmp_path: Path):
    inputs = [{"x": np.arange(3.0), "a/b": np.array(True)}, {"x": np.zeros(0, np.int8), "a/b": np.array(False)}]
    for here, there in zip(inputs, read_inputs(write_inputs(tmp_path / "i.npz", inputs)), strict=True):
        assert list(here) == list(there)
        for name, array in here.items():
            np.testing.assert_array_equal(array, there[name], strict=True)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 and no more"])
def test_inputs_that_cannot_be_read(tmp_path: Path, content: bytes):
    (tmp_path / "i.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"reading the inputs[\s\S]*write_inputs"):
        read_inputs(tmp_path / "i.npz")
    with pytest.raises(DataError, match="reading the inputs"):
        read_inputs(tmp_path / "none.npz")


class Echo:
    """An executable in this process, for the far end of the pipe."""

    specs, fingerprint = Signature((), ()), "echo"

    def run(self, inputs, taps=()):
        return dict(inputs)

    def close(self):
        pass


def test_the_far_end_answers_without_a_pipe(make):
    """The same requests as above, where a debugger and the coverage of tests can see them."""
    far = worker.Worker()
    subject = make()
    opened, none = far.answer({"do": "open", "subject": subject.to_json(), "cores": []})
    assert (opened["facts"]["inputs"], opened["load_ms"] >= 0, none.size) == (8, True, 0)
    assert far.answer({"do": "warm_up", "limit_ms": 1.0})[0]["call_ms"] > 0
    facts, times = far.answer({"do": "leg", "calls": 4})
    assert (times.shape, facts["peak_rss_bytes"] > 0) == ((4,), True)
    assert far.answer({"do": "serve", "arrivals_ms": [0.0, 0.1]})[1].shape == (4,)
    assert Subject.from_json(subject.to_json()) == subject


def test_calls_wait_for_their_arrival_and_for_each_other():
    now = [0.0]

    class Slow(Echo):
        def run(self, inputs, taps=()):
            now[0] += 3e6
            return dict(inputs)

    def sleep(seconds):
        now[0] += 1e9 * seconds + 1e4  # and 10 us too long

    one = LocalContestant(Slow, [{"x": np.ones(1)}], clock=lambda: round(now[0]), switches=lambda: 0, sleep=sleep)
    one.open()
    served = one.serve(np.array([5.0, 6.0, 20.0]))
    np.testing.assert_allclose(served.starts_ms, [5.0, 8.0, 20.0], atol=0.05)
    np.testing.assert_allclose(served.ends_ms - served.starts_ms, 3.0)
    one.close()
    one.close()
