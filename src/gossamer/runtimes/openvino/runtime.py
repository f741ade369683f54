"""OpenVINO models, compiled at load. Torch-free: the base install and the extra run artifacts with this."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from gossamer.core.errors import ArtifactError, DataError, InternalError
from gossamer.core.specs import Dim, Signature
from gossamer.core.target import Target


def _import_without_telemetry() -> ModuleType:
    """OpenVINO, which otherwise writes an identity to the home folder and reports each import (2026.4).

    It does without where the package for that is missing; somebody else's import of that package is left alone.
    """
    name = "openvino_telemetry"
    known = sys.modules.get(name)
    sys.modules[name] = None  # pyright: ignore[reportArgumentType] - Python's own mark for a module that is not there
    try:
        import openvino
    finally:
        del sys.modules[name]
        if known is not None:
            sys.modules[name] = known
    return openvino


ov = _import_without_telemetry()

_PRECISION = {"float32": "f32", "bfloat16": "bf16"}
"""OpenVINO's names of what floats are computed in."""


class OpenVinoExecutable:
    """A loaded model file.

    Everything that changes numbers or speed is pinned, since OpenVINO's defaults follow the machine: on a CPU with
    bfloat16 it would compute in that, unasked.

    Args:
        path: the ``.onnx`` file.
        specs: its signature.
        target: threads and the precision of floats are taken from here.
        dims: sizes to fix at load; a model with a fixed batch takes this batch only, and is faster.
        profile: count the time of every operation, for ``executed_operations``.

    Raises:
        ArtifactError: the file is missing or the runtime does not accept it.
    """

    def __init__(
        self,
        path: Path,
        specs: Signature,
        target: Target,
        *,
        dims: Mapping[str, int] | None = None,
        profile: bool = False,
    ) -> None:
        self.path = path
        self.target = target
        self._specs = specs
        self._dims = dict(dims or {})
        try:
            core = ov.Core()
            model = core.read_model(str(path))
            inputs = _by_name(model.inputs)
            model.reshape(
                {
                    inputs[spec.name]: ov.PartialShape([self._size(dim) for dim in spec.shape])
                    for spec in specs.inputs
                    if spec.name in inputs
                }
            )
            self._compiled: Any = core.compile_model(model, "CPU", _settings(target, profile=profile))
            self._request: Any = self._compiled.create_infer_request()
        except Exception as error:  # the runtime raises RuntimeError for everything
            raise ArtifactError(f"loading {path.name} in OpenVINO {_version()}", got=_reason(error)) from error
        self._inputs = _by_name(self._compiled.inputs)

    def _size(self, dim: Dim) -> Any:
        if isinstance(dim, int):
            return dim
        if dim in self._dims:
            return self._dims[dim]
        low, high = self._specs.dims.get(dim, (0, None))
        return ov.Dimension(low, -1 if high is None else high)

    @property
    def specs(self) -> Signature:
        """Inputs, outputs and named dims."""
        return self._specs

    @property
    def fingerprint(self) -> str:
        """Runtime version, threads, precision, fixed sizes."""
        fixed = ",".join(f"{name}={size}" for name, size in sorted(self._dims.items())) or "dynamic"
        target = self.target
        return f"openvino {_version()} {target.device} threads={target.threads} {target.precision} {fixed}"

    def run(self, inputs: Mapping[str, np.ndarray], taps: Sequence[str] = ()) -> dict[str, np.ndarray]:
        """Outputs by name. Inner values cannot be tapped in a deployed file.

        Raises:
            DataError: the runtime cannot run the model on these inputs.
        """
        if taps:
            raise InternalError("running a deployed file", got=f"taps {list(taps)}", expected="no taps")
        request = self._open()
        known = {spec.name for spec in self._specs.inputs}
        if not known.issuperset(inputs):
            raise DataError(f"running {self.path.name}", got=f"inputs {sorted(inputs)}", expected=f"{sorted(known)}")
        checked = self._specs.check(inputs)  # OpenVINO computes on whatever memory an input that is missing has
        try:
            given = {
                self._inputs[name]: np.asarray(array, order="C")
                for name, array in checked.items()
                if name in self._inputs
            }
            values = request.infer(given, share_inputs=True)
        except Exception as error:  # the runtime raises RuntimeError for everything
            raise DataError(
                f"running {self.path.name} in OpenVINO {_version()}",
                got=_reason(error),
                expected="inputs like those that the model was made for",
                try_="values in the ranges of the data: indices within their tables, sizes the model can take",
            ) from error
        return {spec.name: values[spec.name] for spec in self._specs.outputs}

    def executed_model(self) -> Any:
        """The graph as it runs: operations after all fusions, with precision, kernel and the nodes they came from."""
        self._open()
        return self._compiled.get_runtime_model()

    def microseconds(self) -> dict[str, float]:
        """Time of every operation in the last call, by its name in ``executed_model``; needs ``profile``."""
        return {entry.node_name: entry.real_time.total_seconds() * 1e6 for entry in self._open().get_profiling_info()}

    def close(self) -> None:
        """Free the compiled model."""
        self._request = self._compiled = None

    def _open(self) -> Any:
        if self._request is None:
            raise InternalError("running a model", got="a closed model", expected="an open one")
        return self._request


def _by_name(ports: Sequence[Any]) -> dict[str, Any]:
    """Ports by every name they have: an input that is only converted is also called like what it becomes."""
    return {name: port for port in ports for name in port.get_names()}


def _settings(target: Target, *, profile: bool) -> dict[str, Any]:
    return {
        "INFERENCE_PRECISION_HINT": _PRECISION[target.precision],
        "INFERENCE_NUM_THREADS": target.threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # whoever measures pins the process
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        "PERF_COUNT": profile,
    }


def _version() -> str:
    return ov.get_version().partition("-")[0]


def _reason(error: Exception) -> str:
    """The line of OpenVINO's message that says something; the first ones name its own source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return (telling or lines or [type(error).__name__])[0]
