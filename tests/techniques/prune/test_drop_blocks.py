"""DropBlocks: the blocks that do least go, budgets are kept, and what is left makes up for them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gossamer import flow
from gossamer.analysis.counts import count
from gossamer.core.errors import DataError, OptionError, UnknownName, UnsupportedOp
from gossamer.program import Program
from gossamer.program.interpreter import Interpreter
from gossamer.techniques.prune.blocks import DropBlocks


class Deep(nn.Module):
    """Four residual blocks of rising weight; the last is three times as wide inside."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(5, 8), nn.Linear(8, 3)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 48 if place == 3 else 16), nn.Tanh(), nn.Linear(48 if place == 3 else 16, 8))
            for place in range(4)
        )
        with torch.no_grad():
            for place, block in enumerate(self.blocks):
                block[2].weight *= (0.1, 0.4, 1.0, 1.2)[place]
                block[2].bias *= (0.1, 0.4, 1.0, 1.2)[place]

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


@pytest.fixture(scope="module")
def deep() -> Program:
    torch.manual_seed(0)
    return flow.capture(Deep().eval(), torch.randn(2, 5))


@pytest.fixture(scope="module")
def points() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(0).normal(size=(300, 5)).astype(np.float32)}


def dropped(program: Program) -> list[str]:
    return [line.rpartition(": ")[2] for line in program.provenance if "drop_blocks" in line]


def error(before: Program, after: Program, inputs: dict[str, np.ndarray]) -> float:
    (was,), (now,) = (Interpreter(program).run(inputs).values() for program in (before, after))
    return float(np.square(now - was).sum() / np.square(was).sum())


def test_those_that_do_least_go_first(deep: Program, points, target):
    assert DropBlocks(count=1).sites(deep, target) == ("blocks.0", "blocks.1", "blocks.2", "blocks.3")
    for number in (1, 2):
        changed = DropBlocks(count=number).apply(deep, points, target)
        assert dropped(changed) == ["blocks.0", "blocks.1"][:number]
        assert not any(name.startswith("blocks.0") for name in changed.tensors)


def test_a_budget_of_macs_is_kept(deep: Program, points, target):
    whole = count(deep).total
    for share in (0.9, 0.5, 0.1):
        changed = DropBlocks(macs=share).apply(deep, points, target)
        assert count(changed).total <= share * whole


def test_what_is_left_makes_up_for_what_went(deep: Program, points, target):
    plain = DropBlocks(count=2, compensate=False, reestimate=False).apply(deep, points, target)
    fitted = DropBlocks(count=2).apply(deep, points, target)
    unseen = {"x": np.random.default_rng(1).normal(size=(100, 5)).astype(np.float32)}
    assert error(deep, fitted, unseen) < 0.3 * error(deep, plain, unseen)


def test_blocks_can_be_told_to_stay(deep: Program, points, target):
    assert dropped(DropBlocks(count=1, skip=("blocks.0",)).apply(deep, points, target)) == ["blocks.1"]
    with pytest.raises(UnknownName, match=r"blocks\.9"):
        DropBlocks(count=1, skip=("blocks.9",)).apply(deep, points, target)


def test_a_net_of_blocks_loses_one_and_keeps_its_accuracy(digit_program: Program, digits, target):
    images, labels = digits
    name = digit_program.signature.inputs[0].name
    changed = DropBlocks(count=1).apply(digit_program, {name: images[:512]}, target)
    (scores,) = Interpreter(changed).run({name: images[900:]}).values()
    assert float((scores.argmax(1) == labels[900:]).mean()) > 0.8


@pytest.mark.parametrize(
    "options", [{}, {"count": 1, "macs": 0.5}, {"count": -1}, {"macs": 1.0}, {"macs": -0.5}], ids=str
)
def test_options_that_make_no_sense_are_refused(options: dict):
    with pytest.raises(OptionError, match="a count of at least 1, or macs above 0"):
        DropBlocks(**options)


def test_what_cannot_be_dropped_is_refused(deep: Program, points, target):
    with pytest.raises(UnsupportedOp, match=r"behind dropping all 4 that can go[\s\S]*5 blocks"):
        DropBlocks(count=5).apply(deep, points, target)
    with pytest.raises(UnsupportedOp, match=r"1\.0% at most"):
        DropBlocks(macs=0.01).apply(deep, points, target)
    flat = flow.capture(nn.Sequential(nn.Linear(5, 8), nn.ReLU()), torch.randn(2, 5))
    with pytest.raises(UnsupportedOp, match="no residual block"):
        DropBlocks(count=1).apply(flat, {"input": points["x"]}, target)
    with pytest.raises(DataError, match="no samples"):
        DropBlocks(count=1).apply(deep, {}, target)
