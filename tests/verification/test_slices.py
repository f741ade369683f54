"""Slices: how columns are cut, and which columns there are."""

import numpy as np
import pytest

from gossamer.core.errors import DataError
from gossamer.verification.slices import Cut, columns_of, cut, cut_columns, lengths, margin, slices_of


def test_columns_of_few_values_have_a_slice_for_each():
    column = np.array(["day"] * 60 + ["night"] * 70 + ["dusk"] * 5)
    how = cut(column)
    assert how == Cut(values=("day", "dusk", "night"))
    found = how.slices("time", column)
    assert {name: len(rows) for name, rows in found.items()} == {"time = day": 60, "time = night": 70}


def test_numbers_are_cut_at_their_quartiles_of_the_data_they_are_cut_on():
    how = cut(np.arange(400.0))
    assert how.edges == (99.75, 199.5, 299.25)
    found = how.slices("age", np.arange(1000.0) / 2)
    assert list(found) == ["age below 99.8", "age 99.8 to 200", "age 200 to 299", "age from 299"]
    assert [len(rows) for rows in found.values()] == [200, 199, 200, 401]
    assert np.array_equal(np.sort(np.concatenate(list(found.values()))), np.arange(1000))


def test_edges_that_look_alike_are_written_out():
    column = 1.0 + np.linspace(0, 1e-4, 400)
    assert len(cut(column).slices("x", column)) == 4


@pytest.mark.parametrize(
    "column", [np.ones(100), np.array([f"id {i}" for i in range(100)]), np.r_[np.arange(99.0), np.nan]]
)
def test_columns_that_say_nothing_are_left_out(column):
    assert cut(column) is None
    assert cut_columns({"x": column}) == {}


def test_half_of_the_values_may_be_one():
    column = np.r_[np.zeros(200), np.arange(1, 201)]
    assert [len(rows) for rows in cut(column).slices("x", column).values()] == [200, 100, 100]


def test_one_slice_alone_is_the_whole():
    column = np.r_[np.zeros(100), np.ones(20)]
    assert slices_of({"x": column}, cut_columns({"x": column})) == {}


def test_cheap_columns_of_images_and_their_scores():
    rng = np.random.default_rng(0)
    images = rng.random((10, 1, 4, 4)) * np.arange(1, 11)[:, None, None, None]
    scores = rng.normal(size=(10, 3)).astype(np.float32)
    found = columns_of(scores, {"x": images}, np.arange(10))
    assert list(found) == ["label", "margin", "brightness", "contrast"]
    assert found["brightness"] == pytest.approx(images.mean(axis=(1, 2, 3)))
    assert found["contrast"] == pytest.approx(images.std(axis=(1, 2, 3)))
    ranked = np.sort(scores, axis=1)
    assert found["margin"] == pytest.approx(ranked[:, 2] - ranked[:, 1])
    both = columns_of(scores, {"x": images, "y": images}, None, {"margin": np.zeros(10)})
    assert list(both) == ["margin", "brightness of x", "contrast of x", "brightness of y", "contrast of y"]
    assert not both["margin"].any()  # what the user gives goes first


def test_regression_and_broken_scores_have_no_margin():
    assert margin(np.zeros((5, 1))) is None
    assert margin(np.zeros((5, 2), dtype=int)) is None
    assert margin(np.full((5, 2), np.nan)) is None


def test_texts_have_a_length():
    ids = np.array([[7, 8, 9, 0, 0, 0], [7, 0, 0, 0, 0, 0], [1, 2, 3, 4, 5, 6], [0, 0, 0, 0, 0, 0]])
    assert lengths(ids).tolist() == [3, 1, 6, 0]
    mask = (ids > 0).astype(np.int64)
    assert lengths(mask).tolist() == [3, 1, 6, 0]
    assert list(columns_of(np.zeros(4), {"ids": ids, "mask": mask})) == ["length of ids"]
    assert lengths(np.array([[1, 2], [3, 4]])).tolist() == [2, 2]


def test_a_column_has_an_entry_for_each_sample():
    with pytest.raises(DataError, match=r"column 'age' of shape \[3\]"):
        columns_of(np.zeros((5, 2)), {}, None, {"age": np.zeros(3)})
