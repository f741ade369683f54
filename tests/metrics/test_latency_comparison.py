import math

import numpy as np
import pytest

from gossamer.core.errors import DataError, OptionError
from gossamer.core.measurement import Measurement
from gossamer.core.specs import Signature
from gossamer.metrics.comparison import (
    Comparison,
    hierarchical_interval,
    load_interval,
    require_comparable,
    speed_word,
)
from gossamer.metrics.conditions import Contention
from gossamer.metrics.contestant import LocalContestant, calls_in_leg
from gossamer.metrics.interleave import LOOKS, Plan, is_settled
from gossamer.metrics.latency import compare_started, percentile, summarize, time_calls

INPUTS = [{"x": np.full((1, 2), float(i))} for i in range(8)]


class Machine:
    """Simulated time: every call of an executable moves the clock."""

    def __init__(self, seed=0, load_spread=0.0, call_spread=0.0, outliers=0.0):
        self.rng = np.random.default_rng(seed)
        self.now = 0.0
        self.load_spread, self.call_spread, self.outliers = load_spread, call_spread, outliers
        self.opened, self.closed, self.calls = [], [], []
        self.switches = lambda: 0

    def clock(self):
        return round(self.now)

    def starter(self, name, ms, inputs=INPUTS):
        """Starts contestants of a file whose calls take ``ms``, a number or a function of the machine."""

        def open_():
            return Timed(self, name, ms, math.exp(self.rng.normal(0, self.load_spread)))

        return lambda: LocalContestant(open_, inputs, clock=self.clock, switches=self.switches)


class Timed:
    specs = Signature((), ())
    fingerprint = "simulated"

    def __init__(self, machine, name, ms, factor=1.0):
        self.machine, self.name, self.ms, self.factor = machine, name, ms, factor
        machine.opened.append(name)

    def run(self, inputs, taps=()):
        machine = self.machine
        machine.calls.append((self.name, float(inputs["x"][0, 0])))
        noise = math.exp(machine.rng.normal(0, machine.call_spread)) if machine.call_spread else 1.0
        if machine.outliers and machine.rng.random() < machine.outliers:
            noise *= 3
        ms = self.ms(machine) if callable(self.ms) else self.ms
        machine.now += 1e6 * ms * noise * self.factor
        return {"y": inputs["x"]}

    def close(self):
        self.machine.closed.append(self.name)


def compare(machine, ms_a, ms_b, *, resolution=None, inputs=INPUTS, **options):
    plan = Plan(**{"loads": 8, "leg_ms": 10, "warmup_ms": 20, **options})
    starts = machine.starter("a", ms_a, inputs), machine.starter("b", ms_b, inputs)
    return compare_started(*starts, plan, resolution=resolution, watch=Contention)


def simulated_rounds(rng, ratio, loads=8, rounds=5):
    """Log ratios with 1 % spread between loads, 2 % between rounds and 10 % outliers."""
    logs = math.log(ratio) + rng.normal(0, 0.01, (loads, 1)) + rng.normal(0, 0.02, (loads, rounds))
    return logs + (rng.random((loads, rounds)) < 0.1) * rng.normal(0, 0.2, (loads, rounds))


def share_called_faster(ratio, word, trials=1000):
    rng = np.random.default_rng(7)
    return np.mean([word(rng, ratio) == "faster" for _ in range(trials)])


def resolution_of(same_file):
    _, probe = load_interval(same_file)
    return math.expm1(max(abs(math.log(bound)) for bound in probe))


def word_of_eight_loads(rng, ratio):
    resolution = resolution_of(simulated_rounds(rng, 1.0))
    return speed_word(*load_interval(simulated_rounds(rng, ratio)), resolution)


def word_of_up_to_three_looks(rng, ratio):
    resolution = resolution_of(simulated_rounds(rng, 1.0))
    rounds = simulated_rounds(rng, ratio, loads=LOOKS[-1])
    for look in LOOKS:
        if is_settled(rounds[:look], Plan().confidence, resolution):
            break
    return speed_word(*load_interval(rounds[:look], Plan().confidence), resolution)


def peeking_word(rng, ratio):
    """A wrong protocol: three looks at the full error each, and no resolution."""
    rounds = simulated_rounds(rng, ratio, loads=LOOKS[-1])
    words = [speed_word(*load_interval(rounds[:look]), 0.0) for look in LOOKS]
    return "faster" if "faster" in words else words[-1]


@pytest.mark.parametrize("word", [word_of_eight_loads, word_of_up_to_three_looks])
def test_a_tie_is_rarely_called_faster_and_a_gain_of_3_percent_is_found(word):
    assert share_called_faster(1.0, word) <= 0.03
    assert share_called_faster(1.03, word) >= 0.90


def test_peeking_without_paying_for_it_is_caught_by_the_same_check():
    assert share_called_faster(1.0, peeking_word) > 0.03


