"""Load time, first inference and peak memory of a model file, measured in a process that does nothing else.

    python -m gossamer.runtimes.probe model.onnx signature.json onnxruntime:cpu,threads=1,batch=1 [inputs.npz]

prints one line of JSON: ``load_ms``, ``first_ms``, ``peak_rss_bytes`` and ``base_rss_bytes``, both the high-water mark
of resident memory, the base being that after all imports and before loading. ``gossamer.metrics.process`` reads it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from gossamer.core.errors import ArtifactError, DataError, GossamerError
from gossamer.core.specs import NUMPY_DTYPES, Signature
from gossamer.core.target import Target
from gossamer.runtimes import import_runtime, resolve_target


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m gossamer.runtimes.probe", description="Measure a model file in a fresh process."
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("signature", type=Path, help="JSON as Signature.to_json writes it")
    parser.add_argument("target", help="onnxruntime:cpu,threads=1,batch=1")
    parser.add_argument("inputs", type=Path, nargs="?", help=".npz with one array per input; zeros without it")
    given = parser.parse_args(arguments)
    try:
        figures = measure(given.file, given.signature, given.target, given.inputs)
    except GossamerError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{json.dumps(figures)}\n")
    return 0


def measure(file: Path, signature_file: Path, target_text: str, input_file: Path | None = None) -> dict[str, float]:
    """The four figures of this process; only the first call in a process means anything.

    Raises:
        ArtifactError: the model file or the signature cannot be read.
        DataError: the inputs cannot be read or do not fit.
    """
    target = resolve_target(target_text)
    signature = _read_signature(signature_file)
    inputs = signature.check(_read_inputs(input_file) if input_file else zero_inputs(signature, target))
    open_file = import_runtime(target)
    base = peak_rss_bytes()
    start = time.perf_counter()
    executable = open_file(file, signature, target)
    loaded = time.perf_counter()
    executable.run(inputs)
    done = time.perf_counter()
    peak = peak_rss_bytes()
    executable.close()
    return {
        "load_ms": (loaded - start) * 1e3,
        "first_ms": (done - loaded) * 1e3,
        "peak_rss_bytes": peak,
        "base_rss_bytes": base,
    }


def zero_inputs(signature: Signature, target: Target) -> dict[str, np.ndarray]:
    """Zeros of the smallest sizes allowed; named dims on axis 0 take the target's batch where it is in their range."""
    leading = {spec.shape[0] for spec in signature.inputs if spec.shape}

    def size(dim: int | str) -> int:
        if isinstance(dim, int):
            return dim
        if dim not in signature.dims and not dim.isidentifier():
            raise DataError("making inputs", got=f"dim {dim!r}", expected="sizes or names", try_="give an .npz")
        low, high = signature.dims.get(dim, (1, None))
        wanted = target.batch if dim in leading else 1
        return max(low, wanted if high is None else min(wanted, high))

    return {
        spec.name: np.zeros([size(dim) for dim in spec.shape], NUMPY_DTYPES[spec.dtype]) for spec in signature.inputs
    }


def peak_rss_bytes() -> int:
    """High-water mark of this process's resident memory."""
    # Linux hands getrusage's mark on through exec: a child of a process that once held 1 GB starts with 1 GB.
    # VmHWM belongs to the address space, and so starts anew.
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(encoding="ascii", errors="replace"), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _read_signature(path: Path) -> Signature:
    try:
        return Signature.from_json(json.loads(path.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        got = f"{type(error).__name__}: {error}"
        raise ArtifactError(f"reading the signature {path}", got=got, expected="JSON of a signature") from error


def _read_inputs(path: Path) -> Mapping[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            return dict(stored)
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"reading the inputs {path}", got=str(error), expected="an .npz of numbers") from error


if __name__ == "__main__":
    sys.exit(main())
