"""ONNX Runtime sessions. Torch-free: this is what the base install runs artifacts with."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gossamer.core.errors import ArtifactError, DataError, InternalError
from gossamer.core.specs import Signature
from gossamer.core.target import Target

# Read once, when onnxruntime is first imported; without it the import alone writes a database to the home folder.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort

_SILENT = 4
"""Fatal only: what the runtime logs as an error, it raises as well."""


class OnnxRuntimeExecutable:
    """A loaded model file.

    Args:
        path: the ``.onnx`` file.
        specs: its signature.
        target: threads are taken from here.
        dims: sizes to fix at load; a session with a fixed batch takes this batch only.
        profile_prefix: where to write the runtime's own profile, if anywhere.

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
        profile_prefix: Path | None = None,
    ) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = target.threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = _SILENT
        self._run_options = ort.RunOptions()
        self._run_options.log_severity_level = _SILENT
        for name, size in (dims or {}).items():
            options.add_free_dimension_override_by_name(name, size)
        if profile_prefix is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(profile_prefix)
        self.path = path
        self.target = target
        self._specs = specs
        self._dims = dict(dims or {})
        try:
            self._session: ort.InferenceSession | None = ort.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the runtime raises its own types for everything
            raise ArtifactError(f"loading {path.name} in ONNX Runtime {ort.__version__}", got=str(error)) from error
        self._outputs = [spec.name for spec in specs.outputs]

    @property
    def specs(self) -> Signature:
        """Inputs, outputs and named dims."""
        return self._specs

    @property
    def fingerprint(self) -> str:
        """Runtime version, threads, fixed sizes."""
        fixed = ",".join(f"{name}={size}" for name, size in sorted(self._dims.items())) or "dynamic"
        return f"onnxruntime {ort.__version__} {self.target.device} threads={self.target.threads} {fixed}"

    def run(self, inputs: Mapping[str, np.ndarray], taps: Sequence[str] = ()) -> dict[str, np.ndarray]:
        """Outputs by name. Inner values cannot be tapped in a deployed file.

        Raises:
            DataError: the runtime cannot run the model on these inputs.
        """
        if taps:
            raise InternalError("running a deployed file", got=f"taps {list(taps)}", expected="no taps")
        session = self._open()
        try:
            values = session.run(self._outputs, dict(inputs), self._run_options)
        except Exception as error:  # the runtime raises its own types for everything
            raise DataError(
                f"running {self.path.name} in ONNX Runtime {ort.__version__}",
                got=str(error).partition("\n")[0],
                expected="inputs like those that the model was made for",
                try_="values in the ranges of the data: indices within their tables, sizes the model can take",
            ) from error
        return dict(zip(self._outputs, values, strict=True))

    def end_profile(self) -> Path:
        """Stop profiling and give the path of the JSON file that the runtime wrote."""
        return Path(self._open().end_profiling())

    def close(self) -> None:
        """Free the session."""
        self._session = None

    def _open(self) -> Any:
        if self._session is None:
            raise InternalError("running a model", got="a closed session", expected="an open one")
        return self._session
