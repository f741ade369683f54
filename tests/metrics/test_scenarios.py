"""Queueing on simulated time, beside an independent recursion and beside theory."""

from __future__ import annotations

import numpy as np
import pytest

from gossamer.core.errors import OptionError, UnknownName
from gossamer.metrics.contestant import LocalContestant, Served
from gossamer.metrics.scenarios import Scenario, measure_scenario, read_milliseconds, serve_loads, summarize_served
from gossamer.metrics.subject import Subject


class Server:
    """Every call takes ``service_ms`` of simulated time; waiting overshoots by 20 us at most."""

    specs, fingerprint = None, "simulated"

    def __init__(self, service_ms: float) -> None:
        self.service_ms = service_ms
        self.now = 0.0
        self.closed = 0

    def start(self) -> LocalContestant:
        return LocalContestant(
            lambda: self,  # pyright: ignore[reportArgumentType]
            [{"x": np.ones(1)}],
            clock=lambda: round(self.now),
            switches=lambda: 0,
            sleep=self.sleep,
        )

    def run(self, inputs, taps=()):
        self.now += 1e6 * self.service_ms
        return dict(inputs)

    def sleep(self, seconds: float) -> None:
        self.now += max(1e9 * seconds, 2e4)  # looking at the clock takes time, or time would stand still

    def close(self) -> None:
        self.closed += 1


def serve(scenario: Scenario, service_ms: float, loads: int = 4, seed: int = 0) -> list[Served]:
    server = Server(service_ms)
    served = serve_loads(server.start, scenario, loads, 10 * service_ms, seed, lambda note: None)
    assert server.closed == loads
    return served


def figures(scenario: Scenario, served: list[Served]):
    return {item.name: item for item in summarize_served(scenario, served, {"cpu": "simulated"})}


def waiting_ms(arrivals_ms: np.ndarray, service_ms: float) -> np.ndarray:
    """Lindley's recursion: a request waits for what is left of the one before it."""
    waits = np.zeros(len(arrivals_ms))
    for k in range(1, len(arrivals_ms)):
        waits[k] = max(0.0, waits[k - 1] + service_ms - (arrivals_ms[k] - arrivals_ms[k - 1]))
    return waits


@pytest.mark.parametrize("rate", [20, 90, 150])
def test_responses_are_those_of_a_queue_with_one_server(rate):
    for one in serve(Scenario("server", rate, 50.0), service_ms=8.0):
        expected = waiting_ms(one.arrivals_ms, 8.0) + 8.0
        np.testing.assert_allclose(
            one.ends_ms - one.arrivals_ms, expected, atol=0.2
        )  # each busy period begins up to 20 us late


def test_the_mean_wait_is_that_of_theory():
    """M/D/1 (Pollaczek and Khinchine): rho / (2 (1 - rho)) services of waiting; at rho 0.5 half a service."""
    served = serve(Scenario("server", 50.0, 50.0, seconds=200.0), service_ms=10.0)
    waits = np.concatenate([one.starts_ms - one.arrivals_ms for one in served])
    # 10,000 arrivals; waits have a spread of about 0.75 services and are worth about a tenth as many independent ones,
    # so four standard errors are 0.1 services.
    assert waits.mean() == pytest.approx(5.0, abs=1.0)
    arrivals = np.concatenate([np.diff(one.arrivals_ms) for one in served])
    assert (arrivals.mean(), arrivals.std()) == (pytest.approx(20.0, rel=0.05), pytest.approx(20.0, rel=0.05))


def test_goodput_and_missed_deadlines_count_from_the_arrival():
    scenario = Scenario("server", 90.0, 20.0)
    served = serve(scenario, service_ms=8.0)
    responses = [waiting_ms(one.arrivals_ms, 8.0) + 8.0 for one in served]
    found = figures(scenario, served)
    missed = np.mean([np.mean(response > 20.0) for response in responses])
    assert 0 < missed < 1
    assert found["missed deadlines"].value == pytest.approx(missed, abs=1e-3)
    rates = [np.sum(r <= 20.0) / (one.ends_ms[-1] / 1e3) for r, one in zip(responses, served, strict=True)]
    assert found["goodput"].value == pytest.approx(np.mean(rates), rel=1e-3)
    low, high = found["goodput"].interval
    assert low < found["goodput"].value < high
    assert found["response p50"].conditions["utilization"] == pytest.approx(0.72, abs=0.06)
    assert all(item.stable for item in found.values())


