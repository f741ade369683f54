"""Metrics that are wrong in one way each, with the checks of the contract that must reject them.

Run by ``test_contracts_reject.py``; nothing here is collected by name.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import ClassVar

import numpy as np

from gossamer.core.errors import DataError
from gossamer.metrics import METRICS
from gossamer.metrics.top1 import top1_scores
from gossamer.testing import MetricContract

TOP1 = METRICS["top1"]


def right(outputs, labels):
    return top1_scores(outputs, labels)


def scored(score):
    """Top-1 accuracy computed otherwise, under its own name."""
    return replace(TOP1, score=score)


class Wrong(MetricContract):
    rejected_by: ClassVar[set[str]] = set()


class TestRight(Wrong):
    metric = TOP1


def later_samples_count_more(outputs, labels):
    scores = top1_scores(outputs, labels)
    return float(100 * np.average(scores, weights=np.arange(1, len(scores) + 1)))


class TestDependsOnTheOrder(Wrong):
    metric = scored(later_samples_count_more)
    is_mean = False
    rejected_by: ClassVar = {
        "test_order_of_samples_does_not_matter",
        "test_resampling_is_consistent",
        "test_name_reads_back",
    }


class TestPointsTheWrongWay(Wrong):
    metric = replace(TOP1, better="lower")
    rejected_by: ClassVar = {
        "test_perfect_predictions_are_best", "test_more_mistakes_are_worse", "test_harm_is_signed",
        "test_nan_is_a_mistake_or_an_error", "test_name_reads_back", "test_resampling_is_consistent",
    }  # fmt: skip


class TestScoresInPercentTwice(Wrong):
    metric = scored(lambda outputs, labels: 100 * top1_scores(outputs, labels))
    rejected_by: ClassVar = {
        "test_values_lie_within_the_limits", "test_perfect_predictions_are_best", "test_name_reads_back",
        "test_value_is_the_mean_of_the_scores",
    }  # fmt: skip


class TestIsCalledPercentAndIsNone(Wrong):
    metric = replace(TOP1, unit="percent")
    rejected_by: ClassVar = {
        "test_words_are_known", "test_name_reads_back", "test_perfect_predictions_are_best",
    }  # fmt: skip


class TestIsNoMeanThoughItSaysSo(Wrong):
    metric = METRICS["f1"]
    rejected_by: ClassVar = {"test_value_is_the_mean_of_the_scores"}


class TestIsAMeanThoughItDeniesIt(Wrong):
    metric = TOP1
    is_mean = False
    rejected_by: ClassVar = {"test_value_is_the_mean_of_the_scores"}


def off_by_one(outputs, labels):
    return top1_scores(outputs, (np.asarray(labels) + 1) % 7)


class TestReadsLabelsOffByOne(Wrong):
    metric = scored(off_by_one)
    rejected_by: ClassVar = {
        "test_name_reads_back", "test_perfect_predictions_are_best", "test_more_mistakes_are_worse",
        "test_harm_is_signed", "test_nan_is_a_mistake_or_an_error", "test_resampling_is_consistent",
    }  # fmt: skip


def argmax_only(outputs, labels):
    top1_scores(outputs, labels)
    return next(iter(outputs.values())).argmax(-1) == labels


class TestCountsNanAsClassZero(Wrong):
    metric = scored(argmax_only)
    rejected_by: ClassVar = {"test_nan_is_a_mistake_or_an_error"}


def forgiving(outputs, labels):
    try:
        return top1_scores(outputs, labels)
    except DataError:
        return 50.0


class TestTakesWhatDoesNotFit(Wrong):
    metric = scored(forgiving)
    rejected_by: ClassVar = {"test_what_does_not_fit_is_refused"}


def raises_what_numpy_raises(outputs, labels):
    (logits,) = outputs.values()
    return (logits.argmax(-1) == np.asarray(labels).reshape(len(logits))) & ~np.isnan(logits).any(-1)


class TestRaisesWhatNumpyRaises(Wrong):
    metric = scored(raises_what_numpy_raises)
    rejected_by: ClassVar = {"test_what_does_not_fit_is_refused", "test_reads_the_first_output_or_the_named_one"}


def sorts_in_place(outputs, labels):
    scores = top1_scores(outputs, labels)
    for array in outputs.values():
        array.sort(axis=-1)
    return scores


class TestWritesToOutputs(Wrong):
    metric = scored(sorts_in_place)
    rejected_by: ClassVar = {
        "test_computes_the_same_twice_and_writes_nothing", "test_reads_the_first_output_or_the_named_one",
        "test_value_is_the_mean_of_the_scores", "test_nan_is_a_mistake_or_an_error",
    }  # fmt: skip


def distinct_samples(outputs, labels):
    logits = next(iter(outputs.values()))
    top1_scores(outputs, labels)
    _, first = np.unique(logits, axis=0, return_index=True)
    return float(100 * np.mean(top1_scores({"logits": logits[first]}, np.asarray(labels)[first])))


class TestCountsASampleOnce(Wrong):
    metric = scored(distinct_samples)
    is_mean = False
    rejected_by: ClassVar = {"test_resampling_is_consistent"}


CALLS = itertools.count()


def trembles(outputs, labels):
    return top1_scores(outputs, labels) * (1 - 1e-10 * (next(CALLS) % 2))


class TestIsNotDeterministic(Wrong):
    metric = scored(trembles)
    rejected_by: ClassVar = {
        "test_computes_the_same_twice_and_writes_nothing", "test_order_of_samples_does_not_matter",
        "test_name_reads_back", "test_reads_the_first_output_or_the_named_one",
    }  # fmt: skip


def half_for_doubles(outputs, labels):
    logits = next(iter(outputs.values()))
    return top1_scores(outputs, labels) / (2 if logits.dtype == np.float64 else 1)


class TestDependsOnTheDtype(Wrong):
    metric = scored(half_for_doubles)
    rejected_by: ClassVar = {"test_computes_the_same_twice_and_writes_nothing"}


def nothing(outputs, labels):
    return 0.0 * float(top1_scores(outputs, labels).mean())


class TestSeesNoMistake(Wrong):
    metric = scored(nothing)
    is_mean = False
    rejected_by: ClassVar = {
        "test_perfect_predictions_are_best", "test_more_mistakes_are_worse", "test_harm_is_signed",
        "test_nan_is_a_mistake_or_an_error", "test_name_reads_back", "test_resampling_is_consistent",
    }  # fmt: skip


class TestReadsAllOutputs(Wrong):
    metric = scored(lambda outputs, labels: top1_scores({"all": sum(outputs.values())}, labels))
    rejected_by: ClassVar = {"test_reads_the_first_output_or_the_named_one"}
