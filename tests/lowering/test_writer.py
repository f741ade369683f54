"""The ONNX file as a whole: bytes, names, dims, errors, and agreement with PyTorch's own exporter."""

from __future__ import annotations

import functools
import itertools
import operator
import re

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gossamer.core.errors import UnsupportedOp
from gossamer.core.target import Target
from gossamer.frontends.torch_module import capture
from gossamer.lowering import lower_to_onnx, writer
from gossamer.program.dialect import TARGETS, aten
from gossamer.program.edit import Edit
from gossamer.program.interpreter import Interpreter
from gossamer.runtimes.onnxruntime.runtime import OnnxRuntimeExecutable, ort
from gossamer.testing.op_cases_layers import Heads


class ConvNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.depthwise = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.stem(x)
        x = F.hardswish(self.depthwise(x))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(20, 16), nn.Embedding(12, 16)
        self.attention, self.norm, self.mlp = Heads(), nn.LayerNorm(16), nn.Linear(16, 16)

    def forward(self, ids):
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        x = self.norm(x + self.attention(x))
        return x + F.gelu(self.mlp(x))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up, self.out = nn.Conv2d(2, 4, 3, 2, 1), nn.ConvTranspose2d(4, 4, 2, 2), nn.Conv2d(6, 1, 1)

    def forward(self, x):
        y = F.max_pool2d(F.silu(self.down(x)), 3, 1, 1)
        y = self.up(y) + F.interpolate(y, scale_factor=2, mode="bilinear")
        return torch.sigmoid(self.out(torch.cat([x, y], 1)))


class Detector(nn.Module):
    """What stands behind a network: comparisons, indices, sums."""

    def forward(self, x):
        scores, places = x.softmax(-1).topk(3)
        kept = torch.where(scores > 0.2, scores, torch.zeros_like(scores))
        return kept.cumsum(-1), x.gather(-1, places), (x // 0.5).amax(-1), x.argmax(-1)


NETS = {
    "conv net": (ConvNet, (torch.randn(2, 3, 9, 11),), "batch"),
    "encoder": (Encoder, (torch.randint(0, 20, (2, 7)),), {"ids": {0: "batch", 1: "seq=1..12"}}),
    "u-net": (UNet, (torch.randn(2, 2, 8, 12),), "batch"),
    "detector": (Detector, (torch.randn(2, 5, 6),), "batch"),
}
nets = pytest.mark.parametrize("name", NETS)


@functools.cache
def captured(name):
    torch.manual_seed(0)
    make, inputs, dynamic = NETS[name]
    model = make().eval()
    return model, inputs, capture(model, inputs, dynamic=dynamic)


def load(model, program, tmp_path, **dims):
    path = tmp_path / f"{len(dims)}.onnx"
    path.write_bytes(model)
    return OnnxRuntimeExecutable(path, program.signature, Target("onnxruntime"), dims=dims)


def example(program, inputs):
    return {spec.name: x.numpy() for spec, x in zip(program.signature.inputs, inputs, strict=True)}


@nets
def test_equal_programs_give_equal_bytes(name):
    first, again = captured(name)[2], captured.__wrapped__(name)[2]
    assert lower_to_onnx(first).model == lower_to_onnx(first).model == lower_to_onnx(again).model


@nets
def test_the_full_checker_and_shape_inference_accept_the_file(name):
    program = captured(name)[2]
    model = onnx.load_from_string(lower_to_onnx(program).model)
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    for spec, output in zip(program.signature.outputs, inferred.graph.output, strict=True):
        assert len(output.type.tensor_type.shape.dim) == len(spec.shape)


@nets
def test_dims_keep_their_names(name):
    program = captured(name)[2]
    graph = onnx.load_from_string(lower_to_onnx(program).model).graph
    for specs, values in ((program.signature.inputs, graph.input), (program.signature.outputs, graph.output)):
        written = [
            (value.name, tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim))
            for value in values
        ]
        assert written == [(spec.name, spec.shape) for spec in specs]


@nets
def test_the_name_map_covers_every_node(name):
    program = captured(name)[2]
    lowered = lower_to_onnx(program)
    nodes = [node for node in onnx.load_from_string(lowered.model).graph.node if not node.name.endswith("/output")]
    mapped = list(itertools.chain.from_iterable(lowered.name_map.values()))
    assert sorted(mapped) == sorted(node.name for node in nodes)
    assert lowered.name_map.keys() <= {node.name for node in program.graph.nodes}
    silent = {node.target for node in program.call_nodes if not lowered.name_map.get(node.name)}
    # Flat forms and packed heads need no reshape or permute; sizes, items and constants are written with others.
    assert silent <= {
        aten.reshape.default,
        aten.permute.default,
        aten.sym_size.int,
        operator.getitem,
        aten.full.default,
    }


@nets
def test_weights_have_their_own_names_and_bytes(name):
    model, _, program = captured(name)
    graph = onnx.load_from_string(lower_to_onnx(program).model).graph
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for key, parameter in model.named_parameters():
        np.testing.assert_array_equal(stored[key], parameter.detach().numpy())


