"""Scaling channels between layers changes no result, is refused where it would, and makes int8 better where it can."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gossamer import flow
from gossamer.core.errors import DataError, OptionError, UnsupportedOp
from gossamer.core.target import Target
from gossamer.program import Program, dialect
from gossamer.techniques.base import Technique
from gossamer.techniques.quantize.equalize import Equalize
from gossamer.techniques.quantize.int8 import Int8
from gossamer.techniques.quantize.scaling import ChannelScaling, scaling_groups
from gossamer.techniques.quantize.smooth import Smooth


class Written(nn.Module):
    """Layers by name, and what to do with them."""

    def __init__(self, forward: Callable[..., Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self._forward = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self, x)


def spread(net: nn.Module, seed: int = 0) -> nn.Module:
    """Give every channel of every parameter another magnitude."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if tensor.is_floating_point():
                fresh = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
                fresh *= 10 ** torch.rand(
                    (len(fresh), *[1] * (fresh.dim() - 1)), generator=generator, dtype=fresh.dtype
                )
                tensor.copy_(fresh.abs() + 0.1 if name.endswith("running_var") else fresh)
    return net.eval()


IMAGE, ROWS, TOKENS, SIGNAL = (4, 9, 9), (6,), (5, 6), (4, 11)
CONV = lambda *args, **options: nn.Conv2d(*args, **{"padding": 1, **options})  # noqa: E731 - the usual convolution here


LAYERS = {
    "conv relu conv": (nn.Sequential(CONV(4, 6, 3), nn.ReLU(), CONV(6, 5, 3)), IMAGE),
    "batch norms between": (
        nn.Sequential(CONV(4, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), CONV(6, 5, 3), nn.BatchNorm2d(5)), IMAGE,
    ),
    "depthwise chain": (
        nn.Sequential(CONV(4, 6, 3), nn.ReLU(), CONV(6, 6, 3, groups=6), nn.ReLU(), CONV(6, 3, 1, padding=0)), IMAGE,
    ),
    "depthwise with a multiplier": (nn.Sequential(CONV(4, 6, 3), nn.ReLU(), CONV(6, 12, 3, groups=6)), IMAGE),
    "grouped layers": (nn.Sequential(CONV(4, 6, 3, groups=2), nn.ReLU(), CONV(6, 6, 3, groups=3)), IMAGE),
    "linear chain": (nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 2)), ROWS),
    "nothing between": (nn.Sequential(nn.Linear(6, 7), nn.Linear(7, 5)), TOKENS),
    "leaky relu": (nn.Sequential(nn.Linear(6, 7), nn.LeakyReLU(0.1), nn.Linear(7, 5)), TOKENS),
    "prelu": (nn.Sequential(nn.Linear(6, 7), nn.PReLU(7), nn.Linear(7, 5)), ROWS),
    "pooling and head": (
        nn.Sequential(
            CONV(4, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(6, 3),
        ),
        IMAGE,
    ),
    "flatten": (nn.Sequential(CONV(4, 6, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(54, 3)), IMAGE),
    "one-dimensional": (nn.Sequential(nn.Conv1d(4, 6, 3), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(6, 2, 3)), SIGNAL),
    "patches to tokens": (
        Written(
            lambda net, x: net.head(net.patch(x).flatten(2).transpose(1, 2)),
            patch=nn.Conv2d(4, 6, 3, 3), head=nn.Linear(6, 2),
        ),
        IMAGE,
    ),
    "first token": (
        Written(lambda net, x: net.b(F.relu(net.a(x))[:, 0]), a=nn.Linear(6, 7), b=nn.Linear(7, 2)), TOKENS,
    ),
    "mean over tokens": (
        Written(lambda net, x: net.b(net.a(x).mean(1, keepdim=True)), a=nn.Linear(6, 7), b=nn.Linear(7, 2)), TOKENS,
    ),
    "padding and slice": (
        Written(
            lambda net, x: net.b(F.pad(net.a(x), (2, 1, 1, 1))[:, :, 1:]), a=CONV(4, 6, 3), b=CONV(6, 2, 3)
        ),
        IMAGE,
    ),
    "two readers": (
        Written(
            lambda net, x: net.b(h := F.relu(net.a(x))) * net.c(h),
            a=nn.Linear(6, 7), b=nn.Linear(7, 2), c=nn.Linear(7, 2),
        ),
        TOKENS,
    ),
}  # fmt: skip

NORMS = {
    "layer norm": (nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 5)), TOKENS),
    "layer norm without parameters": (
        nn.Sequential(nn.LayerNorm(6, elementwise_affine=False), nn.Linear(6, 5)), TOKENS,
    ),
    "rms norm": (nn.Sequential(nn.RMSNorm(6), nn.Linear(6, 5)), TOKENS),
    "rms norm by hand": (
        Written(
            lambda net, x: net.fc(net.gain.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6))),
            gain=nn.RMSNorm(6), fc=nn.Linear(6, 5),
        ),
        TOKENS,
    ),
    "batch norm before its layer": (nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), CONV(4, 6, 3)), IMAGE),
    "batch norm without parameters": (nn.Sequential(nn.BatchNorm2d(4, affine=False), CONV(4, 6, 3)), IMAGE),
    "group norm": (nn.Sequential(nn.GroupNorm(2, 4), nn.ReLU(), CONV(4, 6, 3)), IMAGE),
    "three readers": (
        Written(
            lambda net, x: net.q(h := net.norm(x)) * net.k(h) + net.v(h),
            norm=nn.LayerNorm(6), q=nn.Linear(6, 4), k=nn.Linear(6, 4), v=nn.Linear(6, 4),
        ),
        TOKENS,
    ),
}  # fmt: skip