def flat_word(rounds, same_file):
    """A wrong protocol: rounds of one load counted as independent, no resolution."""
    flat = rounds.reshape(-1, 1)
    centre, interval = load_interval(flat)
    return speed_word(centre, interval, 0.0)


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
@pytest.mark.parametrize("loads", [8, None])
def test_the_whole_protocol_on_a_noisy_machine(ms_b, word, loads):
    machine = Machine(seed=5, load_spread=0.007, call_spread=0.05, outliers=0.1)
    result = compare(machine, 1.0, ms_b, loads=loads)
    assert result.word == word
    assert result.speedup == pytest.approx(1 / ms_b, rel=0.03)
    assert 0 < result.resolution < 0.05
    assert result.publishable
    assert result.conditions["looks"] == ([8] if loads else [8, 16, 32])
    assert result.conditions["confidence"] == pytest.approx(0.95 if loads else 1 - 0.05 / 3)


def test_looks_stop_when_decided_when_narrow_and_at_the_last():
    def loads_used(spread, ms_b):
        return compare(Machine(seed=4, load_spread=spread), 1.0, ms_b, loads=None, resolution=0.001).n

    assert loads_used(0.001, 1.0) == 8  # narrow
    assert loads_used(0.04, 0.5) == 8  # decided
    assert loads_used(0.013, 0.98) == 16
    assert loads_used(0.04, 1.0) == 32


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


def unstable(result, *reasons):
    """No claim, and the reasons are said in the text and in the figures of both sides."""
    assert result.word == "unstable"
    assert str(result).startswith("unstable, no claim: ")
    assert "faster" not in str(result)
    for reason in reasons:
        assert any(reason in doubt for doubt in result.doubts)
    assert not any(figure.stable for figure in (*result.a, *result.b))


def test_interleaving_cancels_a_linear_drift_of_the_machine_and_reports_a_large_one():
    result = compare(Machine(), (drifting := lambda m: 1.0 + m.now / 1e6 / 4000), drifting)
    assert result.interval[0] < 1 < result.interval[1]
    assert result.speedup == pytest.approx(1.0, abs=0.01)
    unstable(result, "speed changed")


@pytest.mark.parametrize("step_at", [0.15, 0.5, 0.9])
def test_a_load_step_in_the_middle_of_a_run_is_flagged(step_at):
    calls = 8 * (2 * 20 + 5 * 40)  # of the comparison: warm-up, then rounds

    def stepped(m):
        return 1.6 if len(m.calls) > step_at * calls else 1.0

    unstable(compare(Machine(), stepped, stepped, resolution=0.01), "speed changed")


def test_a_step_in_the_last_load_shows_in_its_rounds():
    calls = 2 * (2 * 20 + 4 * 40)

    def stepped(m):
        return 3.0 if len(m.calls) > calls - 60 else 1.0

    result = compare(Machine(), stepped, stepped, resolution=0.01, loads=2, rounds=4)
    assert result.flagged_rounds == 2 / 8
    unstable(result, "rounds were disturbed")


def test_interrupted_rounds_are_flagged():
    # Read before and after each of the four legs: the first leg of every third round is interrupted 50 times.
    machine = Machine()
    counts = iter(np.cumsum([50 if i % 2 and i % 24 == 1 else 0 for i in range(160)]).tolist())
    machine.switches = lambda: next(counts)
    result = compare(machine, 1.0, 0.5, resolution=0.0, loads=4)
    assert result.flagged_rounds == 7 / 20
    unstable(result, "35% of the rounds were disturbed")


def test_a_tenth_of_the_legs_far_off_is_flagged_without_any_switch():
    """Taken away by a hypervisor, say: the system counts nothing, the times tell."""

    def stolen(m):
        leg = len(m.calls) // 10
        return 3.0 if leg % 10 == 7 else 1.0

    unstable(compare(Machine(), stolen, stolen, resolution=0.01, warmup_ms=0, leg_ms=1), "rounds were disturbed")


def test_a_machine_that_does_not_resolve_5_percent_claims_nothing():
    machine = Machine(seed=1, load_spread=0.2)
    unstable(compare(machine, 1.0, 0.2, loads=None), "not-publishable: the same file measured against itself differs")
    assert len(machine.opened) == 2 * 8 + 2 * 8  # no further look


def test_few_inputs_are_a_doubt_but_no_instability():
    result = compare(Machine(), 1.0, 0.5, inputs=INPUTS[:2])
    assert (result.word, result.doubts) == ("faster", ("only 2 inputs in rotation",))
    assert not result.publishable
    assert str(result).endswith("; doubts: only 2 inputs in rotation")


