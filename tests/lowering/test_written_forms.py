"""What the written graph looks like: no node that need not be there, and names that do not get in each other's way."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gossamer.core.target import Target
from gossamer.frontends.torch_module import capture
from gossamer.lowering import lower_to_onnx, writer
from gossamer.program.dialect import aten
from gossamer.program.interpreter import Interpreter
from gossamer.runtimes.onnxruntime.runtime import OnnxRuntimeExecutable
from gossamer.testing.op_cases_layers import Heads
from gossamer.testing.op_matrix import Case, Part, compare

BATCH_SEQ = {"x": {0: "batch", 1: "seq"}}


class Block(nn.Module):
    """Linear, activation, linear, residual add, norm."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.norm = nn.Linear(6, 10), nn.Linear(10, 6), nn.LayerNorm(6)

    def forward(self, x):
        return self.norm(x + self.down(F.gelu(self.up(x))))


def lowered(model, *inputs, dynamic="batch"):
    torch.manual_seed(0)
    return lower_to_onnx(capture(model, inputs, dynamic=dynamic))


def kinds(model, *inputs, dynamic="batch"):
    return Counter(
        node.op_type for node in onnx.load_from_string(lowered(model, *inputs, dynamic=dynamic).model).graph.node
    )


def check(case, path):
    """Compare the file of a case with the interpreter, at several sizes."""

    def open_program(program):
        path.write_bytes(lower_to_onnx(program).model)
        return OnnxRuntimeExecutable(path, program.signature, Target("onnxruntime"))

    compare(case, open_program)


def agrees(model, tmp_path, *inputs, dynamic="batch"):
    """Outputs of file and interpreter by name, compared."""
    program = capture(model, inputs, dynamic=dynamic)
    path = tmp_path / "model.onnx"
    path.write_bytes(lower_to_onnx(program).model)
    example = {spec.name: x.numpy() for spec, x in zip(program.signature.inputs, inputs, strict=True)}
    expected = Interpreter(program).run(example)
    got = OnnxRuntimeExecutable(path, program.signature, Target("onnxruntime")).run(example)
    assert list(got) == list(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=0, atol=1e-5 * np.abs(value).max())
    return program