def captured(net: nn.Module, shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> tuple[Program, np.ndarray]:
    x = torch.randn(40, *shape, dtype=dtype, generator=torch.Generator().manual_seed(1))
    return flow.capture(spread(net.to(dtype)), x[:3]), x.numpy()


@cache
def case(name: str) -> tuple[Program, np.ndarray]:
    """A program of ``LAYERS``, ``NORMS`` or ``BLOCKED`` with data; nobody changes it."""
    net, shape, *_ = (LAYERS | NORMS | BLOCKED)[name]
    return captured(net, shape)


def inputs_of(program: Program, x: np.ndarray) -> dict[str, np.ndarray]:
    return {program.signature.inputs[0].name: x}


def assert_same_results(technique: Technique, program: Program, x: np.ndarray, target: Target) -> Program:
    before = program.digest
    scaled = technique.apply(program, inputs_of(program, x), target)
    exact = program(x)
    # Sums of at most a few hundred float64 products of like magnitude.
    np.testing.assert_allclose(scaled(x), exact, rtol=1e-11, atol=1e-11 * np.abs(exact).max())
    assert program.digest == before != scaled.digest
    assert scaled.digest == technique.apply(program, inputs_of(program, x), target).digest
    return scaled


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("technique", [Equalize(), Equalize(sweeps=1), Smooth(alpha=0.5), Smooth(alpha=1.0)], ids=str)
def test_layers_compute_what_they_did(technique: Technique, name: str, target: Target):
    program, x = case(name)
    assert technique.sites(program, target)
    assert_same_results(technique, program, x, target)


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("alpha", [0.3, 0.8])
def test_norms_and_their_readers_compute_what_they_did(name: str, alpha: float, target: Target):
    program, x = case(name)
    assert len(Smooth().sites(program, target)) == 1
    assert_same_results(Smooth(alpha=alpha), program, x, target)


def test_all_ranges_are_equal_in_the_end(target: Target):
    program, x = case("depthwise chain")
    scaled = Equalize(sweeps=100).apply(program, inputs_of(program, x), target)
    groups, _ = scaling_groups(scaled)
    assert len(groups) == 2
    scaling = ChannelScaling(scaled)
    for group in groups:
        torch.testing.assert_close(scaling.produced_range(group), scaling.read_range(group), rtol=2e-3, atol=0)


def two_layers(first: list[list[float]], second: list[list[float]]) -> nn.Sequential:
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)).double().eval()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor(first))
        net[0].bias.copy_(torch.tensor([6.0, 10.0]))
        net[2].weight.copy_(torch.tensor(second))
    return net


