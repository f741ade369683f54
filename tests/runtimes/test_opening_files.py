"""Model files open in every known runtime, here and in a process of their own."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from gossamer.core.errors import ArtifactError, MissingExtra, UnknownName
from gossamer.core.specs import Signature, TensorSpec
from gossamer.metrics.process import WorkerProcess, probe_process
from gossamer.metrics.subject import Subject, write_inputs
from gossamer.runtimes import KNOWN, import_runtime, open_executable, prepare_file, resolve_target

SPECS = Signature(
    (TensorSpec("x", "float32", ("batch", 512)),), (TensorSpec("y", "float32", ("batch", 2048)),), {"batch": (2, 8)}
)
WEIGHT_BYTES = 512 * 2048 * 4
TARGETS = [f"{runtime}:{device}" for runtime, devices in KNOWN.items() for device in devices]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model.onnx with 4 MiB of weights, inputs.npz."""
    folder = tmp_path_factory.mktemp("opening")
    weight = np.random.default_rng(0).standard_normal((512, 2048)).astype(np.float32)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, ["batch", 512])],
        [value("y", TensorProto.FLOAT, ["batch", 2048])],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10), folder / "model.onnx"
    )
    write_inputs(folder / "inputs.npz", [{"x": np.ones((4, 512), np.float32)}])
    return folder


def subject(files: Path, target: str, name: str = "model.onnx") -> Subject:
    arguments = {"path": str(files / name), "specs": SPECS.to_json(), "target": target, "dims": {"batch": 4}}
    return Subject("gossamer.runtimes:prepare_file", files / "inputs.npz", arguments)


@pytest.mark.parametrize("target", TARGETS)
def test_every_known_runtime_opens(files: Path, target: str):
    executable = open_executable(files / "model.onnx", SPECS, resolve_target(target), dims={"batch": 4})
    assert executable.run({"x": np.ones((4, 512), np.float32)})["y"].shape == (4, 2048)
    assert executable.specs == SPECS
    executable.close()
    prepared = subject(files, target).prepare()
    assert prepared().run({"x": np.ones((4, 512), np.float32)})["y"].shape == (4, 2048)


@pytest.mark.parametrize("target", TARGETS)
def test_it_opens_in_a_process_of_its_own(files: Path, target: str):
    one = WorkerProcess(subject(files, target), [0])
    try:
        one.open()
        one.warm_up(20.0)
        assert one.leg(3).calls_ms.shape == (3,)
        assert one.facts["cores"] == [0]
    finally:
        one.close()
    found = {item.name: item.value for item in probe_process(subject(files, target))}
    # The weights are resident after loading, at the least; below that the base would hold someone else's peak.
    assert found["peak memory"] >= WEIGHT_BYTES


def test_a_file_that_is_not_there_is_the_same_error_from_far_away(files: Path):
    with pytest.raises(ArtifactError, match=r"loading none\.onnx in ONNX Runtime"):
        probe_process(subject(files, "onnxruntime", "none.onnx"))


def test_an_unknown_runtime():
    with pytest.raises(UnknownName, match="'onnxruntime'"):
        resolve_target("onnxrun")
    target = resolve_target("onnxruntime")
    with pytest.raises(UnknownName, match="runtime 'other'"):
        import_runtime(type(target)("other"))


def test_a_runtime_that_is_not_installed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "gossamer.runtimes.onnxruntime.runtime", None)
    with pytest.raises(MissingExtra, match=r"importing onnxruntime[\s\S]*pip install 'gossamer'"):
        prepare_file("model.onnx", SPECS.to_json(), "onnxruntime")
