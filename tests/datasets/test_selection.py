"""Calibration samples are drawn evenly over the classes, and always the same ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossamer.core.errors import DataError
from gossamer.datasets.selection import choose_calibration

LABELS = st.lists(st.integers(-2, 6), min_size=1, max_size=200).map(np.array)


@given(LABELS, st.integers(0, 9), st.integers(1, 250))
def test_it_draws_different_samples_and_repeats(labels: np.ndarray, seed: int, count: int):
    chosen = choose_calibration(len(labels), labels, seed, count)
    assert len(set(chosen.tolist())) == len(chosen) == min(count, len(labels))
    assert 0 <= chosen.min() <= chosen.max() < len(labels)
    np.testing.assert_array_equal(chosen, choose_calibration(len(labels), labels, seed, count))


@given(LABELS, st.integers(0, 9), st.integers(1, 250))
def test_each_class_has_its_share(labels: np.ndarray, seed: int, count: int):
    chosen = labels[choose_calibration(len(labels), labels, seed, count)]
    kinds, sizes = np.unique(labels, return_counts=True)
    assert len(set(chosen.tolist())) == min(len(kinds), len(chosen)), "no class is missing while another has two"
    # Samples stand at k / n, so that a cut at t takes ceil(t n) of each class, or one less where it stands on the cut:
    # the share of what is taken in all is kept to within one sample a class.
    taken = np.array([(chosen == kind).sum() for kind in kinds])
    assert (abs(taken - sizes * len(chosen) / len(labels)) <= len(kinds)).all()


def test_sorted_data_of_unequal_classes():
    labels = np.repeat(["a", "b", "c"], [900, 90, 10])
    chosen = labels[choose_calibration(1000, labels, 0, 100)]
    counts = {kind: int((chosen == kind).sum()) for kind in "abc"}
    assert counts == {"a": 90, "b": 9, "c": 1}


def test_another_seed_draws_others():
    labels = np.arange(1000) % 10
    assert (choose_calibration(1000, labels, 0, 100) != choose_calibration(1000, labels, 1, 100)).any()


@pytest.mark.parametrize("labels", [None, np.linspace(0, 1, 50), np.zeros((50, 3), int)])
def test_without_classes_the_draw_is_plain(labels):
    expected = np.random.default_rng(3).permutation(50)[:20]
    np.testing.assert_array_equal(choose_calibration(50, labels, 3, 20), expected)


@pytest.mark.parametrize(("total", "labels", "count"), [(0, None, 3), (5, None, 0), (5, np.zeros(4, int), 3)])
def test_a_draw_that_cannot_be_is_refused(total: int, labels, count: int):
    with pytest.raises(DataError, match=rf"got: {count} of {total} samples"):
        choose_calibration(total, labels, 0, count)