def test_equalisation_by_hand(target: Target):
    """Ranges 8 and 1 into 2 and 4: scales sqrt(8 / 2) = 2 and sqrt(1 / 4) = 1/2."""
    program = flow.capture(two_layers([[8, -4], [0.5, 1]], [[2, -4], [1, 3]]), torch.ones(2, 2).double())
    tensors = Equalize().apply(program, {}, target).tensors
    assert tensors["0.weight"].tolist() == [[4, -2], [1, 2]]
    assert tensors["0.bias"].tolist() == [3, 20]
    assert tensors["2.weight"].tolist() == [[4, -2], [2, 1.5]]


def test_smoothing_by_hand(target: Target):
    """Activations up to 16 and 9, read with 4 and 1: scales sqrt(16 / 4) = 2 and sqrt(9 / 1) = 3."""
    net = two_layers([[1, 0], [0, 1]], [[4, -1], [1, 0.5]])
    net[0].bias.data.zero_()
    program = flow.capture(net, torch.ones(2, 2).double())
    data = np.array([[16.0, 1.0], [2.0, 9.0], [-30.0, -30.0]])
    tensors = Smooth(alpha=0.5).apply(program, {"input": data}, target).tensors
    assert tensors["0.weight"].tolist() == [[0.5, 0], [0, pytest.approx(1 / 3)]]
    assert tensors["2.weight"].tolist() == [[8, -3], [2, 1.5]]


def test_channels_that_are_always_zero_stay_as_they_are(target: Target):
    net = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    program, x = captured(net, ROWS)
    program.tensors["0.weight"].data[1] = 0
    program.tensors["0.bias"].data[1] = -1
    program.tensors["2.weight"].data[:, 2] = 0
    for technique in (Equalize(), Smooth(alpha=0.5)):
        scaled = technique.apply(program, {"input": x}, target)
        np.testing.assert_allclose(scaled(x), program(x), rtol=1e-11, atol=1e-11)
        assert scaled.tensors["2.weight"][:, 1].equal(program.tensors["2.weight"][:, 1]) or technique.name == "smooth"
        assert all(tensor.isfinite().all() for tensor in scaled.tensors.values())


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.relu(self.a(x)))


BLOCKED = {
    "relu6": (nn.Sequential(CONV(4, 6, 3), nn.ReLU6(), CONV(6, 5, 3)), IMAGE, "_1 reads it"),
    "gelu": (nn.Sequential(nn.Linear(6, 7), nn.GELU(), nn.Linear(7, 5)), ROWS, "_1 reads it"),
    "residual": (
        Written(lambda net, x: net.b(x + net.a(x)), a=nn.Linear(6, 6), b=nn.Linear(6, 2)), ROWS, "a: add reads it",
    ),
    "another reader": (
        Written(lambda net, x: net.b(h := net.a(x)).sum() + h.exp(), a=nn.Linear(6, 6), b=nn.Linear(6, 2)), ROWS,
        "a: exp reads it",
    ),
    "the output": (nn.Sequential(nn.Linear(6, 6)), ROWS, "the output reads it"),
    "tied weights": (Tied(), ROWS, "it shares its weight or bias"),
    "over the channels": (
        Written(lambda net, x: net.b(net.a(x).mean(-1, keepdim=True)), a=nn.Linear(6, 6), b=nn.Linear(1, 2)), ROWS,
        "a: mean reads it",
    ),
    "another axis": (
        Written(lambda net, x: net.b(net.a(x).transpose(1, 2)), a=nn.Linear(6, 5), b=nn.Linear(5, 2)), TOKENS,
        "reads it along another axis",
    ),
    "padding that is not zero": (
        Written(lambda net, x: net.b(F.pad(net.a(x), (1, 1), value=2.0)), a=nn.Conv1d(4, 6, 1), b=nn.Conv1d(6, 2, 3)),
        SIGNAL, "a: pad reads it",
    ),
    "no layer": (Written(lambda net, x: torch.tanh(x)), ROWS, "no such layer"),
}  # fmt: skip


