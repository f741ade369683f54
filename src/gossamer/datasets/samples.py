"""Samples: named arrays of one length, with labels, that calibration, training and evaluation read from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from gossamer.core.digest import Digest, digest_arrays, digest_bytes
from gossamer.core.errors import DataError, OptionError
from gossamer.core.names import nearest
from gossamer.core.specs import Signature, TensorSpec

UNNAMED = "x"
"""The name of an input that its source did not name."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Named input arrays whose first axis counts samples, and their labels.

    Two Samples have the same content when their digests agree; the order of samples is part of the content.

    Attributes:
        inputs: arrays ``(samples, ...)`` of numbers by name, all of the same length of at least 1. Not copied: whoever
            changes them afterwards invalidates the digest.
        labels: an array ``(samples, ...)``, or ``None``.
        origin: where the samples come from, for messages and reports.

    Raises:
        DataError: no inputs, no samples, different lengths, or an array that does not hold numbers.
    """

    inputs: Mapping[str, np.ndarray]
    labels: np.ndarray | None
    origin: str

    def __post_init__(self) -> None:
        doing = f"reading {self.origin}"
        if not self.inputs:
            raise DataError(doing, got="no input arrays", expected=f"arrays named after the inputs, or {UNNAMED!r}")
        arrays = {f"input {name!r}": array for name, array in self.inputs.items()}
        if self.labels is not None:
            arrays["the labels"] = self.labels
        for name, array in arrays.items():
            if array.dtype.kind not in "biuf":
                raise DataError(doing, got=f"{name} of dtype {array.dtype}", expected="integers, floats or booleans")
            if array.ndim == 0:
                raise DataError(
                    doing, got=f"{name} is a single number", expected="an array whose first axis is samples"
                )
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) > 1:
            got = ", ".join(f"{name} has {length}" for name, length in lengths.items())
            raise DataError(doing, got=got, expected="the same number of samples in every array")
        if len(self) == 0:
            raise DataError(doing, got="0 samples", expected="at least one")

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    @cached_property
    def digest(self) -> Digest:
        """Digest of names, dtypes, shapes and bytes of inputs and labels, in this order of samples."""
        labels = {} if self.labels is None else {"labels": self.labels}
        return digest_arrays({f"input {name}": array for name, array in self.inputs.items()} | labels)

    @cached_property
    def _sample_digests(self) -> tuple[Digest, ...]:
        arrays = [self.inputs[name] for name in sorted(self.inputs)]
        return tuple(
            hashlib.sha256(b"".join(array[index].tobytes() for array in arrays)).hexdigest()
            for index in range(len(self))
        )

    def sample_digests(self) -> tuple[Digest, ...]:
        """Identity of each sample: SHA-256 of the bytes of its inputs, by sorted name. Labels do not count."""
        return self._sample_digests

    def take(self, indices: Sequence[int] | np.ndarray | slice) -> Samples:
        """The samples at these positions, in the order of ``indices``."""
        chosen = indices if isinstance(indices, slice) else np.asarray(indices, dtype=np.intp)
        return replace(
            self,
            inputs={name: array[chosen] for name, array in self.inputs.items()},
            labels=None if self.labels is None else self.labels[chosen],
        )

    def shuffled(self, seed: int) -> Samples:
        """The same samples in a random order that depends on ``seed`` and the number of samples alone."""
        return self.take(np.random.default_rng(seed).permutation(len(self)))

    def batches(self, size: int) -> Iterator[dict[str, np.ndarray]]:
        """Inputs in consecutive batches of ``size`` samples, as views; the last one may be smaller. No labels."""
        if size < 1:
            raise OptionError(f"reading {self.origin} in batches", got=f"batch size {size}", expected="at least 1")
        return (
            {name: array[start : start + size] for name, array in self.inputs.items()}
            for start in range(0, len(self), size)
        )

    def require_labels(self, metric_name: str) -> np.ndarray:
        """The labels, for a metric that compares with them.

        Raises:
            DataError: there are none.
        """
        if self.labels is None:
            raise DataError(
                f"computing {metric_name} on {self.origin}",
                got="samples without labels",
                expected="labels",
                try_="an array 'y' beside the inputs",
            )
        return self.labels

    def rename(self, names: Mapping[str, str]) -> Samples:
        """The same samples with inputs renamed from old to new; inputs not mentioned keep their names.

        Raises:
            DataError: an old name is not there, or two inputs would share a name.
        """
        doing = f"renaming the inputs of {self.origin}"
        for old in names:
            if old not in self.inputs:
                raise DataError(doing, got=f"no input {old!r}", expected=f"one of: {', '.join(self.inputs)}")
        inputs = {names.get(name, name): array for name, array in self.inputs.items()}
        if len(inputs) < len(self.inputs):
            raise DataError(
                doing, got=f"new names {sorted(names.values())}", expected="a name of its own for each input"
            )
        return replace(self, inputs=inputs)

    def matched_to(self, signature: Signature) -> Samples:
        """The same samples as a model with this signature takes them: its names, its order, its dtypes.

        An only input called ``x`` gets the name of the model's only input. The first axis is the sample axis whatever
        the model's batch size; other named dims may have any size in their range.

        Raises:
            DataError: a missing or unknown input, another shape or kind of dtype, or a value that is not finite; the
                message names the input, and the first bad sample.
        """
        samples = self
        names = [spec.name for spec in signature.inputs]
        if len(names) == 1 and list(self.inputs) == [UNNAMED]:
            samples = self.rename({UNNAMED: names[0]})
        _require_names(samples, names)
        with np.errstate(over="ignore"):  # what does not fit into float32 becomes infinite, and is refused below
            inputs = _per_sample(signature, self.origin).check(samples.inputs)
        for name, array in inputs.items():
            _require_finite(name, array, self.origin)
        return replace(samples, inputs=inputs)


def split_by_digest(samples: Samples, shares: Mapping[str, float]) -> dict[str, Samples]:
    """Split samples into named parts, such as ``{"calibrate": 0.2, "choose": 0.32, "prove": 0.48}``.

    A sample's own digest and the names of the parts alone decide where it goes. So the order of samples does not
    matter, duplicates land on the same side, and a sample keeps its side when others are added or removed. The sizes
    are therefore only close to the shares: a share p of n samples has a standard deviation of ``sqrt(n p (1 - p))``.
    Splitting a part again under other names is independent of the first split. Within a part the order is kept.

    Args:
        samples: what to split.
        shares: part -> share, each above 0, together 1.

    Raises:
        OptionError: the shares do not add up.
        DataError: a part would be empty.
    """
    doing = f"splitting {samples.origin}"
    if not shares or min(shares.values()) <= 0 or abs(sum(shares.values()) - 1) > 1e-9:
        raise OptionError(doing, got=f"shares {dict(shares)}", expected="shares above 0 that add up to 1")
    salt = "/".join(shares).encode()
    places = [int(digest_bytes(salt, digest.encode())[:13], 16) / 16**13 for digest in samples.sample_digests()]
    bounds = np.cumsum(list(shares.values()))[:-1]
    sides = np.searchsorted(bounds, places, side="right")
    parts: dict[str, Samples] = {}
    for side, (name, share) in enumerate(shares.items()):
        indices = np.flatnonzero(sides == side)
        if not len(indices):
            got = f"{len(samples)} samples, none of which fell into {name!r} ({share:.0%})"
            raise DataError(doing, got=got, expected="samples in every part", try_="more data, or fewer duplicates")
        parts[name] = replace(samples.take(indices), origin=f"{samples.origin}, part {name!r}")
    return parts


def _per_sample(signature: Signature, origin: str) -> Signature:
    """The signature with a free first dim, shared by all inputs, in place of the model's batch."""
    for spec in signature.inputs:
        if not spec.shape:
            got = f"the model's input {spec}, which has no batch dim"
            raise DataError(f"matching {origin} to the model", got=got, expected="one value per sample")
    inputs = tuple(TensorSpec(spec.name, spec.dtype, ("samples", *spec.shape[1:])) for spec in signature.inputs)
    return Signature(inputs, signature.outputs, {**signature.dims, "samples": (1, None)})


def _require_names(samples: Samples, names: Sequence[str]) -> None:
    missing = [name for name in names if name not in samples.inputs]
    unknown = [name for name in samples.inputs if name not in names]
    if not missing and not unknown:
        return
    close = [f"rename {name!r} to {match!r}" for name in unknown for match in nearest(name, missing, count=1)]
    raise DataError(
        f"matching {samples.origin} to the model",
        got=f"inputs named {', '.join(samples.inputs)}",
        expected=f"exactly {', '.join(names)}",
        try_="; ".join(close) or (f"drop {', '.join(unknown)}" if unknown and not missing else ""),
    )


def _require_finite(name: str, array: np.ndarray, origin: str) -> None:
    # The extremes are finite exactly when all values are, and cost no memory.
    if array.dtype.kind != "f" or not array.size or (np.isfinite(array.min()) and np.isfinite(array.max())):
        return
    bad = ~np.isfinite(array.reshape(len(array), -1)).all(axis=1)
    raise DataError(
        f"matching {origin} to the model",
        got=f"input {name!r} has NaN or infinite values in {bad.sum()} samples, first in sample {bad.argmax()}",
        expected="finite values",
    )
