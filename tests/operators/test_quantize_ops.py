"""The quantize and dequantize operations: codes, values, and straight-through gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

import gossamer.operators.quantization  # noqa: F401 - registers the operations
from gossamer.numerics.quantizers import MIN_SCALE, affine_grid, fake_quantize, symmetric_grid
from gossamer.testing import strategies

quantize, dequantize = torch.ops.gossamer.quantize.default, torch.ops.gossamer.dequantize.default
VALUES, FLOATS = strategies.arrays(), strategies.floats()


def pair(x: Tensor, scale: Tensor, zero_point: Tensor, axis: int | None, low: int, high: int) -> Tensor:
    return dequantize(quantize(x, scale, zero_point, axis, low, high), scale, zero_point, axis)


@settings(max_examples=100, deadline=None)
@given(VALUES, FLOATS, FLOATS)
def test_a_grid_holds_zero_and_its_range_within_half_a_step(array: np.ndarray, one: float, other: float):
    x = torch.from_numpy(array).double()
    scale, zero_point = affine_grid(*(torch.tensor(end).double() for end in sorted((one, other))), 0, 255)
    assert zero_point == zero_point.round()
    assert 0 <= zero_point <= 255
    assert pair(torch.zeros(1).double(), scale, zero_point, None, 0, 255) == 0
    codes = quantize(x, scale, zero_point, None, 0, 255)
    assert torch.equal(codes, codes.round().clamp(0, 255))
    # Rounding the zero point leaves half a step at an end near 0 uncovered, or gives the ends up to two steps too much.
    low, high = (0 - zero_point) * scale, (255 - zero_point) * scale
    inside = (x >= low) & (x <= high)
    error = (dequantize(codes, scale, zero_point, None) - x).abs()
    assert (error[inside] <= scale / 2 * (1 + 1e-9)).all()
    for end, reached in ((min(0.0, one, other), low), (max(0.0, one, other), high)):
        assert abs(reached) >= abs(end) * (1 - 1e-9) or abs(end) <= scale / 2 * (1 + 1e-9)
        assert abs(reached) <= abs(end) + 2 * scale * (1 + 1e-9) or scale <= MIN_SCALE


@settings(max_examples=100, deadline=None)
@given(VALUES)
def test_quantizing_twice_changes_nothing(array: np.ndarray):
    x = torch.from_numpy(array).double()
    scale, zero_point = symmetric_grid(x.abs().max(), 127)
    once = pair(x, scale, zero_point, None, -127, 127)
    assert torch.equal(pair(once, scale, zero_point, None, -127, 127), once)
    assert torch.equal(once, fake_quantize(x, scale, zero_point, None, -127, 127))
    assert torch.equal(pair(-x, scale, zero_point, None, -127, 127), -once)


def test_halves_are_rounded_to_even():
    x = torch.tensor([-1.5, -0.5, 0.5, 1.5, 2.5])
    assert quantize(x, torch.tensor(1.0), torch.tensor(0.0), None, -127, 127).tolist() == [-2, 0, 0, 2, 2]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_one_scale_for_each_slice(axis: int):
    x = torch.randn(3, 4, 5)
    scale, zero_point = torch.rand(x.shape[axis]) + 0.1, torch.arange(x.shape[axis]).float()
    whole = pair(x, scale, zero_point, axis, 0, 255)
    for index in range(x.shape[axis]):
        part = pair(x.select(axis, index), scale[index], zero_point[index], None, 0, 255)
        assert torch.equal(whole.select(axis, index), part)


def test_the_gradient_of_the_values_is_one_inside_and_zero_outside():
    x = torch.tensor([-3.0, -1.26, 0.3, 1.0, 3.0], requires_grad=True)
    pair(x, torch.tensor(0.01), torch.tensor(0.0), None, -127, 127).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.tensor([0.0, 1.0, 1.0, 1.0, 0.0]))


def test_the_gradient_of_the_scale_is_that_of_learned_step_sizes():
    x = torch.tensor([-3.0, -0.374, 0.3, 0.126, 3.0])
    scale = torch.tensor(0.1, requires_grad=True)
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    (pair(x, scale, torch.tensor(0.0), None, -7, 7) * weights).sum().backward()
    ratio = x / 0.1
    expected = torch.where(ratio.abs() > 7, 7 * ratio.sign(), ratio.round() - ratio)
    assert scale.grad is not None
    torch.testing.assert_close(scale.grad, (expected * weights).sum())


def test_the_gradient_of_the_zero_point_vanishes_inside():
    """A shift of the grid moves only what is clipped."""
    x = torch.tensor([0.3, 0.5, 9.0])
    zero_point = torch.tensor(3.0, requires_grad=True)
    pair(x, torch.tensor(0.1), zero_point, None, 0, 15).backward(torch.ones(3))
    assert zero_point.grad is not None
    torch.testing.assert_close(zero_point.grad, torch.tensor(-0.1))


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_the_gradients_have_the_shapes_of_their_tensors(axis: int | None):
    x = torch.randn(3, 4, requires_grad=True)
    shape = () if axis is None else (x.shape[axis],)
    scale, zero_point = torch.full(shape, 0.1, requires_grad=True), torch.zeros(shape, requires_grad=True)
    pair(x, scale, zero_point, axis, -127, 127).square().sum().backward()
    for tensor in (x, scale, zero_point):
        assert tensor.grad is not None
        assert tensor.grad.shape == tensor.shape
    other = torch.zeros(shape)
    for index in range(max(1, other.numel())):
        part = x if axis is None else x.select(axis, index)
        single = torch.full((), 0.1, requires_grad=True)
        pair(part.detach(), single, torch.tensor(0.0), None, -127, 127).square().sum().backward()
        torch.testing.assert_close(scale.grad.reshape(-1)[index], single.grad)


@pytest.mark.parametrize("axis", [None, 1])
def test_the_operations_keep_the_rules_of_torch(axis: int | None):
    x = torch.randn(2, 3, requires_grad=True)
    scale = torch.full(() if axis is None else (3,), 0.1, requires_grad=True)
    zero_point = torch.zeros_like(scale).detach()
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(quantize, (x, scale, zero_point, axis, -127, 127), test_utils=tests)
    torch.library.opcheck(dequantize, (x, scale, zero_point, axis), test_utils=tests)