@pytest.mark.parametrize("name", BLOCKED)
@pytest.mark.parametrize("technique", [Equalize(), Smooth()], ids=str)
def test_what_would_change_results_is_refused_with_the_reason(technique: Technique, name: str, target: Target):
    program, x = case(name)
    reason = BLOCKED[name][2]
    assert technique.sites(program, target) == ()
    with pytest.raises(UnsupportedOp, match=rf"no channels that can be scaled \([\s\S]*{reason}"):
        technique.apply(program, inputs_of(program, x), target)


@pytest.mark.parametrize("name", ["gelu", "residual", "another reader", "another axis"])
def test_a_product_does_where_no_parameters_can(name: str, target: Target):
    program, x = case(name)
    smoothed = Smooth(alpha=0.5, insert=True).apply(program, inputs_of(program, x), target)
    np.testing.assert_allclose(smoothed(x), program(x), rtol=1e-11, atol=1e-11)
    products = [tensor for key, tensor in smoothed.tensors.items() if key.endswith(".smoothing")]
    assert products
    assert all(tensor.std() > 0 for tensor in products)


def test_a_shared_weight_is_not_scaled_for_one_of_its_readers(target: Target):
    program, x = case("tied weights")
    with pytest.raises(UnsupportedOp, match="it shares its weight"):
        Smooth(alpha=0.5, insert=True).apply(program, inputs_of(program, x), target)


def test_many_reasons_are_counted(target: Target):
    net = nn.Sequential(*[layer for _ in range(8) for layer in (nn.Linear(6, 6), nn.Tanh())])
    program, x = captured(net, ROWS)
    with pytest.raises(UnsupportedOp, match="; 3 more"):
        Equalize().apply(program, inputs_of(program, x), target)


def test_quantized_layers_are_left_alone(digit_program: Program, digits, target: Target):
    quantized = Int8().apply(digit_program, {"x": digits[0][:64]}, target)
    with pytest.raises(UnsupportedOp, match="computed, or quantized already"):
        Equalize().apply(quantized, {}, target)


def test_equal_ranges_are_not_equalised_again(target: Target):
    program, x = case("conv relu conv")
    once = Equalize().apply(program, inputs_of(program, x), target)
    with pytest.raises(UnsupportedOp, match="ranges that are equal already"):
        Equalize().apply(once, inputs_of(program, x), target)


def test_smoothing_that_lowers_no_error_is_refused(target: Target):
    """Channels of one range, read with weights of one range: nothing can be moved."""
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False))
    net[0].weight.data = torch.eye(2)
    net[2].weight.data = torch.tensor([[0.9, 0.3], [-0.5, 0.9]])
    program = flow.capture(net, torch.ones(2, 2))
    data = np.random.default_rng(0).standard_normal((64, 2)).astype(np.float32)
    data[0] = 5
    with pytest.raises(UnsupportedOp, match="no less error by scaling any of 1"):
        Smooth().apply(program, {"input": data}, target)


@pytest.mark.parametrize("inputs", [{}, {"input": np.empty((0, 6), np.float32)}])
def test_smoothing_needs_data(target: Target, inputs):
    program, _ = case("layer norm")
    with pytest.raises(DataError, match=r"no samples[\s\S]*a hundred or more"):
        Smooth().apply(program, inputs, target)


def test_values_that_are_not_finite_are_named(target: Target):
    program, x = case("layer norm")
    x = x.copy()
    x[7, 2, 1] = np.nan
    with pytest.raises(DataError, match=r"values that are not finite at \w+ \(0\)"):
        Smooth(alpha=0.5).apply(program, inputs_of(program, x), target)


def test_the_search_for_a_strength_needs_a_target_with_integers():
    program, x = case("layer norm")
    elsewhere = Target("elsewhere")
    with pytest.raises(UnsupportedOp, match="a target without int8 kernels"):
        Smooth().apply(program, inputs_of(program, x), elsewhere)
    Smooth(alpha=0.5).apply(program, inputs_of(program, x), elsewhere)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: Smooth(alpha=-0.1), "0 to 1"),
        (lambda: Smooth(alpha=1.1), "0 to 1"),
        (lambda: Smooth(alpha=float("nan")), "0 to 1"),
        (lambda: Equalize(sweeps=0), "at least 1"),
    ],
)
def test_options_out_of_range_are_refused(make, expected: str):
    with pytest.raises(OptionError, match=expected):
        make()


