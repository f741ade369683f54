import itertools
import json
from dataclasses import fields, replace

import pytest

from gossamer.metrics.conditions import (
    Contention,
    contention,
    contention_doubts,
    contention_record,
    machine_fingerprint,
    noise_probe,
)


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


def test_contention_reads_what_the_system_says(tmp_path):
    write(tmp_path, "proc/pressure/cpu", "some avg10=12.50 avg60=1.00 avg300=0.10 total=5\nfull avg10=0.00\n")
    write(tmp_path, "proc/pressure/memory", "some avg10=1.00 avg60=1.00 avg300=0.10 total=5\nfull avg10=0.00\n")
    write(tmp_path, "proc/stat", "cpu 1 2 3 4 5 6 7 80 9 10\ncpu0 1\n")
    write(tmp_path, "proc/cpuinfo", "cpu MHz\t\t: 2000.0\n\ncpu MHz\t\t: 3000.0\n")
    write(tmp_path, "sys/fs/cgroup/cpu.stat", "usage_usec 5\nnr_throttled 3\n")
    write(tmp_path, "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", "4")
    found = contention(tmp_path)
    assert (found.pressure, found.memory_pressure) == (pytest.approx(0.125), pytest.approx(0.01))
    assert (found.steal_ticks, found.ticks) == (80, 108)
    assert (found.frequency_mhz, found.throttles) == (2500.0, 7)
    write(tmp_path, "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "1800000")
    assert contention(tmp_path).frequency_mhz == pytest.approx(1800.0)
    later = replace(found, steal_ticks=85, involuntary_switches=found.involuntary_switches + 3, load=9.0)
    since = later.since(found)
    assert (since.steal_ticks, since.ticks, since.involuntary_switches, since.load) == (5, 0, 3, 9.0)
    assert set(found.to_json()) == {field.name for field in fields(Contention)}


def test_the_record_of_a_run_has_the_worst_of_what_was_seen():
    run = [
        Contention(load=1.0, pressure=0.2, frequency_mhz=3000, steal_ticks=5, ticks=100, throttles=1),
        Contention(load=4.0, pressure=None, frequency_mhz=2000, steal_ticks=6, ticks=200, throttles=1),
        Contention(load=2.0, pressure=0.1, frequency_mhz=2500, steal_ticks=15, ticks=300, throttles=1),
    ]
    record = contention_record(run)
    assert (record["before"]["load"], record["after"]["load"]) == (1.0, 2.0)
    during = record["during"]
    assert (during["load"], during["pressure"], during["frequency_mhz"]) == (4.0, 0.2, 2000)
    assert (during["steal_ticks"], during["throttles"], during["memory_pressure"]) == (10, 0, None)
    assert contention_doubts(run) == ["the hypervisor took 5% of the time"]
    assert contention_doubts([Contention(), Contention()]) == []


@pytest.mark.parametrize(
    ("product", "copy", "word"), [(1.05, 1.0, "quiet"), (1.0, 1.3, "noisy"), (2.0, 1.05, "unusable")]
)
def test_noise_is_judged_by_the_tail_of_the_worse_of_two_works(product, copy, word):
    now = [0.0]

    def work(late):
        durations = itertools.cycle([1.0] * 8 + [late] * 2)

        def run():
            now[0] += 1e6 * next(durations)

        return run

    found = noise_probe(repetitions=100, clock=lambda: round(now[0]), work=(work(product), work(copy)))
    assert (found.word, found.product_ms, found.copy_ms) == (word, 1.0, 1.0)
    assert (found.product_ratio, found.copy_ratio) == (pytest.approx(product), pytest.approx(copy))
    assert found.ratio == pytest.approx(max(product, copy))
    assert str(found) == f"{word}: p90/p50 {product:.2f} computing, {copy:.2f} copying"


def test_the_real_probe_runs():
    assert noise_probe(repetitions=20).repetitions == 20