def test_percentiles_with_too_few_responses_are_refused():
    scenario = Scenario("server", 90.0, 20.0, seconds=2.0)
    found = figures(scenario, serve(scenario, service_ms=8.0))
    assert set(found) == {"response p50", "response p90", "missed deadlines", "goodput"}
    assert found["response p50"].conditions["refused"] == ["p95: 180 of 200 calls", "p99: 180 of 1000 calls"]


def test_more_work_than_can_be_done_is_said():
    scenario = Scenario("server", 200.0, 20.0)
    found = figures(scenario, serve(scenario, service_ms=8.0))
    assert not found["goodput"].stable
    assert "more arrives than it can do" in found["response p50"].doubts[0]
    assert found["goodput"].value < 125.0  # what 8 ms allow


def test_a_pace_is_even_and_late_calls_push_the_next_ones():
    scenario = Scenario("paced", 100.0, seconds=1.0)
    assert scenario.due_ms == 10.0
    in_time = figures(scenario, serve(scenario, service_ms=9.0, loads=2))
    assert (in_time["missed deadlines"].value, in_time["goodput"].value) == (0.0, pytest.approx(100.0, rel=0.03))
    late = figures(scenario, served := serve(scenario, service_ms=11.0, loads=2))
    assert late["missed deadlines"].value == 1.0
    np.testing.assert_array_equal(served[0].arrivals_ms, 10.0 * np.arange(50))
    np.testing.assert_allclose(served[0].starts_ms, 11.0 * np.arange(50), atol=0.05)
    bounded = Scenario("paced", 100.0, 1000.0, seconds=1.0)
    assert figures(bounded, serve(bounded, 11.0, loads=2))["missed deadlines"].value == 0.0


def test_arrivals_follow_the_seed():
    scenario = Scenario("server", 50.0, 20.0)
    first, again, other = (serve(scenario, 1.0, seed=seed)[0].arrivals_ms for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_scenarios_say_what_they_are():
    assert str(Scenario()) == "stream"
    assert str(Scenario("server", 200, 10)) == "server, 200/s, due in 10 ms"
    assert str(Scenario("paced", 50)) == "paced, 50/s, due in 20 ms"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("server", 200.0), r"got: no bound\n  expected: a rate; a bound"),
        (("server", None, 10.0), "got: no rate"),
        (("paced",), "got: no rate"),
        (("stream", 200.0), "calls are back to back"),
        (("batch", None, 10.0), "calls are back to back"),
        (("server", -1.0, 10.0), "rate -1"),
        (("server", 1.0, 0.0), "bound 0"),
        (("server", 1.0, 1.0, float("inf")), "seconds inf"),
        (("batch", None, None, 1.0), "calls are back to back"),
    ],
)
def test_scenarios_that_make_no_sense(settings, message):
    with pytest.raises(OptionError, match=message):
        Scenario(*settings)


def test_unknown_scenarios_offer_the_nearest():
    with pytest.raises(UnknownName, match="server"):
        Scenario("sever")


def test_one_load_gives_no_interval(tmp_path):
    with pytest.raises(OptionError, match=r"loads=1[\s\S]*>= 2"):
        measure_scenario(Subject("a:b", tmp_path), Scenario("paced", 1.0), loads=1)


def test_bounds_are_read():
    assert [read_milliseconds(text) for text in ("10ms", "500us", " 1.5 s ")] == [10.0, 0.5, 1500.0]
    with pytest.raises(OptionError, match=r"reading the bound '10'[\s\S]*10ms"):
        read_milliseconds("10")
