"""Surgery by itself: survivors in, a smaller program out; and sizes after a cut."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from gossamer.core.errors import InternalError, UnknownName
from gossamer.frontends.torch_module import capture
from gossamer.program import Interpreter, Program, dialect
from gossamer.program.dialect import aten
from gossamer.program.sizes import scaled_size, size_value
from gossamer.program.surgery import REWRITES, cut_axes, drop_block
from gossamer.testing.models import Lambda


@pytest.fixture(scope="module")
def program() -> Program:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 2))
    return capture(net.eval(), torch.randn(2, 5))


def test_survivors_are_all_that_is_asked_for(program: Program):
    by_name = {node.name: node for node in program.graph.nodes if node.op != "output"}
    left = np.array([0, 2, 5])
    kept = {
        by_name["p__0_weight"]: (left, None), by_name["p__0_bias"]: (left,), by_name["p__1_weight"]: (left,),
        by_name["p__1_bias"]: (left,), by_name["p__3_weight"]: (None, left),
        **{by_name[name]: (None, left) for name in ("_0", "_1", "_2")},
    }  # fmt: skip
    cut = cut_axes(program, kept, "by hand")
    torch.testing.assert_close(cut.tensors["3.weight"], program.tensors["3.weight"][:, left])
    assert cut.tensors["3.bias"] is program.tensors["3.bias"]
    norm = next(node for node in cut.call_nodes if node.target is aten.layer_norm.default)
    assert dialect.bound_arguments(norm)["normalized_shape"] == [3]
    assert str(norm.meta["value"]) == "f32[batch, 3]"
    assert Interpreter(cut).run({"input": np.ones((3, 5), np.float32)})["output"].shape == (3, 2)
    assert program.tensors["0.weight"].shape == (6, 5)
    assert cut.provenance[-1] == "by hand"


def test_a_cut_that_removes_nothing_is_a_bug(program: Program):
    with pytest.raises(InternalError, match="same digest"):
        cut_axes(program, {}, "nothing")


def test_sizes_computed_from_the_batch_are_scaled():
    """Heads in the batch axis: what was 4 * batch is 3 * batch, by whole-number arithmetic on the old size."""

    def folded(m, x):
        return m["b"](m["a"](x).view(x.shape[0] * 4, 2, -1).view(x.shape[0], -1))

    layers = {"a": nn.Linear(5, 24), "b": nn.Linear(24, 2)}
    program = capture(Lambda(folded, **layers).eval(), {"x": torch.randn(2, 5)})
    by_name = {node.name: node for node in program.graph.nodes if node.op != "output"}
    left = np.arange(18)
    kept = {
        by_name["p__layers_a_weight"]: (left, None), by_name["p__layers_a_bias"]: (left,),
        by_name["p__layers_b_weight"]: (None, left), by_name["layers_a"]: (None, left),
        by_name["reshape"]: (Fraction(3, 4), None, None), by_name["reshape_1"]: (None, left),
    }  # fmt: skip
    cut = cut_axes(program, kept, "three of four")
    assert "3*batch" in str(cut)
    for batch in (1, 3):
        assert Interpreter(cut).run({"x": np.ones((batch, 5), np.float32)})["output"].shape == (batch, 2)


def test_every_operation_that_states_sizes_is_rewritten():
    """By the schemas: a new operation with sizes among its arguments must be looked at."""
    follows = {
        # strides, windows, axes, repetitions in space or time: nothing that a cut of channels changes
        "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "max_pool1d", "max_pool2d", "avg_pool1d",
        "avg_pool2d", "upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d", "permute", "squeeze", "flip",
        "sum", "mean", "amax", "amin", "var", "linalg_vector_norm", "any", "all", "prod", "argmax", "argmin", "cumsum",
        # places along axes that are frozen
        "topk", "select_scatter", "index_select", "gather", "scatter", "tril", "triu", "arange", "sym_size",
        "pixel_shuffle", "pixel_unshuffle", "softmax", "log_softmax", "embedding", "unsqueeze", "cat", "lstm",
        "gru", "einsum", "to",
    }  # fmt: skip
    stating = set()
    for name, target in dialect.TARGETS.items():
        if isinstance(target, torch._ops.OpOverload) and name.startswith("aten."):
            kinds = {str(argument.real_type) for argument in target._schema.arguments}
            if any("int" in kind.lower().replace("point", "") for kind in kinds) and target not in REWRITES:
                stating.add(name.split(".")[1])
    assert stating <= follows


def test_dropping_needs_nodes_of_the_program(program: Program):
    with pytest.raises(UnknownName, match="dropping a block"):
        drop_block(program, "_0", "_9", "nothing")


@pytest.mark.parametrize(
    ("size", "share", "expected"),
    [
        (24, Fraction(2, 3), 16),
        ("24*batch", Fraction(2, 3), "16*batch"),
        ("4*batch", Fraction(1, 4), "batch"),
        ("batch", Fraction(3), "3*batch"),
        ("2*batch*length", Fraction(1, 2), "batch*length"),
        ("batch", Fraction(1), "batch"),
        ("8*((length-1)//2)", Fraction(3, 4), "3*(8*((length-1)//2))//4"),
    ],
)
def test_a_share_of_a_size(size, share: Fraction, expected):
    assert scaled_size(size, share) == expected


def test_a_share_that_is_no_whole_number_is_a_bug():
    with pytest.raises(InternalError, match="whole number"):
        scaled_size("batch", Fraction(1, 2))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (7, 7), ("batch", 3), ("2*batch+1", 7), ("((length-1)//2)+1", 5), ("-batch+length", 7), ("batch**2", 9),
        ("Mod(length,4)", 2), ("Max(batch,length)", 10), ("Min(batch,length)", 3),
    ],
)  # fmt: skip
def test_the_value_of_a_size(size, expected: int):
    assert size_value(size, {"batch": 3, "length": 10}) == expected


@pytest.mark.parametrize("size", ["other", "open(batch)", "batch/2", "batch if 1 else 2"])
def test_other_text_is_no_size(size: str):
    with pytest.raises(InternalError, match="reading a size"):
        size_value(size, {"batch": 3})
