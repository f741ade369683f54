"""Each kind of clause against evidence that settles it either way, and evidence that does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gossamer.core.budget import Clause, parse_budget
from gossamer.core.errors import DataError, UnknownName
from gossamer.core.measurement import Measurement
from gossamer.metrics import METRICS, resolve_metric
from gossamer.metrics.base import Metric
from gossamer.search.claims import (
    ClauseResult,
    Predictions,
    behaviour_of,
    decide_drop_in_looks,
    decide_measured_clause,
    decide_metric_clause,
    drop_text,
    flips_of,
    measure_drop,
    misses,
    without_claim,
)

TOP1, F1, MAE = METRICS["top1"], METRICS["f1"], METRICS["mae"]


def clause(text: str, metric: str | None = "top1") -> Clause:
    figures = {name: known.better for name, known in METRICS.items() if not known.unit}
    (only,) = parse_budget(text, metric, METRICS, figures).clauses
    return only


def logits(right: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Two-class scores that are right or wrong as told."""
    return np.eye(2, dtype=np.float32)[np.where(right, labels, 1 - labels)]


def predictions(n: int, *, lost: int = 0, won: int = 0, wrong: int = 0) -> Predictions:
    """``n`` samples: ``lost`` only the original has right, ``won`` only the candidate, ``wrong`` neither."""
    labels = np.arange(n) % 2
    before, after = np.ones(n, bool), np.ones(n, bool)
    after[:lost] = False
    before[lost : lost + won] = False
    before[lost + won : lost + won + wrong] = after[lost + won : lost + won + wrong] = False
    return Predictions({"y": logits(before, labels)}, {"y": logits(after, labels)}, labels, labels, "digest")


def decide(text: str, given: Predictions, metric: Metric = TOP1, looks: int = 5) -> ClauseResult:
    return decide_metric_clause(clause(text, metric.name), metric, given, seed=0, looks=looks)


@pytest.mark.parametrize(
    ("text", "given", "decision"),
    [
        ("drop <= 1pt", predictions(2000, lost=2, won=2), "holds"),
        ("drop <= 1pt", predictions(2000, lost=90), "fails"),
        ("drop <= 1pt", predictions(200, lost=1), "undecided"),
        ("drop <= 1pt @ 99%", predictions(400), "undecided"),  # 0.99^400 is 1.8 %
        ("drop <= 1pt @ 99%", predictions(520), "holds"),  # 0.99^520 is 0.54 %
        ("drop <= 0pt", predictions(1000, lost=5, won=60), "holds"),
        ("top1 >= 90%", predictions(1000, wrong=50), "holds"),
        ("top1 >= 0.9", predictions(1000, wrong=50), "holds"),
        ("top1 >= 90%", predictions(1000, wrong=150), "fails"),
        ("top1 >= 90%", predictions(1000, wrong=100), "undecided"),
        ("top1 >= 0.98x baseline", predictions(1000, wrong=100), "holds"),
        ("top1 >= 0.98x baseline", predictions(1000, lost=80), "fails"),
        ("top1 >= 0.98x baseline", predictions(300, lost=6), "undecided"),
        ("worst class drop <= 3pt", predictions(2000, lost=4), "holds"),
        ("flips <= 5%", predictions(1000, lost=10, won=10), "holds"),
        ("flips <= 5%", predictions(1000, lost=60, won=60), "fails"),
        ("flips <= 5%", predictions(1000, lost=25, won=25), "undecided"),
        ("negative flips <= 5%", predictions(1000, lost=10, won=100), "holds"),
        ("negative flips <= 5%", predictions(1000, lost=90), "fails"),
        ("negative flips <= 5%", predictions(60, lost=1), "undecided"),
    ],
    ids=lambda value: None if isinstance(value, Predictions) else str(value),
)
@pytest.mark.parametrize("looks", [1, 5])
def test_a_clause_about_the_metric(text: str, given: Predictions, decision: str, looks: int):
    result = decide(text, given, looks=looks)
    assert result.decision == decision
    assert result.clause == str(clause(text))
    found = result.certificate
    assert found is not None
    assert result.found.endswith(f"{found.counted}{found.advice}")
    assert found.available == len(given.labels)
    assert found.prediction_digests == given.digests
    if looks == 1 or not text.startswith("drop"):
        assert (found.n, found.looks_planned) == (found.available, 1)
    if decision == "fails":
        assert result.short_by > 0