class TestFlatForm:
    def test_a_block_is_flattened_once_and_unflattened_once(self):
        count = kinds(Block(), torch.randn(2, 5, 6), dynamic=BATCH_SEQ)
        assert count["Reshape"] == 2
        assert count["Gemm"] == 2

    def test_two_blocks_need_no_more(self):
        assert kinds(nn.Sequential(Block(), Block()), torch.randn(2, 5, 6))["Reshape"] == 2

    def test_rank_2_needs_none(self):
        assert kinds(Block(), torch.randn(2, 6))["Reshape"] == 0

    def test_merging_leading_axes_between_linear_layers_is_free(self):
        class Merge(nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.b = nn.Linear(6, 4), nn.Linear(4, 3)

            def forward(self, x):
                return self.b(self.a(x).reshape(-1, 4))

        assert kinds(Merge(), torch.randn(2, 5, 6), dynamic=BATCH_SEQ)["Reshape"] == 1

    def test_a_split_of_columns_stays_flat(self, tmp_path):
        class Gate(nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.b = nn.Linear(6, 8), nn.Linear(4, 6)

            def forward(self, x):
                left, right = self.a(x).chunk(2, -1)
                return self.b(left * right.sigmoid())

        x = torch.randn(2, 5, 6)
        assert kinds(Gate(), x, dynamic=BATCH_SEQ)["Reshape"] == 2
        agrees(Gate(), tmp_path, x, dynamic=BATCH_SEQ)

    def test_a_block_agrees(self, tmp_path):
        check(
            Case("aten.linear.default", (Part("block", Block, (torch.randn(2, 5, 6),)),), BATCH_SEQ),
            tmp_path / "m.onnx",
        )


class TestAttention:
    def test_packed_heads_have_no_transposes(self):
        count = kinds(Heads(), torch.randn(2, 5, 16), dynamic=BATCH_SEQ)
        assert (count["Attention"], count["Transpose"]) == (1, 0)
        assert count["Reshape"] == 6  # to flat and back around q, k, v and the output projection

    def test_a_result_that_is_also_returned_keeps_its_own_shape(self, tmp_path):
        class Both(Heads):
            def forward(self, x):
                heads = x.view(x.shape[0], x.shape[1], 4, 4).transpose(1, 2)
                mixed = F.scaled_dot_product_attention(heads, heads, heads)
                return mixed, mixed.transpose(1, 2).reshape(x.shape[0], x.shape[1], 16)

        agrees(Both(), tmp_path, torch.randn(2, 5, 16))

    def test_two_merges_share_one_attention(self, tmp_path):
        class Twice(nn.Module):
            def forward(self, x):
                heads = x.view(x.shape[0], 5, 4, 4).transpose(1, 2)
                mixed = F.scaled_dot_product_attention(heads, heads, heads).transpose(1, 2)
                return mixed.reshape(x.shape[0], 5, 16), mixed.flatten(2) + 1

        x = torch.randn(2, 5, 16)
        assert kinds(Twice(), x)["Attention"] == 1
        agrees(Twice(), tmp_path, x)


class TestNames:
    def test_a_tensor_returned_twice(self, tmp_path):
        class Twice(nn.Module):
            def forward(self, x):
                y = x + 1
                return {"a": y, "b": y}

        agrees(Twice(), tmp_path, torch.randn(2, 3))

    def test_an_input_returned(self, tmp_path):
        class Same(nn.Module):
            def forward(self, x):
                return x, x * 2

        agrees(Same(), tmp_path, torch.randn(2, 3))

    def test_a_constant_returned(self, tmp_path):
        class Constant(nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = nn.Parameter(torch.randn(3))

            def forward(self, x):
                return x + 1, self.weight * 2, self.weight

        agrees(Constant(), tmp_path, torch.randn(2, 3))

    def test_a_module_called_like_an_output(self, tmp_path):
        class Clash(nn.Module):
            def __init__(self):
                super().__init__()
                self.output = nn.Linear(3, 3)

            def forward(self, x):
                return self.output(x).relu()

        agrees(Clash(), tmp_path, torch.randn(2, 3))

    def test_a_parameter_called_like_a_node(self, tmp_path):
        class Clash(nn.Module):
            def __init__(self):
                super().__init__()
                self.mul, self.constant = nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(3))

            def forward(self, x):
                return x * 2 * self.mul + 3 - self.constant

        program = agrees(Clash(), tmp_path, torch.randn(2, 3))
        stored = {tensor.name for tensor in onnx.load_from_string(lower_to_onnx(program).model).graph.initializer}
        assert {"mul", "constant"} <= stored

    def test_an_output_called_like_an_input_is_named_apart_at_capture(self, tmp_path):
        class Clash(nn.Module):
            def forward(self, x):
                return {"x": x + 1, "y": x * 2}

        program = agrees(Clash(), tmp_path, torch.randn(2, 3))
        assert [spec.name for spec in program.signature.outputs] == ["x_output", "y"]


class TestConstants:
    def test_what_depends_on_no_input_is_stored(self):
        class Folded(nn.Module):
            def __init__(self):
                super().__init__()
                self.scale = nn.Parameter(torch.randn(4))

            def forward(self, x):
                left, right = (self.scale.exp() + torch.arange(4)).split(2)
                values, places = self.scale.topk(2)
                return x * left - right + values + places.float()

        assert kinds(Folded(), torch.randn(3, 2)) == {"Mul": 1, "Sub": 1, "Add": 2, "Identity": 1}

    def test_equal_constants_are_stored_once(self):
        class Same(nn.Module):
            def forward(self, x):
                return ((x + 2.5) * 2.5).reshape(x.shape[0], -1).reshape(x.shape[0], 2, 3)

        model = onnx.load_from_string(lowered(Same(), torch.randn(2, 3, 2)).model)
        assert len(model.graph.initializer) == 3  # 2.5 and two shapes

    def test_a_large_constant_is_not_stored_expanded(self):
        class Wide(nn.Module):
            def __init__(self):
                super().__init__()
                self.row = nn.Parameter(torch.randn(1, 500))

            def forward(self, x):
                return x + self.row.expand(500, 500).cumsum(0)

        assert len(lowered(Wide(), torch.randn(500, 500), dynamic=None).model) < 10_000

    def test_dropout_writes_nothing(self):
        assert kinds(nn.Sequential(nn.Dropout(), nn.ReLU(), nn.Dropout()), torch.randn(2, 3)) == {
            "Relu": 1,
            "Identity": 1,
        }


@pytest.mark.filterwarnings("ignore:var")
def test_the_variance_of_one_value_is_not_a_number(tmp_path):
    program = capture(VarianceOfOne(), torch.randn(2, 1, 3))
    path = tmp_path / "model.onnx"
    path.write_bytes(lower_to_onnx(program).model)
    inputs = {"x": np.ones((2, 1, 3), np.float32)}
    assert np.isnan(Interpreter(program).run(inputs)["output"]).all()
    assert np.isnan(OnnxRuntimeExecutable(path, program.signature, Target("onnxruntime")).run(inputs)["output"]).all()


class VarianceOfOne(nn.Module):
    def forward(self, x):
        return x.var(1)


def test_the_matrix_notices_a_wrong_rule(tmp_path, monkeypatch):
    monkeypatch.setitem(writer.RULES, aten.relu.default, writer.RULES[aten.sigmoid.default])
    with pytest.raises(AssertionError, match="float"):
        check(Case("aten.relu.default", (Part("float", nn.ReLU, (torch.randn(2, 3),)),)), tmp_path / "m.onnx")
