import numpy as np
import pytest

from gossamer.core.errors import DataError
from gossamer.core.specs import Signature, TensorSpec
from gossamer.verification.inputs import dim_size, parity_cases

IMAGES = Signature(
    (TensorSpec("x", "float32", ("batch", 3, "h", 8)),), (), {"batch": (1, 64), "h": (4, 20)}
)  # fmt: skip
TEXT = Signature(
    (TensorSpec("ids", "int64", ("batch", "length")), TensorSpec("mask", "int64", ("batch", "length"))),
    (),
    {"batch": (1, None), "length": (1, 512)},
)
RNG = np.random.default_rng(0)
PIXELS = {"x": RNG.random((50, 3, 12, 8)) + 0.5}
TOKENS = {"ids": RNG.integers(5, 90, (40, 16)) * 3, "mask": (np.arange(16) < RNG.integers(1, 17, (40, 1))).astype(int)}


def by_name(cases):
    assert len({case.name for case in cases}) == len(cases)
    return {case.name: case for case in cases}


@pytest.mark.parametrize(("signature", "data"), [(IMAGES, PIXELS), (TEXT, TOKENS)])
def test_no_case_breaks_the_signature(signature, data):
    for case in parity_cases(signature, data):
        checked = signature.check(case.inputs)
        assert all(checked[name] is case.inputs[name] for name in checked)


def test_real_cases_are_different_samples_of_the_data():
    cases = [case for case in parity_cases(IMAGES, PIXELS, count=30) if case.kind == "real"]
    assert [len(case.inputs["x"]) for case in cases] == [8, 8, 8, 6]
    rows = {row.tobytes() for case in cases for row in case.inputs["x"]}
    assert len(rows) == 30
    assert rows <= {row.tobytes() for row in PIXELS["x"].astype(np.float32)}
    assert parity_cases(IMAGES, PIXELS, seed=1)[0].inputs["x"][0].tobytes() != cases[0].inputs["x"][0].tobytes()
    again = parity_cases(IMAGES, PIXELS, count=30)
    np.testing.assert_array_equal(again[0].inputs["x"], cases[0].inputs["x"])


def test_shape_cases_cover_batches_and_the_ends_of_ranges():
    cases = by_name(parity_cases(IMAGES, PIXELS))
    shapes = {case.inputs["x"].shape for case in cases.values() if case.kind == "shape"}
    assert {(1, 3, 12, 8), (2, 3, 12, 8), (13, 3, 12, 8), (2, 3, 4, 8), (2, 3, 18, 8)} <= shapes
    assert (2, 3, 20, 8) in shapes
    assert (64, 3, 12, 8) in shapes
    assert not cases["zeros"].inputs["x"].any()
    assert np.ptp(cases["constant"].inputs["x"]) == 0
    assert cases["largest"].inputs["x"].max() == PIXELS["x"].astype(np.float32).max()


def test_faint_and_amplified_inputs_are_real_ones_of_another_size():
    cases = by_name(parity_cases(IMAGES, PIXELS))
    np.testing.assert_allclose(cases["amplified"].inputs["x"], cases["largest"].inputs["x"] * 1e4, rtol=1e-6)
    assert (cases["faint"].kind, cases["amplified"].kind) == ("faint", "stress")
    scaled = PIXELS["x"].astype(np.float32).astype(np.float64) * 1e-2
    rows = {row.tobytes() for row in scaled.astype(np.float32)}
    assert {row.tobytes() for row in cases["faint"].inputs["x"]} <= rows
    half = Signature((TensorSpec("x", "float16", ("batch", 2)),), (), {"batch": (1, None)})
    large = by_name(parity_cases(half, {"x": RNG.random((20, 2)) * 100}))["amplified"].inputs["x"]
    assert np.isfinite(large).all()
    assert large.max() == np.finfo(np.float16).max


def test_a_size_that_the_data_have_is_also_tried_one_larger():
    shapes = {case.inputs["x"].shape for case in parity_cases(IMAGES, PIXELS)}
    assert (2, 3, 13, 8) in shapes  # odd: where rounding of pooled sizes shows


def test_masks_get_a_masked_tail_even_where_the_data_have_none():
    full = {**TOKENS, "mask": np.ones_like(TOKENS["mask"])}
    padded = by_name(parity_cases(TEXT, full))["padded"].inputs
    assert padded["mask"].shape == (2, 16)
    assert padded["mask"][:, :10].all()
    assert not padded["mask"][:, 10:].any()
    assert np.isin(padded["ids"], TOKENS["ids"]).all()
    flags = full["mask"] * (np.arange(16) > 0)  # 0 at the start: whatever it is, it is no padding
    assert "padded" not in by_name(parity_cases(TEXT, {**TOKENS, "mask": flags}))


