"""Samples: identity, batches, fitting to a model, splits."""

from __future__ import annotations

import hashlib
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer.core.errors import DataError, OptionError
from gossamer.core.specs import Signature, TensorSpec
from gossamer.datasets.samples import Samples, split_by_digest

IMAGE = Signature((TensorSpec("image", "float32", ("batch", 2)),), (), {"batch": (1, 2)})
TEXT = Signature(
    (TensorSpec("ids", "int64", (1, "length")), TensorSpec("mask", "bool", (1, "length"))), (), {"length": (2, 8)}
)


def numbered(count: int, *, labels: bool = True) -> Samples:
    x = np.arange(2 * count, dtype=np.float32).reshape(count, 2)
    return Samples({"x": x}, np.arange(count) if labels else None, "numbers")


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        ({}, None, "no input arrays"),
        ({"x": np.zeros((0, 2))}, None, "got: 0 samples"),
        ({"x": np.zeros(())}, None, "input 'x' is a single number"),
        ({"x": np.array(["a"])}, None, "input 'x' of dtype <U1"),
        ({"x": np.array([None])}, None, "input 'x' of dtype object"),
        ({"x": np.zeros(2)}, np.array(["a", "b"]), "the labels of dtype <U1"),
        ({"x": np.zeros(2), "z": np.zeros(3)}, None, "input 'x' has 2, input 'z' has 3"),
        ({"x": np.zeros(2)}, np.zeros(1), "input 'x' has 2, the labels has 1"),
    ],
)
def test_arrays_that_are_no_samples_are_refused(inputs: dict, labels: np.ndarray | None, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        Samples(inputs, labels, "numbers")
    assert caught.value.doing == "reading numbers"


def test_take_keeps_inputs_and_labels_together() -> None:
    samples = numbered(5)
    taken = samples.take([3, 0, 3])
    assert taken.inputs["x"].tolist() == [[6, 7], [0, 1], [6, 7]]
    assert taken.labels is not None
    assert taken.labels.tolist() == [3, 0, 3]
    assert len(samples.take(slice(1, 3))) == 2
    assert numbered(5, labels=False).take([1]).labels is None


def test_shuffling_depends_on_the_seed_alone_and_loses_nothing() -> None:
    samples = numbered(50)
    assert samples.shuffled(1).digest == samples.shuffled(1).digest
    assert samples.shuffled(1).digest != samples.shuffled(2).digest
    assert sorted(samples.shuffled(1).sample_digests()) == sorted(samples.sample_digests())


@pytest.mark.parametrize(("size", "sizes"), [(1, [1] * 5), (2, [2, 2, 1]), (5, [5]), (9, [5])])
def test_batches_are_consecutive_and_have_no_labels(size: int, sizes: list[int]) -> None:
    batches = list(numbered(5).batches(size))
    assert [len(batch["x"]) for batch in batches] == sizes
    assert {name for batch in batches for name in batch} == {"x"}
    assert np.array_equal(np.concatenate([batch["x"] for batch in batches]), numbered(5).inputs["x"])


def test_a_batch_size_below_one_is_refused_at_the_call() -> None:
    with pytest.raises(OptionError, match="batch size 0"):
        numbered(2).batches(0)


def test_the_digest_covers_names_inputs_labels_and_order() -> None:
    samples = numbered(4)
    assert samples.digest == numbered(4).digest
    others = [
        numbered(4, labels=False),
        samples.rename({"x": "image"}),
        samples.take([0, 1, 3, 2]),
        Samples({"x": samples.inputs["x"], "labels": np.arange(4)}, None, "labels as an input"),
    ]
    assert len({samples.digest, *(other.digest for other in others)}) == 5


def test_a_sample_digest_is_of_the_bytes_of_its_inputs_by_sorted_name() -> None:
    a, b = np.arange(3, dtype=np.uint8), np.arange(6, dtype=np.int16).reshape(3, 2)[:, ::-1]
    samples = Samples({"b": b, "a": a}, np.arange(3), "two inputs")
    expected = tuple(hashlib.sha256(a[i].tobytes() + b[i].tobytes()).hexdigest() for i in range(3))
    assert samples.sample_digests() == expected
    assert samples.rename({"a": "a2"}).sample_digests() == expected


def test_missing_labels_name_the_metric() -> None:
    assert numbered(3).require_labels("top1").tolist() == [0, 1, 2]
    with pytest.raises(DataError, match=r"computing top1 on numbers\n  got: samples without labels"):
        numbered(3, labels=False).require_labels("top1")


def test_rename_refuses_unknown_names_and_collisions() -> None:
    two = Samples({"a": np.zeros(2), "b": np.ones(2)}, None, "two")
    assert list(two.rename({"a": "b", "b": "a"}).inputs) == ["b", "a"]
    with pytest.raises(DataError, match="no input 'c'"):
        two.rename({"c": "a"})
    with pytest.raises(DataError, match="a name of its own for each input"):
        two.rename({"a": "b"})


def test_an_unnamed_input_gets_the_models_name_and_dtype() -> None:
    x = np.array([[1, 2], [3, 4], [5, 6]], np.float64)
    matched = Samples({"x": x}, np.arange(3), "numbers").matched_to(IMAGE)  # more samples than the batch may have
    assert list(matched.inputs) == ["image"]
    assert matched.inputs["image"].dtype == np.float32
    assert matched.inputs["image"].tolist() == x.tolist()
    assert matched.labels is not None


def test_named_dims_may_have_any_size_in_their_range_and_inputs_take_the_models_order() -> None:
    ids = np.zeros((3, 5), np.int64)
    samples = Samples({"mask": ids > 0, "ids": ids}, None, "text")
    assert list(samples.matched_to(TEXT).inputs) == ["ids", "mask"]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            {"ids": (3, 9), "mask": (3, 9)},
            "reading input 'ids', dim 1\n  got: int64[3, 9]\n  expected: length in [2, 8]",
        ),
        ({"ids": (3, 4), "mask": (3, 5)}, "reading input 'mask', dim 1\n  got: length=5"),
        ({"ids": (3, 4, 1), "mask": (3, 4)}, "expected: 2 dims: ids: i64[samples, length]"),
        ({"ids": (3, 4)}, "got: inputs named ids\n  expected: exactly ids, mask"),
        ({"ids": (3, 4), "mask": (3, 4), "extra": (3,)}, "try: drop extra"),
        ({"ids": (3, 4), "masks": (3, 4)}, "try: rename 'masks' to 'mask'"),
        ({"x": (3, 4)}, "expected: exactly ids, mask"),
    ],
    ids=["range", "disagreement", "rank", "missing", "unknown", "slip", "unnamed"],
)
def test_what_does_not_fit_the_model_is_named(inputs: dict[str, tuple[int, ...]], message: str) -> None:
    arrays = {name: np.zeros(shape, np.bool_ if name == "mask" else np.int64) for name, shape in inputs.items()}
    with pytest.raises(DataError, match=re.escape(message)):
        Samples(arrays, None, "text").matched_to(TEXT)


