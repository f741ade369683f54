"""Integer grids: goldens worked by hand, and bounds that hold for every tensor."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gossamer.numerics.quantizers import (
    MIN_SCALE,
    affine_grid,
    best_symmetric_scale,
    broadcast_along,
    fake_quantize,
    histogram_error,
    symmetric_grid,
)
from gossamer.testing import strategies

FLOATS = st.floats(-1e4, 1e4, width=32).map(lambda value: 0.0 if abs(value) < 1e-4 else value)
RANGES = st.tuples(FLOATS, FLOATS).map(sorted)


def scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float32)


class TestGrids:
    def test_an_affine_grid_by_hand(self) -> None:
        scale, zero = affine_grid(scalar(-1.0), scalar(3.0), 0, 255)
        assert zero == 64  # 1 / (4 / 255) = 63.75; with 63 the codes below would need 1 / 63
        assert scale == pytest.approx(3 / 191, rel=1e-6)  # the 191 codes above reach 3; 4 / 255 would stop at 2.996
        scale, zero = affine_grid(scalar(-6.0), scalar(1.0), 0, 255)
        assert (scale, zero) == (pytest.approx(6 / 218, rel=1e-6), 218)  # not 218.57 rounded: 1 / 36 is a larger step

    def test_a_range_on_one_side_is_widened_to_zero(self) -> None:
        scale, zero = affine_grid(scalar(2.0), scalar(5.1), 0, 255)
        assert scale == pytest.approx(5.1 / 255, rel=1e-6)
        assert zero == 0
        scale, zero = affine_grid(scalar(-5.1), scalar(-2.0), -128, 127)
        assert scale == pytest.approx(5.1 / 255, rel=1e-6)
        assert zero == 127

    def test_a_symmetric_grid_by_hand(self) -> None:
        scale, zero = symmetric_grid(torch.tensor([1.27, 254.0]), 127)
        torch.testing.assert_close(scale, torch.tensor([0.01, 2.0]))
        assert zero.tolist() == [0, 0]

    def test_constant_zero_has_the_smallest_scale(self) -> None:
        assert affine_grid(scalar(0.0), scalar(0.0), 0, 255)[0] == pytest.approx(MIN_SCALE)
        assert symmetric_grid(scalar(0.0), 127)[0] == pytest.approx(MIN_SCALE)

    @given(ends=RANGES, low=strategies.code_ranges())
    def test_zero_is_on_every_affine_grid(self, ends: list[float], low: tuple[int, int]) -> None:
        scale, zero = affine_grid(scalar(ends[0]), scalar(ends[1]), *low)
        assert low[0] <= zero <= low[1]
        assert zero == zero.round()
        assert fake_quantize(torch.zeros(3), scale, zero, None, *low).tolist() == [0, 0, 0]


class TestFakeQuantize:
    def test_rounding_is_half_to_even(self) -> None:
        x = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
        assert fake_quantize(x, scalar(1.0), scalar(0.0), None, -8, 7).tolist() == [-2, -2, 0, 0, 2, 2]

    def test_codes_are_clipped(self) -> None:
        x = torch.tensor([-100.0, 100.0])
        assert fake_quantize(x, scalar(0.5), scalar(1.0), None, -8, 7).tolist() == [-4.5, 3.0]

    def test_each_channel_has_its_own_grid(self) -> None:
        x = torch.tensor([[0.9, 1.4], [9.0, 14.0]])
        assert fake_quantize(x, torch.tensor([1.0, 10.0]), torch.zeros(2), 0, -8, 7).tolist() == [[1, 1], [10, 10]]
        assert fake_quantize(x.T, torch.tensor([1.0, 10.0]), torch.zeros(2), -1, -8, 7).T.tolist() == [[1, 1], [10, 10]]

    @given(x=strategies.tensors())
    def test_the_error_is_at_most_half_a_step_inside_the_range(self, x: Tensor) -> None:
        scale, zero = affine_grid(x.amin(), x.amax(), 0, 255)
        error = (fake_quantize(x, scale, zero, None, 0, 255) - x).abs()
        # Half a step of rounding, another half where rounding the zero point moved an end of the range off the grid,
        # and float32 rounding of x / scale and of the product back.
        assert (error <= scale * 1.0 + x.abs() * 4 * torch.finfo(torch.float32).eps).all()
        inside = (torch.round(x / scale) + zero >= 0) & (torch.round(x / scale) + zero <= 255)
        assert (error[inside] <= scale / 2 + x[inside].abs() * 4 * torch.finfo(torch.float32).eps).all()

    @given(x=strategies.tensors())
    def test_a_value_on_the_grid_stays(self, x: Tensor) -> None:
        scale, zero = symmetric_grid(x.abs().amax(), 127)
        once = fake_quantize(x, scale, zero, None, -127, 127)
        assert torch.equal(fake_quantize(once, scale, zero, None, -127, 127), once)


class TestBestSymmetricScale:
    def test_without_an_outlier_it_keeps_the_range(self) -> None:
        weight = torch.tensor([[-127.0, 127.0, 64.0, 3.0]])
        assert best_symmetric_scale(weight, 0, 127).tolist() == [1.0]

    def test_an_outlier_is_cut_off_where_that_costs_less(self) -> None:
        generator = torch.Generator().manual_seed(0)
        weight = torch.cat([torch.randn(1, 4000, generator=generator), torch.tensor([[6.0]])], 1)
        assert best_symmetric_scale(weight, 0, 7)[0] < 6.0 / 7

    @settings(max_examples=60)
    @given(
        x=strategies.tensors(st.tuples(st.integers(1, 40))),
        high=st.sampled_from([1, 3, 7, 127]),
        axis=st.sampled_from([0, 1, -1]),
    )
    def test_it_is_never_worse_than_max_abs(self, x: Tensor, high: int, axis: int) -> None:
        weight = x.expand(2, -1).clone() * torch.tensor([[1.0], [0.5]])
        weight = weight if axis == 0 else weight.T
        scale = best_symmetric_scale(weight, axis, high)
        plain = weight.movedim(axis, 0).flatten(1).abs().amax(1).clamp(min=MIN_SCALE * high) / high

        def error(scale: Tensor) -> Tensor:
            fitted = fake_quantize(weight, scale, torch.zeros_like(scale), axis, -high, high)
            return (fitted - weight).square().movedim(axis, 0).flatten(1).sum(1)

        assert scale.shape == (2,)
        # Both sums are float32 sums of at most 40 squares in the same order.
        assert (error(scale) <= error(plain) * (1 + 1e-5)).all()

    def test_all_zero_channels_have_a_valid_scale(self) -> None:
        scale = best_symmetric_scale(torch.zeros(2, 5), 0, 127)
        assert (scale > 0).all()
        assert fake_quantize(torch.zeros(2, 5), scale, torch.zeros(2), 0, -127, 127).abs().sum() == 0


class TestHistogramError:
    def test_uniform_values_cost_a_twelfth_of_a_squared_step(self) -> None:
        counts = torch.ones(1000, dtype=torch.float64)
        step = 1 / 15
        assert histogram_error(counts, (0.0, 1.0), 0.0, 1.0, 15) / 1000 == pytest.approx(step**2 / 12, rel=0.6)

    def test_clipping_costs_what_is_cut_off(self) -> None:
        counts = torch.zeros(100, dtype=torch.float64)
        counts[-1] = 1  # one value at 0.995
        assert histogram_error(counts, (0.0, 1.0), 0.0, 0.5, 255) == pytest.approx((0.995 - 0.5) ** 2, rel=1e-2)

    def test_a_narrow_range_wins_where_the_tail_is_thin(self) -> None:
        counts = torch.zeros(2048, dtype=torch.float64)
        counts[:256] = 1000.0
        counts[-1] = 1.0
        narrow = histogram_error(counts, (0.0, 8.0), 0.0, 1.0, 15)
        wide = histogram_error(counts, (0.0, 8.0), 0.0, 8.0, 15)
        assert narrow < wide


def test_a_parameter_is_viewed_along_its_axis() -> None:
    x = torch.zeros(2, 3, 4)
    assert broadcast_along(torch.ones(3), x, 1).shape == (1, 3, 1)
    assert broadcast_along(torch.ones(4), x, -1).shape == (1, 1, 4)
    assert broadcast_along(torch.tensor(2.0), x, None).shape == ()


def test_levels_of_an_image_from_minus_one_to_one_are_no_ties():
    levels = torch.arange(256).double() / 127.5 - 1
    scale, zero = affine_grid(levels.amin(), levels.amax(), 0, 255)
    codes = levels / scale + zero
    assert (codes.min(), codes.max()) >= (0, 0)
    assert codes.max() <= 255
    assert ((codes - codes.floor() - 0.5).abs() < 1e-3).double().mean() < 0.01
