"""Digests: equal exactly where the content is equal."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossamer.core.digest import canonical_json, digest_arrays, digest_bytes, digest_json


def test_digest_bytes_is_sha256_of_length_prefixed_parts() -> None:
    assert digest_bytes(b"ab") == hashlib.sha256((2).to_bytes(8, "little") + b"ab").hexdigest()


@given(st.lists(st.binary(max_size=4), max_size=4), st.lists(st.binary(max_size=4), max_size=4))
def test_where_one_part_ends_counts(one: list[bytes], other: list[bytes]) -> None:
    assert (digest_bytes(*one) == digest_bytes(*other)) == (one == other)


def test_json_digest_ignores_the_order_of_keys_and_nothing_else() -> None:
    assert canonical_json({"b": [1, 2.5], "a": "ü"}) == '{"a":"ü","b":[1,2.5]}'
    assert digest_json({"a": 1, "b": 2}) == digest_json({"b": 2, "a": 1})
    assert digest_json([1, 2]) != digest_json([2, 1])


def test_json_without_a_text_form_is_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))


BASE = np.arange(6, dtype=np.float32)


@pytest.mark.parametrize(
    "other",
    [
        {"y": BASE},
        {"x": BASE.reshape(2, 3)},
        {"x": BASE.view(np.int32)},
        {"x": BASE[::-1]},
        {"x": BASE, "y": BASE},
        {},
    ],
    ids=["name", "shape", "dtype", "bytes", "more", "none"],
)
def test_names_dtypes_shapes_and_bytes_count(other: dict[str, np.ndarray]) -> None:
    assert digest_arrays(other) != digest_arrays({"x": BASE})


def test_a_scalar_is_not_a_vector_of_one() -> None:
    assert digest_arrays({"x": np.float32(1).reshape(())}) != digest_arrays({"x": np.ones(1, np.float32)})


def test_order_of_names_and_memory_layout_do_not_count() -> None:
    square = np.arange(6.0).reshape(2, 3)
    assert digest_arrays({"a": square, "b": BASE}) == digest_arrays({"b": BASE, "a": np.asfortranarray(square)})
    assert digest_arrays({"a": BASE[::2]}) == digest_arrays({"a": BASE[::2].copy()})
