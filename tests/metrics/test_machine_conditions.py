import itertools
import json

import pytest

from gossamer.metrics.conditions import Contention, contention, machine_fingerprint, noise_probe


def write(root, path, text):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_fingerprint_reads_the_machine(tmp_path):
    write(tmp_path, "proc/cpuinfo", "model name : Fast 9000\nflags : b a c\n\nmodel name : other\n")
    write(tmp_path, "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance\n")
    write(tmp_path, "sys/fs/cgroup/cpu.max", "200000 100000\n")
    write(tmp_path, "sys/devices/system/cpu/cpu0/cache/index0/level", "1")
    write(tmp_path, "sys/devices/system/cpu/cpu0/cache/index0/type", "Data")
    write(tmp_path, "sys/devices/system/cpu/cpu0/cache/index0/size", "32K")
    found = machine_fingerprint(root=tmp_path, libraries=("numpy", "no-such-distribution"))
    assert (found["cpu"], found["governor"], found["cpu_limit"]) == ("Fast 9000", "performance", "200000 100000")
    assert found["caches"] == {"L1 Data": "32K"}
    assert list(found["libraries"]) == ["numpy"]
    digest = found["cpu_flags_digest"]
    write(tmp_path, "proc/cpuinfo", "model name : Fast 9000\nflags : c b a\n")
    assert machine_fingerprint(root=tmp_path)["cpu_flags_digest"] == digest
    assert json.loads(json.dumps(found)) == found


def test_a_system_without_proc_is_no_error(tmp_path):
    found = machine_fingerprint(root=tmp_path)
    assert "governor" not in found
    assert found["cpu"]
    snapshot = contention(tmp_path)
    assert (snapshot.pressure, snapshot.steal_ticks) == (None, None)
    assert snapshot.since(snapshot).steal_ticks is None


def test_contention_reads_pressure_and_steal(tmp_path):
    write(tmp_path, "proc/pressure/cpu", "some avg10=12.50 avg60=1.00 avg300=0.10 total=5\nfull avg10=0.00\n")
    write(tmp_path, "proc/stat", "cpu 1 2 3 4 5 6 7 80 9 10\ncpu0 1\n")
    found = contention(tmp_path)
    assert found.pressure == pytest.approx(0.125)
    assert found.steal_ticks == 80
    later = Contention(found.load, found.pressure, 85, found.involuntary_switches + 3)
    assert (later.since(found).steal_ticks, later.since(found).involuntary_switches) == (5, 3)
    assert set(found.to_json()) == {"load", "pressure", "steal_ticks", "involuntary_switches"}


@pytest.mark.parametrize(("late", "word"), [(1.05, "quiet"), (1.3, "noisy"), (2.0, "unusable")])
def test_noise_is_judged_by_its_tail(late, word):
    durations = itertools.cycle([1.0] * 8 + [late] * 2)
    now = [0.0]

    def work():
        now[0] += 1e6 * next(durations)

    found = noise_probe(repetitions=100, clock=lambda: round(now[0]), work=work)
    assert (found.word, found.median_ms) == (word, 1.0)


def test_the_real_probe_runs():
    assert noise_probe(repetitions=20).repetitions == 20
