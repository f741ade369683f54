"""Plain sessions on one thread, for every file of the comparison whoever made it: ONNX Runtime's and OpenVINO's.

``executed_in_int8`` counts what the layers with weights became after a runtime's own graph optimisations. ``prepare``
is the opener for measured processes; nothing heavy is imported before it is called.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gossamer.core.names import require_known
from gossamer.core.runnable import Executable
from gossamer.core.specs import Signature, TensorSpec

# Both runtimes report home unless told otherwise. ONNX Runtime reads the variable when it is imported; OpenVINO, and
# NNCF too, do without the package for it where that cannot be imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.modules["openvino_telemetry"] = None  # pyright: ignore[reportArgumentType] - the mark for a missing module

RUNTIMES = ("onnxruntime", "openvino")
ORT_INT8_OPS = (
    *("QLinearConv", "ConvInteger", "QLinearMatMul", "QGemm"),
    *("MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"),
)
ORT_FLOAT_OPS = (*("Conv", "MatMul", "Gemm", "FusedConv", "FusedMatMul", "FusedGemm", "TransposeMatMul"),)
OPENVINO_LAYERS = ("Convolution", "FullyConnected")
_SHORT_DTYPE = {"float": "float32", "f32": "float32", "i64": "int64", "i32": "int32", "boolean": "bool"}


def prepare(path: str, runtime: str, batch: int | None, precision: str = "f32") -> Callable[[], Executable]:
    """What opens a file in a runtime; the runtime is imported at once.

    Args:
        path: an ONNX file, or OpenVINO's ``.xml``.
        runtime: one of ``RUNTIMES``.
        batch: fixes the first, named dim of the inputs to this size at load; None leaves it dynamic.
        precision: of what is not quantized: ``f32``, or in OpenVINO ``bf16``.
    """
    require_known(runtime, RUNTIMES, "runtime", f"opening {path}")
    if runtime == "onnxruntime":
        import onnx
        import onnxruntime

        del onnx, onnxruntime
        return lambda: OrtSession(Path(path), batch)
    import openvino

    del openvino
    return lambda: OvSession(Path(path), batch, precision)


class OrtSession:
    """A plain ONNX Runtime session on one thread, as gossamer's ``Executable``: arrays by name in and out.

    Args:
        path: an ONNX file.
        batch: fixes the first, named dim of the inputs to this size; None leaves it dynamic. Which of the two is faster
            differs: with a fixed batch, MatMul and Add become a float Gemm before int8 kernels are chosen, unless the
            product's output is quantized too (ONNX Runtime 1.31.1).
    """

    def __init__(self, path: Path, batch: int | None = None) -> None:
        import onnxruntime as ort

        options = _ort_options(path, batch)
        self._session: ort.InferenceSession | None = ort.InferenceSession(path, options, ["CPUExecutionProvider"])
        self.specs = Signature(_ort_specs(self._session.get_inputs()), _ort_specs(self._session.get_outputs()))
        self.fingerprint = f"onnxruntime {ort.__version__} cpu threads=1"

    def run(self, inputs: Mapping[str, np.ndarray], taps: Sequence[str] = ()) -> dict[str, np.ndarray]:
        """Outputs by name. A network with one input takes it under any name. There are no taps here."""
        if self._session is None:
            raise RuntimeError("this session is closed")
        outputs = self._session.run(None, _named(inputs, self.specs, taps))
        return dict(zip((spec.name for spec in self.specs.outputs), outputs, strict=True))

    def close(self) -> None:
        """Free the session."""
        self._session = None


class OvSession:
    """A compiled OpenVINO model on one thread, as gossamer's ``Executable``: arrays by name in and out.

    Args:
        path: an ONNX or ``.xml`` file.
        batch: fixes the first dim of the inputs to this size; None leaves it dynamic.
        precision: of what is not quantized. OpenVINO would by itself take bf16 where the processor has it.
    """

    def __init__(self, path: Path, batch: int | None = None, precision: str = "f32") -> None:
        import openvino as ov

        self._compiled: Any = _ov_compile(path, batch, precision)
        self._request: Any = self._compiled.create_infer_request()
        self._ports = {port.any_name: port for port in self._compiled.inputs}
        self.specs = Signature(_ov_specs(self._compiled.inputs), _ov_specs(self._compiled.outputs))
        self.fingerprint = f"openvino {ov.__version__} cpu threads=1 {precision}"

    def run(self, inputs: Mapping[str, np.ndarray], taps: Sequence[str] = ()) -> dict[str, np.ndarray]:
        """Outputs by name, copied. A network with one input takes it under any name. There are no taps here."""
        if self._request is None:
            raise RuntimeError("this session is closed")
        given = {self._ports[name]: array for name, array in _named(inputs, self.specs, taps).items()}
        outputs = self._request.infer(given, share_inputs=True)
        return dict(zip((spec.name for spec in self.specs.outputs), outputs.values(), strict=True))

    def close(self) -> None:
        """Free the compiled model."""
        self._request = self._compiled = None


def executed_in_int8(path: Path, runtime: str, batch: int | None = None) -> dict[str, int]:
    """How many layers with weights a runtime runs in int8 and in float, counted in the graph that it executes.

    Args:
        path: the file.
        runtime: one of ``RUNTIMES``.
        batch: as for the sessions; the executed graph differs.

    Returns:
        ``{"int8": layers, "float": layers}``. A product of two activations (inside attention) is not a layer.
    """
    kinds = _ort_kinds(path, batch) if runtime == "onnxruntime" else _ov_kinds(path, batch)
    return {"int8": kinds.count("int8"), "float": kinds.count("float")}


def bytes_on_disk(path: Path) -> int:
    """Size of a model file, with the weights beside an ``.xml``."""
    weights = path.with_suffix(".bin")
    return path.stat().st_size + (weights.stat().st_size if path.suffix == ".xml" else 0)


def _named(inputs: Mapping[str, np.ndarray], specs: Signature, taps: Sequence[str]) -> dict[str, np.ndarray]:
    if taps:
        raise NotImplementedError("taps on a plain session")
    names = [spec.name for spec in specs.inputs]
    return {names[0]: next(iter(inputs.values()))} if len(names) == len(inputs) == 1 else dict(inputs)


# ONNX Runtime.


def _ort_options(path: Path, batch: int | None) -> Any:
    import onnx
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if batch is not None:
        shapes = [value.type.tensor_type.shape.dim for value in onnx.load(path, load_external_data=False).graph.input]
        for name in {shape[0].dim_param for shape in shapes if shape and shape[0].dim_param}:
            options.add_free_dimension_override_by_name(name, batch)
    return options


def _ort_specs(arguments: Sequence[Any]) -> tuple[TensorSpec, ...]:
    kinds = [argument.type.removeprefix("tensor(").removesuffix(")") for argument in arguments]
    return tuple(
        TensorSpec(argument.name, _SHORT_DTYPE.get(kind, kind), tuple(argument.shape))
        for argument, kind in zip(arguments, kinds, strict=True)
    )


def _ort_kinds(path: Path, batch: int | None) -> list[str]:
    import onnx
    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder) / "optimised.onnx"
        options = _ort_options(path, batch)
        options.optimized_model_filepath = str(optimised)
        options.log_severity_level = 4  # it warns that the file written is for this processor only
        ort.InferenceSession(path, options, ["CPUExecutionProvider"])
        graph = onnx.load(optimised).graph
    constant = {tensor.name for tensor in graph.initializer}
    for node in graph.node:  # a weight may pass through a dequantize, a transpose or a layout change
        if node.input and all(name in constant for name in node.input if name):
            constant.update(node.output)
    return [
        "int8" if node.op_type in ORT_INT8_OPS else "float"
        for node in graph.node
        if node.op_type in (*ORT_INT8_OPS, *ORT_FLOAT_OPS) and _second_factor(node) in constant
    ]


def _second_factor(node: Any) -> str:
    """Name of the second factor of a convolution or matrix product."""
    return node.input[3 if node.op_type in ("QLinearConv", "QLinearMatMul", "QGemm") else 1]


# OpenVINO.


def _ov_compile(path: Path, batch: int | None, precision: str) -> Any:
    import openvino as ov

    core = ov.Core()
    model = core.read_model(path)
    if batch is not None:
        shapes = {port.any_name: port.partial_shape for port in model.inputs}
        model.reshape({name: ov.PartialShape([batch, *list(shape)[1:]]) for name, shape in shapes.items()})
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": precision,
        "ENABLE_CPU_PINNING": False,  # whoever measures pins the process
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # else layers with int8 weights alone are quantized at run time
    }
    return core.compile_model(model, "CPU", settings)


def _ov_specs(ports: Sequence[Any]) -> tuple[TensorSpec, ...]:
    kinds = [port.element_type.get_type_name() for port in ports]
    return tuple(
        TensorSpec(port.any_name, _SHORT_DTYPE.get(kind, kind), tuple(map(_ov_dim, port.partial_shape)))
        for port, kind in zip(ports, kinds, strict=True)
    )


def _ov_dim(dim: Any) -> int | str:
    return dim.get_length() if dim.is_static else "batch"


def _ov_kinds(path: Path, batch: int | None) -> list[str]:
    kinds = []
    for node in _ov_compile(path, batch, "f32").get_runtime_model().get_ordered_ops():
        info = {name: str(value.value) for name, value in node.get_rt_info().items()}
        if info["layerType"] in OPENVINO_LAYERS:
            kinds.append("int8" if info["runtimePrecision"] in ("i8", "u8") else "float")
    return kinds
