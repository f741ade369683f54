"""Signatures: text, JSON, and what fits them."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings

from gossamer.core.errors import DataError
from gossamer.core.specs import NUMPY_DTYPES, Signature, TensorSpec, format_range, short_dtype
from gossamer.testing import strategies

TEXT = Signature(
    inputs=(TensorSpec("ids", "int32", ("batch", "length")), TensorSpec("mask", "float32", ("batch", "length"))),
    outputs=(TensorSpec("logits", "float32", ("batch", 2)),),
    dims={"batch": (1, 8), "length": (2, None)},
)
IDS = np.zeros((3, 5), np.int32)
MASK = np.ones((3, 5), np.float32)


def test_specs_print_with_short_dtypes() -> None:
    assert str(TensorSpec("x", "float32", ("batch", 3, 32, 32))) == "x: f32[batch, 3, 32, 32]"
    assert str(TensorSpec("s", "bool", ())) == "s: bool[]"
    assert [short_dtype(name) for name in ("bfloat16", "uint8", "int64", "float16")] == ["bf16", "u8", "i64", "f16"]
    assert (format_range(1, None), format_range(1, 64)) == ("[1, ...]", "[1, 64]")


@settings(max_examples=40)
@given(strategies.signatures())
def test_signatures_survive_json_text(signature: Signature) -> None:
    assert Signature.from_json(json.loads(json.dumps(signature.to_json()))) == signature


def test_arrays_that_fit_come_back_in_order_and_uncopied() -> None:
    checked = TEXT.check({"mask": MASK, "ids": IDS})
    assert list(checked) == ["ids", "mask"]
    assert checked["ids"] is IDS
    assert checked["mask"] is MASK


@pytest.mark.parametrize("call", [((IDS, MASK), {}), ((IDS,), {"mask": MASK}), (({"ids": IDS, "mask": MASK},), {})])
def test_bind_takes_positions_names_or_one_mapping(call: tuple[tuple, dict]) -> None:
    args, kwargs = call
    assert list(TEXT.bind(*args, **kwargs)) == ["ids", "mask"]


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((IDS,), {}),
        ((IDS, MASK, MASK), {}),
        ((IDS, MASK), {"mask": MASK}),
        ((), {"ids": IDS, "musk": MASK}),
        (({"ids": IDS},), {}),
    ],
    ids=["too few", "too many", "twice", "unknown", "mapping too small"],
)
def test_bind_wants_each_input_once(args: tuple, kwargs: dict) -> None:
    with pytest.raises(DataError, match=re.escape("expected: each once: ids, mask")):
        TEXT.bind(*args, **kwargs)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"ids": IDS[0]}, "reading input 'ids'\n  got: int32[5]\n  expected: 2 dims: ids: i32[batch, length]"),
        (
            {"ids": np.zeros((9, 5), np.int32)},
            "reading input 'ids', dim 0\n  got: int32[9, 5]\n  expected: batch in [1, 8]",
        ),
        ({"ids": IDS[:, :1]}, "dim 1\n  got: int32[3, 1]\n  expected: length in [2, ...]"),
        (
            {"mask": MASK[:2]},
            "reading input 'mask', dim 0\n  got: batch=2\n  expected: batch=3, as in an earlier input",
        ),
        ({"ids": MASK}, "reading input 'ids'\n  got: float32[3, 5]\n  expected: ids: i32[batch, length]"),
        ({"ids": IDS + np.int64(2**31)}, "holding 2147483648"),
        ({"ids": IDS - np.int64(2**31 + 1)}, "holding -2147483649"),
    ],
    ids=["rank", "range above", "range below", "disagreement", "kind", "too large", "too small"],
)
def test_arrays_that_do_not_fit_are_named(changed: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(DataError) as caught:
        TEXT.check({"ids": IDS, "mask": MASK} | changed)
    assert message in str(caught.value)


def test_missing_inputs_and_wrong_sizes_are_named() -> None:
    fixed = Signature((TensorSpec("x", "float32", (1, 4)),), ())
    with pytest.raises(DataError, match="reading input 'x'\n  got: inputs named y"):
        fixed.check({"y": MASK})
    with pytest.raises(DataError, match="dim 1\n  got: float32\\[1, 3\\]"):
        fixed.check({"x": np.zeros((1, 3), np.float32)})


@pytest.mark.parametrize(
    ("dtype", "given_dtype"), [("float32", np.float64), ("int32", np.int64), ("bfloat16", np.float16)]
)
def test_other_widths_of_one_kind_are_converted_exactly(dtype: str, given_dtype: type) -> None:
    signature = Signature((TensorSpec("x", dtype, (3,)),), ())
    checked = signature.check({"x": np.array([-2, 0, 7], given_dtype)})["x"]
    assert checked.dtype == NUMPY_DTYPES[dtype]
    assert checked.tolist() == [-2, 0, 7]
