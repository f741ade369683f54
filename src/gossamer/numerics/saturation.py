"""What sums of 8-bit products come to on processors without integer dot products, in exact integers.

x86 multiplies bytes with ``vpmaddubsw``: unsigned times signed, two neighbouring products added into 16 bits **with
saturation**; ``vpmaddwd`` and ``vpaddd`` then add these exactly into 32 bits. 255 * 127 * 2 = 64,770 does not fit.
Processors with integer dot products (VNNI, AMX, Arm) add four products into 32 bits at once and are exact.

Which products meet is decided by the order in which the reduction axis is packed: channels innermost, in blocks of
four, so pairs are (2j, 2j + 1). Codes are raw: zero points are taken off afterwards, by sums of the weights.

Read in: MLAS (ONNX Runtime) ``mlas/lib/platform.cpp`` (which processor gets which kernel),
``amd64/QgemmU8X8KernelAvx2.asm`` and ``amd64/ConvSymKernelAvx2.asm`` (the instructions), ``convsym.cpp`` and
``cpu/quantization/qlinearconv.cc`` (packing; depthwise kernels widen to 32 bits first); oneDNN
``doc/advanced_topics/int8_computations.md``, ``cpu/x64/jit_uni_x8s8s32x_conv_kernel.cpp`` and
``cpu/x64/brgemm/jit_brgemm_kernel.cpp``. Tried on real kernels by hiding the newer instructions from them
(``gossamer.testing.older_cpu``): equal bit for bit where ``Kernel.confirmed`` says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from gossamer.core.errors import UnknownName
from gossamer.core.names import require_known

Arithmetic = Literal["exact32", "pair16", "shift_pair16", "half_weight", "u8u8_exact"]
"""How products are summed.

