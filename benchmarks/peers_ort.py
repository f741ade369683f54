"""A peer beside every figure: ONNX Runtime's own quantizer, with each of its recommended settings.

``export_fp32`` writes the torch model with ``torch.onnx.export(dynamo=True)``; ``quantize_all`` pre-processes that file
and quantizes it with every setting on the calibration samples it is given. Nothing is chosen here: the caller measures
all variants and keeps the strongest.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import sessions  # noqa: F401 - before onnxruntime: it keeps telemetry off
import torch
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from gossamer.core.errors import DataError

CALIBRATION_BATCH = 32
LINEAR_OPS = ("Conv", "MatMul", "Gemm")


@dataclass(frozen=True)
class Setting:
    """One way to call ONNX Runtime's quantizer.

    Attributes:
        activation: dtype of activations; weights are int8 in every setting.
        calibration: how static ranges are found; ``none`` is dynamic quantization (ranges at run time, no calibration).
        per_channel: one weight scale per output channel.
        ops: the op types to quantize; empty is the quantizer's own list. With a list, products of two activations
            (inside attention) are left in float.
        outputs: also quantize what these ops put out (the quantizer's default); else only what they take in.
    """

    activation: Literal["u8", "s8"]
    calibration: Literal["minmax", "entropy", "percentile", "none"]
    per_channel: bool = True
    ops: tuple[str, ...] = ()
    outputs: bool = True

    @property
    def name(self) -> str:
        """For example ``u8s8-channel-entropy``."""
        granularity = "channel" if self.per_channel else "tensor"
        calibration = "dynamic" if self.calibration == "none" else self.calibration
        scope = ("-linear" if self.ops else "") + ("" if self.outputs else "-inputs")
        return f"{self.activation}s8-{granularity}-{calibration}{scope}"


STATIC = (
    Setting("u8", "minmax"),
    Setting("u8", "minmax", per_channel=False),
    Setting("u8", "entropy"),
    Setting("u8", "percentile"),
    Setting("s8", "minmax"),
    Setting("s8", "entropy"),
    Setting("s8", "percentile"),
)
TRANSFORMER = (
    *STATIC,
    Setting("u8", "minmax", ops=LINEAR_OPS),
    Setting("u8", "entropy", ops=LINEAR_OPS),
    Setting("u8", "percentile", ops=LINEAR_OPS),
    Setting("u8", "minmax", ops=LINEAR_OPS, outputs=False),
    Setting("u8", "percentile", ops=LINEAR_OPS, outputs=False),
    Setting("u8", "none"),  # what ONNX Runtime's documentation recommends for transformers
    Setting("u8", "none", per_channel=False),
)


@dataclass(frozen=True)
class Variant:
    """One quantized file, or why there is none.

    Attributes:
        setting: how it was made, with its ``name``.
        path: the model file; None where the quantizer failed.
        failure: the quantizer's error, else empty.
    """

    setting: Any
    path: Path | None
    failure: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value."""
        return {"name": self.setting.name, **asdict(self.setting), "failure": self.failure}


def export_fp32(
    network: torch.nn.Module, inputs: Mapping[str, np.ndarray], path: Path, outputs: Sequence[str] = ("scores",)
) -> Path:
    """Write the network as a plain ONNX file with a dynamic batch, by PyTorch's own exporter.

    Args:
        network: in evaluation mode.
        inputs: two or more samples by name, in the order of ``forward``.
        path: the file to write.
        outputs: names for what ``forward`` returns.
    """
    example = tuple(torch.from_numpy(np.ascontiguousarray(array[:2])) for array in inputs.values())
    batch = torch.export.Dim("batch")
    with quiet():
        program = torch.onnx.export(
            network,
            example,
            dynamo=True,
            verbose=False,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=tuple({0: batch} for _ in example),
        )
    assert program is not None
    model = program.model_proto
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    _strip_metadata(model)
    onnx.save(model, path)
    return path


def quantize_all(
    fp32: Path, calibration: Mapping[str, np.ndarray], folder: Path, settings: Sequence[Setting] = STATIC
) -> list[Variant]:
    """Quantize an fp32 ONNX file with every setting; a failure is a variant with its reason, not an error.

    Args:
        fp32: file from ``export_fp32``.
        calibration: inputs by name, the same samples that gossamer gets; what does not fill a batch of 32 is left out.
        folder: where the files go.
        settings: ``STATIC`` for convolution networks, ``TRANSFORMER`` for transformers.
    """
    if min(len(array) for array in calibration.values()) < CALIBRATION_BATCH:
        raise DataError("calibrating ONNX Runtime's quantizer", expected=f"at least {CALIBRATION_BATCH} samples")
    prepared = _preprocess(fp32, folder / "preprocessed.onnx")
    variants: list[Variant] = []
    for setting in settings:
        path = folder / f"{setting.name}.onnx"
        try:
            with quiet():
                _quantize(prepared, calibration, setting, path)
        except Exception as error:  # noqa: BLE001 - the quantizer, ONNX and ONNX Runtime raise types of their own
            variants.append(Variant(setting, None, f"{type(error).__name__}: {error}"))
        else:
            variants.append(Variant(setting, path))
    return variants


def _preprocess(fp32: Path, path: Path) -> Path:
    """ONNX Runtime's recommended pre-processing; without its symbolic shape inference where that fails."""
    with quiet():
        try:
            quant_pre_process(fp32, path)
        except Exception:  # noqa: BLE001 - it raises a bare Exception("Incomplete symbolic shape inference")
            quant_pre_process(fp32, path, skip_symbolic_shape=True)
    model = onnx.load(path)
    constant = {tensor.name for tensor in model.graph.initializer}
    shapes = [value for value in model.graph.value_info if value.name not in constant]
    del model.graph.value_info[:]  # those of weights contradict what the quantizer makes of a Gemm, which then fails
    model.graph.value_info.extend(shapes)
    onnx.save(model, path)
    return path


def _quantize(prepared: Path, calibration: Mapping[str, np.ndarray], setting: Setting, path: Path) -> None:
    """One call of the quantizer. Ranges are cached beside ``path``, so settings that share them calibrate once."""
    only = list(setting.ops) or None
    options: dict[str, Any] = {}
    if not setting.outputs:
        options["OpTypesToExcludeOutputQuantization"] = list(setting.ops)
    if setting.calibration == "none":
        quantize_dynamic(prepared, path, only, per_channel=setting.per_channel, weight_type=QuantType.QInt8)
        return
    method = {
        "minmax": CalibrationMethod.MinMax,
        "entropy": CalibrationMethod.Entropy,
        "percentile": CalibrationMethod.Percentile,
    }[setting.calibration]
    cache = path.with_name(f"ranges-{setting.calibration}{'-linear' if setting.ops else ''}.json")
    quantize_static(
        prepared,
        path,
        _Reader(calibration),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=only,
        per_channel=setting.per_channel,
        activation_type=QuantType.QUInt8 if setting.activation == "u8" else QuantType.QInt8,
        weight_type=QuantType.QInt8,
        # the documented option MatMulConstBOnly is not read where QDQ pairs are placed (ONNX Runtime 1.31.1)
        nodes_to_exclude=_activation_products(prepared) if setting.ops else None,
        calibrate_method=method,
        # the stride only bounds memory: histograms and ranges are merged over all strides
        extra_options={**options, "CalibStridedMinMax": 1},
        calibration_cache_path=cache,
    )


def _activation_products(path: Path) -> list[str]:
    """Names of the MatMul nodes without a constant factor."""
    graph = onnx.load(path).graph
    constant = {tensor.name for tensor in graph.initializer}
    return [node.name for node in graph.node if node.op_type == "MatMul" and not constant.intersection(node.input)]


class _Reader:
    """Hands calibration samples to the quantizer in equal batches, a range of batches at a time."""

    def __init__(self, inputs: Mapping[str, np.ndarray]) -> None:
        self.inputs = inputs
        self.batches = iter(range(len(self)))

    def __len__(self) -> int:
        return min(len(array) for array in self.inputs.values()) // CALIBRATION_BATCH

    def set_range(self, start_index: int, end_index: int) -> None:
        """Continue with the batches from ``start_index`` up to ``end_index``."""
        self.batches = iter(range(start_index, end_index))

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch, or None at the end of the range."""
        batch = next(self.batches, None)
        if batch is None:
            return None
        part = slice(batch * CALIBRATION_BATCH, (batch + 1) * CALIBRATION_BATCH)
        return {name: array[part] for name, array in self.inputs.items()}


def _strip_metadata(model: onnx.ModelProto) -> None:
    """Remove the exporter's notes (source paths, stack traces): they would count as size."""
    graph = model.graph
    del model.metadata_props[:]
    del graph.metadata_props[:]
    for item in (*graph.node, *graph.input, *graph.output, *graph.initializer, *graph.value_info):
        del item.metadata_props[:]
        item.ClearField("doc_string")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide the progress lines, log lines and warnings of the exporter and the quantizer."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
