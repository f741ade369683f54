"""What surrounds a model, asked when its graph is right: inputs and their layout, outputs, labels, the baseline itself.

Each question is one that a user can check by eye: would the results be right with these two inputs exchanged?
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from gossamer.core.errors import DataError
from gossamer.core.runnable import Runnable
from gossamer.core.specs import TensorSpec
from gossamer.verification.inputs import Case
from gossamer.verification.parity import compare_runnables
from gossamer.verification.policies import Policy

Arrays = Mapping[str, np.ndarray]
Change = Callable[[Arrays], dict[str, np.ndarray]]

ASKED_CASES = 2
"""Real cases on which a question is decided."""

SURE = 3.0
"""Standard errors of an accuracy by which it must miss the stated one."""


def explain_boundary(reference: Runnable, candidate: Runnable, cases: Sequence[Case], policy: Policy) -> str:
    """The change of inputs or outputs under which a candidate is right after all; empty if none is known.

    Asked in turn: two inputs of one shape exchanged, the axes of an input in another order, channels reversed, two
    outputs of one shape exchanged, the last axis of an output permuted. A candidate that is right on real cases is not
    asked.
    """
    real = [case for case in cases if case.kind == "real"][:ASKED_CASES]

    def is_right(before: Change, after: Change) -> bool:
        return compare_runnables(reference, _Changed(candidate, before, after), real, policy).verdict != "rejected"

    if is_right(dict, dict):
        return ""
    changes = itertools.chain(_input_changes(reference.specs.inputs), _output_changes(reference, candidate, real))
    return next((text for text, before, after in changes if is_right(before, after)), "")


def check_baseline(
    run: Runnable,
    inputs: Arrays,
    labels: np.ndarray,
    stated: float,
    *,
    normalisation: tuple[Sequence[float], Sequence[float]] | None = None,
    alternatives: Mapping[str, Arrays] | None = None,
) -> str:
    """Why a classifier misses its stated accuracy on data that it should be good at; empty if it does not miss it.

    Asked in turn: other ways of preparing the inputs (normalised once more or once less, another range, channels
    reversed, those given), then another order of the labels. A wrong one of these is no fault of any file: reference
    and candidate get the same inputs and agree.

    Args:
        run: the original model.
        inputs: arrays by name, as they reach it.
        labels: (samples,) class of each.
        stated: top-1 in percent that the model is known to have.
        normalisation: mean and standard deviation by channel that the inputs should have been normalised with.
        alternatives: the same samples prepared in other ways, by what to call them.

    Raises:
        DataError: there are no samples.
    """
    if not len(labels):
        raise DataError("checking the accuracy of the original", got="no samples", expected="some")
    scores = _scores(run, inputs)
    found = _accuracy(scores, labels)
    least = stated - SURE * math.sqrt(max(stated * (100 - stated), 100.0) / len(labels))
    if found >= least:
        return ""
    missed = f"top-1 is {found:.1f} % where {stated:g} % is stated"
    ways = [(text, change(inputs)) for text, change in _preparations(run.specs.inputs, normalisation)]
    ways += [(text, dict(other)) for text, other in (alternatives or {}).items()]
    for text, changed in ways:
        value = _accuracy(_scores(run, changed), labels)
        if value >= least:
            return f"preprocessing: {missed}, and {value:.1f} % with the inputs {text}"
    relabelled = _relabelled(scores, labels)
    if relabelled is not None and (value := _accuracy(scores, relabelled)) >= least:
        return f"label map: {missed}, and {value:.1f} % with the labels in another order"
    return f"baseline: {missed}, and nothing that was asked explains it"


class _Changed:
    """A Runnable with its inputs and outputs changed on the way."""

    def __init__(self, runnable: Runnable, before: Change, after: Change) -> None:
        self._runnable, self._before, self._after = runnable, before, after
        self.specs, self.fingerprint = runnable.specs, runnable.fingerprint

    def run(self, inputs: Arrays, taps: Sequence[str] = ()) -> dict[str, np.ndarray]:
        """Outputs by name."""
        return self._after(self._runnable.run(self._before(inputs), taps))


def _input_changes(specs: Sequence[TensorSpec]) -> Iterator[tuple[str, Change, Change]]:
    for first, second in itertools.combinations(specs, 2):
        if (first.dtype, first.shape) == (second.dtype, second.shape):
            yield f"input map: {first.name} and {second.name} are exchanged", _exchange(first.name, second.name), dict
    for spec in specs:
        orders = itertools.permutations(range(1, len(spec.shape))) if len(spec.shape) <= 4 else ()
        others = [(0, *order) for order in orders if list(order) != sorted(order)]
        for change, end in ((_transposed, ""), (_reread, ", keeping the shape")):
            for axes in others:
                text = f"input {spec.name}: its axes are read in another order; right with transpose{axes}{end}"
                yield text, _on(spec.name, change(axes)), dict
        if _is_image(spec):
            yield f"input {spec.name}: its channels are reversed", _on(spec.name, _reversed), dict


def _output_changes(
    reference: Runnable, candidate: Runnable, cases: Sequence[Case]
) -> Iterator[tuple[str, Change, Change]]:
    specs = reference.specs.outputs
    for first, second in itertools.combinations(specs, 2):
        if (first.dtype, first.shape) == (second.dtype, second.shape):
            yield f"output map: {first.name} and {second.name} are exchanged", dict, _exchange(first.name, second.name)
    try:
        pairs = [(reference.run(case.inputs), candidate.run(case.inputs)) for case in cases]
    except Exception:  # noqa: BLE001 - one that raises has no outputs in another order
        return
    for spec in specs:
        wanted, got = (np.concatenate([_rows(pair[side][spec.name]) for pair in pairs]) for side in (0, 1))
        order = _matching(wanted, got)
        if order is not None:
            yield f"output {spec.name}: its last axis is in another order", dict, _on(spec.name, _taken(order))


def _preparations(
    specs: Sequence[TensorSpec], normalisation: tuple[Sequence[float], Sequence[float]] | None
) -> Iterator[tuple[str, Change]]:
    for spec in specs:
        if not spec.dtype.startswith("float") or len(spec.shape) < 2:
            continue
        if normalisation is not None:
            shape = [-1] + [1] * (len(spec.shape) - 2)
            mean, std = (np.asarray(values, np.float64).reshape(shape) for values in normalisation)
            yield "normalised once less", _on(spec.name, lambda x, m=mean, s=std: (x * s + m).astype(x.dtype))
            yield "normalised once more", _on(spec.name, lambda x, m=mean, s=std: ((x - m) / s).astype(x.dtype))
        for factor, text in ((1 / 255, "divided by 255"), (255.0, "multiplied by 255")):
            yield text, _on(spec.name, lambda x, f=factor: (x * f).astype(x.dtype))
        if _is_image(spec):
            yield "in the opposite order of channels", _on(spec.name, _reversed)


def _is_image(spec: TensorSpec) -> bool:
    return len(spec.shape) == 4 and spec.shape[1] == 3


def _on(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Change:
    return lambda arrays: {**arrays, name: change(arrays[name])}


def _exchange(first: str, second: str) -> Change:
    return lambda arrays: {**arrays, first: arrays[second], second: arrays[first]}


def _transposed(axes: tuple[int, ...]) -> Callable[[np.ndarray], np.ndarray]:
    """Axes in another order, where that keeps the shape."""
    return lambda x: np.ascontiguousarray(moved) if (moved := x.transpose(axes)).shape == x.shape else x


def _reread(axes: tuple[int, ...]) -> Callable[[np.ndarray], np.ndarray]:
    """What must be given to someone who transposes and then takes the elements for ones of the old shape."""

    def change(x: np.ndarray) -> np.ndarray:
        moved = x.reshape([x.shape[axis] for axis in axes])
        return np.ascontiguousarray(moved.transpose(np.argsort(axes)))

    return change


def _reversed(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x[:, ::-1])


def _taken(order: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: np.take(x, order, axis=-1)


def _rows(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, values.shape[-1] if values.ndim else 1).astype(np.float64)


def _matching(wanted: np.ndarray, got: np.ndarray) -> np.ndarray | None:
    """The order of the columns of ``got`` that is nearest to ``wanted``; ``None`` if it is no other order."""
    if wanted.shape != got.shape or not 2 <= wanted.shape[1] <= 4096:
        return None
    nearest = np.array([int(np.argmin(np.abs(got - column[:, None]).sum(0))) for column in wanted.T])
    plain = np.arange(wanted.shape[1])
    return nearest if np.array_equal(np.sort(nearest), plain) and not np.array_equal(nearest, plain) else None


def _scores(run: Runnable, inputs: Arrays) -> np.ndarray:
    """(samples, classes), in batches."""
    count = len(next(iter(inputs.values())))
    name = run.specs.outputs[0].name
    starts = range(0, count, 100)
    return np.concatenate([run.run({k: v[i : i + 100] for k, v in inputs.items()})[name] for i in starts])


def _accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    return 100 * float(np.mean(scores.argmax(-1) == labels))


def _relabelled(scores: np.ndarray, labels: np.ndarray) -> np.ndarray | None:
    """Each label replaced by the class mostly answered to it; ``None`` unless that is a one-to-one map."""
    predicted = scores.argmax(-1)
    mapping = {int(label): int(np.bincount(predicted[labels == label]).argmax()) for label in np.unique(labels)}
    if len(set(mapping.values())) < len(mapping):
        return None
    return np.array([mapping[int(label)] for label in labels])