def planted(outlier: float) -> tuple[Program, np.ndarray]:
    """A norm that yields one channel ``outlier`` times the others', and a layer that reads it accordingly less."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4))
    with torch.no_grad():
        net[0].weight[5] *= outlier
        net[1].weight[:, 5] /= outlier
    data = np.random.default_rng(0).standard_normal((256, 32)).astype(np.float32)
    return flow.capture(net, torch.from_numpy(data[:2])), data


def int8_error(program: Program, exact: np.ndarray, data: np.ndarray, target: Target) -> float:
    got = Int8(observer="minmax").apply(program, inputs_of(program, data[:128]), target)(data[128:])
    return float(np.linalg.norm(got - exact) / np.linalg.norm(exact))


@pytest.mark.parametrize("technique", [Smooth(), Smooth(alpha=0.5)], ids=str)
def test_smoothing_makes_outlier_channels_harmless(technique: Smooth, target: Target):
    program, data = planted(60.0)
    exact = program(data[128:])
    smoothed = technique.apply(program, {"input": data[:128]}, target)
    before, after = (int8_error(one, exact, data, target) for one in (program, smoothed))
    clean, clean_data = planted(1.0)
    assert after < 0.2 * before
    assert after < 1.5 * int8_error(clean, clean(clean_data[128:]), clean_data, target), "as if there were no outlier"


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_a_product_makes_outliers_harmless_that_a_residual_reads_as_well(alpha: float, target: Target):
    torch.manual_seed(0)
    norm, layer = nn.LayerNorm(32), nn.Linear(32, 32)
    with torch.no_grad():
        norm.weight[5] *= 60
        layer.weight[:, 5] /= 60
    net = Written(lambda net, x: net.layer(y := net.norm(x)) * 20 + y.tanh(), norm=norm, layer=layer)
    data = np.random.default_rng(0).standard_normal((256, 32)).astype(np.float32)
    program = flow.capture(net.eval(), torch.from_numpy(data[:2]))
    with pytest.raises(UnsupportedOp, match="norm: tanh reads it"):
        Smooth(alpha=alpha).apply(program, inputs_of(program, data[:128]), target)
    smoothed = Smooth(alpha=alpha, insert=True).apply(program, inputs_of(program, data[:128]), target)
    exact = program(data[128:])
    before, after = (int8_error(one, exact, data, target) for one in (program, smoothed))
    assert after < 0.3 * before


def test_a_searched_strength_is_no_worse_than_none(reader_program: Program, reader_ids, target: Target):
    data, unseen = {"ids": reader_ids[:100]}, reader_ids[100:]
    exact = reader_program(unseen)
    smoothed = Smooth().apply(reader_program, data, target)
    errors = [
        float(np.linalg.norm(Int8().apply(program, data, target)(unseen) - exact))
        for program in (reader_program, smoothed)
    ]
    assert errors[1] < 1.05 * errors[0]


def test_equalisation_helps_a_scale_for_the_whole_tensor(target: Target):
    """What it was made for: weights with one scale. Channels of unlike ranges leave the small ones a few codes."""
    program, x = captured(*LAYERS["depthwise chain"], torch.float32)
    scaled = Equalize().apply(program, {}, target)

    def error(program: Program) -> float:
        worst = 0.0
        for node in program.call_nodes:
            if dialect.op_class(node) == "conv":
                weight = program.tensors[str(node.args[1].target)].detach()
                step = weight.abs().amax() / 127
                rows = (torch.round(weight / step) * step - weight).flatten(1)
                worst = max(worst, float((rows.norm(dim=1) / weight.flatten(1).norm(dim=1)).max()))
        return worst

    assert error(scaled) < 0.6 * error(program)
    np.testing.assert_allclose(scaled(x), program(x), rtol=1e-3, atol=1e-4 * np.abs(program(x)).max())
