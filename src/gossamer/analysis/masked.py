"""The masked program: the original, with what a cut would remove multiplied by zero.

A mask stands before every operation that sums over a cut axis, and nowhere else: a bias, a batch norm or a sigmoid
turns zero into something else. Norms that take mean and variance over a cut axis take them over what is kept.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from gossamer.analysis.axes import Axis, Fixed, Keep
from gossamer.analysis.trace import AxesOf, Contraction, Trace
from gossamer.numerics.quantizers import broadcast_along
from gossamer.program.dialect import aten, bind
from gossamer.program.sizes import size_value

Compute = Callable[..., Tensor]
Masks = Callable[[Axis], Tensor]


def masked_operations(trace: Trace, keep: Keep, sizes: Mapping[str, int]) -> dict[fx.Node, Compute]:
    """What computes the nodes that need a mask, in place of their own operation.

    Args:
        trace: descriptions of the program's axes.
        keep: kept indices by leaf.
        sizes: value of each named dim in the run to come.
    """
    found: dict[fx.Node, Compute] = {}
    masked: dict[fx.Node, list[Contraction]] = {}
    for contraction in trace.contractions:
        if trace.axes.touched(contraction.axis, keep):
            masked.setdefault(contraction.node, []).append(contraction)
    masks = functools.partial(_mask, trace, keep, sizes)
    for node, contractions in masked.items():
        found[node] = _with_masks(node, [(one, masks(one.axis)) for one in contractions])
    for node in trace.values:
        norm = _NORMS.get(node.target)
        if norm is not None:
            axes = trace.axes_of(node)
            if any(trace.axes.touched(axis, keep) for axis in axes[1:]):
                found[node] = norm(node, axes, masks)
    return found


def _mask(trace: Trace, keep: Keep, sizes: Mapping[str, int], axis: Axis) -> Tensor:
    size_of = functools.partial(size_at, sizes)
    whole = len(trace.axes.kept(axis, {}, size_of))
    mask = torch.zeros(whole, dtype=torch.bool)
    mask[torch.from_numpy(trace.axes.kept(axis, keep, size_of))] = True
    return mask


def size_at(sizes: Mapping[str, int], fixed: Fixed) -> int:
    """The size of a fixed axis where named dims have these values."""
    return size_value(fixed.text, sizes) if fixed.text else fixed.size


def _zeroed(x: Tensor, mask: Tensor, dim: int) -> Tensor:
    return torch.where(broadcast_along(mask, x, dim), x, torch.zeros((), dtype=x.dtype))


def _with_masks(node: fx.Node, masks: list[tuple[Contraction, Tensor]]) -> Compute:
    target = node.target

    def compute(*args: Any, **kwargs: Any) -> Tensor:
        given = bind(target, args, kwargs)
        for one, mask in masks:
            one.put(given, _zeroed(one.operand(given), mask, one.dim))
        return target(**given)  # pyright: ignore[reportCallIssue]

    return compute


def _scaled(result: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    result = result if weight is None else result * weight
    return result if bias is None else result + bias


def _masked_last_axes(node: fx.Node, axes: AxesOf, masks: Masks) -> Compute:
    """Layer norm or root-mean-square norm over the kept entries of the last axes."""
    centred = node.target is aten.layer_norm.default

    def compute(*args: Any, **kwargs: Any) -> Tensor:
        given = bind(node.target, args, kwargs)
        x, count = given["input"], len(given["normalized_shape"])
        dims = list(range(-count, 0))
        keep = torch.ones(x.shape[-count:], dtype=torch.bool)
        for dim in dims:
            keep = keep & broadcast_along(masks(axes[dim]), keep, dim)
        x = torch.where(keep, x, torch.zeros((), dtype=x.dtype))
        mean = x.sum(dims, keepdim=True) / keep.sum() if centred else torch.zeros((), dtype=x.dtype)
        variance = ((x - mean) ** 2 * keep).sum(dims, keepdim=True) / keep.sum()
        eps = torch.finfo(x.dtype).eps if given["eps"] is None else given["eps"]
        return _scaled((x - mean) * torch.rsqrt(variance + eps), given["weight"], given.get("bias"))

    return compute


def _masked_group_norm(node: fx.Node, axes: AxesOf, masks: Masks) -> Compute:
    def compute(*args: Any, **kwargs: Any) -> Tensor:
        given = bind(node.target, args, kwargs)
        x, shape = given["input"], (given["input"].shape[0], given["num_groups"], -1)
        keep = broadcast_along(masks(axes[1]), x, 1).expand_as(x)
        grouped = torch.where(keep, x, torch.zeros((), dtype=x.dtype)).reshape(shape)
        kept = keep.reshape(shape)
        count = kept.sum(-1, keepdim=True).clamp(min=1)  # a group that goes as a whole has nothing to divide by
        mean = grouped.sum(-1, keepdim=True) / count
        variance = ((grouped - mean) ** 2 * kept).sum(-1, keepdim=True) / count
        result = ((grouped - mean) * torch.rsqrt(variance + given["eps"])).reshape(x.shape)
        weight, bias = (
            None if given[name] is None else broadcast_along(given[name], x, 1) for name in ("weight", "bias")
        )
        return _scaled(result, weight, bias)

    return compute


_NORMS: Mapping[Any, Callable[[fx.Node, AxesOf, Masks], Compute]] = {
    aten.layer_norm.default: _masked_last_axes,
    aten.rms_norm.default: _masked_last_axes,
    aten.group_norm.default: _masked_group_norm,
}
