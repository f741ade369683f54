"""OpenVINO sessions: precision pinned, sizes fixed at load, kernels and times read from the graph that runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gossamer as gs
from gossamer.core.errors import ArtifactError, DataError, InternalError
from gossamer.core.runnable import Executable
from gossamer.program import Program
from gossamer.program.interpreter import Interpreter
from gossamer.runtimes import executed_layers, layer_times, lower_for, open_executable, resolve_target
from gossamer.runtimes.openvino.profile import Operation, layer_kernels
from gossamer.techniques.quantize.int8 import Int8
from gossamer.techniques.quantize.placement import weighted_sites

pytest.importorskip("openvino", reason="the extra openvino is not installed")

FLOAT = resolve_target("openvino:cpu")
BF16 = resolve_target("openvino:cpu,precision=bfloat16")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        return self.head(torch.relu(y + self.conv(y)).mean((2, 3)))


@pytest.fixture(scope="module")
def program() -> Program:
    torch.manual_seed(0)
    return gs.capture(Net().eval(), torch.randn(2, 1, 8, 8))


@pytest.fixture(scope="module")
def x() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(0).normal(size=(3, 1, 8, 8)).astype(np.float32)}


def opened(program: Program, folder: Path, target=FLOAT, **options) -> Executable:
    path = folder / "model.onnx"
    path.write_bytes(lower_for(target, program).model)
    return open_executable(path, program.signature, target, **options)


def test_floats_are_computed_as_pinned(program, x, tmp_path):
    exact = Interpreter(program).run(x)["output"]
    plain = opened(program, tmp_path).run(x)["output"]
    half = opened(program, tmp_path, BF16).run(x)["output"]
    assert np.abs(plain - exact).max() < 1e-5 * np.abs(exact).max()
    assert half.dtype == np.float32
    assert np.abs(half - exact).max() < 2**-5 * np.abs(exact).max()  # bfloat16 keeps 8 bits
    assert np.abs(half - exact).max() > 0 or "bf16" not in Path("/proc/cpuinfo").read_text(encoding="utf-8")


def test_the_fingerprint_names_version_threads_precision_and_sizes(program, tmp_path):
    text = opened(program, tmp_path, BF16, dims={"batch": 3}).fingerprint
    assert text.startswith("openvino 20")
    assert text.endswith(" cpu threads=1 bfloat16 batch=3")


def test_a_batch_fixed_at_load_is_the_only_one(program, x, tmp_path):
    fixed = opened(program, tmp_path, dims={"batch": 3})
    assert fixed.run(x)["output"].shape == (3, 4)
    with pytest.raises(DataError, match=r"running model.onnx in OpenVINO"):
        fixed.run({"x": x["x"][:2]})


def test_inner_values_are_not_to_be_had(program, x, tmp_path):
    with pytest.raises(InternalError, match="taps"):
        opened(program, tmp_path).run(x, taps=("conv",))


def test_a_closed_model_says_so(program, x, tmp_path):
    executable = opened(program, tmp_path)
    executable.close()
    executable.close()
    with pytest.raises(InternalError, match="a closed model"):
        executable.run(x)


@pytest.mark.parametrize("content", [b"", b"not a model", None])
def test_a_file_that_cannot_be_read(program, tmp_path, content: bytes | None):
    path = tmp_path / "broken.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"loading broken.onnx in OpenVINO 20"):
        open_executable(path, program.signature, FLOAT)


def test_results_outlive_the_next_call(program, x, tmp_path):
    executable = opened(program, tmp_path)
    first = executable.run(x)["output"]
    kept = first.copy()
    executable.run({"x": x["x"] + 1})
    assert np.array_equal(first, kept)


def test_layers_run_in_the_precision_asked_for(program, x, tmp_path):
    int8 = Int8(observer="minmax").apply(program, x, FLOAT)
    for target, chosen, precision in ((FLOAT, program, "float32"), (FLOAT, int8, "int8")):
        lowered = lower_for(target, chosen)
        path = tmp_path / "model.onnx"
        path.write_bytes(lowered.model)
        sites = {name: node.name for name, node in weighted_sites(chosen).items()}
        kernels = executed_layers(path, chosen.signature, target, x, lowered.name_map, sites)
        assert kernels["stem.0"] == kernels["conv"] == f"Convolution {precision}"
        assert kernels["head"].endswith(precision)
        times = layer_times(path, chosen.signature, target, x, lowered.name_map, sites, dims={"batch": 3})
        assert times.keys() == sites.keys()
        assert all(value >= 0 for value in times.values())


def test_a_layer_without_its_name_is_looked_for_behind_it():
    def operation(*names: str) -> Operation:
        return Operation("Convolution", "float32", "jit", names, 1.0)

    names = {"a": ("a",), "norm": ("norm",), "b": ("b",), "c": ("c",)}
    layers = {"A": "a", "B": "b", "C": "c"}
    assert layer_kernels([operation("norm"), operation("b"), operation("out")], names, layers) == {
        "A": "Convolution float32",
        "B": "Convolution float32",
        "C": "Convolution float32",
    }
    found = layer_kernels([operation("norm"), operation("b")], names, layers)
    assert found == {"A": "Convolution float32", "B": "Convolution float32", "C": "not found"}


def test_importing_it_sends_nothing_and_writes_nothing(tmp_path):
    code = "import gossamer.runtimes.openvino.runtime, sys; print('openvino_telemetry' in sys.modules)"
    home = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], env=home, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert list(tmp_path.iterdir()) == []


def test_bfloat16_products_are_probed(monkeypatch):
    from gossamer.runtimes.openvino import probe

    assert str(probe.probe_bf16()) == "right"
    real = probe._product
    monkeypatch.setattr(
        probe,
        "_product",
        lambda a, b, stored: 5 * real(a, b, stored=stored)[:, ::-1] if stored else real(a, b, stored=stored),
    )
    found = probe.probe_bf16()
    assert not found.right
    assert str(found).startswith("WRONG: cosine ")
    assert "5.0" in str(found)
