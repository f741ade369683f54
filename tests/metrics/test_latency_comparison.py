import math

import numpy as np
import pytest

from gossamer.core.errors import DataError, OptionError
from gossamer.core.measurement import Measurement
from gossamer.core.specs import Signature
from gossamer.metrics.comparison import Comparison, hierarchical_interval, load_interval, speed_word
from gossamer.metrics.latency import compare_latency, measure_latency, percentile

INPUTS = [{"x": np.full((1, 2), float(i))} for i in range(8)]


class Machine:
    """Simulated time: every call of an executable moves the clock."""

    def __init__(self, seed=0, load_spread=0.0, call_spread=0.0, outliers=0.0):
        self.rng = np.random.default_rng(seed)
        self.now = 0.0
        self.load_spread, self.call_spread, self.outliers = load_spread, call_spread, outliers
        self.opened, self.closed, self.calls = [], [], []

    def clock(self):
        return round(self.now)

    def opener(self, name, ms):
        return lambda: Timed(self, name, ms * math.exp(self.rng.normal(0, self.load_spread)))


class Timed:
    specs = Signature((), ())
    fingerprint = "simulated"

    def __init__(self, machine, name, ms):
        self.machine, self.name, self.ms = machine, name, ms
        machine.opened.append(name)

    def run(self, inputs, taps=()):
        machine = self.machine
        machine.calls.append((self.name, float(inputs["x"][0, 0])))
        noise = math.exp(machine.rng.normal(0, machine.call_spread)) if machine.call_spread else 1.0
        if machine.outliers and machine.rng.random() < machine.outliers:
            noise *= 3
        ms = self.ms(machine) if callable(self.ms) else self.ms
        machine.now += 1e6 * ms * noise
        return {"y": inputs["x"]}

    def close(self):
        self.machine.closed.append(self.name)


def compare(machine, ms_a, ms_b, **options):
    options = {"leg_ms": 10, "warmup_ms": 20, "switches": lambda: 0, **options}
    open_a, open_b = machine.opener("a", ms_a), machine.opener("b", ms_b)
    return compare_latency(open_a, open_b, INPUTS, clock=machine.clock, **options)


def simulated_rounds(rng, ratio, loads=8, rounds=5):
    """Log ratios with 1 % spread between loads, 2 % between rounds and 10 % outliers."""
    logs = math.log(ratio) + rng.normal(0, 0.01, (loads, 1)) + rng.normal(0, 0.02, (loads, rounds))
    return logs + (rng.random((loads, rounds)) < 0.1) * rng.normal(0, 0.2, (loads, rounds))


def share_called_faster(ratio, word, trials=2000):
    rng = np.random.default_rng(7)
    return np.mean([word(simulated_rounds(rng, ratio), simulated_rounds(rng, 1.0)) == "faster" for _ in range(trials)])


def honest_word(rounds, same_file):
    _, probe = load_interval(same_file)
    resolution = math.expm1(max(abs(math.log(bound)) for bound in probe))
    return speed_word(*load_interval(rounds), resolution)


def flat_word(rounds, same_file):
    """A wrong protocol: rounds of one load counted as independent, no resolution."""
    flat = rounds.reshape(-1, 1)
    centre, interval = load_interval(flat)
    return speed_word(centre, interval, 0.0)


def test_a_tie_is_rarely_called_faster_and_a_gain_of_3_percent_is_found():
    assert share_called_faster(1.0, honest_word) <= 0.03
    assert share_called_faster(1.03, honest_word) >= 0.90


def test_counting_rounds_as_independent_is_caught_by_the_same_check():
    def trial(rng):
        return flat_word(rng.normal(0, 0.01, (8, 1)) + rng.normal(0, 0.002, (8, 5)), None)

    rng = np.random.default_rng(3)
    assert np.mean([trial(rng) == "faster" for _ in range(300)]) > 0.1


def test_the_hierarchical_interval_covers_the_truth_and_is_not_narrower_than_its_loads_allow():
    rng = np.random.default_rng(11)
    covered = 0
    for _ in range(100):
        low, high = hierarchical_interval(simulated_rounds(rng, 1.05), rng, resamples=300)
        covered += low <= 1.05 <= high
    assert covered >= 90


@pytest.mark.parametrize(("ms_b", "word"), [(0.8, "faster"), (1.25, "slower"), (1.0, "no measurable difference")])
def test_the_whole_protocol_on_a_noisy_machine(ms_b, word):
    machine = Machine(seed=5, load_spread=0.007, call_spread=0.05, outliers=0.1)
    result = compare(machine, 1.0, ms_b)
    assert result.word == word
    assert result.speedup == pytest.approx(1 / ms_b, rel=0.03)
    assert 0 < result.resolution < 0.05
    assert result.publishable
    assert result.n == 8


def test_words_state_what_is_within_reach():
    machine = Machine(seed=5, load_spread=0.007, call_spread=0.05)
    result = compare(machine, 1.0, 1.0)
    assert str(result).startswith(f"no measurable difference within {result.within:.1%}")
    assert result.within >= result.resolution
    assert result.within >= max(abs(bound - 1) for bound in result.interval) * 0.99
    assert speed_word(1.04, (1.01, 1.07), resolution=0.05) == "no measurable difference"
    assert speed_word(1.06, (0.99, 1.13), resolution=0.01) == "no measurable difference"
    assert speed_word(0.94, (0.93, 0.95), resolution=0.05) == "slower"