def test_a_float_where_the_model_takes_integers_is_refused() -> None:
    floats = Samples({"x": np.zeros((3, 2))}, None, "floats")
    with pytest.raises(DataError, match=re.escape("reading input 'ids'\n  got: float64[3, 2]")):
        floats.matched_to(Signature((TensorSpec("ids", "int64", ("batch", 2)),), ()))


def test_a_model_input_without_batch_dim_is_refused() -> None:
    with pytest.raises(DataError, match=re.escape("image: f32[], which has no batch dim")):
        numbered(2).matched_to(Signature((TensorSpec("image", "float32", ()),), ()))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_values_that_are_not_finite_name_input_and_first_sample(bad: float) -> None:
    x = np.zeros((6, 2))
    x[4, 1] = x[5, 0] = bad  # 1e300 is finite, but not in the model's float32
    message = "input 'image' has NaN or infinite values in 2 samples, first in sample 4"
    with pytest.raises(DataError, match=message):
        Samples({"x": x}, None, "numbers").matched_to(IMAGE)


SHARES = {"calibrate": 0.2, "choose": 0.32, "prove": 0.48}


def ids(samples: Samples) -> set[int]:
    assert samples.labels is not None
    return set(samples.labels.tolist())


def test_a_split_has_every_sample_once_with_its_label_in_its_order() -> None:
    samples = numbered(200)
    parts = split_by_digest(samples, SHARES)
    assert list(parts) == list(SHARES)
    assert sum(map(len, parts.values())) == 200
    assert set.union(*map(ids, parts.values())) == set(range(200))
    for name, part in parts.items():
        assert part.labels is not None
        assert part.labels.tolist() == sorted(part.labels.tolist())
        assert np.array_equal(part.inputs["x"], samples.inputs["x"][part.labels])
        assert part.origin == f"numbers, part '{name}'"


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(100, 199))
def test_a_split_depends_neither_on_order_nor_on_other_samples(seed: int, kept: int) -> None:
    samples = numbered(200)
    whole = split_by_digest(samples, SHARES)
    some = split_by_digest(samples.shuffled(seed).take(slice(kept)), SHARES)
    for name, part in some.items():
        assert ids(part) <= ids(whole[name])


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60))
def test_duplicates_land_on_one_side(values: list[int]) -> None:
    samples = Samples({"x": np.array(values)}, np.arange(len(values)), "drawn")
    try:
        parts = split_by_digest(samples, {"choose": 0.4, "prove": 0.6})
    except DataError:
        return  # few distinct samples may all fall on one side
    sides = [set(part.inputs["x"].tolist()) for part in parts.values()]
    assert not sides[0] & sides[1]


def test_sizes_are_close_to_the_shares() -> None:
    count = 5000
    parts = split_by_digest(numbered(count), SHARES)
    for name, share in SHARES.items():
        # Binomial: five standard deviations are exceeded by fewer than one hash function in a million.
        assert abs(len(parts[name]) - share * count) < 5 * math.sqrt(count * share * (1 - share))


def test_splitting_a_part_again_is_independent_of_the_first_split() -> None:
    first = split_by_digest(numbered(2000), SHARES)["calibrate"]
    again = split_by_digest(first, {"choose": 0.4, "prove": 0.6})
    assert abs(len(again["choose"]) - 0.4 * len(first)) < 5 * math.sqrt(len(first) * 0.4 * 0.6)


@pytest.mark.parametrize("shares", [{}, {"a": 1.0, "b": 0.0}, {"a": 1.5, "b": -0.5}, {"a": 0.5}, {"a": 0.6, "b": 0.6}])
def test_shares_must_be_above_zero_and_add_up(shares: dict[str, float]) -> None:
    with pytest.raises(OptionError, match="shares above 0 that add up to 1"):
        split_by_digest(numbered(10), shares)


def test_an_empty_part_is_refused() -> None:
    with pytest.raises(DataError, match=r"1 samples, none of which fell into '(calibrate|choose)'"):
        split_by_digest(numbered(1), SHARES)
