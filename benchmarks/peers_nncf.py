"""The other peer: NNCF's post-training quantization, of the OpenVINO model and of the ONNX model.

``quantize_openvino`` makes ``.xml`` files, which only OpenVINO runs; ``quantize_onnx`` makes ONNX files for both
runtimes. Both start from the fp32 ONNX file and calibrate on the samples that everybody gets, one at a time as NNCF
advises. Nothing is chosen here: the caller measures all variants and keeps the strongest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import sessions  # noqa: F401 - before nncf and openvino: it keeps telemetry off
from peers_ort import Variant, quiet


@dataclass(frozen=True)
class NncfSetting:
    """One way to call ``nncf.quantize``, otherwise at its defaults for a CPU.

    Attributes:
        preset: ``performance`` has symmetric activations, ``mixed`` asymmetric ones.
        fast_bias: the fast bias correction (default), else the accurate one.
        transformer: tells NNCF that the model is one: fused attention patterns, SmoothQuant.
        smooth: SmoothQuant, which only acts with ``transformer``.
        seven_bit: NNCF's default for CPUs: the first convolution's weights use half of their range, against overflow
            on processors without VNNI; else switched off.
    """

    preset: Literal["performance", "mixed"]
    fast_bias: bool = True
    transformer: bool = False
    smooth: bool = True
    seven_bit: bool = True

    @property
    def name(self) -> str:
        """For example ``nncf-mixed-transformer``."""
        parts = ["nncf", self.preset]
        parts += ["accurate"] if not self.fast_bias else []
        parts += ["transformer"] if self.transformer else []
        parts += ["unsmoothed"] if not self.smooth else []
        parts += ["fullrange"] if not self.seven_bit else []
        return "-".join(parts)


NNCF_CONVOLUTION = (
    NncfSetting("performance"),
    NncfSetting("performance", fast_bias=False),
    NncfSetting("performance", seven_bit=False),
    NncfSetting("mixed"),
    NncfSetting("mixed", fast_bias=False),
    NncfSetting("mixed", seven_bit=False),
)
NNCF_TRANSFORMER = (
    NncfSetting("mixed", transformer=True),
    NncfSetting("mixed", transformer=True, fast_bias=False),
    NncfSetting("mixed", transformer=True, smooth=False),
    NncfSetting("performance", transformer=True),
    NncfSetting("performance", transformer=True, smooth=False),
)


def quantize_openvino(
    fp32: Path, calibration: Mapping[str, np.ndarray], folder: Path, settings: Sequence[NncfSetting]
) -> list[Variant]:
    """Quantize the OpenVINO conversion of an fp32 ONNX file with every setting, into ``<name>.xml``."""
    import openvino as ov

    def make(setting: NncfSetting, path: Path) -> None:
        model = ov.Core().read_model(fp32)
        ov.save_model(_quantize(model, calibration, setting), path, compress_to_fp16=False)

    return _all(folder, settings, ".xml", make)


def quantize_onnx(
    fp32: Path, calibration: Mapping[str, np.ndarray], folder: Path, settings: Sequence[NncfSetting]
) -> list[Variant]:
    """Quantize an fp32 ONNX file with every setting, into ``<name>.onnx``."""

    def make(setting: NncfSetting, path: Path) -> None:
        onnx.save(_quantize(onnx.load(fp32), calibration, setting), path)

    return _all(folder, settings, ".onnx", make)


def _all(
    folder: Path, settings: Sequence[NncfSetting], suffix: str, make: Callable[[NncfSetting, Path], None]
) -> list[Variant]:
    from nncf.common.logging.logger import disable_logging

    disable_logging()
    variants: list[Variant] = []
    for setting in settings:
        path = folder / (setting.name + suffix)
        try:
            with quiet():
                make(setting, path)
        except Exception as error:  # noqa: BLE001 - NNCF and both of its backends raise types of their own
            variants.append(Variant(setting, None, f"{type(error).__name__}: {error}"))
        else:
            variants.append(Variant(setting, path))
    return variants


def _quantize(model: Any, calibration: Mapping[str, np.ndarray], setting: NncfSetting) -> Any:
    import nncf

    count = len(next(iter(calibration.values())))
    samples = [{name: array[i : i + 1] for name, array in calibration.items()} for i in range(count)]
    advanced = nncf.AdvancedQuantizationParameters()
    if not setting.smooth:
        advanced.smooth_quant_alphas = nncf.AdvancedSmoothQuantParameters(matmul=-1)
    if not setting.seven_bit:
        advanced.overflow_fix = nncf.OverflowFix.DISABLE
    return nncf.quantize(
        model,
        nncf.Dataset(samples),
        preset=nncf.QuantizationPreset(setting.preset),
        target_device=nncf.TargetDevice.CPU,
        subset_size=count,
        fast_bias_correction=setting.fast_bias,
        model_type=nncf.ModelType.TRANSFORMER if setting.transformer else None,
        advanced_parameters=advanced,
    )
