"""Residual blocks: found where they are, and left out as a whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from micro_graphs import conv
from torch import Tensor, nn

from gossamer.analysis.coupling import couple
from gossamer.analysis.depth import Block, drop_block, residual_blocks
from gossamer.core.errors import UnknownName
from gossamer.demo.digits import DigitNet
from gossamer.frontends.torch_module import capture
from gossamer.program import Interpreter, Program
from gossamer.testing.models import MODELS, Lambda


def captured(function, inputs: tuple[int, ...] = (2, 4, 5, 5), **layers: nn.Module) -> Program:
    torch.manual_seed(0)
    return capture(Lambda(function, **layers).eval(), {"x": torch.randn(inputs)})


def test_attention_and_mlp_are_a_block_each():
    program = MODELS["vision transformer"].program
    blocks = residual_blocks(program)
    assert [block.exit for block in blocks] == ["add", "add_1"]
    assert blocks[1].entry == "add"
    assert "layers_qkv" in blocks[0].nodes
    assert "layers_up" in blocks[1].nodes


def test_dropping_a_block_leaves_the_identity():
    program = captured(
        lambda m, x: m["b"](F.relu((y := m["s"](x)) + m["a"](y))), s=conv(4, 4), a=conv(4, 4), b=conv(4, 2)
    )
    plain = captured(lambda m, x: m["b"](F.relu(m["s"](x))), s=conv(4, 4), a=conv(4, 4), b=conv(4, 2))
    (block,) = residual_blocks(program, couple(program))
    assert block == Block("layers.a", ("layers_a",), "layers_s", "add")
    dropped = drop_block(program, block)
    assert "layers.a.weight" not in dropped.tensors
    assert dropped.provenance[-1] == "dropped block layers.a"
    x = np.random.default_rng(0).standard_normal((3, 4, 5, 5)).astype(np.float32)
    with_weights = Program(
        plain.name, plain.graph, {n: program.tensors[n] for n in plain.tensors}, plain.roles, plain.signature
    )
    np.testing.assert_array_equal(
        Interpreter(dropped).run({"x": x})["output"], Interpreter(with_weights).run({"x": x})["output"]
    )


def test_every_block_of_a_residual_network_can_go_and_the_rest_is_coupled_anew():
    torch.manual_seed(0)
    program = capture(DigitNet(width=8).eval(), torch.randn(2, 1, 8, 8))
    blocks = residual_blocks(program)
    assert blocks
    for block in blocks:
        smaller = drop_block(program, block)
        assert smaller.parameter_count < program.parameter_count
        assert len(residual_blocks(smaller)) == len(blocks) - 1
        assert couple(smaller).free


def test_blocks_around_blocks_are_blocks_too():
    def nested(m, x: Tensor) -> Tensor:
        y = m["s"](x)
        inner = m["a"](y)
        inner = inner + m["b"](inner)
        return m["h"](y + m["c"](inner))

    program = captured(nested, **{name: conv(4, 4) for name in "sabch"})
    names = {(block.entry, block.exit) for block in residual_blocks(program)}
    assert names == {("layers_a", "add"), ("layers_s", "add_1")}


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: m["h"](m["a"](x) + m["b"](x)),  # neither is a function of the other
        lambda m, x: m["h"]((y := m["a"](x)) + y.relu()),  # nothing with weights between
        lambda m, x: (m["h"]((y := m["a"](x)) + (z := m["b"](y))), z.sum(1)),  # the body is read elsewhere
        lambda m, x: m["h"]((y := m["a"](x)) + (y + 1)),
        lambda m, x: m["h"]((y := m["a"](x)) + y),
    ],
)
def test_what_is_no_block(function):
    layers = {"a": conv(4, 4), "b": conv(4, 4), "h": conv(4, 2)}
    assert residual_blocks(captured(function, **layers)) == ()


def test_a_block_of_another_program_is_refused():
    program = MODELS["vision transformer"].program
    block = residual_blocks(program)[1]
    smaller = drop_block(program, block)
    with pytest.raises(UnknownName, match="dropping a block"):
        drop_block(smaller, block)


def test_two_bodies_of_one_module_have_names_of_their_own():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(4, 4)
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(x)
            x = x + self.body(x)
            return self.head(x + self.body(x))

    program = capture(Twice(), torch.randn(2, 4))
    assert [block.name for block in residual_blocks(program)] == ["body", "body#2"]