@nets
def test_fixing_dims_at_load_changes_nothing(name, tmp_path):
    _, inputs, program = captured(name)
    model = lower_to_onnx(program).model
    arrays = example(program, inputs)
    sizes = {
        dim: size
        for spec in program.signature.inputs
        for dim, size in zip(spec.shape, arrays[spec.name].shape, strict=True)
        if isinstance(dim, str)
    }
    free, fixed = load(model, program, tmp_path).run(arrays), load(model, program, tmp_path, **sizes).run(arrays)
    for key, value in free.items():
        np.testing.assert_allclose(fixed[key], value, rtol=0, atol=1e-6 * np.abs(value).max())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the exporter, about its own parts
@nets
def test_the_dynamo_exporter_agrees(name, tmp_path):
    model, inputs, program = captured(name)
    theirs = torch.onnx.export(model, inputs, dynamo=True, opset_version=20, verbose=False)
    path = tmp_path / "theirs.onnx"
    theirs.save(path)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    given = dict(zip([value.name for value in session.get_inputs()], [x.numpy() for x in inputs], strict=True))
    ours = load(lower_to_onnx(program).model, program, tmp_path).run(example(program, inputs))
    for value, expected in zip(ours.values(), session.run(None, given), strict=True):
        np.testing.assert_allclose(value, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@nets
def test_nets_agree_with_the_interpreter(name, tmp_path):
    _, inputs, program = captured(name)
    arrays = example(program, inputs)
    got = load(lower_to_onnx(program).model, program, tmp_path).run(arrays)
    for key, value in Interpreter(program).run(arrays).items():
        np.testing.assert_allclose(got[key], value, rtol=0, atol=1e-5 * np.abs(value).max())


def test_float16_and_bfloat16_weights_are_stored_as_they_are():
    for dtype, code in ((torch.float16, onnx.TensorProto.FLOAT16), (torch.bfloat16, onnx.TensorProto.BFLOAT16)):
        program = capture(nn.Linear(3, 2).to(dtype), torch.randn(2, 3).to(dtype))
        graph = onnx.load_from_string(lower_to_onnx(program).model).graph
        assert {tensor.name: tensor.data_type for tensor in graph.initializer} == {"weight": code, "bias": code}


class Net(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.part = Part(function)

    def forward(self, x):
        return self.part(x)


class Part(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


UNSUPPORTED = {
    "a linear layer on a vector": (lambda x: F.linear(x, torch.ones(2, 5)), (5,)),
    "a convolution without a batch dim": (lambda x: F.conv2d(x, torch.ones(2, 3, 3, 3)), (3, 5, 5)),
    "pooling without a batch dim": (lambda x: F.max_pool2d(x, 2), (3, 6, 6)),
    "an average with a divisor of its own": (lambda x: F.avg_pool2d(x, 2, divisor_override=3), (2, 3, 6, 6)),
    "a norm of order 3": (lambda x: torch.linalg.vector_norm(x, 3, 1), (2, 5)),
    "a tensor of rank 3": (lambda x: F.pixel_shuffle(x, 2), (4, 3, 3)),
    "attention of rank 5": (lambda x: F.scaled_dot_product_attention(x, x, x), (2, 2, 2, 3, 4)),
    "elu with scale": (lambda x: torch.ops.aten.elu.default(x, 1.0, 2.0, 1.0), (2, 3)),
    "dequantize of something other": (
        lambda x: torch.ops.gossamer.dequantize(x, torch.ones(()), torch.zeros(()), None), (2, 3),
    ),
    "a computed scale": (lambda x: torch.ops.gossamer.quantize(x, x.sum() + 1, torch.zeros(()), None, 0, 255), (2, 3)),
    "a change at a varying": (lambda x: torch.ops.aten.select_scatter.default(x, x[:, 0], 1, x.shape[0] - 1), (2, 3)),
}  # fmt: skip


@pytest.mark.parametrize("problem", UNSUPPORTED)
def test_an_unsupported_form_names_problem_operation_module_and_line(problem):
    function, shape = UNSUPPORTED[problem]
    dynamic = {"x": {0: "n=2..3"}} if "varying" in problem else None
    program = capture(Net(function), torch.rand(shape), dynamic=dynamic)
    with pytest.raises(UnsupportedOp, match=problem) as caught:
        lower_to_onnx(program)
    assert re.search(r"\w+\(.*\) in module 'part' \(test_writer.py:\d+: ", str(caught.value))
    assert "expected: " in str(caught.value)


def test_an_operation_without_a_rule_is_named(monkeypatch):
    program = capture(Net(torch.relu), torch.randn(2, 3))
    monkeypatch.delitem(writer.RULES, aten.relu.default)
    with pytest.raises(UnsupportedOp, match=r"relu\(x\) in module 'part' \(test_writer.py:\d+: return self.function"):
        lower_to_onnx(program)


@pytest.mark.parametrize("position", [5, 2], ids=["batch norm", "dropout"])
def test_training_mode_is_refused(position):
    layer, inputs = (nn.BatchNorm1d(3), torch.randn(2, 3)) if position == 5 else (nn.Dropout(), torch.randn(2, 3))
    program = capture(nn.Sequential(nn.Linear(3, 3), layer), inputs)
    edit = Edit(program)
    node = edit.node(program.call_nodes[-1])
    node.args = (*node.args[:position], True, *node.args[position + 1 :])
    with pytest.raises(UnsupportedOp, match="eval mode"):
        lower_to_onnx(edit.finish("training"))


def test_a_rule_stands_for_every_operation_of_the_dialect():
    assert set(writer.RULES) == set(TARGETS.values())
