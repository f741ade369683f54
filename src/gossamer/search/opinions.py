"""What else is known about a place that a diagnosis names: its tensors, its precision, and who is to blame."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import onnx
import torch

from gossamer.core.errors import GossamerError
from gossamer.program.interpreter import Interpreter
from gossamer.program.program import Program
from gossamer.program.segment import Segment, cut, pieces_of
from gossamer.search.probe import Builder, PieceProbe, Raised
from gossamer.verification.attribution import noise
from gossamer.verification.bisect import Finding

NEARER = 0.1
"""An explanation must leave at most this share of the noise."""

_REDUCED = {"bfloat16": torch.bfloat16, "float16": torch.float16}

Arrays = Mapping[str, np.ndarray]


def notes_on(probe: PieceProbe, finding: Finding) -> Iterator[str]:
    """Lines about a finding: what does not repeat, stored tensors that differ, reduced precision, file or runtime.

    Cost: one compilation of the piece.
    """
    if finding.node in probe.unsteady:
        yield "another value when run again: dropout, noise or an uninitialised read"
    if probe.left <= 0 or finding.case not in probe.values:
        return
    (piece,) = pieces_of(probe.program, [finding.group])
    try:
        got = probe.run([piece])[finding.case]
    except (GossamerError, Raised):
        return
    segment = cut(probe.program, [piece])
    inputs = segment.inputs_from(probe.values[finding.case])
    wanted = {name: probe.values[finding.case][name] for name in piece.outputs}
    if isinstance(probe.build, Builder) and probe.source is probe.program:
        model = probe.build.lower(segment.program).model
        yield from _other_tensors(model, segment)
        yield from _file_or_runtime(model, inputs, wanted, got)
    yield from _precision(segment, inputs, wanted, got)


def _other_tensors(model: bytes, segment: Segment) -> Iterator[str]:
    """Stored tensors that the file holds under their own name with other values."""
    stored = {entry.name: entry for entry in onnx.load_from_string(model).graph.initializer}
    for name, tensor in segment.program.tensors.items():
        if name in stored and tensor.dtype != torch.bfloat16:
            held = onnx.numpy_helper.to_array(stored[name])
            if held.shape == tuple(tensor.shape) and not np.array_equal(held, tensor.numpy(), equal_nan=True):
                yield f"the file holds other values of {name}"


def _precision(segment: Segment, inputs: Arrays, wanted: Arrays, got: Arrays) -> Iterator[str]:
    """Whether the piece on short operands is what the candidate computed; biases and results may be short, too."""
    for name, dtype in _REDUCED.items():
        short_inputs = {key: _round(values, dtype) for key, values in inputs.items()}
        full = [Interpreter(_shortened(segment.program, dtype, rank)).run(short_inputs) for rank in (1, 2)]
        short = [{key: _round(values, dtype) for key, values in outputs.items()} for outputs in full]
        if min(noise(outputs, got) for outputs in (*full, *short)) <= NEARER * noise(wanted, got):
            yield f"as if computed in {name}: the precision of the runtime is not pinned"
            return


def _shortened(program: Program, dtype: torch.dtype, rank: int) -> Program:
    """The program with its stored floats of at least this rank rounded to another type."""
    tensors = {
        name: tensor.to(dtype).to(tensor.dtype) if tensor.is_floating_point() and tensor.dim() >= rank else tensor
        for name, tensor in program.tensors.items()
    }
    return replace(program, tensors=tensors)


def _round(values: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    if values.dtype.kind != "f":
        return values
    return torch.from_numpy(np.ascontiguousarray(values)).to(dtype).float().numpy().astype(values.dtype)


def _file_or_runtime(model: bytes, inputs: Arrays, wanted: Arrays, got: Arrays) -> Iterator[str]:
    """A third opinion: what the evaluator that defines ONNX makes of the same file."""
    from onnx.reference import ReferenceEvaluator

    names = list(wanted)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            results = ReferenceEvaluator(model).run(names, dict(inputs))
    except Exception:  # noqa: BLE001 - it lacks operations and raises what it likes: then there is no third opinion
        return
    third = {name: np.asarray(values) for name, values in zip(names, results, strict=True)}
    apart = noise(wanted, got)
    if noise(got, third) <= NEARER * apart:
        yield "the file is wrong: ONNX's own evaluator agrees with the runtime"
    elif noise(wanted, third) <= NEARER * apart:
        yield "the file is right, the runtime is wrong: ONNX's own evaluator agrees with the reference"
