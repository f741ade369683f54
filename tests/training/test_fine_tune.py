"""Fine-tuning lowers the loss, repeats itself, and leaves its input alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from gossamer import flow
from gossamer.core.errors import DataError, OptionError, UnknownName
from gossamer.program import Program
from gossamer.program.interpreter import Interpreter
from gossamer.testing.technique import fresh_digest
from gossamer.training.fine_tune import OPTIMIZERS, FineTuning, fine_tune

SHORT = FineTuning(steps=30, batch=32, lr=0.02)


@pytest.fixture(scope="module")
def points() -> tuple[np.ndarray, np.ndarray]:
    """Points in a plane by quadrant, which no linear layer tells apart."""
    x = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
    return x, (x[:, 0] * x[:, 1] > 0).astype(np.int64)


@pytest.fixture(scope="module")
def net() -> Program:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(2, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 2))
    return flow.capture(layers.eval(), torch.randn(4, 2))


def accuracy(program: Program, x: np.ndarray, y: np.ndarray) -> float:
    (scores,) = Interpreter(program).run({"input": x}).values()
    return float((scores.argmax(1) == y).mean())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_it_learns(net: Program, points, optimizer: str):
    x, y = points
    trained = fine_tune(net, {"input": x}, y, dataclasses.replace(SHORT, optimizer=optimizer, steps=60))
    assert accuracy(trained, x, y) > max(0.85, accuracy(net, x, y))
    assert trained.provenance[-1] == f"fine-tuned for 60 steps of {optimizer}"


def test_it_learns_numbers(net: Program, points):
    x, _ = points
    goal = np.stack([np.abs(x[:, 0]), x[:, 1]], 1)

    def error(program: Program) -> float:
        (found,) = Interpreter(program).run({"input": x}).values()
        return float(np.square(found - goal).mean())

    assert error(fine_tune(net, {"input": x}, goal, SHORT)) < 0.5 * error(net)


def test_same_settings_same_bytes_whatever_the_global_state(net: Program, points):
    x, y = points
    before = net.digest
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        results.append(fine_tune(net, {"input": x}, y, SHORT).digest)
    assert results[0] == results[1]
    assert fine_tune(net, {"input": x}, y, dataclasses.replace(SHORT, seed=1)).digest != results[0]
    assert fresh_digest(net) == before


def test_training_in_bfloat16_is_another_training(net: Program, points):
    x, y = points
    half = fine_tune(net, {"input": x}, y, dataclasses.replace(SHORT, autocast=True))
    assert half.digest != fine_tune(net, {"input": x}, y, SHORT).digest
    assert {tensor.dtype for name, tensor in half.tensors.items() if half.roles[name] == "parameter"} == {torch.float32}


def test_a_program_of_one_batch_size_is_trained_with_it(points):
    torch.manual_seed(0)
    fixed = flow.capture(nn.Linear(2, 2), torch.randn(300, 2), dynamic=None)
    x, y = points
    assert fine_tune(fixed, {"input": x}, y, SHORT).digest != fixed.digest


def test_what_cannot_be_trained_on_is_refused(net: Program, points):
    x, y = points
    with pytest.raises(DataError, match="200 samples, 3 labels"):
        fine_tune(net, {"input": x}, y[:3], SHORT)
    with pytest.raises(DataError, match="0 samples"):
        fine_tune(net, {}, y[:0], SHORT)
    with pytest.raises(DataError, match=r"labels of shape \(32,\) for outputs of shape \(32, 2\)"):
        fine_tune(net, {"input": x}, x[:, 0], SHORT)
    with pytest.raises(DataError, match="not finite at step 0"):
        fine_tune(net, {"input": x * np.float32(1e30)}, x * np.float32(1e30), SHORT)
    without = flow.capture(nn.ReLU(), torch.randn(4, 2))
    with pytest.raises(OptionError, match="without parameters"):
        fine_tune(without, {"input": x}, y, SHORT)


def test_settings_are_checked():
    with pytest.raises(UnknownName, match="'adamw'"):
        FineTuning(optimizer="adam")
    with pytest.raises(OptionError, match="steps=0"):
        FineTuning(steps=0)
