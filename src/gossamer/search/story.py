"""What a report tells beyond the verdict: all members' figures side by side, the layers, the samples that were lost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import fx

from gossamer.core.measurement import Measurement
from gossamer.datasets.samples import Samples
from gossamer.lowering.quantization import code_dtype
from gossamer.metrics.comparison import Comparison
from gossamer.program import dialect
from gossamer.program.fold import fold_batch_norms
from gossamer.program.interpreter import Interpreter
from gossamer.program.program import Program
from gossamer.program.values import TORCH_DTYPES, tensor_value
from gossamer.search.front import Front, Member
from gossamer.search.task import Task, open_candidate, predict
from gossamer.search.thumbnails import thumbnails
from gossamer.techniques.quantize.placement import is_constant, weighted_sites

LAYER_SAMPLES = 64
"""So many choosing samples tell how far each layer moved."""

LOST_SAMPLES = 12
"""So many lost samples are kept as pictures."""

_BATCH = 4
"""All layers of so many samples are held at once."""


def tell(task: Task, front: Front) -> None:
    """Add to each member's evidence the ``story`` of the search, and to the best one's its ``layers``.

    Pictures of lost samples wait under ``lost_samples`` of the best member: only ``save(with_samples=True)`` and
    ``report(with_samples=True)`` write them. Cost: two passes of the interpreter over at most 64 samples; left out when
    the time limit has passed.
    """
    best = front.best
    if best.status != "baseline" and not task.deadline.passed:
        task.progress.stage(f"{best.name}: layers")
        best.evidence["layers"] = layer_rows(task, best)
        best.evidence["lost_samples"] = lost_samples(task, front.baseline, best)
    story = {
        "model": task.program.name,
        "metric": {"name": task.metric.name, "unit": task.metric.unit, "better": task.metric.better},
        "best": best.name,
        "members": [_brief(member) for member in _baseline_first(front)],
    }
    for member in (*front.members, *front.tried):
        member.evidence["story"] = story


def layer_rows(task: Task, member: Member) -> list[dict[str, Any]]:
    """One row for each weighted layer, in the order of the network.

    ``bytes_before`` and ``bytes_after`` count weights and biases as the file stores them, with their scales. ``error``
    is the relative L2 distance of the layer's output from the original's in the interpreter, with the errors of all
    layers before it; scales that the recipe moves between layers are no error. All are ``None`` where a layer has no
    counterpart.
    """
    original, compressed = _reference(task, member), member.candidate.program
    before, after = weighted_sites(original), weighted_sites(compressed)
    errors = _errors(task, original, compressed)
    return [
        {
            "layer": name,
            "op": dialect.op_class(after.get(name) or before[name]),
            "kernel": member.kernels.get(name, ""),
            "precision": _precision(after[name]) if name in after else "",
            "bytes_before": _stored_bytes(original, before[name]) if name in before else None,
            "bytes_after": _stored_bytes(compressed, after[name]) if name in after else None,
            "error": errors.get(name),
        }
        for name in (*before, *(name for name in after if name not in before))
    ]


def lost_samples(task: Task, baseline: Member, member: Member) -> list[dict[str, Any]]:
    """Pictures of the first samples that the original gets right and ``member`` wrong, if the inputs are images.

    Each has the class that is right, and the two answers. They are proving samples, whose rows the behaviour lists.
    """
    rows = member.evidence.get("behaviour", {}).get("negative_flip_ids", [])[:LOST_SAMPLES]
    if not rows or task.prove.labels is None or task.prove.labels.ndim != 1 or len(task.prove.inputs) != 1:
        return []
    lost = task.prove.take(rows)
    pictures = thumbnails(next(iter(lost.inputs.values())))
    before, after = (_answers(task, one, lost) for one in (baseline, member))
    if pictures is None or before is None or after is None:
        return []
    shown = zip(rows, lost.require_labels(task.metric.name), before, after, pictures, strict=True)
    return [
        {"row": int(row), "label": int(label), "before": int(was), "after": int(now), "picture": picture}
        for row, label, was, now, picture in shown
    ]


def _answers(task: Task, member: Member, samples: Samples) -> np.ndarray | None:
    """The class of the highest score, where the output is one row of scores a sample."""
    executable = open_candidate(member.candidate)
    try:
        outputs = predict(executable, samples)
    finally:
        executable.close()
    scores = outputs[(task.metric.output or next(iter(outputs)))]
    return scores.argmax(1) if scores.ndim == 2 else None


def _baseline_first(front: Front) -> list[Member]:
    others = [member for member in (*front.members, *front.tried) if member.status != "baseline"]
    return [front.baseline, *others]


def _brief(member: Member) -> dict[str, Any]:
    """A member without what is the same for all of them: the conditions, and the details of parity."""
    return {
        "name": member.name,
        "status": member.status,
        "reasons": list(member.reasons),
        "size_bytes": member.size_bytes,
        "metric_value": member.metric_value,
        "drop": str(member.evidence.get("drop", "")),
        "speed": _speed(member.comparison),
        "claims": [
            {"clause": result.clause, "decision": result.decision, "found": result.found} for result in member.clauses
        ],
        "measurements": [_figure(item) for item in member.measurements],
    }


def _speed(comparison: Comparison | None) -> dict[str, Any] | None:
    if comparison is None:
        return None
    return {"speedup": comparison.speedup, "interval": list(comparison.interval), "word": comparison.word}


def _figure(item: Measurement) -> dict[str, Any]:
    value = item.to_json()
    return {key: value[key] for key in ("name", "value", "unit", "better", "n", "interval", "doubts")}


def _reference(task: Task, member: Member) -> Program:
    """The original with what the member's recipe does to it in float: its layers have the scales of the member's."""
    program = fold_batch_norms(task.program)
    for step in member.candidate.recipe.steps:
        if step.family == "rewrite":
            program = step.apply(program, task.calibrate.inputs, task.target)
    return program


def _errors(task: Task, original: Program, compressed: Program) -> dict[str, float]:
    """Relative L2 distance by layer, over the samples together."""
    pairs = {
        name: (before.name, after.name)
        for (name, before), after in _matched(weighted_sites(original), weighted_sites(compressed))
    }
    apart, norm = dict.fromkeys(pairs, 0.0), dict.fromkeys(pairs, 0.0)
    sides = Interpreter(original), Interpreter(compressed)
    for batch in _batches(task):
        reference = sides[0].run(batch, taps=[before for before, _ in pairs.values()])
        outputs = sides[1].run(batch, taps=[after for _, after in pairs.values()])
        for name, (before, after) in pairs.items():
            exact = reference[before].astype(np.float64)
            apart[name] += float(np.square(exact - outputs[after]).sum())
            norm[name] += float(np.square(exact).sum())
    ratios = {name: math.sqrt(apart[name] / norm[name]) for name in pairs if norm[name] > 0}
    return {name: ratio for name, ratio in ratios.items() if math.isfinite(ratio)}


def _matched(before: Mapping[str, fx.Node], after: Mapping[str, fx.Node]):
    return [
        ((name, node), after[name])
        for name, node in before.items()
        if name in after and tensor_value(node).shape == tensor_value(after[name]).shape
    ]


def _batches(task: Task) -> list[dict[str, np.ndarray]]:
    """Choosing samples, in the batch that the program is fixed to if it is."""
    first = task.program.signature.inputs[0].shape[0]
    samples = task.choose.shuffled(task.seed).take(slice(0, LAYER_SAMPLES))
    if not isinstance(first, int):
        return list(samples.batches(_BATCH))
    return [
        {name: np.resize(array, (first, *array.shape[1:])) for name, array in batch.items()}
        for batch in samples.batches(first)
    ]


def _stored_bytes(program: Program, node: fx.Node) -> int:
    """Bytes of the constants that a layer reads, quantized ones as the integers that the file holds."""
    return sum(_constant_bytes(program, used) for used in node.all_input_nodes if is_constant(used))


def _constant_bytes(program: Program, node: fx.Node) -> int:
    if node.op == "get_attr":
        return program.tensors[str(node.target)].nbytes
    arguments = dialect.bound_arguments(node)
    if node.target is dialect.dequantize:  # scale and zero point are those of the quantize that it reads
        return _constant_bytes(program, arguments["codes"])
    if node.target is dialect.quantize:
        code = TORCH_DTYPES[code_dtype(arguments["low"], arguments["high"])].itemsize
        scale, zero_point = (program.tensors[str(arguments[name].target)] for name in ("scale", "zero_point"))
        count = math.prod(size for size in tensor_value(node).shape if isinstance(size, int))
        return code * (count + zero_point.numel()) + scale.nbytes
    return sum(_constant_bytes(program, used) for used in node.all_input_nodes)


def _precision(node: fx.Node) -> str:
    weight = dialect.bound_arguments(node).get("weight")
    if isinstance(weight, fx.Node) and weight.target is dialect.dequantize:
        quantizer = dialect.bound_arguments(dialect.bound_arguments(weight)["codes"])
        return code_dtype(quantizer["low"], quantizer["high"])
    return tensor_value(node).dtype
