"""Which kernel a node ran in, told from the runtime's own profile, whatever its rewrites call the node."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from gossamer.core.errors import ArtifactError, UnknownName
from gossamer.core.specs import Signature, TensorSpec
from gossamer.runtimes import resolve_target
from gossamer.runtimes.onnxruntime.profile import SiteKernel, int8_sites, profile_kernels, profile_times, read_profile
from gossamer.runtimes.onnxruntime.target import CPU

TARGET = resolve_target("onnxruntime")
assert CPU.quantizers is not None
INT8 = CPU.quantizers.int8_kernels


class Net:
    """A few ONNX nodes, each named after its output, as the writer of gossamer names them."""

    def __init__(self, *shape: int | str) -> None:
        self.shape = shape
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.last = "x"
        self.rng = np.random.default_rng(0)

    def op(self, kind: str, name: str, inputs: Sequence[str], **attributes: Any) -> Net:
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        self.last = name
        return self

    def pair(self, name: str, dtype: type = np.uint8, zero_point: int = 0) -> Net:
        """Quantize and dequantize."""
        self.constants |= {f"{name}.s": np.float32(0.02), f"{name}.z": dtype(zero_point)}
        grid = [f"{name}.s", f"{name}.z"]
        self.op("QuantizeLinear", f"{name}.q", [self.last, *grid])
        return self.op("DequantizeLinear", name, [f"{name}.q", *grid])

    def weighted(self, kind: str, name: str, *shape: int, quantized: bool = True, axis: int = 0, **attributes) -> Net:
        """A weighted node with a bias."""
        source, out = self.last, shape[axis]
        if quantized:
            codes = self.rng.integers(-127, 128, shape).astype(np.int8)
            scale = np.full(out, 0.01, np.float32)
            self.stored(f"{name}.w", codes, scale, axis)
            self.stored(f"{name}.b", np.arange(out, dtype=np.int32), scale * np.float32(0.02), 0)
        else:
            self.constants[f"{name}.w"] = self.rng.standard_normal(shape).astype(np.float32)
            self.constants[f"{name}.b"] = np.ones(out, np.float32)
        if kind == "MatMul":
            self.op(kind, name, [source, f"{name}.w"])
            return self.op("Add", f"{name}/1", [name, f"{name}.b"])
        return self.op(kind, name, [source, f"{name}.w", f"{name}.b"], **attributes)

    def stored(self, name: str, codes: np.ndarray, scale: np.ndarray, axis: int) -> None:
        self.constants |= {f"{name}.c": codes, f"{name}.s": scale, f"{name}.z": np.zeros(len(scale), codes.dtype)}
        self.op("DequantizeLinear", name, [f"{name}.c", f"{name}.s", f"{name}.z"], axis=axis)

    def run(self, folder: Path) -> dict[str, str]:
        """Executed kernels by node name."""
        self.op("Identity", "y", [self.last])
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes,
            "g",
            [value("x", TensorProto.FLOAT, self.shape)],
            [value("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(np.asarray(array), name) for name, array in self.constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
        onnx.save(model, folder / "model.onnx")
        specs = Signature((TensorSpec("x", "float32", self.shape),), (TensorSpec("y", "float32", ("any",)),))
        x = self.rng.standard_normal([2 if isinstance(dim, str) else dim for dim in self.shape]).astype(np.float32)
        return profile_kernels(folder / "model.onnx", specs, TARGET, {"x": x})

    def sites(self, folder: Path, *sites: str) -> list[SiteKernel]:
        kernels = self.run(folder)
        name_map = {node.name: (node.name,) for node in self.nodes}
        return list(int8_sites(kernels, name_map, sites, INT8).values())


def conv(net: Net, name: str, **options: Any) -> Net:
    return net.weighted("Conv", name, 16, 16, 3, 3, pads=[1] * 4, **options)


def image() -> Net:
    return Net(1, 16, 8, 8)


# Every rewrite that the module's docstring lists, and what must be made of it.
QUANTIZED = {
    "convolution": (lambda: conv(image().pair("q0"), "site").pair("q1"), "QLinearConv"),
    "with a rectifier": (lambda: conv(image().pair("q0"), "site").op("Relu", "r", ["site"]).pair("q1"), "QLinearConv"),
    "signed activations": (lambda: conv(image().pair("q0", np.int8), "site").pair("q1", np.int8), "QLinearConv"),
    "depthwise": (
        lambda: image().pair("q0").weighted("Conv", "site", 16, 1, 3, 3, pads=[1] * 4, group=16).pair("q1"),
        "QLinearConv",
    ),
    "linear": (lambda: Net(2, 32).pair("q0").weighted("Gemm", "site", 16, 32, transB=1), "QGemm"),
    "linear with a pair behind": (
        lambda: Net(2, 32).pair("q0").weighted("Gemm", "site", 16, 32, transB=1).pair("q1"),
        "QGemm",
    ),
    "matrix product": (
        lambda: Net("batch", 4, 32).pair("q0").weighted("MatMul", "site", 32, 16, axis=1),
        "MatMulIntegerToFloat",
    ),
    "matrix product of fixed size": (
        lambda: Net(1, 4, 32).pair("q0").weighted("MatMul", "site", 32, 16, axis=1),
        "QGemm",
    ),
    "linear with a rectifier": (
        lambda: Net(2, 32).pair("q0").weighted("Gemm", "site", 16, 32, transB=1).op("Relu", "r", ["site"]).pair("q1"),
        "QGemm",
    ),
}

FLOAT = {
    "no pair behind": (lambda: conv(image().pair("q0"), "site"), "Conv"),
    "no pair behind the rectifier": (
        lambda: conv(image().pair("q0"), "site").op("Relu", "r", ["site"]),
        "FusedConv",
    ),
    "linear with a rectifier, its zero point not 0": (
        lambda: (
            Net(2, 32)
            .pair("q0")
            .weighted("Gemm", "site", 16, 32, transB=1)
            .op("Relu", "r", ["site"])
            .pair("q1", zero_point=9)
        ),
        "FusedGemm",
    ),
    "renamed after the output": (lambda: conv(image(), "site", quantized=False).op("Relu", "r", ["site"]), "Conv"),
    "renamed after the rectifier": (
        lambda: conv(image(), "site", quantized=False).op("Relu", "r", ["site"]).op("Neg", "n", ["r"]),
        "Conv",
    ),
    "one-dimensional": (
        lambda: Net(1, 16, 9).weighted("Conv", "site", 16, 16, 3, quantized=False).op("Relu", "r", ["site"]),
        "FusedConv",
    ),
    "product and sum": (lambda: Net(2, 32).weighted("MatMul", "site", 32, 16, axis=1, quantized=False), "Gemm"),
    "product, sum and rectifier": (
        lambda: Net(2, 32).weighted("MatMul", "site", 32, 16, axis=1, quantized=False).op("Relu", "r", ["site/1"]),
        "FusedGemm",
    ),
    "weights alone": (lambda: Net(2, 32).weighted("Gemm", "site", 16, 32, transB=1), "Gemm"),
}


@pytest.mark.parametrize("name", QUANTIZED)
def test_integer_kernels_are_found(tmp_path, name):
    build, kernel = QUANTIZED[name]
    assert build().sites(tmp_path, "site") == [SiteKernel("int8", kernel)]


@pytest.mark.parametrize("name", FLOAT)
def test_float_kernels_are_found(tmp_path, name):
    build, kernel = FLOAT[name]
    assert build().sites(tmp_path, "site") == [SiteKernel("float", kernel)]


def test_a_net_of_both(tmp_path):
    net = conv(conv(image().pair("q0"), "one").pair("q1"), "two", quantized=False).op("Relu", "r", ["two"])
    net = conv(net.op("Neg", "n", ["r"]), "three", quantized=False).op("Relu", "r3", ["three"]).op("Abs", "a", ["r3"])
    outcomes = [(site.outcome, site.kernel) for site in net.sites(tmp_path, "one", "two", "three")]
    assert outcomes == [("int8", "QLinearConv"), ("float", "Conv"), ("float", "Conv")]


def test_profiling_leaves_no_file_behind(tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path / "here")
    net = Net(2, 32).weighted("Gemm", "site", 16, 32, quantized=False, transB=1)
    assert net.run(tmp_path) == {"site": "Gemm"}
    specs = Signature((TensorSpec("x", "float32", (2, 32)),), (TensorSpec("y", "float32", (2, 16)),))
    with pytest.raises(Exception, match="Got invalid dimensions"):
        profile_kernels(tmp_path / "model.onnx", specs, TARGET, {"x": np.ones((2, 3), np.float32)})
    assert [path.name for path in sorted(tmp_path.rglob("*"))] == ["here", "model.onnx", "temporary"]


@pytest.mark.parametrize("quantized", [True, False])
def test_every_convolution_has_a_time_also_where_it_lost_its_name(tmp_path: Path, quantized: bool):
    net = conv(conv(image(), "a", quantized=quantized), "b", quantized=quantized)
    net.run(tmp_path)
    specs = Signature((TensorSpec("x", "float32", net.shape),), (TensorSpec("y", "float32", ("any",)),))
    name_map = {node.name: (node.name,) for node in net.nodes}
    x = {"x": np.ones(net.shape, np.float32)}
    times = profile_times(tmp_path / "model.onnx", specs, TARGET, x, name_map, ["a", "b"], calls=3)
    assert times.keys() == {"a", "b"}
    assert all(microseconds >= 0 for microseconds in times.values())


# Rules that need no model


def test_names_that_look_like_rewrites_are_kept():
    kernels = {"a_token_1": "QGemm", "fused b": "FusedGemm", "a": "Gemm"}
    name_map = {"a": ("a",), "t": ("a_token_1",), "b": ("fused b",)}
    outcomes = {name: site.outcome for name, site in int8_sites(kernels, name_map, ["a", "t", "b"], INT8).items()}
    assert outcomes == {"a": "float", "t": "int8", "b": "float"}


def test_a_site_of_several_nodes_is_judged_by_its_weighted_one():
    kernels = {"c": "Pad", "c/1": "DequantizeLinear", "c/3_token_2": "QLinearConv", "fc/flat": "Reshape"}
    name_map = {"c": ("c", "c/1", "c/2", "c/3"), "fc": ("fc/flat", "fc")}
    found = int8_sites(kernels, name_map, ["c", "fc"], INT8)
    assert found == {"c": SiteKernel("int8", "QLinearConv"), "fc": SiteKernel("not found")}


@pytest.mark.parametrize(
    ("kernels", "outcome"),
    [
        ({"tail_nchwc": "Conv"}, "not found"),  # one kernel for two sites
        ({"tail_nchwc": "Conv", "odd": "FusedConv"}, "float"),
        ({"tail_nchwc": "Conv", "odd": "QLinearConv"}, "not found"),  # which of the two was int8?
        ({"tail_nchwc": "Conv", "scores": "MatMul"}, "not found"),  # a product without weights is nobody's
        ({"tail_nchwc": "Conv", "odd": "Transpose"}, "not found"),
    ],
)
def test_elimination_claims_no_more_than_follows(kernels, outcome):
    name_map = {"a": ("a",), "b": ("b",), "scores": ("scores",), "tail": ("tail",)}
    found = int8_sites(kernels, name_map, ["a", "b"], INT8)
    assert {site.outcome for site in found.values()} == {outcome}


def test_an_unknown_site():
    with pytest.raises(UnknownName, match="site 'b'"):
        int8_sites({"a": "Gemm"}, {"a": ("a",)}, ["b"], INT8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "a profile of ONNX Runtime"),
        ("[1]", "a profile of ONNX Runtime"),
        ('[{"cat": "Node", "name": "a_kernel_time"}]', "a profile of ONNX Runtime"),
        ("[]", "no executed nodes"),
        ('[{"cat": "Session", "name": "a_kernel_time"}]', "no executed nodes"),
    ],
)
def test_a_file_that_is_no_profile(tmp_path, content, message):
    (tmp_path / "profile.json").write_text(content)
    with pytest.raises(ArtifactError, match=message):
        read_profile(tmp_path / "profile.json")
    with pytest.raises(ArtifactError, match=r"none\.json"):
        read_profile(tmp_path / "none.json")
