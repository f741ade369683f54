"""Where the pairs of quantize and dequantize stand: everywhere in convolution nets, before linear layers elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from gossamer import flow
from gossamer.core.errors import UnknownName, UnsupportedOp
from gossamer.core.target import Target
from gossamer.program import Program, dialect
from gossamer.program.dialect import aten
from gossamer.runtimes import resolve_target
from gossamer.techniques.quantize.int8 import Int8, int8_layers


class Residual(nn.Module):
    """A stem behind a zero padding, a block with a shortcut, pooling, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, 8, 3)
        self.conv = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        y = F.relu6(self.norm(self.conv(F.pad(x, (1, 1, 1, 1)))))[:, :, 1:-1, 1:-1]
        x = F.max_pool2d(F.relu(x + y), 2)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


IMAGES = np.random.default_rng(0).standard_normal((48, 4, 10, 10)).astype(np.float32)


@pytest.fixture(scope="module")
def plain() -> Program:
    torch.manual_seed(0)
    return flow.capture(Residual().eval(), {"x": torch.from_numpy(IMAGES[:2])})


@pytest.fixture(scope="module")
def quantized(plain: Program, target: Target) -> Program:
    return Int8().apply(plain, {"x": IMAGES}, target)


def of_class(program: Program, name: str) -> list[fx.Node]:
    return [node for node in program.call_nodes if dialect.op_class(node) == name]


def is_pair(node: object) -> bool:
    return isinstance(node, fx.Node) and node.target is dialect.dequantize


def grid(node: fx.Node) -> tuple[str, str]:
    """Names of scale and zero point of a pair, the same on both sides."""
    assert is_pair(node)
    quantize = node.args[0]
    assert isinstance(quantize, fx.Node)
    assert quantize.target is dialect.quantize
    assert quantize.args[1:4] == node.args[1:4]
    return str(node.args[1]), str(node.args[2])


def test_convolutions_read_and_write_integers(quantized: Program):
    for conv in of_class(quantized, "conv"):
        assert all(map(is_pair, conv.args[:3])), "input, weight and bias"
        (reader,) = conv.users
        assert reader.target in (dialect.quantize, aten.relu.default, aten.hardtanh.default)


def test_the_activation_function_is_folded_into_the_layer_before_it(quantized: Program):
    for node in quantized.call_nodes:
        if node.target in (aten.relu.default, aten.hardtanh.default):
            assert dialect.op_class(node.args[0]) in ("conv", "add")
            assert [user.target for user in node.users] == [dialect.quantize]


def test_an_add_has_pairs_on_both_inputs_and_behind_its_result(quantized: Program):
    (add,) = of_class(quantized, "add")
    assert all(map(is_pair, add.args))
    (relu,) = add.users
    assert [user.target for user in relu.users] == [dialect.quantize]


def test_what_only_moves_values_keeps_their_grid(quantized: Program):
    for kind in ("pad", "slice", "max_pool", "reshape"):
        for node in of_class(quantized, kind):
            (quantize,) = node.users
            (pair,) = quantize.users
            assert grid(pair) == grid(node.args[0]), kind


def test_the_grid_of_a_mean_is_its_own(quantized: Program):
    (mean,) = [node for node in quantized.call_nodes if dialect.op_class(node) == "mean" or "avg" in node.name]
    (quantize,) = mean.users
    (pair,) = quantize.users
    assert grid(pair) != grid(mean.args[0])


def test_the_head_writes_float(quantized: Program):
    (head,) = of_class(quantized, "linear")
    assert [user.op for user in head.users] == ["output"]


def test_batch_norms_are_gone(quantized: Program):
    assert not [node for node in quantized.call_nodes if node.target is aten.batch_norm.default]


def test_unsigned_grids_over_values_of_at_least_zero_start_at_code_zero(quantized: Program):
    """The runtime folds a relu only where the zero point behind it is 0."""
    for node in quantized.call_nodes:
        if node.target is aten.relu.default:
            (quantize,) = node.users
            assert quantized.tensors[quantize.args[2].target].item() == 0