``exact32``: four into 32 bits; ``pair16``: two into 16 bits with saturation; ``shift_pair16``: signed inputs made
unsigned by adding 128, then ``pair16``; ``half_weight``: the same with halved (so rounded) weights, which cannot
saturate, as oneDNN's convolutions of signed inputs do; ``u8u8_exact``: both widened to 16 bits first.
"""

Packing = Literal["row", "position"]
"""``row``: positions of the window one behind the other, padded to an even length at the end; ``position``: each
position padded to an even number of channels. They differ for an odd number of channels only."""

_EXACT = ("exact32", "u8u8_exact")
_SHIFT = 128
_LOWEST, _HIGHEST = -(2**15), 2**15 - 1
_CHUNK = 2**23
"""Products held at once."""


@dataclass(frozen=True)
class Kernel:
    """How a runtime multiplies on a class of processors.

    Attributes:
        arithmetic: how products are summed.
        packing: which of them meet.
        confirmed: the runtime and version whose kernels gave the same integers; empty: read in its source, so what it
            yields is simulated.
    """

    arithmetic: Arithmetic
    packing: Packing = "row"
    confirmed: str = ""

    @property
    def exact(self) -> bool:
        """Whether nothing can saturate."""
        return self.arithmetic in _EXACT


_ORT, _OPENVINO = "onnxruntime 1.31.1", "openvino 2026.4.1"
_X86 = ("sse", "avx2", "avx512", "vnni")

KERNELS: Mapping[tuple[str, str, str], Kernel] = {
    **{("onnxruntime", profile, "u8s8"): Kernel("exact32", "row", _ORT) for profile in ("sse", "vnni")},
    **{("onnxruntime", profile, "u8s8"): Kernel("pair16", "row", _ORT) for profile in ("avx2", "avx512")},
    **{("onnxruntime", profile, "u8u8"): Kernel("u8u8_exact", "row", _ORT) for profile in _X86},
    **{("onnxruntime", profile, "s8s8"): Kernel("exact32", "row", _ORT) for profile in _X86},
    **{("onnxruntime", profile, "u8s8"): Kernel("exact32") for profile in ("neon", "dotprod")},
    **{("openvino", profile, "u8s8"): Kernel("pair16", "position", _OPENVINO) for profile in _X86[:3]},
    **{("openvino", profile, "s8s8"): Kernel("shift_pair16", "position", _OPENVINO) for profile in _X86[:3]},
    **{("openvino", "vnni", form): Kernel("exact32", "position", _OPENVINO) for form in ("u8s8", "s8s8")},
}
"""By runtime, class of processors (``gossamer.core.isa.PROFILES``) and signs of input and weight: the matrix product.
``kernel_for`` knows where convolutions are computed otherwise."""

_PADDED_CHANNELS = {"onnxruntime": 4}
"""Fewer input channels than this are padded to it when a convolution is written for the runtime."""


def kernel_for(runtime: str, profile: str, form: str, shape: Sequence[int] = (), groups: int = 1) -> Kernel:
    """The kernel of a layer.

    Args:
        runtime: for example ``onnxruntime``.
        profile: a class of processors.
        form: signs of input and weight, ``u8s8``, ``s8s8`` (codes -127..127) or ``u8u8``.
        shape: of the weight of a convolution, (outputs, channels, *kernel); anything shorter is a linear layer.
        groups: of a convolution.

    Raises:
        UnknownName: nothing is known about this combination.
    """
    doing = f"looking up how {runtime} multiplies {form} on {profile}"
    require_known(runtime, {key[0] for key in KERNELS}, "runtime", doing)
    require_known(profile, {key[1] for key in KERNELS if key[0] == runtime}, "class of processors", doing)
    if (runtime, profile, form) not in KERNELS:
        known = sorted(key[2] for key in KERNELS if key[:2] == (runtime, profile))
        raise UnknownName(doing, got=f"{form} operands", expected=f"one of: {', '.join(known)}")
    kernel = KERNELS[runtime, profile, form]
    if len(shape) <= 2:
        return kernel
    channels, depthwise = shape[1], groups > 1 and shape[1] == 1 and shape[0] == groups
    if kernel.arithmetic == "shift_pair16":
        return _signed_convolution(kernel, profile, not depthwise and math.prod(shape[2:]) == 1, groups)
    if depthwise:
        return replace(kernel, arithmetic="exact32")  # these kernels widen before they multiply
    if groups == 1 and channels < _PADDED_CHANNELS.get(runtime, 0):
        return replace(kernel, packing="position")
    if groups > 1 and runtime == "openvino":
        # Most groups go to its matrix product; with odd channels it depends on more than this.
        return replace(kernel, packing="row", confirmed="" if channels % 2 else kernel.confirmed)
    return kernel


def _signed_convolution(kernel: Kernel, profile: str, pointwise: bool, groups: int) -> Kernel:
    """Convolutions of signed inputs halve the weights in oneDNN, but not in its older pointwise kernels."""
    if pointwise and (groups == 1) == (profile != "avx512"):
        return kernel if groups == 1 else replace(kernel, confirmed="")  # with groups it depends on more than this
    return replace(kernel, arithmetic="half_weight")


@dataclass(frozen=True)
class Window:
    """How a convolution reads its input; one entry for each spatial axis, none for a linear layer."""

    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()


def weight_rows(codes: Tensor, packing: Packing) -> Tensor:
    """Weights of one group, (outputs, channels, *kernel) codes, as (outputs, reduction) in packed order."""
    positions = codes.flatten(2).movedim(2, 0) if codes.dim() > 2 else codes[None]
    return _pack(positions.transpose(1, 2), packing).T.contiguous()


def input_columns(codes: Tensor, window: Window, packing: Packing, outside: float) -> Tensor:
    """What each output of one group reads, in packed order.

    Args:
        codes: (samples, channels, *size) for a convolution, (..., features) for a linear layer.
        window: how it reads; empty for a linear layer.
        packing: which products meet.
        outside: the code that the padding holds, which is the zero point.

    Returns:
        (reduction, columns), one column for each sample and position, in this order.
    """
    rank = len(window.kernel)
    if not rank:
        return _pack(codes.reshape(-1, codes.shape[-1]).T[None], packing)
    edges = [edge for size in reversed(window.padding) for edge in (size, size)]
    views = torch.nn.functional.pad(codes, edges, value=outside)
    for axis in range(rank):
        span = (window.kernel[axis] - 1) * window.dilation[axis] + 1
        views = views.unfold(2 + axis, span, window.stride[axis])[..., :: window.dilation[axis]]
    spatial, taps = range(2, 2 + rank), range(2 + rank, 2 + 2 * rank)
    ordered = views.permute(*taps, 1, 0, *spatial).flatten(rank + 1)
    return _pack(ordered.reshape(-1, *ordered.shape[rank:]), packing)


def _pack(codes: Tensor, packing: Packing) -> Tensor:
    """(positions, channels, columns) to (reduction, columns), the reduction of even length."""
    if packing == "position" and codes.shape[1] % 2:
        codes = torch.nn.functional.pad(codes, (0, 0, 0, 1))
    columns = codes.reshape(-1, codes.shape[2])
    return torch.nn.functional.pad(columns, (0, 0, 0, 1)) if columns.shape[0] % 2 else columns


def pairs_at_risk(weight: Tensor, lowest: Tensor | float, highest: Tensor | float, arithmetic: Arithmetic) -> Tensor:
    """Which pairs could saturate for some input: the bound that needs no run.

    With unsigned inputs up to a, only where a (w+ + w+') > 32,767 or a (w- + w-') > 32,768, w+ and w- being the
    positive and negative parts of the two weights. Weights in [-64, 63] never can: 255 * 64 * 2 = 32,640.

    Args:
        weight: (outputs, reduction) codes in packed order.
        lowest: smallest input codes, (reduction,) or one for all.
        highest: largest input codes.
        arithmetic: how products are summed.

    Returns:
        (outputs, reduction / 2) of bool.
    """
    shape = (weight.shape[0], weight.shape[1] // 2)
    if arithmetic in _EXACT:
        return torch.zeros(shape, dtype=torch.bool)
    weight, shift = _operands(weight, arithmetic)
    low, high = (torch.as_tensor(end, dtype=torch.float32) + shift for end in (lowest, highest))
    up = torch.maximum(weight * low, weight * high).unflatten(1, (-1, 2)).sum(2)
    down = torch.minimum(weight * low, weight * high).unflatten(1, (-1, 2)).sum(2)
    return (up > _HIGHEST) | (down < _LOWEST)


def pairs_fit(codes: Tensor) -> Tensor:
    """Which outputs cannot saturate whatever the input, however the weights are packed.

    Args:
        codes: (outputs, channels, *kernel) of weight codes.

    Returns:
        (outputs,) of bool.
    """
    packings: tuple[Packing, ...] = get_args(Packing)
    risks = [pairs_at_risk(weight_rows(codes, packing), 0, 255, "pair16").any(1) for packing in packings]
    return ~torch.stack(risks).any(0)


@dataclass(frozen=True)
class Deviation:
    """How far a kernel's sums are from the exact ones.

    Attributes:
        amount: (outputs, columns) int32, exact sum less the kernel's.
        saturated: pairs that saturated, of outputs * columns * reduction / 2.
    """

    amount: Tensor
    saturated: int


def deviation(codes: Tensor, weight: Tensor, arithmetic: Arithmetic) -> Deviation:
    """What saturation (and halving of weights) takes off the sums of products.

    Args:
        codes: (reduction, columns) of input codes in packed order, as float32, which holds every pair exactly.
        weight: (outputs, reduction) of weight codes, likewise.
        arithmetic: how products are summed.

    Cost: one pass over the columns for each pair that the bound cannot rule out: of 8-bit weights, about 1 in 50.
    """
    amount = torch.zeros(weight.shape[0], codes.shape[1], dtype=torch.int32)
    if arithmetic in _EXACT or not codes.numel():
        return Deviation(amount, 0)
    used, shift = _operands(weight, arithmetic)
    outputs, pairs = pairs_at_risk(weight, codes.amin(1), codes.amax(1), arithmetic).nonzero(as_tuple=True)
    saturated, step = 0, max(1, _CHUNK // codes.shape[1])
    for start in range(0, len(pairs), step):
        out, first = outputs[start : start + step], 2 * pairs[start : start + step]
        sums = (codes[first] + shift) * used[out, first, None]
        sums += (codes[first + 1] + shift) * used[out, first + 1, None]
        over = sums - sums.clamp(_LOWEST, _HIGHEST)
        saturated += int(torch.count_nonzero(over))
        amount.index_add_(0, out, over.to(torch.int32))
    if arithmetic == "half_weight":
        amount = 2 * amount + _product(weight - 2 * used, codes)
    return Deviation(amount, saturated)


def multiply(codes: Tensor, weight: Tensor, arithmetic: Arithmetic) -> Tensor:
    """Sums of products as the kernel gives them, (outputs, columns) int32.

    Args:
        codes: (reduction, columns) of input codes in packed order: 0..255, or -128..127 where ``arithmetic`` is for it.
        weight: (outputs, reduction) of weight codes, likewise.
        arithmetic: how products are summed.

    Raises:
        UnknownName: no such arithmetic.
    """
    require_known(arithmetic, get_args(Arithmetic), "arithmetic", "summing 8-bit products")
    codes, weight = codes.to(torch.float32), weight.to(torch.float32)
    return _product(weight, codes) - deviation(codes, weight, arithmetic).amount


def _operands(weight: Tensor, arithmetic: Arithmetic) -> tuple[Tensor, int]:
    """The weights that are multiplied, and what is added to the inputs."""
    if arithmetic == "half_weight":
        return torch.round(weight / 2), _SHIFT
    return weight, _SHIFT if arithmetic == "shift_pair16" else 0


def _product(weight: Tensor, codes: Tensor) -> Tensor:
    """The exact product: in double precision where float32 could not hold a partial sum."""
    largest = float(codes.abs().max()) * float(weight.abs().sum(1).max()) if codes.numel() and weight.numel() else 0.0
    dtype = torch.float32 if largest < 2**24 else torch.float64
    return (weight.to(dtype) @ codes.to(dtype)).to(torch.int32)


def operands_form(input_codes: Sequence[int], weight_codes: Sequence[int]) -> str:
    """``u8s8`` and the like, from the smallest codes of input and weight."""
    return "".join("u8" if codes[0] >= 0 else "s8" for codes in (input_codes, weight_codes))
