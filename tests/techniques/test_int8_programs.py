"""A quantized program: what its grids are, that it is a program like any other, and that quantizing is repeatable."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from torch import Tensor, fx, nn

from gossamer import flow
from gossamer.numerics.quantizers import best_symmetric_scale, fake_quantize
from gossamer.program import Program, dialect
from gossamer.program.dialect import aten
from gossamer.program.fold import fold_batch_norms
from gossamer.program.storage import load_program, save_program
from gossamer.techniques.quantize.calibration import OBSERVERS
from gossamer.techniques.quantize.int8 import Int8, int8_layers


@pytest.fixture(scope="module")
def digit_int8(digit_program: Program, digits, target) -> Program:
    return Int8().apply(digit_program, {"x": digits[0][:128]}, target)


@pytest.fixture(scope="module")
def reader_int8(reader_program: Program, reader_ids, target) -> Program:
    return Int8().apply(reader_program, {"ids": reader_ids}, target)


def relative_error(exact: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(exact - other) / np.linalg.norm(exact))


def stored(program: Program, node: fx.node.Argument) -> Tensor:
    assert isinstance(node, fx.Node)
    return program.tensors[str(node.target)]


@pytest.mark.parametrize("observer", OBSERVERS)
def test_the_input_is_unchanged_and_the_result_repeats(digit_program: Program, digits, target, observer: str):
    before = digit_program.digest
    data = {"x": digits[0][:64]}
    first, second = (Int8(observer=observer).apply(digit_program, data, target) for _ in range(2))
    assert first.digest == second.digest != before
    fresh = Program(
        digit_program.name, digit_program.graph, digit_program.tensors, digit_program.roles, digit_program.signature
    )
    assert fresh.digest == before
    assert set(digit_program.tensors).isdisjoint(set(first.tensors) - set(fold_batch_norms(digit_program).tensors))


def test_the_result_depends_on_the_data(digit_program: Program, digits, target):
    halves = (Int8(observer="minmax").apply(digit_program, {"x": digits[0][s]}, target) for s in (slice(8), slice(80)))
    assert len({half.digest for half in halves}) == 2


@pytest.mark.parametrize("name", ["digit_int8", "reader_int8"])
def test_the_scale_of_a_bias_is_that_of_its_input_times_that_of_its_weight(name: str, request):
    program = request.getfixturevalue(name)
    layers = int8_layers(program)
    assert layers
    for node in layers.values():
        source, weight, bias = node.args[:3]
        scales = [stored(program, pair.args[1]) for pair in (source, weight, bias)]
        assert torch.equal(scales[2], scales[0] * scales[1])
        assert stored(program, bias.args[2]).eq(0).all()
        assert scales[1].shape == (stored(program, weight.args[0].args[0]).shape[0],)


def test_an_embedding_has_one_scale_per_row(reader_int8: Program):
    (embedding,) = [node for node in reader_int8.call_nodes if node.target is aten.embedding.default]
    pair = embedding.args[0]
    assert pair.target is dialect.dequantize
    assert stored(reader_int8, pair.args[1]).shape == stored(reader_int8, pair.args[0].args[0]).shape[:1]
    assert pair.args[3] == 0


WEIGHTS = arrays(np.float32, array_shapes(min_dims=2, max_dims=4, max_side=6), elements=st.floats(-100, 100, width=32))


@settings(max_examples=60, deadline=None)
@given(WEIGHTS, st.integers(1, 60))
def test_searched_weight_scales_are_never_worse_than_the_largest_magnitude(array: np.ndarray, steps: int):
    weight = torch.from_numpy(array)
    rows = weight.flatten(1)

    def error(scale: Tensor) -> Tensor:
        kept = fake_quantize(rows, scale, torch.zeros_like(scale), 0, -127, 127)
        return (kept - rows).double().square().sum(1)

    scale = best_symmetric_scale(weight, axis=0, high=127, steps=steps)
    plain = best_symmetric_scale(weight, axis=0, high=127, steps=1)
    # The choice is made in float32: sums of at most 216 squares are off by 216 units roundoff at most.
    assert (error(scale) <= error(plain) * (1 + 216 * 2**-24) + 1e-30).all()
    assert torch.allclose(plain, rows.abs().amax(1).clamp(min=127e-8) / 127)


def test_the_scale_search_beats_the_largest_magnitude_where_there_is_an_outlier():
    """A heavy tail, as trained weights have: the reason why the search is there."""
    weight = torch.from_numpy(np.random.default_rng(0).laplace(size=(8, 512)).astype(np.float32))

    def error(steps: int) -> float:
        scale = best_symmetric_scale(weight, axis=0, high=7, steps=steps)
        return float((fake_quantize(weight, scale, torch.zeros(8), 0, -7, 7) - weight).square().sum())

    assert error(40) < 0.9 * error(1)


class Tied(nn.Module):
    """Embedding and head share one table."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.fc = nn.Linear(16, 16)
        self.head = nn.Linear(16, 20, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.tanh(self.fc(self.embed(ids))))


