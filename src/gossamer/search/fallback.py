"""When plain int8 costs too much: give the most sensitive layers back to float, as few as hold the budget."""

from __future__ import annotations

from dataclasses import replace

from gossamer.search.evaluation import divergence, outputs_on
from gossamer.search.task import Candidate, Task, lower_candidate
from gossamer.techniques.quantize.int8 import Calibration, Int8, int8_layers
from gossamer.techniques.recipe import Recipe

_SCAN_SAMPLES = 256


def int8_candidate(task: Task, technique: Int8, calibration: Calibration) -> Candidate:
    """Quantize, lower and name a candidate."""
    program = technique.quantize(calibration)
    count = len(technique.skip)
    name = "int8" if not count else f"int8, {count} {'layer' if count == 1 else 'layers'} in float"
    recipe = Recipe((technique,), task.seed, str(task.target), task.calibrate.digest)
    return lower_candidate(task, name, program, recipe)


def rank_by_sensitivity(task: Task, technique: Int8, calibration: Calibration, whole: Candidate) -> list[str]:
    """Layers of an int8 candidate, most harmful first: how far does each alone in int8 move the output?

    Alone, since a layer that ruins the output hides what the others do to it. One quantization, lowering and pass over
    at most 256 samples a layer. When the time limit passes, the layers not yet tried keep the order of the network,
    behind those tried.
    """
    samples = task.choose.shuffled(task.seed).take(slice(0, _SCAN_SAMPLES))
    original = lower_candidate(task, "fp32", calibration.program, Recipe())
    reference = outputs_on(task, original, samples)
    layers = list(int8_layers(whole.program))
    task.progress.stage("sensitivity of each layer", len(layers))
    harms: dict[str, float] = {}
    for layer in layers:
        if task.deadline.passed:
            break
        others = tuple(_literal(other) for other in layers if other != layer)
        alone = int8_candidate(task, replace(technique, skip=others), calibration)
        harms[layer] = divergence(reference, outputs_on(task, alone, samples))
        task.progress.advance(layer)
    return sorted(harms, key=lambda layer: -harms[layer]) + [layer for layer in layers if layer not in harms]


def fewest_in_float(
    task: Task, technique: Int8, calibration: Calibration, ranked: list[str], holds
) -> Candidate | None:
    """The candidate with the fewest layers in float, taken from the front of ``ranked``, for which ``holds`` is true.

    Bisection over the count: harm is taken to fall as layers are given back. ``None`` if even one layer left in int8 is
    too much, or the time limit passed before any was found.
    """
    low, high = 1, len(ranked) - 1
    found: Candidate | None = None
    task.progress.stage("layers back to float", max(high, 1).bit_length())
    while low <= high and not task.deadline.passed:
        count = (low + high) // 2
        skip = tuple(_literal(layer) for layer in ranked[:count])
        candidate = int8_candidate(task, replace(technique, skip=skip), calibration)
        task.progress.advance(candidate.name)
        if holds(candidate):
            found, high = candidate, count - 1
        else:
            low = count + 1
    return found


def _literal(site: str) -> str:
    """A glob that matches this name only; letters that the text of a recipe cannot hold match any letter."""
    return "".join(f"[{letter}]" if letter in "*?[" else "?" if letter in ",| " else letter for letter in site)
