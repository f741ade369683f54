"""A loaded artifact runs like a function: through a fake runtime, through ONNX Runtime, and in a bare process."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from gossamer.artifacts import Artifact, DeployFile, Golden, load_artifact
from gossamer.core.errors import ArtifactError, DataError, OptionError, UnknownName
from gossamer.core.runnable import Executable
from gossamer.core.specs import Signature, TensorSpec
from gossamer.core.target import Target
from gossamer.runtimes import open_executable, resolve_target

X = np.array([[1, 0], [0, 1], [1, 1]], np.float32)
Y = np.array([[0, 1, 2], [3, 4, 5], [3, 5, 7]], np.float32)


@dataclass
class FakeExecutable:
    specs: Signature
    fingerprint: str = "fake"
    closed: bool = False

    def run(self, inputs, taps=()):
        assert not self.closed
        return {spec.name: inputs["x"].sum(axis=1) + index for index, spec in enumerate(self.specs.outputs)}

    def close(self):
        self.closed = True


@dataclass
class FakeOpener:
    opened: list[tuple[Any, ...]] = field(default_factory=list)
    executables: list[FakeExecutable] = field(default_factory=list)

    def __call__(self, path, specs, target, dims) -> Executable:
        self.opened.append((path, target, dims))
        self.executables.append(FakeExecutable(specs))
        return self.executables[-1]


def open_for_real(path, specs, target, dims):
    return open_executable(path, specs, resolve_target(target), dims=dims)


@pytest.fixture
def opener() -> FakeOpener:
    return FakeOpener()


def test_opened_at_the_first_call_and_once(small, opener):
    artifact = load_artifact(small, opener=opener)
    assert opener.opened == []
    for _ in range(2):
        np.testing.assert_array_equal(artifact(X), [1, 1, 2])
    path = small / "deploy" / "onnxruntime-cpu" / "model.onnx"
    assert opener.opened == [(path, "onnxruntime:cpu,threads=1,batch=1", None)]


def test_closing(small, opener):
    with load_artifact(small, opener=opener) as artifact:
        artifact.close()  # nothing open yet
        artifact(X)
    assert opener.executables[0].closed
    artifact(X)  # opens again
    assert [executable.closed for executable in opener.executables] == [True, False]


@pytest.mark.parametrize("call", [lambda a: a(X), lambda a: a(x=X), lambda a: a({"x": X}), lambda a: a(X.tolist())])
def test_ways_to_call(small, opener, call):
    np.testing.assert_array_equal(call(load_artifact(small, opener=opener)), [1, 1, 2])


@pytest.mark.parametrize("call", [lambda a: a(), lambda a: a(X, X), lambda a: a(z=X), lambda a: a(X[0])])
def test_inputs_are_checked_before_anything_is_opened(small, opener, call):
    with pytest.raises(DataError):
        call(load_artifact(small, opener=opener))
    assert opener.opened == []


def test_several_outputs_are_a_dict(make, tmp_path, signature, opener):
    outputs = tuple(TensorSpec(name, "float32", ("batch",)) for name in ("b", "a"))
    make(tmp_path / "two", signature=Signature(signature.inputs, outputs, signature.dims))
    result = load_artifact(tmp_path / "two", opener=opener)(X)
    assert isinstance(result, dict)
    assert list(result) == ["b", "a"]
    np.testing.assert_array_equal(result["a"], [2, 2, 3])


def test_choosing_a_target(make, tmp_path, opener, model_bytes):
    deploys = [
        DeployFile(Target("onnxruntime"), model_bytes, "float32"),
        DeployFile(Target("other", "gpu", batch=8), b"12", "int8", "model.bin"),
    ]
    make(tmp_path / "two", deploys=deploys)
    artifact = load_artifact(tmp_path / "two", opener=opener)
    assert artifact.size_bytes == len(model_bytes) + 2
    for text in ("onnxruntime", "onnxruntime:cpu", "onnxruntime-cpu", "onnxruntime:cpu,threads=9"):
        assert artifact.deploy_file(text).read_bytes() == model_bytes
    assert artifact.deploy_file("other:gpu").name == "model.bin"
    with pytest.raises(UnknownName, match="other-gpu"):
        artifact.deploy_file("other")
    with pytest.raises(OptionError, match="one of: onnxruntime-cpu, other-gpu"):
        artifact(X)
    artifact.open("other:gpu", dims={"batch": 8})
    artifact.open("onnxruntime:cpu,threads=4")
    assert [opened[1:] for opened in opener.opened] == [
        ("other:gpu,threads=1,batch=8", {"batch": 8}),
        ("onnxruntime:cpu,threads=4", None),
    ]


def test_text_forms(small, opener):
    artifact = load_artifact(small, opener=opener)
    short = artifact.digest[:12]
    assert repr(artifact) == f"<Artifact tiny: onnxruntime-cpu, {artifact.size_bytes} B, {short}>"
    assert str(artifact).splitlines() == [
        f"tiny  {short}  {artifact.size_bytes} B  {small}",
        "  x: f32[batch, 2] -> y: f32[batch, 3]",
        "  onnxruntime:cpu,threads=1,batch=1  float32",
    ]


def test_damage_after_loading_is_found(small, opener, make):
    artifact = load_artifact(small, opener=opener)
    artifact.verify_integrity()
    (small / "recipe.toml").write_text("version = 2\n")
    with pytest.raises(ArtifactError, match=r"recipe\.toml changed"):
        artifact.verify_integrity()
    make(small, force=True, name="another")
    with pytest.raises(ArtifactError, match="another manifest than when it was loaded"):
        artifact.verify_integrity()
    (small / "recipe.toml").unlink()
    with pytest.raises(ArtifactError, match=r"reading recipe\.toml"):
        _ = artifact.recipe


def test_in_onnx_runtime_at_any_batch(small):
    with load_artifact(small, opener=open_for_real) as artifact:
        np.testing.assert_array_equal(artifact(X), Y)
        np.testing.assert_array_equal(artifact(X[:1]), Y[:1])
        fixed = artifact.open(dims={"batch": 3})
        np.testing.assert_array_equal(fixed.run({"x": X})["y"], Y)
        fixed.close()


def test_a_file_that_the_runtime_refuses(make, tmp_path):
    make(tmp_path / "bad", deploys=[DeployFile(Target("onnxruntime"), b"not a model", "int8")])
    artifact: Artifact = load_artifact(tmp_path / "bad", opener=open_for_real)
    with pytest.raises(ArtifactError, match=r"loading model\.onnx in ONNX Runtime"):
        artifact(X)


def test_inputs_that_the_runtime_refuses(make, tmp_path, capfd):
    """Row 9 of a table of two."""
    value = helper.make_tensor_value_info
    table = numpy_helper.from_array(np.ones((2, 3), np.float32), "table")
    node = helper.make_node("Gather", ["table", "ids"], ["y"])
    ids, y = value("ids", TensorProto.INT64, ["batch"]), value("y", TensorProto.FLOAT, ["batch", 3])
    graph = helper.make_graph([node], "tiny", [ids], [y], [table])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10).SerializeToString()
    specs = Signature(
        (TensorSpec("ids", "int64", ("batch",)),), (TensorSpec("y", "float32", ("batch", 3)),), {"batch": (1, None)}
    )
    golden = Golden({"ids": np.zeros(1, np.int64)}, {"y": np.ones((1, 3), np.float32)})
    deploys = [DeployFile(Target("onnxruntime"), model, "float32")]
    make(tmp_path / "rows", signature=specs, deploys=deploys, golden=golden)
    with load_artifact(tmp_path / "rows", opener=open_for_real) as artifact:
        with pytest.raises(DataError, match=r"running model\.onnx in ONNX Runtime[\s\S]*idx=9[\s\S]*expected: inputs"):
            artifact([0, 9])
        assert artifact([0, 1]).shape == (2, 3)
    assert capfd.readouterr() == ("", "")


def test_a_tensor_that_requires_grad_is_an_input_like_another(small, opener):
    artifact = load_artifact(small, opener=opener)
    np.testing.assert_array_equal(artifact(torch.from_numpy(X).requires_grad_()), [1, 1, 2])
    np.testing.assert_array_equal(artifact(x=torch.from_numpy(X).bfloat16()), [1, 1, 2])


BARE = """
import sys
import numpy as np
import gossamer.artifacts
assert "onnxruntime" not in sys.modules
import gossamer.runtimes
import gossamer.metrics.worker
assert "onnxruntime" not in sys.modules
import gossamer.runtimes.onnxruntime.runtime
import gossamer.runtimes.onnxruntime.profile
heavy = {"torch", "onnx", "safetensors", "transformers", "scipy", "jinja2"} & set(sys.modules)
assert not heavy, heavy
from gossamer.runtimes import open_executable, resolve_target
opener = lambda path, specs, text, dims: open_executable(path, specs, resolve_target(text), dims=dims)
y = gossamer.artifacts.load_artifact(sys.argv[1], opener=opener)(np.ones((2, 2), np.float32))
assert y.tolist() == [[3, 5, 7], [3, 5, 7]], y
assert not {"torch", "onnx"} & set(sys.modules)
"""


def test_a_bare_process_needs_no_torch_and_leaves_the_home_folder_alone(small: Path, tmp_path: Path):
    home = tmp_path / "home"
    home.mkdir()
    hidden = {"ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"}
    env = {key: value for key, value in os.environ.items() if key not in hidden} | {"HOME": str(home)}
    command = [sys.executable, "-c", BARE, str(small)]
    done = subprocess.run(command, env=env, cwd=home, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(home.rglob("*")) == []