def test_excluded_layers_read_float_and_the_rest_stays(plain: Program, target: Target):
    """One layer in float costs its neighbours nothing: a dequantize before it, a quantize behind it."""
    program = Int8(skip=("conv",)).apply(plain, {"x": IMAGES}, target)
    assert list(int8_layers(program)) == ["stem", "head"]
    conv = next(node for node in program.call_nodes if node.name == "conv")
    assert not any(map(is_pair, conv.args[1:3]))
    (add,) = of_class(program, "add")
    assert all(map(is_pair, add.args))
    (relu,) = add.users
    assert [user.target for user in relu.users] == [dialect.quantize]


class Chain(nn.Module):
    """Residual blocks of one convolution each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, 8, 3, padding=1)
        self.blocks = nn.ModuleList([nn.Conv2d(8, 8, 3, padding=1, groups=groups) for groups in (1, 8, 2, 1)])

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.stem(x))
        for block in self.blocks:
            x = x + block(x)
        return x


@pytest.fixture(scope="module")
def chain() -> Program:
    torch.manual_seed(0)
    return flow.capture(Chain().eval(), {"x": torch.from_numpy(IMAGES[:2])})


@pytest.mark.parametrize("skip", [(), ("blocks.1",), ("stem",), ("blocks.1", "blocks.2")])
def test_a_layer_in_float_leaves_every_sum_in_integers(chain: Program, target: Target, skip: tuple[str, ...]):
    program = Int8(skip=skip).apply(chain, {"x": IMAGES}, target)
    for add in of_class(program, "add"):
        assert all(map(is_pair, add.args))
    exact, got = chain(IMAGES), program(IMAGES)
    assert np.linalg.norm(got - exact) < 0.03 * np.linalg.norm(exact)


def test_a_value_between_two_layers_in_float_is_not_rounded(plain: Program, target: Target):
    program = Int8(skip=("stem", "conv")).apply(plain, {"x": IMAGES}, target)
    stem, conv = of_class(program, "conv")
    assert not is_pair(stem.args[0])
    (pad,) = of_class(program, "pad")
    assert conv.args[0] is pad
    assert pad.args[0].target is aten.relu.default


def test_grouped_and_depthwise_layers_have_a_scale_per_output_channel(chain: Program, target: Target):
    program = Int8().apply(chain, {"x": IMAGES}, target)
    for conv in of_class(program, "conv"):
        scale = program.tensors[conv.args[1].args[1].target]
        assert scale.shape == (8,)


@pytest.mark.parametrize("skip", [("stem*",), ("[!h]*",), ("conv", "head")])
def test_globs_choose_layers(plain: Program, target: Target, skip: tuple[str, ...]):
    everything = set(Int8().sites(plain, target))
    left = set(int8_layers(Int8(skip=skip).apply(plain, {"x": IMAGES}, target)))
    assert everything == {"stem", "conv", "head"}
    assert left == {"stem*": {"conv", "head"}, "[!h]*": {"head"}, "conv": {"stem"}}[skip[0]]


def test_a_glob_that_matches_nothing_is_refused(plain: Program, target: Target):
    with pytest.raises(UnknownName, match=r"'sten', which matches 0 of 3 sites[\s\S]*try: stem"):
        Int8(skip=("sten",)).apply(plain, {"x": IMAGES}, target)


@pytest.mark.parametrize("skip", [("*",), ("stem", "conv", "head")])
def test_excluding_everything_is_refused(plain: Program, target: Target, skip: tuple[str, ...]):
    with pytest.raises(UnsupportedOp, match="every layer excluded"):
        Int8(skip=skip).apply(plain, {"x": IMAGES}, target)


def test_a_model_without_weighted_layers_is_refused(target: Target):
    class Squash(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(x) * 2

    with pytest.raises(UnsupportedOp, match="no convolution or linear layer to quantize"):
        Int8().apply(flow.capture(Squash(), torch.ones(2, 3)), {"x": np.ones((8, 3), np.float32)}, target)


def test_what_is_quantized_already_is_not_quantized_again(quantized: Program, target: Target):
    with pytest.raises(UnsupportedOp, match="it is quantized already"):
        Int8().apply(quantized, {"x": IMAGES}, target)


def test_a_target_without_integer_kernels_is_refused(plain: Program):
    with pytest.raises(UnsupportedOp, match="a target without int8 kernels"):
        Int8().apply(plain, {"x": IMAGES}, Target("elsewhere"))


def test_a_weight_that_depends_on_the_input_stays_in_float(target: Target):
    class Hyper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.make = nn.Linear(4, 8)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.make(x).mean(0).reshape(2, 4))

    program = flow.capture(Hyper(), {"x": torch.ones(2, 4)})
    data = np.random.default_rng(0).standard_normal((32, 4)).astype(np.float32)
    assert list(int8_layers(Int8().apply(program, {"x": data}, target))) == ["make"]


def test_linears_of_a_transformer_read_integers_and_all_else_reads_float(reader_program, reader_ids, target):
    program = Int8().apply(reader_program, {"ids": reader_ids}, target)
    assert list(int8_layers(program)) == ["qkv", "out", "fc1", "fc2", "head"]
    pairs = [node for node in program.call_nodes if is_pair(node)]
    readers = {user for pair in pairs for user in pair.users}
    assert {dialect.op_class(reader) for reader in readers} == {"linear", "embedding"}
    for linear in of_class(program, "linear"):
        assert all(map(is_pair, linear.args[:3]))
        assert dialect.quantize not in {user.target for user in linear.users}


def test_a_value_with_readers_of_both_kinds_is_quantized_for_the_linear_alone(target: Target):
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.tanh(x)
            return self.fc(x) * torch.sigmoid(x)

    data = np.random.default_rng(0).standard_normal((32, 6)).astype(np.float32)
    program = Int8().apply(flow.capture(Gate(), {"x": torch.ones(2, 6)}), {"x": data}, target)
    (tanh,) = [node for node in program.call_nodes if node.target is aten.tanh.default]
    assert {user.target for user in tanh.users} == {dialect.quantize, aten.sigmoid.default}


@pytest.mark.parametrize(
    ("low", "high", "codes"),
    [
        (-1, 1, (-127, 127)),
        (-1, 3, (-127, 127)),
        (-3, 1, (-127, 127)),
        (-1, 8, (0, 255)),
        (-8, 1, (0, 255)),
        (0, 1, (0, 255)),
    ],
)
def test_a_target_may_want_two_sided_values_symmetric(low: float, high: float, codes: tuple[int, int]):
    """Where one end is far from the other, a symmetric grid would waste most of its codes."""
    rng = np.random.default_rng(0)
    data = rng.uniform(low, high, (48, 4, 6, 6)).astype(np.float32)
    net = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 3, 3)).eval()
    program = flow.capture(net, torch.from_numpy(data[:2]))
    technique = Int8(observer="minmax")
    quantized = technique.apply(program, {"input": data}, resolve_target("openvino:cpu"))
    first, second = of_class(quantized, "conv")
    assert first.args[0].args[0].args[4:] == codes
    assert second.args[0].args[0].args[4:] == (0, 255), "behind a relu"


@pytest.mark.parametrize(("low", "codes"), [(-0.2, (-127, 127)), (0.0, (0, 255))])
def test_what_only_linear_layers_read_has_no_zero_point_on_openvino(low: float, codes: tuple[int, int]):
    """A zero point costs OpenVINO's linear layers a tenth of their time; half a bit of a GELU's output costs little."""
    data = np.random.default_rng(0).uniform(low, 3, (64, 6)).astype(np.float32)
    program = flow.capture(nn.Sequential(nn.Linear(6, 8)).eval(), torch.from_numpy(data[:2]))
    quantized = Int8(observer="minmax").apply(program, {"input": data}, resolve_target("openvino:cpu"))
    (linear,) = of_class(quantized, "linear")
    assert linear.args[0].args[0].args[4:] == codes
