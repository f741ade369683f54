"""What every metric must do: inherit ``MetricContract``, and say what perfect predictions look like."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pytest

from gossamer.core.digest import digest_arrays
from gossamer.core.errors import DataError
from gossamer.metrics import resolve_metric
from gossamer.metrics.base import Labels, Metric, Outputs

SAMPLES = 60
CLASSES = 7


class MetricContract:
    """Every check that a metric must pass.

    Inherit it in a class whose name starts with ``Test``, and set ``metric``. The samples are those of a classification
    with seven classes; a metric of something else overrides ``outputs``, ``labels`` and ``perfect``.

    Attributes:
        metric: as ``resolve_metric`` gives it.
        limits: smallest and largest value it can have.
        is_mean: the value is the mean of scores of single samples.
    """

    metric: ClassVar[Metric]
    limits: ClassVar[tuple[float, float]] = (0.0, 100.0)
    is_mean: ClassVar[bool] = True

    def outputs(self, rng: np.random.Generator, samples: int) -> dict[str, np.ndarray]:
        """What a model that learned nothing gives."""
        return {"logits": rng.standard_normal((samples, CLASSES)).astype(np.float32)}

    def labels(self, rng: np.random.Generator, samples: int) -> np.ndarray:
        """Labels of these samples, or the outputs of the original model for a metric without labels."""
        return rng.integers(0, CLASSES, samples)

    def perfect(self, labels: np.ndarray) -> dict[str, np.ndarray]:
        """Outputs of a model that is never wrong."""
        return {"logits": 5 * np.eye(CLASSES, dtype=np.float32)[labels]}

    def _drawn(self, seed: int = 0, samples: int = SAMPLES) -> tuple[dict[str, np.ndarray], np.ndarray]:
        rng = np.random.default_rng(seed)
        return self.outputs(rng, samples), self.labels(rng, samples)

    def _value(self, outputs: Outputs, labels: Labels) -> float:
        return self.metric.value(outputs, labels)

    # What it says of itself

    def test_words_are_known(self) -> None:
        """Unit and direction are those that budgets and reports understand."""
        assert self.metric.unit in ("%", "")
        assert self.metric.better in ("higher", "lower")
        assert self.metric.output is None

    def test_name_reads_back(self) -> None:
        """Its name, alone and with an output, gives a metric that computes the same."""
        outputs, labels = self._drawn()
        (name,) = outputs
        for text in (self.metric.name, f"{self.metric.name}@{name}"):
            found = resolve_metric(text)
            assert found.name == text
            assert (found.unit, found.better, found.needs_labels) == (
                self.metric.unit, self.metric.better, self.metric.needs_labels
            )  # fmt: skip
            assert found.value(outputs, labels) == self._value(outputs, labels)

    def test_reads_the_first_output_or_the_named_one(self) -> None:
        """``name@output`` is deaf to the other outputs; a name that is not there is an error."""
        _, labels = self._drawn()
        outputs = self.perfect(labels)
        (name,) = outputs
        chosen = dataclasses.replace(self.metric, output=name)
        noise = {"other": -10 * outputs[name]}
        assert chosen.value({**noise, **outputs}, labels) == self._value(outputs, labels)
        assert self._value({**outputs, **noise}, labels) == self._value(outputs, labels)
        with pytest.raises(DataError, match=name):
            dataclasses.replace(self.metric, output=f"{name}s").value(outputs, labels)

    # Values

    def test_values_lie_within_the_limits(self) -> None:
        """Of random, constant, perfect and inverted outputs, of one sample and of many."""
        low, high = self.limits
        for seed in range(5):
            outputs, labels = self._drawn(seed)
            for tried in (
                outputs,
                self.perfect(labels),
                *(_changed(outputs, by) for by in (np.zeros_like, np.negative)),
            ):
                assert low <= self._value(tried, labels) <= high
            first = {name: array[:1] for name, array in outputs.items()}
            assert low <= self._value(first, labels[:1]) <= high

    def test_perfect_predictions_are_best(self) -> None:
        """They reach the best end of the limits, and nothing else does better."""
        best = self.limits[self.metric.better == "higher"]
        for seed in range(5):
            outputs, labels = self._drawn(seed)
            perfect = self._value(self.perfect(labels), labels)
            assert math.isinf(best) or perfect == pytest.approx(best, abs=1e-6)
            assert self.metric.harm(perfect, self._value(outputs, labels)) > 0

    def test_more_mistakes_are_worse(self) -> None:
        """Taking perfect predictions away from more and more samples never helps, and harms in the end."""
        outputs, labels = self._drawn()
        perfect, values = self.perfect(labels), []
        for broken in range(0, SAMPLES + 1, 10):
            mixed = {name: np.concatenate([outputs[name][:broken], array[broken:]]) for name, array in perfect.items()}
            values.append(self._value(mixed, labels))
        harms = [self.metric.harm(before, after) for before, after in itertools.pairwise(values)]
        assert min(harms) >= 0
        assert sum(harms) > 0

    def test_harm_is_signed(self) -> None:
        """Positive when worse, 0 when equal, and the other way round with the other sign."""
        outputs, labels = self._drawn()
        good, bad = self._value(self.perfect(labels), labels), self._value(outputs, labels)
        assert self.metric.harm(good, bad) == abs(good - bad) > 0
        assert self.metric.harm(bad, good) == -self.metric.harm(good, bad)
        assert self.metric.harm(good, good) == 0

    # Samples

    def test_order_of_samples_does_not_matter(self) -> None:
        """Shuffled samples have the same value, and their scores are shuffled with them."""
        outputs, labels = self._drawn()
        order = np.random.default_rng(1).permutation(SAMPLES)
        shuffled = _changed(outputs, lambda array: array[order])
        assert self._value(shuffled, labels[order]) == pytest.approx(self._value(outputs, labels), rel=1e-12)
        scores, moved = self.metric.per_sample(outputs, labels), self.metric.per_sample(shuffled, labels[order])
        if scores is not None and moved is not None:
            np.testing.assert_allclose(moved, scores[order], rtol=1e-12)

    def test_value_is_the_mean_of_the_scores(self) -> None:
        """Where it is one, so that paired tests apply; in percent for shares. Elsewhere there are no scores."""
        outputs, labels = self._drawn()
        scores = self.metric.per_sample(outputs, labels)
        assert (scores is not None) == self.is_mean
        if scores is None:
            return
        assert scores.shape == (SAMPLES,)
        factor = 100 if self.metric.unit == "%" else 1
        assert self._value(outputs, labels) == pytest.approx(factor * scores.mean(), rel=1e-9)
        if self.metric.unit == "%":
            assert scores.min() >= 0
            assert scores.max() <= 1

    def test_resampling_is_consistent(self) -> None:
        """A sample that a bootstrap draws twice counts twice; drawing everything twice changes nothing."""
        outputs, labels = self._drawn()
        twice = np.tile(np.arange(SAMPLES), 2)
        whole = self._value(_changed(outputs, lambda array: array[twice]), labels[twice])
        assert whole == pytest.approx(self._value(outputs, labels), rel=1e-9)
        drawn = np.random.default_rng(2).integers(0, SAMPLES, SAMPLES)
        value = self._value(_changed(outputs, lambda array: array[drawn]), labels[drawn])
        scores = self.metric.per_sample(outputs, labels)
        if scores is not None:
            factor = 100 if self.metric.unit == "%" else 1
            assert value == pytest.approx(factor * scores[drawn].mean(), rel=1e-9)
        half = {name: np.concatenate([array[:30], outputs[name][30:]]) for name, array in self.perfect(labels).items()}
        worse = np.r_[:SAMPLES, np.tile(np.arange(30, SAMPLES), 3)]
        repeated = self._value(_changed(half, lambda array: array[worse]), labels[worse])
        assert self.metric.harm(self._value(half, labels), repeated) > 0, "mistakes drawn more often do more harm"

    def test_computes_the_same_twice_and_writes_nothing(self) -> None:
        """Read-only arrays in float32 or float64 give one value."""
        outputs, labels = self._drawn()
        labels.flags.writeable = False
        for array in outputs.values():
            array.flags.writeable = False
        before = digest_arrays({**outputs, "labels": labels})
        wide = _changed(outputs, lambda array: array.astype(np.float64))
        values = [self._value(outputs, labels), self._value(outputs, labels), self._value(wide, labels)]
        assert values[0] == values[1] == pytest.approx(values[2], rel=1e-6)
        assert digest_arrays({**outputs, "labels": labels}) == before

    # What does not fit

    def test_nan_is_a_mistake_or_an_error(self) -> None:
        """Outputs that are not numbers earn the worst value, and one among perfect ones does harm."""
        _, labels = self._drawn()
        perfect = self.perfect(labels)
        for broken in (slice(None), slice(1)):
            outputs = _changed(perfect, np.copy)
            for array in outputs.values():
                array[broken] = np.nan
            try:
                value = self._value(outputs, labels)
            except DataError:
                continue
            assert self.metric.harm(self._value(perfect, labels), value) > 0
            assert broken == slice(1) or value == self.limits[self.metric.better == "lower"]

    @pytest.mark.parametrize(
        "wrong", ["no labels", "too few labels", "labels of another shape", "no samples", "scalar", "nothing"]
    )
    def test_what_does_not_fit_is_refused(self, wrong: str) -> None:
        """With a DataError, whose message says what was got."""
        outputs, labels = self._drawn()
        cases: Mapping[str, tuple[Any, Any]] = {
            "no labels": (outputs, None), "too few labels": (outputs, labels[:-1]),
            "labels of another shape": (outputs, np.stack([labels, labels])),
            "no samples": (_changed(outputs, lambda array: array[:0]), labels[:0]),
            "scalar": (_changed(outputs, lambda _: np.float32(1)), labels), "nothing": ({}, labels),
        }  # fmt: skip
        with pytest.raises(DataError, match="got: "):
            self._value(*cases[wrong])


def _changed(outputs: Outputs, by: Any) -> dict[str, np.ndarray]:
    return {name: by(array) for name, array in outputs.items()}