def test_a_worst_class_is_found_and_named():
    """Class 1 loses 6 of 100, class 0 nothing: over all samples that is 3 points, in its class 6."""
    given = predictions(200)
    after = given.after["y"].copy()
    after[1:13:2] = after[1:13:2, ::-1]
    given = Predictions(given.before, {"y": after}, given.labels, given.classes, "")
    whole, worst = decide("drop <= 4pt", given), decide("worst class drop <= 4pt", given)
    assert "+3.00 pt" in whole.found
    assert worst.found.startswith("class 1: drop +6.00 pt")
    assert worst.short_by == pytest.approx(0.5)


@pytest.mark.parametrize("classes", [None, np.full(100, 0.5), np.zeros((100, 2))])
@pytest.mark.parametrize("text", ["worst class drop <= 3pt", "calibration error <= 3%"])
def test_classes_need_class_numbers(text: str, classes: np.ndarray | None):
    given = predictions(100)
    without = Predictions(given.before, given.after, given.labels, classes, "")
    for check in (decide, lambda *args: misses(clause(args[0]), TOP1, args[1])):
        with pytest.raises(DataError, match="no class labels"):
            check(text, without)


def by_night(n: int, lost: int) -> Predictions:
    """Every fourth sample is taken at night, and only there answers are lost."""
    night = np.arange(n) % 4 == 0
    given = predictions(n)
    after = given.after["y"].copy()
    rows = np.flatnonzero(night)[:lost]
    after[rows] = after[rows, ::-1]
    columns = {"time": np.where(night, "night", "day")}
    return Predictions(given.before, {"y": after}, given.labels, given.classes, "", {}, columns)


@pytest.mark.parametrize(
    ("text", "lost", "decision"),
    [
        ("worst slice drop <= 3pt", 0, "holds"),
        ("worst slice drop <= 3pt", 60, "fails"),
        ("worst slice time drop <= 3pt", 60, "fails"),
        ("worst slice label drop <= 20pt", 60, "holds"),
    ],
)
def test_the_worst_slice(text: str, lost: int, decision: str):
    given = by_night(2000, lost)
    result = decide(text, given)
    assert result.decision == decision
    assert misses(clause(text), TOP1, given) == (decision == "fails")
    if decision == "fails":
        assert result.found.startswith("time = night: drop +12.00 pt")
    assert result.certificate is not None
    assert len(result.certificate.parts) == (2 if "slice time" in text or "label" in text else 4)


def test_slices_that_are_not_there_are_named():
    with pytest.raises(UnknownName, match="'time'"):
        decide("worst slice tiem drop <= 3pt", by_night(400, 0))
    with pytest.raises(DataError, match="two slices of 50"):
        decide("worst slice drop <= 3pt", predictions(60))


def sure(n: int, share: float, *, wrong: int) -> Predictions:
    """Probabilities of which the largest is ``share``; of the answers after, ``wrong`` are."""
    labels = np.arange(n) % 2
    scores = np.where(np.eye(2)[labels] == 1, share, 1 - share)
    after = scores.copy()
    after[:wrong] = after[:wrong, ::-1]
    return Predictions({"y": scores}, {"y": after}, labels, labels, "")


@pytest.mark.parametrize(
    ("text", "wrong", "decision"),
    [
        ("calibration error <= 25%", 0, "holds"),
        ("calibration error <= 25%", 900, "fails"),
        ("calibration error <= 10.1%", 0, "undecided"),
        ("calibration error rise <= 5pt", 0, "holds"),
        ("calibration error rise <= 5pt", 900, "fails"),
    ],
)
def test_calibration_error(text: str, wrong: int, decision: str):
    """Nine of ten are promised and all are right: 10 %. With 900 of 1500 wrong, 50 %."""
    result = decide(text, sure(1500, 0.9, wrong=wrong))
    assert result.decision == decision
    assert misses(clause(text), TOP1, sure(1500, 0.9, wrong=wrong)) == (decision == "fails")
    assert ("rise" in result.found) == ("rise" in text)


def test_an_undecided_clause_says_how_many_samples_would_decide_it():
    result = decide("drop <= 1pt", predictions(200, lost=1))
    assert "samples would decide it" in result.found
    assert result.certificate is not None
    assert (result.certificate.samples_needed or 0) > 200


@pytest.mark.parametrize(("better", "decision"), [(0, "holds"), (30, "fails")])
def test_a_metric_that_is_no_mean_is_resampled(better: int, decision: str):
    result = decide("drop <= 5pt", predictions(400, lost=better, wrong=10), F1)
    assert result.decision == decision
    assert result.certificate is not None
    assert "bootstrap" in result.certificate.test


