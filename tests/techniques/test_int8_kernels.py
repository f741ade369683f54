"""What ONNX Runtime makes of a quantized program: integer kernels in every layer, and the interpreter's results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gossamer import flow
from gossamer.program import Program
from gossamer.program.interpreter import Interpreter
from gossamer.runtimes import executed_layers, open_executable
from gossamer.techniques.quantize.int8 import Int8, int8_layers
from gossamer.techniques.quantize.placement import weighted_sites


def kernels_of(program: Program, target, batch: dict[str, np.ndarray], folder: Path) -> dict[str, str]:
    lowered = flow.lower(program)
    path = folder / "model.onnx"
    path.write_bytes(lowered.model)
    sites = {name: node.name for name, node in weighted_sites(program).items()}
    return executed_layers(path, program.signature, target, batch, lowered.name_map, sites)


@pytest.fixture(scope="module", params=["digits", "reader"])
def network(request, target):
    name = request.param
    if name == "digits":
        program, data = request.getfixturevalue("digit_program"), {"x": request.getfixturevalue("digits")[0][:128]}
    else:
        program, data = request.getfixturevalue("reader_program"), {"ids": request.getfixturevalue("reader_ids")}
    return Int8().apply(program, data, target), {key: array[:8] for key, array in data.items()}


def test_every_convolution_and_linear_layer_runs_in_integers(network, target, tmp_path: Path):
    program, batch = network
    kernels = kernels_of(program, target, batch, tmp_path)
    layers = int8_layers(program)
    assert len(layers) >= 5
    assert {name: kernels[name] for name in layers if kernels[name] not in target.facts.quantizers.int8_kernels} == {}


def test_the_runtime_agrees_with_the_interpreter(network, target, tmp_path: Path):
    """A placement that the runtime honours gives more than the target's 38 dB; one that it does not, 31 to 37."""
    program, batch = network
    path = tmp_path / "model.onnx"
    path.write_bytes(flow.lower(program).model)
    executable = open_executable(path, program.signature, target)
    try:
        (got,) = executable.run(batch).values()
    finally:
        executable.close()
    (exact,) = Interpreter(program).run(batch).values()
    noise = np.square(exact.astype(np.float64) - got).sum()
    assert 10 * np.log10(np.square(exact, dtype=np.float64).sum() / max(noise, 1e-300)) >= 38


def test_layers_left_in_float_are_told_from_the_others(digit_program, digits, target, tmp_path: Path):
    skip = ("blocks1.0.*", "head")
    program = Int8(skip=skip).apply(digit_program, {"x": digits[0][:128]}, target)
    kernels = kernels_of(program, target, {"x": digits[0][:8]}, tmp_path)
    integer = {name for name, kernel in kernels.items() if kernel in target.facts.quantizers.int8_kernels}
    assert integer == set(int8_layers(program)) == set(kernels) - {"blocks1.0.conv1", "blocks1.0.conv2", "head"}


@pytest.mark.parametrize("layer", ["stem.0", "blocks1.0.conv1", "blocks1.0.conv2", "blocks2.0.conv1"])
def test_a_single_layer_left_in_float_stays_in_float(digit_program, digits, target, tmp_path: Path, layer: str):
    """ONNX Runtime quantizes a float layer between pairs on its own, with one scale for its weight, if it can."""
    program = Int8(skip=(layer,)).apply(digit_program, {"x": digits[0][:128]}, target)
    batch = {"x": digits[0][:8]}
    kernels = kernels_of(program, target, batch, tmp_path)
    assert {name for name, kernel in kernels.items() if kernel not in target.facts.quantizers.int8_kernels} == {layer}
    executable = open_executable(tmp_path / "model.onnx", program.signature, target)
    (got,) = executable.run(batch).values()
    executable.close()
    (exact,) = Interpreter(program).run(batch).values()
    assert np.linalg.norm(got - exact) < 10 ** (-38 / 20) * np.linalg.norm(exact)


def test_two_quantized_files_are_the_same_to_the_byte(digit_program, digits, target):
    files = [flow.lower(Int8().apply(digit_program, {"x": digits[0][:64]}, target)).model for _ in range(2)]
    assert files[0] == files[1]


def test_int8_makes_the_file_smaller(digit_program, digits, target):
    whole = flow.lower(digit_program).model
    assert len(flow.lower(Int8().apply(digit_program, {"x": digits[0][:64]}, target)).model) < 0.6 * len(whole)


class Bare(nn.Module):
    """The rows looked up go into a linear layer and, as they are, into an add behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.fc = nn.Embedding(20, 16), nn.Linear(16, 16)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        return x + self.fc(torch.tanh(x))


class Upsampled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.down = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        wide = torch.relu(self.first(x))
        small = torch.relu(self.down(wide))
        return self.last(wide + torch.nn.functional.interpolate(small, size=wide.shape[-2:], mode="nearest"))


def test_a_resize_between_integer_convolutions_loads_and_agrees(target, tmp_path: Path):
    x = np.random.default_rng(0).standard_normal((64, 3, 8, 8)).astype(np.float32)
    program = Int8().apply(flow.capture(Upsampled(), torch.from_numpy(x[:2])), {"x": x}, target)
    path = tmp_path / "model.onnx"
    path.write_bytes(flow.lower(program).model)
    executable = open_executable(path, program.signature, target)
    got, expected = executable.run({"x": x[:5]})["output"], Interpreter(program).run({"x": x[:5]})["output"]
    executable.close()
    assert np.linalg.norm(got - expected) < 10 ** (-38 / 20) * np.linalg.norm(expected)  # the target's placement bound


def test_an_embedding_that_an_add_reads_directly_loads(target, tmp_path: Path):
    ids = np.random.default_rng(0).integers(0, 20, (64, 5))
    program = flow.capture(Bare(), {"ids": torch.from_numpy(ids[:2])}, dynamic={"ids": {0: "batch", 1: "length=2..9"}})
    path = tmp_path / "model.onnx"
    path.write_bytes(flow.lower(Int8().apply(program, {"ids": ids}, target)).model)
    open_executable(path, program.signature, target).close()
