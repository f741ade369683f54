"""Quantize and dequantize as operations of their own: they survive capture, train straight-through, and lower to QDQ.

    quantize(x, scale, zero_point, axis, low, high) = clamp(round(x / scale) + zero_point, low, high)
    dequantize(codes, scale, zero_point, axis)      = scale * (codes - zero_point)

``scale`` and ``zero_point`` are float tensors, shape () with ``axis=None`` for one a tensor, (channels,) for one
per slice along ``axis``. Codes are whole numbers held in the dtype of ``x``, which lets gradients pass; lowering turns
them into real integers. Rounding is half to even.

Gradients. ``quantize`` is straight-through: d codes / d x = 1 / scale and d codes / d scale = -x / scale^2 where the
code is not clipped, 0 where it is. Together with ``dequantize`` this is the learned-step estimator: d approx / d x is 1
inside and 0 outside, d approx / d scale is round(x / scale) - x / scale inside and the clipped code outside.

Reference: Esser et al., Learned Step Size Quantization, 2020.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gossamer.numerics.quantizers import broadcast_along


@torch.library.custom_op("gossamer::quantize", mutates_args=())
def quantize(x: Tensor, scale: Tensor, zero_point: Tensor, axis: int | None, low: int, high: int) -> Tensor:
    """Integer codes of ``x``, held in its dtype."""
    step, zero = broadcast_along(scale, x, axis), broadcast_along(zero_point, x, axis)
    return torch.clamp(torch.round(x / step) + zero, low, high)


def quantize_unrounded(x: Tensor, scale: Tensor, zero_point: Tensor, axis: int | None, low: int, high: int) -> Tensor:
    """What ``quantize`` rounds: the place of ``x`` between codes, clipped as they are."""
    return torch.clamp(x / broadcast_along(scale, x, axis) + broadcast_along(zero_point, x, axis), low, high)


@torch.library.custom_op("gossamer::dequantize", mutates_args=())
def dequantize(codes: Tensor, scale: Tensor, zero_point: Tensor, axis: int | None) -> Tensor:
    """Real values of integer codes."""
    return (codes - broadcast_along(zero_point, codes, axis)) * broadcast_along(scale, codes, axis)


@quantize.register_fake
def _quantize_fake(x: Tensor, scale: Tensor, zero_point: Tensor, axis: int | None, low: int, high: int) -> Tensor:
    return torch.empty_like(x)


@dequantize.register_fake
def _dequantize_fake(codes: Tensor, scale: Tensor, zero_point: Tensor, axis: int | None) -> Tensor:
    return torch.empty_like(codes)


def _quantize_setup(ctx, inputs, output) -> None:
    x, scale, zero_point, axis, low, high = inputs
    ctx.save_for_backward(x, scale, zero_point)
    ctx.axis, ctx.low, ctx.high = axis, low, high


def _quantize_backward(ctx, grad: Tensor):
    x, scale, zero_point = ctx.saved_tensors
    step, zero = broadcast_along(scale, x, ctx.axis), broadcast_along(zero_point, x, ctx.axis)
    codes = torch.round(x / step) + zero
    inside = grad * ((codes >= ctx.low) & (codes <= ctx.high))
    grad_scale = _sum_to(-inside * x / step**2, scale, ctx.axis)
    return inside / step, grad_scale, _sum_to(inside, zero_point, ctx.axis), None, None, None


def _dequantize_setup(ctx, inputs, output) -> None:
    codes, scale, zero_point, axis = inputs
    ctx.save_for_backward(codes, scale, zero_point)
    ctx.axis = axis


def _dequantize_backward(ctx, grad: Tensor):
    codes, scale, zero_point = ctx.saved_tensors
    step, zero = broadcast_along(scale, codes, ctx.axis), broadcast_along(zero_point, codes, ctx.axis)
    grad_scale = _sum_to(grad * (codes - zero), scale, ctx.axis)
    return grad * step, grad_scale, _sum_to(-grad * step, zero_point, ctx.axis), None


def _sum_to(grad: Tensor, parameter: Tensor, axis: int | None) -> Tensor:
    if axis is None:
        return grad.sum().reshape(parameter.shape)
    others = [dim for dim in range(grad.dim()) if dim != axis % grad.dim()]
    return grad.sum(others) if others else grad


quantize.register_autograd(_quantize_backward, setup_context=_quantize_setup)
dequantize.register_autograd(_dequantize_backward, setup_context=_dequantize_setup)