def test_flips_need_one_score_a_sample():
    with pytest.raises(DataError, match="f1, which is no mean over samples"):
        decide("flips <= 1%", predictions(100), F1)


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("top1 >= 90%", predictions(1000, wrong=95)),
        ("flips <= 5%", predictions(1000, lost=45)),
        ("worst class drop <= 3pt", predictions(300, lost=3)),
        ("calibration error <= 10.1%", sure(1500, 0.9, wrong=0)),
        ("top1 >= 0.98x baseline", predictions(300, lost=3)),
    ],
    ids=lambda value: None if isinstance(value, Predictions) else str(value),
)
def test_every_kind_of_claim_says_what_would_decide_it(text: str, given: Predictions):
    result = decide(text, given)
    assert result.decision == "undecided"
    assert result.certificate is not None
    assert (result.certificate.samples_needed or 0) > len(given.labels)
    assert f"about {result.certificate.samples_needed} samples would decide it" in result.found


def test_a_drop_is_tested_on_predictions_made_as_they_are_needed():
    given = predictions(4000, lost=10, won=10)
    made: list[int] = []

    def predict(rows: np.ndarray) -> Predictions:
        made.extend(rows.tolist())
        return given.take(rows)

    result = decide_drop_in_looks(clause("drop <= 1pt"), TOP1, predict, 4000, "digest")
    whole = decide("drop <= 1pt", given)
    assert (result.decision, result.found) == (whole.decision, whole.found)
    assert result.certificate is not None
    assert len(made) == len(set(made)) == result.certificate.n < 4000
    with pytest.raises(DataError, match="no mean over samples"):
        decide_drop_in_looks(clause("drop <= 1pt", "f1"), F1, predict, 4000, "digest")


def test_behind_a_member_that_did_not_hold_nothing_is_claimed():
    held, failed = decide("drop <= 1pt", predictions(2000)), decide("drop <= 1pt", predictions(2000, lost=90))
    later = without_claim(held)
    assert later.decision == "undecided"
    assert later.certificate is not None
    assert later.certificate.decision == "undecided"
    assert held.certificate is not None
    assert later.certificate.interval == held.certificate.interval
    assert later.found.startswith(held.found)
    assert "no claim: a member before it was not shown to hold" in later.found
    assert "no claim" in str(later.certificate)
    assert without_claim(failed) == failed


def test_behaviour_of_a_metric():
    given = by_night(2000, 60)
    found = behaviour_of(TOP1, given, by_night(1200, 40))
    assert found is not None
    assert found.flips is not None
    assert found.flips.lost == 60
    assert (found.slices[0].name, found.slices[0].status) == ("time = night", "confirmed")
    by_answers = behaviour_of(F1, given)
    assert by_answers is not None
    assert by_answers.flips == found.flips
    figures = regression(0.1)
    ages = Predictions(figures.before, figures.after, figures.labels, np.arange(500) % 90, "")
    errors = behaviour_of(MAE, ages)
    assert errors is not None
    assert (errors.flips, errors.classes, errors.unit) == (None, (), "")
    assert behaviour_of(F1, Predictions(given.before, given.after, given.labels, None, "")) is None


def regression(noise: float) -> Predictions:
    """Labels, an original that is off by about 1, a candidate that is off by ``noise`` more."""
    rng = np.random.default_rng(0)
    labels = rng.standard_normal(500).astype(np.float32)
    before = labels + np.where(np.arange(500) % 2, 1.0, -1.0) * rng.uniform(0.8, 1.2, 500)
    after = before + np.sign(before - labels) * noise
    return Predictions({"y": before[:, None]}, {"y": after[:, None]}, labels[:, None], None, "")


@pytest.mark.parametrize(
    ("text", "noise", "decision"),
    [
        ("mae <= 1.5", 0.1, "holds"),
        ("mae <= 1.5", 0.9, "fails"),
        ("mae <= 1.1x baseline", 0.05, "holds"),
        ("mae <= 1.1x baseline", 0.3, "fails"),
    ],
)
def test_an_error_counts_downward(text: str, noise: float, decision: str):
    result = decide(text, regression(noise), MAE)
    assert result.decision == decision
    assert (result.short_by > 0) == (decision == "fails")


def measured(**changes: Any) -> list[Measurement]:
    """A candidate that takes 2 ms, give or take a tenth."""
    latency = {"value": 2.0, "interval": (1.9, 2.1)} | changes
    return [
        Measurement("latency p50", latency["value"], "ms", "lower", 100, latency["interval"]),
        Measurement("latency p99", 5.0, "ms", "lower", 2000, (4.0, 6.0)),
        Measurement("throughput", 500.0, "samples/s", "higher", 100, (480.0, 520.0)),
        Measurement("size", 1e6, "B", "lower"),
        Measurement("peak memory", 3e6, "B", "lower"),
        Measurement("load", 8.0, "ms", "lower"),
    ]


