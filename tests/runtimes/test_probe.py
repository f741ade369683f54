"""The probe measures in a fresh process, on its own memory, and fails with a message."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from gossamer.core.errors import DataError, MissingExtra, ModelError, UnknownName
from gossamer.core.specs import Signature, TensorSpec
from gossamer.metrics.process import PROBE_FIELDS, probe_process
from gossamer.runtimes import KNOWN, import_runtime, open_executable, probe, resolve_target

SPECS = Signature(
    (TensorSpec("x", "float32", ("batch", 512)),), (TensorSpec("y", "float32", ("batch", 2048)),), {"batch": (2, 8)}
)
WEIGHT_BYTES = 512 * 2048 * 4


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model.onnx with 4 MiB of weights, signature.json, x.npz."""
    folder = tmp_path_factory.mktemp("probe")
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
    (folder / "signature.json").write_text(json.dumps(SPECS.to_json()))
    np.savez(folder / "x.npz", x=np.ones((4, 512), np.float32))
    return folder


def command(files: Path, *more: object, model: str = "model.onnx", target: str = "onnxruntime") -> list[str]:
    paths = [files / model, files / "signature.json", target, *more]
    return [sys.executable, "-m", "gossamer.runtimes.probe", *map(str, paths)]


def test_a_fresh_process_is_measured_from_the_parents_side(files):
    load, first, memory = probe_process(command(files, files / "x.npz"))
    assert load.value > 0
    assert first.value > 0
    # The weights are resident after loading, at the least; below that the base would hold someone else's peak.
    assert memory.value >= WEIGHT_BYTES


def test_one_line_of_json_and_nothing_else(files):
    done = subprocess.run(command(files), capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    figures = json.loads(done.stdout)
    assert (tuple(figures), len(done.stdout.splitlines())) == (PROBE_FIELDS, 1)
    assert figures["peak_rss_bytes"] >= figures["base_rss_bytes"] > 0


def test_the_high_water_mark_is_not_the_parents():
    held = np.ones(2**24)  # 128 MiB, which getrusage in the child would report
    code = "from gossamer.runtimes.probe import peak_rss_bytes; print(peak_rss_bytes())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert int(done.stdout) < held.nbytes < probe.peak_rss_bytes()


def test_without_proc_getrusage_is_read(monkeypatch):
    # Held against its own counter: the kernel keeps VmHWM and ru_maxrss apart, and they differ by some unsynced pages.
    unit = 1 if sys.platform == "darwin" else 1024
    monkeypatch.setattr(Path, "exists", lambda self: False)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    got = probe.peak_rss_bytes()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    assert 2**20 < before <= got <= after


def test_measuring_in_this_process(files, capsys):
    assert probe.main([str(files / "model.onnx"), str(files / "signature.json"), "onnxruntime:cpu,batch=3"]) == 0
    assert tuple(json.loads(capsys.readouterr().out)) == PROBE_FIELDS


def test_failures_reach_the_parent(files):
    with pytest.raises(ModelError, match=r"exit status 1[\s\S]*loading none\.onnx"):
        probe_process(command(files, model="none.onnx"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("model.onnx", "signature.json", "onnxrt"), "'onnxruntime'?"),
        (("model.onnx", "model.onnx", "onnxruntime"), "JSON of a signature"),
        (("model.onnx", "none.json", "onnxruntime"), "JSON of a signature"),
        (("model.onnx", "signature.json", "onnxruntime", "none.npz"), "an .npz of numbers"),
        (("model.onnx", "signature.json", "onnxruntime", "model.onnx"), "an .npz of numbers"),
        (("model.onnx", "signature.json", "onnxruntime", "wide.npz"), "batch in [2, 8]"),
    ],
)
def test_failures_are_explained(files, capsys, arguments, message):
    np.savez(files / "wide.npz", x=np.ones((9, 512), np.float32))
    paths = [text if text.startswith("onnxr") else str(files / text) for text in arguments]
    assert probe.main(paths) == 1
    assert message in capsys.readouterr().err


def test_zero_inputs_take_the_batch_of_the_target_within_its_range():
    inputs = (TensorSpec("ids", "int64", ("batch", "time")), TensorSpec("mask", "bool", ("batch", 4)))
    specs = Signature(inputs, (), {"batch": (2, 8), "time": (3, None)})
    shapes = {
        batch: [
            array.shape for array in probe.zero_inputs(specs, resolve_target(f"onnxruntime,batch={batch}")).values()
        ]
        for batch in (1, 5, 99)
    }
    assert shapes == {1: [(2, 3), (2, 4)], 5: [(5, 3), (5, 4)], 99: [(8, 3), (8, 4)]}
    assert [a.dtype for a in probe.zero_inputs(specs, resolve_target("onnxruntime")).values()] == [np.int64, np.bool_]
    derived = Signature((TensorSpec("x", "float32", ("2*batch",)),), ())
    with pytest.raises(DataError, match=r"'2\*batch'[\s\S]*give an \.npz"):
        probe.zero_inputs(derived, resolve_target("onnxruntime"))


def test_every_known_runtime_opens(files):
    for runtime, devices in KNOWN.items():
        for device in devices:
            target = resolve_target(f"{runtime}:{device}")
            executable = open_executable(files / "model.onnx", SPECS, target, dims={"batch": 4})
            assert executable.run({"x": np.ones((4, 512), np.float32)})["y"].shape == (4, 2048)
            assert executable.specs == SPECS
            executable.close()


def test_an_unknown_runtime():
    with pytest.raises(UnknownName, match="'onnxruntime'"):
        resolve_target("onnxrun")
    target = resolve_target("onnxruntime")
    with pytest.raises(UnknownName, match="runtime 'other'"):
        import_runtime(type(target)("other"))


def test_a_runtime_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "gossamer.runtimes.onnxruntime.runtime", None)
    with pytest.raises(MissingExtra, match=r"importing onnxruntime[\s\S]*pip install 'gossamer'"):
        import_runtime(resolve_target("onnxruntime"))