def test_an_upper_end_at_which_the_inputs_are_large_is_no_case():
    for high, tried in ((2**11, True), (2**11 + 1, False)):  # the square of the size counts, for attention
        signature = Signature(IMAGES.inputs, (), {**IMAGES.dims, "h": (4, high)})
        assert (f"h={high}" in by_name(parity_cases(signature, PIXELS))) is tried


def test_inputs_that_share_a_dim_change_together_and_rows_stay_together():
    for case in parity_cases(TEXT, TOKENS):
        assert case.inputs["ids"].shape == case.inputs["mask"].shape
    real = parity_cases(TEXT, TOKENS)[0].inputs
    pairs = {(ids.tobytes(), mask.tobytes()) for ids, mask in zip(TOKENS["ids"], TOKENS["mask"], strict=True)}
    assert {(ids.tobytes(), mask.tobytes()) for ids, mask in zip(real["ids"], real["mask"], strict=True)} <= pairs


def test_integer_inputs_only_hold_values_seen():
    cases = by_name(parity_cases(TEXT, TOKENS))
    for case in cases.values():
        assert np.isin(case.inputs["ids"], TOKENS["ids"]).all()
        assert case.inputs["mask"][:, 0].all()  # never a sample that is masked out whole
    assert np.ptp(cases["constant"].inputs["ids"]) == 0
    assert "zeros" not in cases


def test_a_narrow_range_is_kept():
    signature = Signature((TensorSpec("x", "float32", ("n", 2)),), (), {"n": (4, 6)})
    sizes = {len(case.inputs["x"]) for case in parity_cases(signature, {"x": RNG.random((50, 2))})}
    assert sizes == {4, 6}


def test_a_fixed_batch_is_one_sample_a_case():
    signature = Signature((TensorSpec("x", "float32", (1, 2)), TensorSpec("k", "float32", ())), ())
    cases = parity_cases(signature, {"x": RNG.random((50, 2)), "k": np.array(3.0)}, count=5)
    assert [case.kind for case in cases].count("real") == 5
    assert all(case.inputs["x"].shape == (1, 2) for case in cases)


def test_fewer_samples_than_asked():
    cases = [case for case in parity_cases(IMAGES, {"x": PIXELS["x"][:3]}) if case.kind == "real"]
    assert [len(case.inputs["x"]) for case in cases] == [3]


def test_dims_written_as_expressions():
    signature = Signature(
        (TensorSpec("x", "float32", ("batch", "8*k + 1")), TensorSpec("y", "float32", ("2*batch",))),
        (),
        {"batch": (1, None), "k": (1, 4)},
    )
    cases = by_name(parity_cases(signature, {"x": RNG.random((20, 17)), "y": RNG.random(40)}))
    assert cases["k=3"].inputs["x"].shape == (2, 25)
    assert all(len(case.inputs["y"]) == 2 * len(case.inputs["x"]) for case in cases.values())
    with pytest.raises(DataError, match="a whole k"):
        parity_cases(signature, {"x": RNG.random((20, 18)), "y": RNG.random(40)})
    with pytest.raises(DataError, match="named dims, numbers"):
        dim_size("__import__('os')", {})


@pytest.mark.parametrize("data", [{}, {"x": np.zeros((0, 3, 12, 8))}, {"x": np.zeros((4, 12, 8))}])
def test_data_that_do_not_fit_are_refused(data):
    with pytest.raises(DataError, match="building parity cases for input 'x'"):
        parity_cases(IMAGES, data)


def test_cropping_and_repeating_do_not_hide_data_of_a_wrong_size():
    with pytest.raises(DataError, match="dim 1"):
        parity_cases(IMAGES, {"x": np.zeros((4, 1, 12, 8))})
    with pytest.raises(DataError, match="dim 2"):
        parity_cases(IMAGES, {"x": np.zeros((4, 3, 30, 8))})  # h ends at 20
    with pytest.raises(DataError, match=r"dim 1[\s\S]*length = 16"):
        parity_cases(TEXT, {**TOKENS, "mask": TOKENS["mask"][:, :9]})
    with pytest.raises(DataError, match="40 samples, as in an earlier input"):
        parity_cases(TEXT, {**TOKENS, "mask": TOKENS["mask"][:9]})
