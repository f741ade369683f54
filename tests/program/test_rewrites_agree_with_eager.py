"""Every captured spelling is rewritten to the dialect and still computes the same, dtype and shape included.

``capture`` itself compares with eager at batch 1, 2, 3 and on scaled, zero and sign-flipped inputs; the tests here add
the dtypes, which a numerical comparison passes over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gossamer.core.errors import CaptureError, UnsupportedOp
from gossamer.frontends.torch_module import capture
from gossamer.program.values import DTYPE_NAMES


class One(nn.Module):
    """A function of one tensor as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


class Two(One):
    """A function of two tensors as a module."""

    def forward(self, x: Tensor, y: Tensor) -> Any:
        return self.function(x, y)


def real(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def whole(*shape: int, high: int = 3, dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.randint(-high, high, shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def indices(*shape: int, high: int = 4) -> Tensor:
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(0))


M = real(2, 3, 4)  # a batch of matrices
I = real(2, 4, 6, 6)  # a batch of images  # noqa: E741
K, G = real(1, 5, 4), real(5)  # a kernel and its gain

SHAPES: dict[str, tuple[Any, ...]] = {
    "view": (lambda x: x.view(x.shape[0], 12), M),
    "view_minus_one": (lambda x: x.view(-1, 4), M),
    "view_as": (lambda x, y: x.view_as(y), M, real(2, 4, 3)),
    "reshape": (lambda x: x.reshape(x.size(0), 2, 6), M),
    "reshape_as": (lambda x, y: x.reshape_as(y), M, real(2, 4, 3)),
    "flatten": (lambda x: x.flatten(1), M),
    "flatten_all_but_last": (lambda x: x.flatten(0, -2), M),
    "flatten_to_vector": (lambda x: x.flatten(), M),
    "ravel": (lambda x: x.ravel(), M),
    "unflatten": (lambda x: x.unflatten(-1, (2, 2)), M),
    "unflatten_negative": (lambda x: x.unflatten(1, (-1, 1)), M),
    "permute": (lambda x: x.permute(0, -1, 1), M),
    "transpose": (lambda x: x.transpose(-1, -2), M),
    "t": (lambda x: x.t(), real(2, 3)),
    "T": (lambda x: x.T, real(2, 3)),
    "mT": (lambda x: x.mT, M),
    "movedim": (lambda x: x.movedim(-1, 1), M),
    "movedim_list": (lambda x: x.movedim((1, 2), (2, 1)), M),
    "swapaxes": (lambda x: x.swapaxes(1, -1), M),
    "squeeze_dim": (lambda x: x.squeeze(1), real(2, 1, 3)),
    "squeeze_negative": (lambda x: x.squeeze(-2), real(2, 1, 3)),
    "squeeze_dims": (lambda x: x.squeeze((1, 2)), real(2, 1, 1, 3)),
    "squeeze_of_a_wide_dim": (lambda x: x.squeeze(1) * 1, M),
    "unsqueeze": (lambda x: x.unsqueeze(-1), M),
    "expand": (lambda x: x.unsqueeze(1).expand(-1, 5, -1, -1), M),
    "expand_as": (lambda x, y: x.expand_as(y), real(2, 1, 4), M),
    "broadcast_to": (lambda x: torch.broadcast_to(x, (x.shape[0], 3, 4)), real(2, 1, 4)),
    "repeat": (lambda x: x.repeat(1, 2, 1), M),
    "repeat_interleave": (lambda x: x.repeat_interleave(2, 1), M),
    "repeat_interleave_negative": (lambda x: x.repeat_interleave(3, dim=-1), M),
    "cat": (lambda x, y: torch.cat([x, y], -1), M, M),
    "concat": (lambda x, y: torch.concat([x, y], 1), M, M),
    "stack": (lambda x, y: torch.stack([x, y]), M, M),
    "stack_last": (lambda x, y: torch.stack([x, y], -1), M, M),
    "split": (lambda x: x.split(3, -1), M),
    "split_sizes": (lambda x: x.split([1, 3], 2), M),
    "chunk": (lambda x: x.chunk(2, 1), M),
    "chunk_uneven": (lambda x: torch.chunk(x, 3, -1)[1], M),
    "unbind": (lambda x: x.unbind(1), M),
    "unbind_last": (lambda x: x.unbind(-1)[-1], M),
    "narrow": (lambda x: x.narrow(1, 1, 2), M),
    "slice": (lambda x: x[:, 1:], M),
    "slice_negative": (lambda x: x[..., -2:], M),
    "slice_to_negative": (lambda x: x[:, :-1], M),
    "slice_step": (lambda x: x[..., ::2], M),
    "select": (lambda x: x[:, -1], M),
    "select_and_newaxis": (lambda x: x[:, None, 0], M),
    "index_with_list": (lambda x: x[:, [2, 0]], M),
    "index_with_tensor": (lambda x, y: x[:, :, y[0]], M, indices(2, 3)),
    "index_two_axes": (lambda x: x[:, torch.arange(3), torch.arange(3)], M),
    "index_select": (lambda x: x.index_select(-1, torch.tensor([3, 1])), M),
    "gather": (lambda x, y: x.gather(-1, y), M, indices(2, 3, 2)),
    "scatter": (
        lambda x, y: torch.zeros_like(x).scatter(-1, y, x),
        real(2, 3),
        torch.arange(3).expand(2, 3).contiguous(),
    ),
    "roll": (lambda x: x.roll(1, -1), M),
    "roll_two": (lambda x: torch.roll(x, (1, -2), (1, 2)), M),
    "flip": (lambda x: x.flip(-1), M),
    "pad": (lambda x: F.pad(x, (1, 2)), M),
    "pad_value": (lambda x: F.pad(x, (1, 0, 0, 1), value=2.5), M),
    "pad_reflect": (lambda x: F.pad(x, (1, 1, 2, 2), mode="reflect"), I),
    "pad_replicate": (lambda x: F.pad(x, (1, 1, 2, 2), mode="replicate"), I),
    "tril": (lambda x: x.tril(), M),
    "triu": (lambda x: x.triu(1), M),
    "pixel_shuffle": (lambda x: F.pixel_shuffle(x, 2), I),
    "pixel_unshuffle": (lambda x: F.pixel_unshuffle(x, 2), I),
    "channel_shuffle_by_hand": (lambda x: x.view(x.shape[0], 2, 2, 6, 6).transpose(1, 2).flatten(1, 2), I),
    "unfold": (lambda x: F.unfold(x, (3, 2), dilation=(1, 2), padding=(1, 0), stride=(2, 1)), I),
    "unfold_tiles": (lambda x: F.unfold(x, 2, stride=2), I),
    "fold": (lambda x: F.fold(x, (4, 6), (2, 3), stride=(2, 3)), real(2, 24, 4)),
    "eye": (lambda x: x @ torch.eye(4), M),
    "eye_wide": (lambda x: x @ torch.eye(4, 5, dtype=torch.float64).float(), M),
    "contiguous": (lambda x: x.transpose(1, 2).contiguous(), M),
    "clone": (lambda x: x.clone() + 1, M),
    "detach": (lambda x: x.detach() + 1, M),
}

POINTWISE: dict[str, tuple[Any, ...]] = {
    "multiply": (torch.multiply, M, M.flip(0)),
    "subtract_alpha": (lambda x, y: torch.subtract(x, y, alpha=2), M, M),
    "divide": (lambda x, y: torch.divide(x, y.abs() + 1), M, M),
    "true_divide": (lambda x, y: torch.true_divide(x, y.abs() + 1), M, M),
    "negative_of_absolute": (lambda x: torch.negative(torch.absolute(x)), M),
    "diff": (lambda x: x.diff(), M),
    "diff_twice_with_ends": (lambda x, y: torch.diff(x, 2, 1, prepend=y[:, :1], append=y), M, M.flip(0)),
    "diff_of_flags": (lambda x: (x > 0).diff(dim=1), M),
    "channel_dropout": (lambda x: torch.feature_dropout(x, 0.5, train=False) + 1, I),
    "empty": (lambda x: torch.empty(4).fill_(1.5) + x, M),
    "add_alpha": (lambda x, y: torch.add(x, y, alpha=2), M, M),
    "add_scalar": (lambda x: x + 1, M),
    "sub_alpha": (lambda x, y: torch.sub(x, y, alpha=0.5), M, M),
    "rsub": (lambda x: 1 - x, M),
    "rsub_tensor": (torch.rsub, M, M),
    "rsub_alpha": (lambda x: torch.rsub(x, 3.0, alpha=2), M),
    "mul_scalar": (lambda x: 2 * x, M),
    "div_scalar": (lambda x: x / 3, M),
    "rdiv": (lambda x: 1 / (x.abs() + 1), M),
    "floor_divide": (lambda x: x // 0.3, M),
    "div_trunc": (lambda x, y: torch.div(x, y, rounding_mode="trunc"), whole(2, 5), whole(2, 5).abs() + 1),
    "remainder": (lambda x: x % 0.7, M),
    "square": (lambda x: x.square(), M),
    "pow_scalar": (lambda x: x**3, M),
    "pow_tensor": (lambda x, y: x.abs() ** y, M, M),
    "rpow": (lambda x: 2**x, M),
    "maximum": (torch.maximum, M, M.flip(0)),
    "max_other": (torch.max, M, M.flip(0)),
    "min_other": (torch.min, M, M.flip(0)),
    "clamp": (lambda x: x.clamp(-0.5, 0.5), M),
    "clip": (lambda x: x.clip(max=0.5), M),
    "clamp_min": (lambda x: x.clamp_min(0), M),
    "clamp_max": (lambda x: x.clamp_max(0.25), M),
    "relu6": (lambda x: F.relu6(x * 9), M),
    "hardtanh": (F.hardtanh, M),
    "leaky_relu": (lambda x: F.leaky_relu(x, 0.2), M),
    "elu": (F.elu, M),
    "gelu": (F.gelu, M),
    "gelu_tanh": (lambda x: F.gelu(x, approximate="tanh"), M),
    "silu": (F.silu, M),
    "mish": (F.mish, M),
    "softplus": (lambda x: F.softplus(x, beta=2), M),
    "hardswish": (F.hardswish, M),
    "hardsigmoid": (F.hardsigmoid, M),
    "glu": (lambda x: F.glu(x, -1), M),
    "logical": (lambda x, y: (x > 0) & (y > 0) | ~(x < y), M, M.flip(1)),
    "logical_xor": (lambda x, y: (x > 0) ^ (y > 0), M, M.flip(1)),
    "where": (lambda x, y: torch.where(x > 0, x, y), M, -M),
    "where_scalar": (lambda x: torch.where(x > 0, x, 0.5), M),
    "masked_fill": (lambda x: x.masked_fill(x > 0, -1.0), M),
    "masked_fill_inf": (lambda x: x.masked_fill(x > 0, float("-inf")), M),
    "masked_fill_tensor": (lambda x: x.masked_fill(x > 0, torch.tensor(2.0)), M),
    "isnan": (lambda x: torch.isnan(x.log()), M),
    "isinf": (lambda x: torch.isinf(1 / (x * 0)), M),
    "round": (lambda x: (x * 3).round(), M),
    "rsqrt": (lambda x: (x.square() + 1).rsqrt(), M),
    "erf_and_sign": (lambda x: x.erf() + x.sign(), M),
    "trigonometry": (lambda x: x.sin() + x.cos() + x.tan(), M),
    "log_softmax": (lambda x: x.log_softmax(-1), M),
    "softmax_negative_dim": (lambda x: x.softmax(-2), M),
    "softmax_dtype": (lambda x: x.softmax(-1, dtype=torch.float32), M.half()),
}

REDUCTIONS: dict[str, tuple[Any, ...]] = {
    "mean_all": (lambda x: x.mean() + x, M),
    "mean_dim": (lambda x: x.mean(-1), M),
    "mean_keepdim": (lambda x: x.mean((1, -1), keepdim=True), M),
    "sum_all": (lambda x: x.sum() * x, M),
    "sum_negative_dim": (lambda x: x.sum(-2), M),
    "sum_keepdim": (lambda x: x.sum(1, keepdim=True), M),
    "amax": (lambda x: x.amax((1, 2)), M),
    "amin_keepdim": (lambda x: x.amin(-1, keepdim=True), M),
    "max_dim": (lambda x: x.max(-1), M),
    "max_dim_keepdim": (lambda x: x.max(1, keepdim=True)[0], M),
    "min_dim": (lambda x: x.min(dim=1).indices, M),
    "max_all": (lambda x: x.max() + x, M),
    "min_all": (lambda x: x.min() + x, M),
    "argmax": (lambda x: x.argmax(-1), M),
    "argmin_keepdim": (lambda x: x.argmin(1, keepdim=True), M),
    "any": (lambda x: (x > 0).any(-1), M),
    "all_keepdim": (lambda x: (x > -1).all(1, keepdim=True), M),
    "any_all": (lambda x: (x > 5).any() | (x > 0), M),
    "prod": (lambda x: x.prod(-1), M),
    "var": (lambda x: x.var(-1), M),
    "var_biased": (lambda x: x.var(1, unbiased=False, keepdim=True), M),
    "std": (lambda x: x.std(-1), M),
    "std_correction": (lambda x: x.std((1, 2), correction=0), M),
    "norm": (lambda x: x.norm(dim=-1), M),
    "norm_keepdim": (lambda x: x.norm(p=1, dim=1, keepdim=True), M),
    "vector_norm": (lambda x: torch.linalg.vector_norm(x, dim=(1, 2)), M),
    "normalize": (lambda x: F.normalize(x, dim=-1), M),
    "cumsum": (lambda x: x.cumsum(-1), M),
    "topk": (lambda x: x.topk(2, -1), M),
    "logsumexp_by_hand": (lambda x: (x - x.amax(-1, keepdim=True)).exp().sum(-1).log(), M),
}

LAYERS: dict[str, tuple[Any, ...]] = {
    "weight_standardisation": (lambda x: x @ F.batch_norm(K, None, None, training=True)[0].T, M),
    "weight_standardisation_gain": (lambda x: x @ F.batch_norm(K, None, None, G, G + 1, training=True)[0].T, M),
    "matmul": (lambda x, y: x @ y, M, real(2, 4, 5)),
    "bmm": (torch.bmm, M, real(2, 4, 5)),
    "mm": (lambda x: torch.mm(x, x.t() @ x), real(2, 3)),
    "mv": (lambda x: torch.mv(x, torch.ones(3)), real(2, 3)),
    "addmm": (lambda x: torch.addmm(torch.ones(3), x, torch.ones(3, 3), beta=0.5, alpha=2), real(2, 3)),
    "baddbmm": (lambda x, y: torch.baddbmm(y, x, x.mT), M, real(2, 3, 3)),
    "linear_function": (lambda x: F.linear(x, torch.ones(2, 4)), M),
    "attention": (lambda x: F.scaled_dot_product_attention(x, x, x), real(2, 2, 3, 4)),
    "attention_causal": (
        lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True, scale=0.3),
        real(2, 2, 3, 4),
    ),
    "conv_same": (lambda x: F.conv2d(x, torch.ones(3, 4, 3, 3), padding="same"), I),
    "conv_same_even": (lambda x: F.conv2d(x, torch.ones(3, 4, 2, 4), padding="same", dilation=(1, 2)), I),
    "conv_valid": (lambda x: F.conv1d(x, torch.ones(2, 3, 2), padding="valid", stride=2), M),
    "conv_transpose": (lambda x: F.conv_transpose2d(x, torch.ones(4, 3, 2, 2), stride=2), I),
    "max_pool": (lambda x: F.max_pool2d(x, 3, 2, 1), I),
    "max_pool1d": (lambda x: F.max_pool1d(x, 2), M),
    "avg_pool": (lambda x: F.avg_pool2d(x, 2, count_include_pad=False, padding=1), I),
    "adaptive_pool_one": (lambda x: F.adaptive_avg_pool2d(x, 1), I),
    "adaptive_pool_three": (lambda x: F.adaptive_avg_pool2d(x, (3, 2)), I),
    "adaptive_pool_1d": (lambda x: F.adaptive_avg_pool1d(x, 2), M),
    "nearest": (lambda x: F.interpolate(x, scale_factor=2), I),
    "bilinear": (lambda x: F.interpolate(x, size=(9, 7), mode="bilinear", align_corners=False), I),
    "bilinear_corners": (lambda x: F.interpolate(x, scale_factor=1.5, mode="bilinear", align_corners=True), I),
    "layer_norm": (lambda x: F.layer_norm(x, (4,)), M),
    "rms_norm": (lambda x: F.rms_norm(x, (4,)), M),
    "group_norm": (lambda x: F.group_norm(x, 2), I),
    "instance_norm": (F.instance_norm, I),
    "dropout_in_eval": (lambda x: F.dropout(x, 0.5, training=False) + 1, M),
    "embedding": (lambda x: F.embedding(x, torch.arange(8.0).view(4, 2)), indices(2, 3)),
    "one_hot_by_comparison": (lambda x: (x.unsqueeze(-1) == torch.arange(4)).float(), indices(2, 3)),
    "bucket_positions": (lambda x: torch.arange(x.shape[1])[None].expand(x.shape[0], -1) + x, indices(2, 3)),
}

DTYPES: dict[str, tuple[Any, ...]] = {
    "int_plus_float_scalar": (lambda x: x + 0.5, whole(2, 4)),
    "int_times_float_scalar": (lambda x: x * 1.5, whole(2, 4, dtype=torch.int32)),
    "int_over_int": (lambda x: x / 2, whole(2, 4)),
    "int_floor_divide": (lambda x: x // 2, whole(2, 4)),
    "int_remainder": (lambda x: x % 3, whole(2, 4)),
    "int_pow": (lambda x: x**2, whole(2, 4)),
    "int_plus_float_tensor": (lambda x, y: x + y, whole(2, 4), real(2, 4)),
    "int32_plus_int64": (lambda x, y: x + y, whole(2, 4, dtype=torch.int32), whole(2, 4)),
    "uint8_plus_int8": (lambda x, y: x + y, indices(2, 4).to(torch.uint8), whole(2, 4, dtype=torch.int8)),
    "bool_plus_int": (lambda x: (x > 0) + 1, whole(2, 4)),
    "bool_sum": (lambda x: (x > 0).sum(-1), real(2, 4)),
    "bool_times_float": (lambda x: (x > 0) * x, real(2, 4)),
    "half_plus_scalar": (lambda x: x + 1.5, real(2, 4, dtype=torch.float16)),
    "half_times_float": (lambda x, y: x * y, real(2, 4, dtype=torch.float16), real(2, 4)),
    "bfloat16_plus_half": (lambda x, y: x + y, real(2, 4, dtype=torch.bfloat16), real(2, 4, dtype=torch.float16)),
    "float_plus_double_scalar_tensor": (lambda x: x + torch.tensor(0.1, dtype=torch.float64), real(2, 4)),
    "float_plus_double": (lambda x, y: x + y, real(2, 4), real(2, 4, dtype=torch.float64)),
    "int_sum_is_int64": (lambda x: x.sum(-1), whole(2, 4, dtype=torch.int32)),
    "sum_dtype": (lambda x: x.sum(-1, dtype=torch.float64), real(2, 4)),
    "mean_dtype": (lambda x: x.mean(-1, dtype=torch.float32), whole(2, 4)),
    "cumsum_int32": (lambda x: x.cumsum(-1), whole(2, 4, dtype=torch.int32)),
    "cumsum_dtype": (lambda x: x.cumsum(-1, dtype=torch.float32), whole(2, 4)),
    "int_compared_with_float": (lambda x: x > 0.5, whole(2, 4)),
    "where_promotes": (lambda x, y: torch.where(x > 0, x, y), whole(2, 4), real(2, 4)),
    "where_int_scalar": (lambda x: torch.where(x > 0, 1, 0), whole(2, 4)),
    "where_scalars": (lambda x: torch.where(x > 0, 1.0, 0.0), whole(2, 4)),
    "masked_fill_int": (lambda x: x.masked_fill(x > 0, -1), whole(2, 4)),
    "clamp_int_with_float": (lambda x: x.clamp(max=1.5), whole(2, 4)),
    "rsub_int_float": (lambda x: 1.5 - x, whole(2, 4)),
    "sqrt_of_int": (lambda x: x.abs().sqrt(), whole(2, 4)),
    "to_half": (lambda x: x.to(torch.float16), real(2, 4)),
    "to_and_back": (lambda x: x.half().float(), real(2, 4)),
    "to_int_truncates": (lambda x: x.long(), real(2, 4)),
    "to_bool": (lambda x: x.bool(), whole(2, 4)),
    "to_other": (lambda x, y: x.to(y), whole(2, 4), real(2, 4)),
    "type_as": (lambda x, y: x.type_as(y), whole(2, 4), real(2, 4)),
    "arange_float": (lambda x: x + torch.arange(0, 2, 0.5), real(2, 4)),
    "arange_int": (lambda x: x + torch.arange(4), real(2, 4)),
    "arange_dtype": (lambda x: x * torch.arange(4, dtype=torch.int32), whole(2, 4, dtype=torch.int32)),
    "zeros_default": (lambda x: x + torch.zeros(4), whole(2, 4)),
    "ones_like_dtype": (lambda x: torch.ones_like(x, dtype=torch.int64), real(2, 4)),
    "full_int": (lambda x: torch.full((x.shape[0], 4), 3) + x, whole(2, 4)),
    "full_bool": (lambda x: torch.full((4,), True) & (x > 0), real(2, 4)),
    "full_like_int_of_float": (lambda x: torch.full_like(x, 2.7), whole(2, 4)),
    "new_zeros": (lambda x: x.new_zeros(4) + x, whole(2, 4, dtype=torch.int32)),
    "new_ones_dtype": (lambda x: x.new_ones((2, 4), dtype=torch.float64)[:1] + x, real(2, 4)),
    "new_full": (lambda x: x.new_full((1, 4), 1.5) + x, real(2, 4)),
    "scalar_tensor": (lambda x: torch.scalar_tensor(2.0) * x, real(2, 4)),
    "empty_then_filled": (lambda x: torch.zeros_like(x).fill_(1.5) + x, real(2, 4)),
}

CASES = {**SHAPES, **POINTWISE, **REDUCTIONS, **LAYERS, **DTYPES}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", CASES)
def test_a_spelling_keeps_its_meaning(name: str) -> None:
    function, *inputs = CASES[name]
    module = (One, Two)[len(inputs) - 1](function)
    program = capture(module, tuple(inputs))
    results = torch.utils._pytree.tree_leaves(module(*inputs))
    assert [spec.dtype for spec in program.signature.outputs] == [DTYPE_NAMES[result.dtype] for result in results]
    assert [len(spec.shape) for spec in program.signature.outputs] == [result.dim() for result in results]


def test_the_table_covers_what_it_promises() -> None:
    assert len(CASES) >= 200


def test_squeeze_without_dims_needs_fixed_sizes() -> None:
    squeezed = One(lambda x: x[:, :1].squeeze())
    assert capture(squeezed, real(2, 3), dynamic=None).signature.outputs[0].shape == (2,)
    with pytest.raises(CaptureError, match=r"output 0 has shape \(1,\) at batch=1"):
        capture(squeezed, real(2, 3))


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda x: x.roll(1, 0), "roll along a dim that may vary"),
        (lambda x: F.adaptive_avg_pool2d(x, (3, 2)), r"adaptive average pooling from \[4, 3\] to \[3, 2\]"),
        (lambda x: (x * 4).long() & (x > 0), "& of whole numbers"),
        (lambda x: F.unfold(x.permute(1, 2, 0)[None], 1), "unfold of an image whose size may vary"),
        (lambda x: F.fold(x, (2, 4), 2), "fold of patches that overlap or leave gaps"),
        (lambda x: torch.feature_dropout(x, 0.5, train=True), "dropout of whole channels that is switched on"),
        (lambda x: torch.fft.rfft(x).abs(), r"operation aten\.fft_rfft\.default in module ''"),
    ],
)
def test_what_has_no_form_in_the_dialect_is_refused_with_its_source_line(function: Any, text: str) -> None:
    with pytest.raises(UnsupportedOp, match=text) as caught:
        capture(One(function), real(2, 4, 3))
    assert "test_rewrites_agree_with_eager.py:" in str(caught.value)
    assert "return self.function(x)" in str(caught.value)


@pytest.mark.parametrize("function", [lambda x: x.split(1), lambda x: x.chunk(2), lambda x: x.unbind()])
def test_cutting_along_the_batch_is_refused(function: Any) -> None:
    with pytest.raises(CaptureError, match="dimension frozen by arithmetic"):
        capture(One(function), real(2, 4, 3))