def test_tied_weights_are_quantized_for_both_readers(target):
    torch.manual_seed(0)
    program = flow.capture(Tied(), {"ids": torch.randint(0, 20, (2, 5))})
    ids = np.random.default_rng(0).integers(0, 20, (64, 5))
    quantized = Int8().apply(program, {"ids": ids}, target)
    assert list(int8_layers(quantized)) == ["fc", "head"]
    readers = {node.name: node for node in quantized.call_nodes if dialect.op_class(node) in ("embedding", "linear")}
    looked_up, multiplied = (readers[name].args[index] for name, index in (("embed", 0), ("head", 1)))
    quantizers = [pair.args[0] for pair in (looked_up, multiplied)]
    assert quantizers[0].args[0] is quantizers[1].args[0], "one table"
    assert [stored(quantized, quantizer.args[1]).shape for quantizer in quantizers] == [(20,), (20,)]
    # Eight bits on weights and activations of three layers: the usual relative error is about 1 %.
    assert relative_error(program(ids), quantized(ids)) < 0.03
    assert quantized.parameter_count == program.parameter_count


def test_a_quantized_program_saves_and_loads(digit_int8: Program, tmp_path: Path, digits):
    save_program(digit_int8, tmp_path)
    loaded = load_program(tmp_path)
    assert loaded.digest == digit_int8.digest
    assert str(loaded) == str(digit_int8)
    np.testing.assert_array_equal(loaded(digits[0][:4]), digit_int8(digits[0][:4]))


@pytest.mark.parametrize("name", ["digit_int8", "reader_int8"])
def test_gradients_reach_weights_and_scales(name: str, request, digits, reader_ids):
    program = request.getfixturevalue(name)
    module = program.module(training=True)
    for buffer, tensor in module.named_buffers():
        if buffer.endswith("scale"):
            tensor.requires_grad_()
    data = torch.from_numpy(digits[0][:16] if name == "digit_int8" else reader_ids[:16])
    labels = torch.from_numpy(digits[1][:16]) if name == "digit_int8" else torch.arange(16) % 4
    F.cross_entropy(module(data)[0], labels).backward()
    missing = [key for key, parameter in module.named_parameters() if parameter.grad is None]
    scales = {key: tensor.grad for key, tensor in module.named_buffers() if key.endswith("scale")}
    assert not missing
    assert all(parameter.grad.abs().sum() > 0 for key, parameter in module.named_parameters() if "weight" in key)
    assert len(scales) > len(int8_layers(program))
    assert all(grad is not None and torch.isfinite(grad).all() for grad in scales.values())


def test_training_a_quantized_program_lowers_its_loss(digit_int8: Program, digits):
    module = digit_int8.module(training=True)
    x, y = torch.from_numpy(digits[0][:128]), torch.from_numpy(digits[1][:128])
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-2)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = F.cross_entropy(module(x)[0], y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    trained = digit_int8.with_tensors_of(module, "trained")
    assert trained.digest != digit_int8.digest
    np.testing.assert_allclose(trained(digits[0][:8]), module(x[:8])[0].detach().numpy(), rtol=1e-5, atol=1e-5)


def test_the_error_falls_as_layers_go_back_to_float(digit_program: Program, digits, target):
    """Excluding from the front: what is left in int8 shrinks, down to one layer, and then to the folded original."""
    data = {"x": digits[0][:96]}
    technique = Int8()
    calibration = technique.calibrate(digit_program, data, target)
    sites = technique.sites(calibration.program, target)
    exact = digit_program(digits[0][900:1100])
    errors = [
        relative_error(exact, Int8(skip=sites[:count]).quantize(calibration)(digits[0][900:1100]))
        for count in (0, len(sites) // 2, len(sites) - 1)
    ]
    folded = relative_error(exact, calibration.program(digits[0][900:1100]))
    assert errors[0] > errors[1] > errors[2] > folded
    assert folded < 1e-5


class Scaled(nn.Module):
    """A layer whose own parameters have the names that a quantizer would choose."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)
        self.fc.register_buffer("weight_scale", torch.full((6,), 3.0))
        self.fc.register_parameter("bias_zero_point", nn.Parameter(torch.full((6,), 0.5)))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) * self.fc.weight_scale + self.fc.bias_zero_point


def test_a_models_own_tensors_are_never_overwritten(target):
    torch.manual_seed(0)
    program = flow.capture(Scaled(), {"x": torch.ones(2, 6)})
    data = np.random.default_rng(0).standard_normal((64, 6)).astype(np.float32)
    quantized = Int8().apply(program, {"x": data}, target)
    for name, tensor in program.tensors.items():
        assert quantized.tensors[name] is tensor
    assert relative_error(program(data), quantized(data)) < 0.02
