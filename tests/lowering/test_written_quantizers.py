"""Quantized programs in the file: integer weights and biases, nothing stored in float, padding that changes no bit."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gossamer.core.target import Target
from gossamer.frontends.torch_module import capture
from gossamer.lowering import LoweringOptions, lower_to_onnx, quantization
from gossamer.numerics.quantizers import symmetric_grid
from gossamer.program import dialect
from gossamer.program.edit import Edit
from gossamer.program.interpreter import Interpreter
from gossamer.runtimes.onnxruntime.runtime import OnnxRuntimeExecutable

X_SCALE, Y_SCALE = 0.02, 0.05
TYPE = onnx.TensorProto


def pair(edit, anchor, source, name, scale, zero, axis, low, high):
    """Insert quantize and dequantize of ``source`` before ``anchor``; returns the dequantize."""
    value = source.meta["value"]
    grid = (edit.tensor(f"{name}.scale", scale, "constant"), edit.tensor(f"{name}.zero_point", zero, "constant"))
    codes = edit.before(anchor, f"{name}_quantize", dialect.quantize, (source, *grid, axis, low, high), value)
    return edit.before(anchor, f"{name}_dequantize", dialect.dequantize, (codes, *grid, axis), value)


def quantized(program, *, output=True):
    """Every convolution and linear layer with uint8 activations, int8 weights by channel and int32 biases."""
    edit = Edit(program)
    for original in program.call_nodes:
        if dialect.op_class(original) not in ("conv", "linear"):
            continue
        node = edit.node(original)
        x, weight, bias = node.args[:3]
        w_scale, w_zero = symmetric_grid(program.tensors[weight.target].flatten(1).abs().amax(1), 127)
        x_grid = torch.tensor(X_SCALE), torch.tensor(120.0)
        new_x = pair(edit, node, x, f"{node.name}.x", *x_grid, None, 0, 255)
        new_weight = pair(edit, node, weight, f"{weight.target}", w_scale, w_zero, 0, -127, 127)
        new_bias = pair(edit, node, bias, f"{bias.target}", w_scale * X_SCALE, w_zero, 0, -(2**30), 2**30)
        node.args = (new_x, new_weight, new_bias, *node.args[3:])
        if output:
            (behind,) = node.users
            done = pair(edit, behind, node, f"{node.name}.y", torch.tensor(Y_SCALE), torch.tensor(128.0), None, 0, 255)
            behind.replace_input_with(node, done)
    return edit.finish("quantized")


def conv(channels=3, **options):
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(channels, 6, 3, padding=1, **options), nn.ReLU())
    return capture(layers, torch.randn(2, channels, 7, 9))


def linear():
    torch.manual_seed(0)
    return capture(nn.Sequential(nn.Linear(6, 5), nn.ReLU()), torch.randn(2, 3, 6))


def load(lowered, program, tmp_path):
    path = tmp_path / f"{abs(hash(lowered.model))}.onnx"
    path.write_bytes(lowered.model)
    return OnnxRuntimeExecutable(path, program.signature, Target("onnxruntime"))


def inputs_for(program, batch=3):
    spec = program.signature.inputs[0]
    shape = [batch if isinstance(dim, str) else dim for dim in spec.shape]
    return {spec.name: np.random.default_rng(0).normal(size=shape).astype(np.float32)}


def graph_of(lowered):
    return onnx.load_from_string(lowered.model).graph


@pytest.mark.parametrize("make", [conv, linear])
def test_weights_are_int8_biases_int32_and_nothing_is_kept_in_float(make):
    program = quantized(make())
    graph = graph_of(lower_to_onnx(program))
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    assert types["0.weight.codes"] == TYPE.INT8
    assert types["0.bias.codes"] == TYPE.INT32
    floats = {t.name: int(np.prod(t.dims)) for t in graph.initializer if t.data_type == TYPE.FLOAT}
    assert all(name.endswith(".scale") for name in floats)
    weight = program.tensors["0.weight"]
    assert max(floats.values()) == weight.shape[0]
    assert sum(t.ByteSize() for t in graph.initializer) < weight.numel() + 200 + 60 * len(graph.initializer)


def test_activations_have_one_scale_of_rank_0():
    graph = graph_of(lower_to_onnx(quantized(conv())))
    stored = {tensor.name: tensor for tensor in graph.initializer}
    quantizers = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert len(quantizers) == 2
    for node in quantizers:
        scale, zero = (stored[name] for name in node.input[1:])
        assert (scale.data_type, list(scale.dims)) == (TYPE.FLOAT, [])
        assert (zero.data_type, list(zero.dims)) == (TYPE.UINT8, [])


def test_weights_are_dequantized_along_their_channels():
    graph = graph_of(lower_to_onnx(quantized(conv())))
    (node,) = (n for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] == "0.weight.codes")
    assert [a.i for a in node.attribute if a.name == "axis"] == [0]
    assert list(node.input) == ["0.weight.codes", "0.weight.scale", "0.weight.zero_point"]


def test_quantizer_parameters_are_kept():
    program = quantized(conv())
    kept = lower_to_onnx(program).quantizers
    assert len(kept) == 4
    assert kept["_0_x_quantize"] == {"dtype": "uint8", "axis": None, "scale": pytest.approx(X_SCALE), "zero_point": 120}
    assert kept["_0_weight_quantize"]["dtype"] == "int8"
    assert kept["_0_weight_quantize"]["scale"] == program.tensors["0.weight.scale"].double().tolist()
    assert kept["_0_bias_quantize"]["dtype"] == "int32"


@pytest.mark.parametrize("make", [conv, linear])
def test_stored_codes_are_those_of_the_interpreter(make):
    program = quantized(make())
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in graph_of(lower_to_onnx(program)).initializer}
    taps = ["_0_weight_quantize", "_0_bias_quantize"]
    values = Interpreter(program).run(inputs_for(program), taps)
    for tap, name in zip(taps, ("0.weight.codes", "0.bias.codes"), strict=True):
        np.testing.assert_array_equal(stored[name].astype(np.float32), values[tap])


@pytest.mark.parametrize("make", [conv, linear, lambda: conv(4, groups=2), lambda: conv(stride=2, dilation=2)])
def test_a_quantized_layer_agrees_with_the_interpreter(make, tmp_path):
    program = quantized(make())
    inputs = inputs_for(program)
    got = load(lower_to_onnx(program), program, tmp_path).run(inputs)["output"]
    steps = np.abs(got - Interpreter(program).run(inputs)["output"]) / Y_SCALE
    # Sums of products are whole numbers on both sides; scaling them to the output's grid rounds at most one step off.
    assert steps.max() <= 1.001
    assert (steps > 0.5).mean() < 0.01


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_padded_input_channels_change_no_bit(channels, tmp_path):
    program = quantized(conv(channels))
    plain, padded = lower_to_onnx(program), lower_to_onnx(program, LoweringOptions(input_channel_multiple=4))
    stored = {tensor.name: tensor for tensor in graph_of(padded).initializer}
    (kernel,) = (t for t in stored.values() if t.data_type == TYPE.INT8 and len(t.dims) == 4)
    assert list(kernel.dims) == [6, 4, 3, 3]
    inputs = inputs_for(program)
    expected, got = (load(lowered, program, tmp_path).run(inputs)["output"] for lowered in (plain, padded))
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("make", [lambda: conv(4), lambda: conv(8), lambda: conv(2, groups=2)])
def test_enough_channels_and_groups_are_not_padded(make):
    program = quantized(make())
    assert lower_to_onnx(program, LoweringOptions(input_channel_multiple=4)).model == lower_to_onnx(program).model


def test_a_float_convolution_is_not_padded():
    program = conv(3)
    assert lower_to_onnx(program, LoweringOptions(input_channel_multiple=4)).model == lower_to_onnx(program).model


class Padding(nn.Module):
    """A pair on one grid before and behind a pad."""

    def __init__(self, same_grid=True, value=0.0) -> None:
        super().__init__()
        self.value, self.behind = value, 0.03 if same_grid else 0.04
        for name, number in {"scale": 0.03, "zero_point": 100.0, "other": self.behind}.items():
            self.register_buffer(name, torch.tensor(number))

    def forward(self, x):
        ours = torch.ops.gossamer
        x = ours.dequantize(
            ours.quantize(x, self.scale, self.zero_point, None, 0, 255), self.scale, self.zero_point, None
        )
        x = F.pad(x, (1, 2, 0, 1), value=self.value)
        scale = self.scale if self.behind == 0.03 else self.other
        return ours.dequantize(ours.quantize(x, scale, self.zero_point, None, 0, 255), scale, self.zero_point, None)


def test_padding_codes_equals_padding_floats(tmp_path, monkeypatch):
    program = capture(Padding(), torch.randn(2, 3, 4, 5))
    on_codes = lower_to_onnx(program)
    monkeypatch.setattr(quantization, "_pad_codes", lambda _e, _call: None)
    on_floats = lower_to_onnx(program)
    counts = [sum(n.op_type == "QuantizeLinear" for n in graph_of(lowered).node) for lowered in (on_codes, on_floats)]
    assert counts == [1, 2]
    inputs = inputs_for(program)
    results = [load(lowered, program, tmp_path).run(inputs)["output"] for lowered in (on_codes, on_floats)]
    np.testing.assert_array_equal(*results)
    np.testing.assert_allclose(results[0], Interpreter(program).run(inputs)["output"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("model", [Padding(same_grid=False), Padding(value=0.5)])
def test_other_padding_stays_on_floats(model, tmp_path):
    program = capture(model, torch.randn(2, 3, 4, 5))
    lowered = lower_to_onnx(program)
    assert sum(node.op_type == "QuantizeLinear" for node in graph_of(lowered).node) == 2
    inputs = inputs_for(program)
    got = load(lowered, program, tmp_path).run(inputs)["output"]
    np.testing.assert_allclose(got, Interpreter(program).run(inputs)["output"], rtol=0, atol=1e-6)


class OneWeightTwoGrids(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(4, 4))
        self.register_buffer("fine", torch.tensor(0.01))
        self.register_buffer("coarse", torch.tensor(0.05))
        self.register_buffer("zero", torch.tensor(0.0))

    def forward(self, x):
        ours = torch.ops.gossamer
        for scale in (self.fine, self.coarse):
            codes = ours.quantize(self.weight, scale, self.zero, None, -128, 127)
            x = F.linear(x, ours.dequantize(codes, scale, self.zero, None))
        codes = ours.quantize(x, self.coarse, self.zero, None, 0, 255)  # the same zero point as another type
        return ours.dequantize(codes, self.coarse, self.zero, None)


def test_one_weight_on_two_grids_and_one_zero_point_of_two_types(tmp_path):
    program = capture(OneWeightTwoGrids(), torch.randn(2, 4))
    lowered = lower_to_onnx(program)
    inputs = inputs_for(program)
    got = load(lowered, program, tmp_path).run(inputs)["output"]
    np.testing.assert_allclose(got, Interpreter(program).run(inputs)["output"], rtol=0, atol=0.051)
    names = {tensor.name for tensor in graph_of(lowered).initializer}
    assert {"weight.codes", "weight.codes/1", "zero", "zero/1"} <= names


@pytest.mark.parametrize(
    ("scale", "zero", "axis", "nodes"),
    [
        (torch.tensor(0.02), torch.tensor(3.0), None, ["Gather", "DequantizeLinear", "Identity"]),
        (torch.linspace(0.01, 0.04, 7), torch.zeros(7), 0, ["Gather", "Gather", "Cast", "Mul", "Identity"]),
        (torch.linspace(0.01, 0.04, 7), torch.full((7,), 3.0), 0, ["DequantizeLinear", "Gather", "Identity"]),
    ],
)
def test_an_embedding_is_looked_up_as_codes(tmp_path, scale, zero, axis, nodes):
    program = capture(nn.Embedding(7, 4), torch.randint(0, 7, (2, 5)))
    edit = Edit(program)
    node = edit.node(program.call_nodes[0])
    node.args = (pair(edit, node, node.args[0], "weight", scale, zero, axis, -128, 127), *node.args[1:])
    changed = edit.finish("quantized embedding")
    lowered = lower_to_onnx(changed)
    assert sorted(n.op_type for n in graph_of(lowered).node) == sorted(nodes)
    inputs = {"input": np.resize(np.arange(7), (3, 5))}
    got = load(lowered, changed, tmp_path).run(inputs)["output"]
    np.testing.assert_array_equal(got, Interpreter(changed).run(inputs)["output"])


def test_a_grid_along_the_last_axis_stays_flat_and_another_does_not(tmp_path):
    class Behind(nn.Module):
        def __init__(self, axis, size):
            super().__init__()
            self.axis, self.linear = axis, nn.Linear(6, 5)
            self.register_buffer("scale", torch.linspace(0.01, 0.05, size))
            self.register_buffer("zero", torch.zeros(size))

        def forward(self, x):
            ours = torch.ops.gossamer
            codes = ours.quantize(self.linear(x), self.scale, self.zero, self.axis, -128, 127)
            return ours.dequantize(codes, self.scale, self.zero, self.axis)

    for axis, size in ((2, 5), (1, 3)):
        program = capture(Behind(axis, size), torch.randn(2, 3, 6))
        inputs = inputs_for(program)
        got = load(lower_to_onnx(program), program, tmp_path).run(inputs)["output"]
        np.testing.assert_allclose(got, Interpreter(program).run(inputs)["output"], rtol=0, atol=0.051)
        behind_gemm = [n.op_type for n in graph_of(lower_to_onnx(program)).node]
        assert behind_gemm.index("QuantizeLinear") - behind_gemm.index("Gemm") == (1 if axis == 2 else 2)


def test_code_ranges_choose_the_type():
    cases = {(0, 255): "uint8", (-128, 127): "int8", (-127, 127): "int8", (0, 127): "uint8", (-(2**30), 2**30): "int32"}
    assert {ends: quantization.code_dtype(*ends) for ends in cases} == cases


class TestShield:
    """A float layer between pairs, which ONNX Runtime quantizes on its own."""

    @staticmethod
    def island(*, weight_pair: bool = False):
        """Conv and ReLU with pairs around them, the weight in float or not."""
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.ReLU())
        net[0].weight.data[0] *= 50  # one wide channel: a single scale is coarse for the others
        program = capture(net, torch.randn(2, 4, 7, 9))
        edit = Edit(program)
        conv, relu = (edit.node(node) for node in program.call_nodes)
        x, weight = conv.args[:2]
        new_x = pair(edit, conv, x, "x", torch.tensor(X_SCALE), torch.tensor(120.0), None, 0, 255)
        if weight_pair:
            scale = program.tensors["0.weight"].flatten(1).abs().amax(1) / 127
            weight = pair(edit, conv, weight, "w", scale, torch.zeros(6), 0, -127, 127)
        conv.args = (new_x, weight, *conv.args[2:])
        (output,) = relu.users
        done = pair(edit, output, relu, "y", torch.tensor(Y_SCALE), torch.tensor(0.0), None, 0, 255)
        output.replace_input_with(relu, done)
        return edit.finish("island")

    def test_the_float_layer_stays_float(self, tmp_path):
        program = self.island()
        inputs = inputs_for(program)
        exact = Interpreter(program).run(inputs)["output"]
        errors = {}
        for shield in (True, False):
            options = LoweringOptions(shield_float_layers=shield)
            errors[shield] = np.abs(
                load(lower_to_onnx(program, options), program, tmp_path).run(inputs)["output"] - exact
            )
        assert errors[True].max() <= 1.001 * Y_SCALE, "one step, where a float32 sum tips a code over"
        assert (errors[True] > 0.5 * Y_SCALE).mean() < 0.01
        assert (errors[False] > 0.5 * Y_SCALE).mean() > 0.1, "without it the runtime's own rounding shows"

    def test_integer_layers_have_none(self):
        for program, count in ((self.island(), 1), (self.island(weight_pair=True), 0)):
            graph = graph_of(lower_to_onnx(program, LoweringOptions(shield_float_layers=True)))
            assert [node.op_type for node in graph.node].count("LeakyRelu") == count
        graph = graph_of(lower_to_onnx(conv(4), LoweringOptions(shield_float_layers=True)))
        assert "LeakyRelu" not in [node.op_type for node in graph.node]
