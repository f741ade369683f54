"""Operations that move elements: they take descriptions apart and put them together, refining where they must."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

from torch import fx

from gossamer.analysis.axes import ONE, Axis, Product, is_symbolic
from gossamer.analysis.trace import AxesOf, Call, Rule, Trace
from gossamer.program.dialect import aten, op_name
from gossamer.program.values import SizeValue


def _reshape(t: Trace, call: Call) -> AxesOf:
    """Sizes are matched from both ends; what is left in the middle has no common refinement and is frozen."""
    queue: list[Axis] = []
    for axis in call.axes("self"):
        queue += axis.factors if isinstance(axis, Product) else [axis] if axis.size != 1 else []
    sizes = [t.size(size) for size in call.shape]
    result: list[Axis | None] = [None] * len(sizes)
    if 0 not in sizes:
        for places, last in ((range(len(sizes)), False), (range(len(sizes) - 1, -1, -1), True)):
            for place in places:
                if result[place] is not None:
                    break
                found = _take(t, queue, sizes[place], last=last)
                if found is None:
                    break
                result[place] = found
    for axis in queue:
        t.freeze(axis, f"no common form with {list(call.shape)}")
    axes = tuple(t.fixed_result(call, place) if axis is None else axis for place, axis in enumerate(result))
    _follow_sizes(t, call, call["shape"], axes)
    return tuple(t.axes.resolve(axis) for axis in axes)


def _take(t: Trace, queue: list[Axis], size: int, *, last: bool) -> Axis | None:
    """Factors of a given size off one end of the queue; ``None``, and the queue as it was, if there are none."""
    taken: list[Axis] = []
    rest, need = list(queue), size
    while need > 1:
        if not rest:
            return None
        one = rest.pop(-1 if last else 0)
        if need % one.size == 0:
            taken.append(one)
            need //= one.size
            continue
        cut = t.axes.factor(one, need if last else one.size // need) if one.size % need == 0 else None
        if cut is None:
            return None
        taken.append(cut[1] if last else cut[0])
        rest.insert(len(rest) if last else 0, cut[0] if last else cut[1])
        need = 1
    queue[:] = rest
    return t.axes.product(reversed(taken) if last else taken)


def _follow_sizes(t: Trace, call: Call, entries: Sequence[Any], axes: AxesOf) -> None:
    """An axis whose size is read off another one is cut as that one is."""
    for entry, axis in zip(entries, axes, strict=True):
        if isinstance(entry, fx.Node) and entry.target is aten.sym_size.int:
            source, dim = entry.args
            assert isinstance(dim, int)
            if t.axes.leaves(axis) or t.axes.leaves(t.axes_of(source)[dim]):
                t.unify(t.axes_of(source)[dim], axis)


def _permute(t: Trace, call: Call) -> AxesOf:
    axes = call.axes("self")
    return tuple(axes[dim] for dim in call["dims"])


def _unsqueeze(t: Trace, call: Call) -> AxesOf:
    axes = list(call.axes("self"))
    axes.insert(call["dim"] % (len(axes) + 1), ONE)
    return tuple(axes)


def _squeeze(t: Trace, call: Call) -> AxesOf:
    axes = call.axes("self")
    gone = {dim % len(axes) for dim in call["dim"]}
    return tuple(axis for dim, axis in enumerate(axes) if dim not in gone)


def _expand(t: Trace, call: Call) -> AxesOf:
    """Each repeated axis of a stated size is a leaf: copies can go as long as all that meets them goes along."""
    axes = call.axes("self")
    axes = (ONE,) * (len(call.shape) - len(axes)) + axes
    result = tuple(
        axis if axis.size == t.size(size) else _made(t, call, dim, "repeats")
        for dim, (axis, size) in enumerate(zip(axes, call.shape, strict=True))
    )
    _follow_sizes(t, call, call["size"], result)
    return tuple(t.axes.resolve(axis) for axis in result)


def _made(t: Trace, call: Call, dim: int, kind: str) -> Axis:
    """An axis that an operation makes by a stated size, which a cut rewrites."""
    size = call.shape[dim]
    if not isinstance(size, int):
        return t.fixed_result(call, dim)
    return t.axes.new(size, kind) if size > 1 else t.fixed_result(call, dim)


def _full(t: Trace, call: Call) -> AxesOf:
    axes = tuple(_made(t, call, dim, "") for dim in range(len(call.shape)))
    _follow_sizes(t, call, call["size"], axes)
    return axes


def _repeat(t: Trace, call: Call) -> AxesOf:
    axes = call.axes("self")
    repeats = call["repeats"]
    axes = (ONE,) * (len(repeats) - len(axes)) + axes
    result: list[Axis] = []
    for dim, (axis, count) in enumerate(zip(axes, repeats, strict=True)):
        if isinstance(count, int):
            result.append(axis if count == 1 else t.axes.product((t.axes.new(count, "repeats"), axis)))
        else:
            t.freeze(axis, "repeated as often as a size says")
            result.append(t.fixed_result(call, dim))
    return tuple(result)


def _slice(t: Trace, call: Call) -> AxesOf:
    axes = list(call.axes("self"))
    dim = call["dim"] % len(axes)
    axes[dim] = _part(t, call, axes[dim], dim)
    return tuple(axes)


def _part(t: Trace, call: Call, axis: Axis, dim: int) -> Axis:
    """What a slice takes of an axis: a part between boundaries, or the outer factor of every n-th."""
    bounds = _bounds(call, axis)
    if not t.axes.leaves(axis):
        return t.fixed_result(call, dim)
    if bounds is None or is_symbolic(axis):
        t.freeze(axis, "sliced where a size says")
        return t.fixed_result(call, dim)
    start, end, step = bounds
    if step != 1:
        whole = start < step and end > axis.size - step
        cut = t.axes.factor(axis, step) if whole else None
        if cut is None:
            t.freeze(axis, f"every {step}th is taken")
            return t.fixed_result(call, dim)
        t.freeze(cut[1], f"every {step}th is taken")
        return cut[0]
    return middle(t, axis, start, end) or t.fixed_result(call, dim)


def middle(t: Trace, axis: Axis, start: int, end: int) -> Axis | None:
    """The part of an axis from ``start`` to ``end``; freezes the axis and gives ``None`` if that is no part of it."""
    tail = t.axes.split(axis, start)
    part = t.axes.split(tail[1], end - start) if tail else None
    if part is None:
        t.freeze(axis, f"[{start}:{end}] is no part of it")
        return None
    return part[0]


def _bounds(call: Call, axis: Axis) -> tuple[int, int, int] | None:
    size, start, end = axis.size, call["start"], call["end"]
    start, end = 0 if start is None else start, size if end is None else end
    if not isinstance(start, int) or not isinstance(end, int):
        return None
    start, end = (bound + size if bound < 0 else bound for bound in (start, end))
    start = min(max(start, 0), size)
    return start, max(min(end, size), start), call["step"]


def _select(t: Trace, call: Call) -> AxesOf:
    axes = list(call.axes("self"))
    axis, index = axes.pop(call["dim"] % len(axes)), call["index"]
    if not t.axes.leaves(axis):
        return tuple(axes)
    if not isinstance(index, int) or is_symbolic(axis):
        t.freeze(axis, "selected from where a size says")
        return tuple(axes)
    index %= axis.size
    middle(t, axis, index, index + 1)
    return tuple(axes)


def _cat(t: Trace, call: Call) -> AxesOf:
    parts = [axes for axes in map(t.axes_of, call["tensors"]) if len(axes) != 1 or axes[0].size]
    dim = call["dim"] % len(parts[0])
    result = list(parts[0])
    for place, axis in enumerate(parts[0]):
        if place != dim:
            for other in parts[1:]:
                t.unify(axis, other[place])
            result[place] = t.axes.resolve(axis)
    along = [axes[dim] for axes in parts]
    if any(map(is_symbolic, along)):
        for axis in along:
            t.freeze(axis, "joined with a size that varies")
        result[dim] = t.fixed_result(call, dim)
    else:
        result[dim] = t.axes.concat(along)
    return tuple(result)


def _split(t: Trace, call: Call) -> list[AxesOf]:
    axes, sizes = call.axes("self"), call["split_sizes"]
    dim = call["dim"] % len(axes)
    results: list[AxesOf] = []
    start = 0
    for value, size in zip(call.node.meta["value"], sizes, strict=True):
        part = None
        if isinstance(size, int) and not is_symbolic(axes[dim]):
            part = middle(t, axes[dim], start, start + size)
            start += size
        else:
            t.freeze(axes[dim], "split where a size says")
        fixed = t.fixed(value.shape, f"{op_name(call.node.target)} {call.node.name}")[dim]
        results.append((*axes[:dim], part or fixed, *axes[dim + 1 :]))
    return results


def _getitem(t: Trace, call: Call) -> AxesOf:
    source, index = call.node.args
    assert isinstance(source, fx.Node)
    assert isinstance(index, int)
    found = t.values[source]
    assert isinstance(found, list)
    return tuple(t.axes.resolve(axis) for axis in found[index])


def _pad(t: Trace, call: Call) -> AxesOf:
    """Constants beside an axis are leaves of their own, which a cut rewrites; reflections freeze the axis."""
    axes, pads = list(call.axes("self")), call["pad"]
    for place in range(len(pads) // 2):
        dim, ends = len(axes) - 1 - place, pads[2 * place : 2 * place + 2]
        if list(ends) == [0, 0]:
            continue
        plain = call["mode"] == "constant" and all(isinstance(end, int) and end >= 0 for end in ends)
        if not plain or not t.axes.leaves(axes[dim]) or is_symbolic(axes[dim]):
            t.freeze(axes[dim], "padded")
            axes[dim] = t.fixed_result(call, dim)
        else:
            before, after = (t.axes.new(end, "padding") for end in ends)
            axes[dim] = t.axes.concat((before, axes[dim], after))
    return tuple(axes)


def _flip(t: Trace, call: Call) -> AxesOf:
    axes = call.axes("self")
    for dim in call["dims"]:
        t.freeze(axes[dim], "flipped")
    return axes


def _pixel_shuffle(t: Trace, call: Call) -> AxesOf:
    """(.., c r r, H, W) to (.., c, H r, W r)."""
    axes, block = call.axes("self"), call["upscale_factor"] ** 2
    cut = t.axes.factor(axes[-3], block)
    for axis in axes[-2:] if cut is None else (cut[1], *axes[-2:]):
        t.freeze(axis, "shuffled into space")
    rank = len(axes)
    if cut is None:
        t.freeze(axes[-3], "shuffled into space")
    channel = t.fixed_result(call, rank - 3) if cut is None else cut[0]
    return (*axes[:-3], channel, t.fixed_result(call, rank - 2), t.fixed_result(call, rank - 1))


def _pixel_unshuffle(t: Trace, call: Call) -> AxesOf:
    """(.., c, H r, W r) to (.., c r r, H, W)."""
    axes, block = call.axes("self"), call["downscale_factor"] ** 2
    for axis in axes[-2:]:
        t.freeze(axis, "shuffled into channels")
    rank = len(axes)
    inner = t.axes.new(block, frozen=f"positions in a block at {t.place}")
    channel = t.axes.product((axes[-3], inner))
    return (*axes[:-3], channel, t.fixed_result(call, rank - 2), t.fixed_result(call, rank - 1))


def _triangle(t: Trace, call: Call) -> AxesOf:
    axes = call.axes("self")
    for axis in axes[-2:]:
        t.freeze(axis, "a triangle of it")
    return axes


def _arange(t: Trace, call: Call) -> AxesOf:
    return (t.fixed_result(call, 0),)


def _scattered(t: Trace, call: Call) -> AxesOf:
    """A slice put in its place."""
    axes, source = call.axes("self"), call.axes("src")
    dim = call["dim"] % len(axes)
    for place, (axis, own) in enumerate(zip(axes, source, strict=True)):
        if place != dim:
            t.unify(axis, own)
    bounds = _bounds(call, axes[dim])
    part = None
    if bounds is not None and bounds[2] == 1 and not is_symbolic(axes[dim]):
        part = middle(t, axes[dim], bounds[0], bounds[1])
    if part is None:
        t.freeze(axes[dim], "a part of it is replaced")
        t.freeze(source[dim], "put in place of a part")
    else:
        t.unify(part, source[dim])
    return tuple(t.axes.resolve(axis) for axis in axes)


def _select_scattered(t: Trace, call: Call) -> AxesOf:
    axes, source = call.axes("self"), call.axes("src")
    dim = call["dim"] % len(axes)
    t.freeze(axes[dim], "a part of it is replaced")
    rest = [axis for place, axis in enumerate(axes) if place != dim]
    for axis, own in zip(rest, source, strict=True):
        t.unify(axis, own)
    return tuple(t.axes.resolve(axis) for axis in axes)


def _no_axes(t: Trace, call: Call) -> AxesOf:
    assert isinstance(call.node.meta["value"], SizeValue)
    return ()


RULES: Mapping[Any, Rule] = {
    aten.reshape.default: _reshape,
    aten.permute.default: _permute,
    aten.unsqueeze.default: _unsqueeze,
    aten.squeeze.dims: _squeeze,
    aten.expand.default: _expand,
    aten.full.default: _full,
    aten.repeat.default: _repeat,
    aten.slice.Tensor: _slice,
    aten.select.int: _select,
    aten.cat.default: _cat,
    aten.split_with_sizes.default: _split,
    operator.getitem: _getitem,
    aten.pad.default: _pad,
    aten.flip.default: _flip,
    aten.pixel_shuffle.default: _pixel_shuffle,
    aten.pixel_unshuffle.default: _pixel_unshuffle,
    aten.tril.default: _triangle,
    aten.triu.default: _triangle,
    aten.arange.start_step: _arange,
    aten.slice_scatter.default: _scattered,
    aten.select_scatter.default: _select_scattered,
}