@pytest.mark.parametrize(
    ("text", "decision", "short_by"),
    [
        ("latency <= 2.2ms", "holds", 0.0),
        ("latency <= 2.1ms", "holds", 0.0),
        ("latency <= 2.05ms", "undecided", 0.0),
        ("latency <= 1.95ms", "undecided", 0.05 / 1.95),
        ("latency <= 1ms", "fails", 1.0),
        ("latency p99 <= 7ms", "holds", 0.0),
        ("latency p99 <= 5ms", "undecided", 0.0),
        ("latency p90 <= 7ms", "undecided", 0.0),  # not measured: too few calls
        ("latency <= 0.9x baseline", "holds", 0.0),
        ("latency <= 0.25x baseline", "fails", 1.0),
        ("throughput >= 400/s", "holds", 0.0),
        ("throughput >= 500/s", "undecided", 0.0),
        ("throughput >= 1000/s", "fails", 0.5),
        ("throughput >= 1.5x baseline", "holds", 0.0),
        ("size <= 1MB", "holds", 0.0),
        ("size <= 800kB", "fails", 0.25),
        ("size <= 0.3x baseline", "holds", 0.0),
        ("size <= 0.2x baseline", "fails", 0.25),
        ("peak memory <= 4MB", "holds", 0.0),
        ("peak memory <= 2MB", "fails", 0.5),
        ("load time <= 8ms", "holds", 0.0),
        ("load time <= 4ms", "fails", 1.0),
    ],
)
def test_a_clause_about_a_measurement(text: str, decision: str, short_by: float):
    baseline = [
        Measurement("latency p50", 4.0, "ms", "lower"),
        Measurement("throughput", 250.0, "samples/s", "higher"),
        Measurement("size", 4e6, "B", "lower"),
    ]
    result = decide_measured_clause(clause(text), measured(), baseline)
    assert result.decision == decision
    assert result.short_by == pytest.approx(short_by, abs=1e-9)
    assert result.to_json()["decision"] == decision


def test_a_figure_that_the_baseline_lacks_is_undecided():
    result = decide_measured_clause(clause("latency p99 <= 0.9x baseline"), measured(), measured()[:1])
    assert result.decision == "undecided"


def test_the_drop_is_told_whatever_the_budget():
    assert drop_text(measure_drop(TOP1, predictions(100, lost=2), 0)).startswith("+2.00 pt [")
    assert drop_text(measure_drop(MAE, regression(0.1), 0)).startswith("0.1")


@pytest.mark.parametrize(
    ("text", "missed"),
    [
        ("top1 drop <= 1pt", True),
        ("top1 drop <= 2pt", False),
        ("top1 >= 0.999x baseline", True),
        ("top1 >= 0.9x baseline", False),
        ("negative flips <= 1%", True),
        ("negative flips <= 2%", False),
    ],
)
def test_point_estimates_miss_exactly_beyond_the_limit(text, missed):
    assert misses(clause(text), TOP1, predictions(100, lost=2)) == missed


def test_flips_are_counted_where_there_is_right_and_wrong():
    flips = flips_of(TOP1, predictions(100, lost=3, won=2))
    assert flips is not None
    assert "3" in str(flips)
    assert flips_of(MAE, regression(0.1)) is None
    assert flips_of(resolve_metric("f1"), predictions(100)) is None


@pytest.mark.parametrize(
    ("text", "beyond"),
    [
        ("latency <= 1ms", "100%"),
        ("latency <= 1us", "2000 times the limit"),
        ("size <= 800kB", "25%"),
        ("size <= 1MB", ""),
        ("throughput >= 1000/s", "50%"),
    ],
)
def test_how_far_beyond_the_limit(text: str, beyond: str):
    assert decide_measured_clause(clause(text), measured(), []).beyond == beyond


def test_how_many_points_beyond_the_limit():
    assert decide("drop <= 1pt", predictions(2000, lost=90), looks=1).beyond == "+3.50 pt"
    assert decide("top1 >= 90%", predictions(1000, wrong=150)).beyond == "+5.00 pt"
    assert decide("flips <= 5%", predictions(1000, lost=100)).beyond == "+5.00 pt"
    assert decide("drop <= 1pt", predictions(2000)).beyond == ""