def test_contention_is_recorded_before_during_and_after_and_throttling_is_a_doubt():
    machine = Machine()
    loads = iter([0.5, 3.0, 1.0])
    starts = machine.starter("a", 1.0), machine.starter("b", 1.0)
    plan = Plan(loads=2, rounds=1, leg_ms=1)
    result = compare_started(*starts, plan, resolution=0.01, watch=lambda: Contention(load=next(loads)))
    record = result.conditions["contention"]
    assert [record[when]["load"] for when in ("before", "during", "after")] == [0.5, 3.0, 1.0]
    assert result.doubts == ()
    counts = iter([2, 3, 6])
    result = compare_started(*starts, plan, resolution=0.01, watch=lambda: Contention(throttles=next(counts)))
    assert (result.doubts, result.word) == (("the cores were throttled 4 times",), "no measurable difference")


def test_everything_opened_is_closed_when_opening_or_running_fails():
    machine = Machine()

    def refuse():
        raise OptionError("opening", got="no")

    with pytest.raises(OptionError):
        compare_started(machine.starter("a", 1.0), lambda: LocalContestant(refuse, INPUTS), Plan(), resolution=0.0)
    with pytest.raises(KeyError):
        time_calls(machine.starter("a", 1.0, [{"wrong": np.zeros(1)}]), 100, 10)
    assert machine.opened == machine.closed == ["a", "a"]


def test_a_slow_model_is_called_at_least_three_times_a_leg():
    machine = Machine()
    result = compare(machine, 400.0, 200.0, loads=2, rounds=1, resolution=0.0, leg_ms=50, warmup_ms=0)
    # a: 10 legs of 50 ms fit 1 call, so 3; b: 2, so 3. One warm-up call, two legs in a round, two loads.
    assert [name for name, _ in machine.calls].count("a") == 2 * (1 + 2 * 3)
    assert result.a[0].n == 12
    assert result.speedup == pytest.approx(2.0)
    assert (calls_in_leg(1.0, 50), calls_in_leg(20, 50), calls_in_leg(1e-9, 50)) == (50, 10, 1_000_000)


def test_a_load_counts_once_in_the_figures_of_a_side():
    loads = [np.full(1000, 1.0), np.full(10, 4.0)]
    p50, mean = (item for item in summarize(loads, 1, {}, ()) if item.name in ("latency p50", "latency mean"))
    assert p50.value == mean.value == pytest.approx(2.0)
    assert p50.interval[0] < 2.0 < p50.interval[1]
    assert p50.n == 1010


def test_comparison_survives_json():
    result = compare_started(
        Machine(seed=2, call_spread=0.05).starter("a", 1.0),
        Machine(seed=3, call_spread=0.05).starter("b", 0.9),
        Plan(loads=2),
        watch=Contention,
        facts={"cpu": "simulated"},
    )
    again = Comparison.from_json(result.to_json())
    assert again == result
    assert isinstance(again.a[0], Measurement)
    assert again.conditions["cpu"] == "simulated"
    assert set(again.conditions["contention"]) == {"before", "during", "after"}


@pytest.mark.parametrize("option", [{"loads": 1}, {"rounds": 0}, {"leg_ms": -1}, {"warmup_ms": -1}])
def test_settings_that_cannot_give_an_interval_are_refused(option):
    with pytest.raises(OptionError, match="expected: >="):
        Plan(**option)


def test_back_to_back_calls_give_the_percentiles_of_the_trace():
    machine = Machine(seed=4, call_spread=0.2)
    calls, facts = time_calls(machine.starter("a", 1.0), 800.0, 200.0)
    found = {m.name: m for m in summarize([calls], 4, facts, ())}
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

    calls, facts = time_calls(machine.starter("a", settling), 100, 3000)
    assert set(np.round(calls, 9)) == {1.0}
    assert len(machine.calls) <= 200 + 100
    assert "threads_busy" in facts


def test_percentiles_of_too_few_calls_are_refused():
    with pytest.raises(DataError, match="at least 1000"):
        percentile(np.ones(999), 99)
    value, (low, high) = percentile(np.arange(1001.0), 50)
    assert (value, low < 500 < high) == (500.0, True)
    with pytest.raises(DataError, match="no inputs"):
        Machine().starter("a", 1.0, [])()


def figure(value=1.0, **conditions):
    return Measurement("latency p50", value, "ms", "lower", conditions=conditions)


def test_figures_are_compared_in_equal_environments_only():
    here = figure(environment="e1", threads=1, cpu="fast", seed=1)
    require_comparable(here, figure(2.0, environment="e1", threads=1, cpu="fast", seed=2))
    require_comparable(figure(), figure())
    with pytest.raises(DataError, match=r"got: cpu fast and slow; threads 1 and 2\n[\s\S]*gossamer bench"):
        require_comparable(here, figure(environment="e2", threads=2, cpu="slow", seed=2))
    with pytest.raises(DataError, match="does not say its environment"):
        require_comparable(figure(environment="e1"), figure())
    with pytest.raises(DataError, match=r"got: size in B\n[\s\S]*expected: latency p50 in ms"):
        require_comparable(here, Measurement("size", 1.0, "B", "lower"))