def test_rounds_are_interleaved_inputs_rotate_and_everything_is_closed():
    machine = Machine()
    compare(machine, 1.0, 1.5, loads=3, rounds=4, resolution=0.01, warmup_ms=0)
    assert machine.opened == ["a", "b"] * 3
    assert sorted(machine.closed) == sorted(machine.opened)
    for side in "ab":
        assert {value for name, value in machine.calls if name == side} == set(range(8))
    # A load is one warm-up call on each side, then rounds of four legs of 10 calls.
    rounds = []
    for load in range(3):
        order = "".join(name for name, _ in machine.calls)[load * 162 :][2:162]
        rounds += [order[start : start + 40] for start in range(0, 160, 40)]
    assert set(rounds) == {"a" * 10 + "b" * 20 + "a" * 10, "b" * 10 + "a" * 20 + "b" * 10}


def test_interleaving_cancels_a_linear_drift_of_the_machine_and_reports_a_large_one():
    machine = Machine()

    def slow(m):
        return 1.0 + m.now / 1e6 / 4000

    result = compare_latency(
        lambda: Timed(machine, "a", slow), lambda: Timed(machine, "b", slow), INPUTS,
        leg_ms=10, warmup_ms=20, clock=machine.clock, switches=lambda: 0,
    )  # fmt: skip
    assert result.word == "no measurable difference"
    assert any("speed changed" in doubt for doubt in result.doubts)


def test_interrupted_rounds_are_flagged():
    # Read before and after every round: every third round is interrupted 50 times.
    counts = iter(np.cumsum([50 if i % 2 and i // 2 % 3 == 0 else 0 for i in range(100)]).tolist())
    result = compare(Machine(), 1.0, 0.5, resolution=0.0, loads=4, switches=lambda: next(counts))
    assert result.flagged_rounds == 7 / 20
    assert any("interrupted" in doubt for doubt in result.doubts)


def test_an_unfit_machine_and_few_inputs_are_not_publishable():
    machine = Machine(seed=1, load_spread=0.2)
    result = compare_latency(
        machine.opener("a", 1.0), machine.opener("b", 0.2), INPUTS[:2],
        loads=4, leg_ms=10, warmup_ms=20, clock=machine.clock, switches=lambda: 0,
    )  # fmt: skip
    assert not result.publishable
    assert any(doubt.startswith("not-publishable") for doubt in result.doubts)
    assert "only 2 inputs in rotation" in result.doubts


def test_everything_opened_is_closed_when_opening_or_running_fails():
    machine = Machine()

    def refuse():
        raise OptionError("opening", got="no")

    with pytest.raises(OptionError):
        compare_latency(machine.opener("a", 1.0), refuse, INPUTS, resolution=0.0, clock=machine.clock)
    with pytest.raises(KeyError):
        measure_latency(machine.opener("a", 1.0), [{"wrong": np.zeros(1)}], clock=machine.clock)
    assert machine.opened == machine.closed == ["a", "a"]


def test_a_slow_model_is_called_at_least_three_times_a_leg():
    machine = Machine()
    result = compare(machine, 400.0, 200.0, loads=2, rounds=1, resolution=0.0, leg_ms=50, warmup_ms=0)
    # a: 10 legs of 50 ms fit 1 call, so 3; b: 2, so 3. One warm-up call, two legs in a round, two loads.
    assert [name for name, _ in machine.calls].count("a") == 2 * (1 + 2 * 3)
    assert result.a[0].n == 12
    assert result.speedup == pytest.approx(2.0)


def test_comparison_survives_json():
    result = compare(Machine(seed=2, call_spread=0.05), 1.0, 0.9, loads=2, conditions={"cpu": "simulated"})
    again = Comparison.from_json(result.to_json())
    assert again == result
    assert isinstance(again.a[0], Measurement)
    assert again.conditions["cpu"] == "simulated"


@pytest.mark.parametrize("option", [{"loads": 1}, {"rounds": 0}])
def test_settings_that_cannot_give_an_interval_are_refused(option):
    with pytest.raises(OptionError, match="expected: >="):
        compare(Machine(), 1.0, 1.0, **option)


def test_measure_latency_gives_the_percentiles_of_the_trace():
    machine = Machine(seed=4, call_spread=0.2)
    found = {m.name: m for m in measure_latency(machine.opener("a", 1.0), INPUTS, batch=4, clock=machine.clock)}
    assert set(found) == {"latency p50", "latency p90", "latency p95", "latency mean", "throughput"}
    p50 = found["latency p50"]
    assert p50.interval[0] <= 1.0 <= p50.interval[1]
    assert found["latency p90"].value == pytest.approx(math.exp(0.2 * 1.2816), rel=0.05)
    assert found["throughput"].value == pytest.approx(4e3 / found["latency mean"].value)
    assert p50.stable
    assert p50.conditions["refused"] == [f"p99: {p50.n} of 1000 calls"]
    assert machine.closed == ["a"]


def test_warm_up_waits_for_a_steady_state_and_ends():
    machine = Machine()

    def settling(m):
        return 3.0 if len(m.calls) <= 30 else 1.0

    found = measure_latency(lambda: Timed(machine, "a", settling), INPUTS, clock=machine.clock, duration_ms=100)
    assert found[0].value == pytest.approx(1.0)
    assert found[0].spread == pytest.approx(0.0)
    assert len(machine.calls) <= 200 + 100


def test_percentiles_of_too_few_calls_are_refused():
    with pytest.raises(DataError, match="at least 1000"):
        percentile(np.ones(999), 99)
    value, (low, high) = percentile(np.arange(1001.0), 50)
    assert (value, low < 500 < high) == (500.0, True)
    with pytest.raises(DataError, match="no inputs"):
        measure_latency(Machine().opener("a", 1.0), [])
