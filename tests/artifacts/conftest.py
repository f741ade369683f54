"""A tiny model, and artifacts made of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from gossamer.artifacts import DeployFile, Golden, Manifest, pack
from gossamer.core.specs import Signature, TensorSpec
from gossamer.core.target import Target

WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture(scope="session")
def signature() -> Signature:
    return Signature(
        (TensorSpec("x", "float32", ("batch", 2)),), (TensorSpec("y", "float32", ("batch", 3)),), {"batch": (1, 64)}
    )


@pytest.fixture(scope="session")
def model_bytes() -> bytes:
    """y = x @ WEIGHT."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "tiny",
        [value("x", TensorProto.FLOAT, ["batch", 2])],
        [value("y", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(WEIGHT, "w")],
    )
    opset = [helper.make_opsetid("", 23)]
    return onnx.helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString(deterministic=True)


def write_program(folder: Path) -> None:
    (folder / "graph.json").write_text("{}")
    (folder / "tensors.safetensors").write_bytes(b"tensors")


@pytest.fixture(scope="session")
def make(signature: Signature, model_bytes: bytes) -> Callable[..., Manifest]:
    """Packs the tiny model; keywords replace the arguments of ``pack``."""

    def make(folder: Path, **changes: Any) -> Manifest:
        x = np.ones((2, 2), np.float32)
        arguments: dict[str, Any] = {
            "name": "tiny",
            "signature": signature,
            "deploys": [DeployFile(Target("onnxruntime"), model_bytes, "float32", options={"opset": 23})],
            "program_writer": write_program,
            "recipe": "version = 1\n",
            "evidence": {"parity": {"verdict": "exact"}},
            "golden": Golden({"x": x}, {"y": x @ WEIGHT}),
        }
        return pack(folder, **(arguments | changes))

    return make


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory, make: Callable[..., Manifest]) -> Path:
    folder = tmp_path_factory.mktemp("packed") / "small"
    make(folder)
    return folder


@pytest.fixture
def small(tmp_path: Path, template: Path) -> Path:
    """A packed artifact of this test's own."""
    return Path(shutil.copytree(template, tmp_path / "small"))
