"""Slices: parts of the data in which a model may get worse than on the whole.

They are made of what is known of every sample before any candidate is tried: its label, columns that the user gives,
and cheap figures. Columns of at most 20 different values give a slice for each; others are cut at their quartiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from gossamer.core.errors import DataError

MIN_SAMPLES = 50
"""Fewer samples say too little for a slice."""

_MAX_VALUES = 20


@dataclass(frozen=True)
class Cut:
    """How a column is cut into slices.

    Attributes:
        values: those that have a slice each; empty where edges are used.
        edges: lower ends of all slices but the first, in rising order.
    """

    values: tuple[object, ...] = ()
    edges: tuple[float, ...] = ()

    def slices(self, name: str, column: np.ndarray) -> dict[str, np.ndarray]:
        """By name of the slice, the indices of its samples, of at least 50; none if only one would be left."""
        if self.values:
            found = {f"{name} = {value}": np.flatnonzero(column == value) for value in self.values}
        else:
            places = np.searchsorted(self.edges, column, side="right")
            texts = _distinct_texts(self.edges)
            names = [
                f"{name} below {texts[0]}",
                *(f"{name} {low} to {high}" for low, high in pairwise(texts)),
                f"{name} from {texts[-1]}",
            ]
            found = {text: np.flatnonzero(places == place) for place, text in enumerate(names)}
        large = {text: rows for text, rows in found.items() if len(rows) >= MIN_SAMPLES}
        return large if len(large) > 1 else {}


def cut(column: np.ndarray) -> Cut | None:
    """How to cut a column, shape (n,); ``None`` if it has one value only, or too many that are no numbers."""
    values = np.unique(column)
    if len(values) < 2:
        return None
    if len(values) <= _MAX_VALUES:
        return Cut(values=tuple(values.tolist()))
    if column.dtype.kind not in "biuf" or not np.isfinite(column).all():
        return None
    edges = np.unique(np.quantile(column, (0.25, 0.5, 0.75)))
    return Cut(edges=tuple(edges[edges > values[0]].tolist()))


def cut_columns(columns: Mapping[str, np.ndarray]) -> dict[str, Cut]:
    """The columns that can be cut, and how; to be done on other samples than the slices are judged on."""
    cuts = {name: cut(column) for name, column in columns.items()}
    return {name: found for name, found in cuts.items() if found is not None}


def slices_of(columns: Mapping[str, np.ndarray], cuts: Mapping[str, Cut]) -> dict[str, np.ndarray]:
    """By name, the indices of the samples of each slice of at least 50."""
    return {
        text: rows
        for name, how in cuts.items()
        if name in columns
        for text, rows in how.slices(name, columns[name]).items()
    }


def columns_of(
    before: np.ndarray,
    inputs: Mapping[str, np.ndarray],
    labels: np.ndarray | None = None,
    given: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """What is known of every sample, by name, shape (n,) each.

    The label; ``margin``: how far the original's largest score is above the second; of inputs with four axes
    ``brightness`` and ``contrast``: mean and standard deviation; of integer inputs with two axes ``length``,
    without padding; and what the user gives, which goes first.

    Args:
        before: the original's output, (n, classes) for a margin.
        inputs: arrays by name, samples on axis 0.
        labels: (n,) or ``None``.
        given: arrays (n,) by name, of numbers or texts.

    Raises:
        DataError: a given column is not of n entries.
    """
    n = len(before)
    for name, column in (given or {}).items():
        if np.shape(column) != (n,):
            got = f"column {name!r} of shape {list(np.shape(column))}"
            raise DataError("cutting the data into slices", got=got, expected=f"[{n}]: one entry for each sample")
    found = {name: np.asarray(column) for name, column in (given or {}).items()}
    if labels is not None and np.ndim(labels) == 1:
        found.setdefault("label", np.asarray(labels))
    sure = margin(before)
    if sure is not None:
        found.setdefault("margin", sure)
    for name, array in inputs.items():
        of = f" of {name}" if len(inputs) > 1 else ""
        if array.ndim == 4 and array.dtype.kind in "fu":
            flat = array.reshape(n, -1)
            found.setdefault(f"brightness{of}", flat.mean(axis=1, dtype=np.float64))
            found.setdefault(f"contrast{of}", flat.std(axis=1, dtype=np.float64))
        elif array.ndim == 2 and array.dtype.kind in "iu":
            length = lengths(array)
            if not any(np.array_equal(length, column) for column in found.values()):  # of ids and of their mask
                found.setdefault(f"length{of}", length)
    return found


def margin(scores: np.ndarray) -> np.ndarray | None:
    """Largest score minus the second largest, shape (n,); ``None`` unless scores are finite floats (n, classes)."""
    if scores.ndim != 2 or scores.shape[1] < 2 or scores.dtype.kind != "f" or not np.isfinite(scores).all():
        return None
    pair = np.partition(scores.astype(np.float64), -2, axis=1)[:, -2:]
    return pair[:, 1] - pair[:, 0]


def lengths(rows: np.ndarray) -> np.ndarray:
    """Length of each row of token ids (n, width) without the padding at its end; of a mask, its ones.

    Padding is what most of the rows that end with two equal values end with.
    """
    if np.isin(rows, (0, 1)).all():
        return rows.sum(axis=1)
    padded = rows[rows[:, -1] == rows[:, -2], -1] if rows.shape[1] > 1 else rows[:0, 0]
    if not len(padded):
        return np.full(len(rows), rows.shape[1])
    values, counts = np.unique(padded, return_counts=True)
    text = rows != values[counts.argmax()]
    return np.where(text.any(axis=1), rows.shape[1] - text[:, ::-1].argmax(axis=1), 0)


def _distinct_texts(edges: tuple[float, ...]) -> list[str]:
    texts: list[str] = []
    for digits in (3, 6, 17):
        texts = [f"{edge:.{digits}g}" for edge in edges]
        if len(set(texts)) == len(texts):
            break
    return texts
