"""Parity of two runnables: tensors and decisions compared on real inputs, output by output."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

from gossamer.core.errors import DataError
from gossamer.core.runnable import Runnable
from gossamer.verification.inputs import Case, CaseKind
from gossamer.verification.paired import wilson_interval
from gossamer.verification.policies import Policy

ParityVerdict = Literal["exact", "equivalent", "rejected"]


@dataclass(frozen=True)
class OutputError:
    """How far one output of one case is from the reference. Statistics are over values finite on both sides.

    Attributes:
        case: name of the case.
        kind: that of the case.
        output: name of the output.
        bitwise: equal bit by bit.
        not_finite: NaN or infinity where the reference has a finite value, or (real cases) the other way round.
        max_abs: largest |d|.
        scale: largest |reference|.
        scaled_max: max_abs / scale.
        relative_l2: |d|_2 / |reference|_2.
        cosine: of the angle between the two.
        sqnr_db: 10 log10(|reference|^2 / |d|^2); infinite where nothing differs.
        decisions: decisions in this output, ties aside.
        agreed: how many of them stay.
        ties: decisions whose top-2 margin is within the policy's ``tie_margin``.
    """

    case: str
    kind: CaseKind
    output: str
    bitwise: bool
    not_finite: int
    max_abs: float
    scale: float
    scaled_max: float
    relative_l2: float
    cosine: float
    sqnr_db: float
    decisions: int
    agreed: int
    ties: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value; figures that are not finite become null."""
        values = asdict(self)
        return {name: _finite(value) if isinstance(value, float) else value for name, value in values.items()}


@dataclass(frozen=True)
class Agreement:
    """Share of decisions on real cases that stay, ties aside, with its 95 % Wilson interval."""

    decisions: int
    agreed: int
    ties: int

    @property
    def share(self) -> float | None:
        """Observed share; ``None`` without decisions."""
        return self.agreed / self.decisions if self.decisions else None

    @property
    def interval(self) -> tuple[float, float]:
        """What the share may be, given this few decisions."""
        return wilson_interval(self.agreed, self.decisions)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.agreed}/{self.decisions} decisions agree [{low:.1%}, {high:.1%}], {self.ties} ties"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value."""
        return {**asdict(self), "share": self.share, "interval": list(self.interval)}


@dataclass(frozen=True)
class Parity:
    """The result of comparing a candidate with its reference.

    Attributes:
        verdict: ``exact``: bitwise on every case; ``equivalent``: within the policy; ``rejected``.
        reason: of a rejection, the first failure in the order of the cases.
        failed_case: name of that case.
        failed_output: name of that output, empty where the whole run failed.
        policy: the bounds, as they were for this network.
        errors: every output of every case that could be compared.
        agreement: by output, on real cases.
        repeatable: both sides gave the same bits when the first case was run again.
        doubts: what does not reject but should be known.
        fingerprints: by side, ``reference`` and ``candidate``.
    """

    verdict: ParityVerdict
    reason: str
    failed_case: str
    failed_output: str
    policy: Policy
    errors: tuple[OutputError, ...]
    agreement: Mapping[str, Agreement]
    repeatable: bool
    doubts: tuple[str, ...] = ()
    fingerprints: Mapping[str, str] = field(default_factory=dict)

    def worst(self, kind: CaseKind = "real") -> OutputError | None:
        """The comparison with the lowest signal-to-noise ratio among cases of this kind."""
        return min((error for error in self.errors if error.kind == kind), key=lambda e: e.sqnr_db, default=None)

    def __str__(self) -> str:
        if self.verdict == "rejected":
            return f"parity rejected under policy {self.policy.name}: {self.reason}"
        text = (
            f"parity {self.verdict} under policy {self.policy.name}, {len({error.case for error in self.errors})} cases"
        )
        worst = self.worst()
        if worst is not None and self.verdict != "exact":
            text += f"; worst SQNR {worst.sqnr_db:.1f} dB, scaled max {worst.scaled_max:.1e} ({worst.output})"
        return "; ".join([text, *(f"{name}: {entry}" for name, entry in self.agreement.items() if entry.decisions)])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value."""
        return {
            "verdict": self.verdict,
            "reason": self.reason,
            "failed_case": self.failed_case,
            "failed_output": self.failed_output,
            "policy": asdict(self.policy),
            "errors": [error.to_json() for error in self.errors],
            "agreement": {name: entry.to_json() for name, entry in self.agreement.items()},
            "repeatable": self.repeatable,
            "doubts": list(self.doubts),
            "fingerprints": dict(self.fingerprints),
        }


@dataclass(frozen=True)
class _Failure:
    case: str
    output: str
    reason: str


def compare_runnables(
    reference: Runnable,
    candidate: Runnable,
    cases: Sequence[Case],
    policy: Policy,
    weighted_ops: int = 0,
    *,
    decisions: Sequence[str] | None = None,
) -> Parity:
    """Compare a lowered model with its source on every case, under a policy.

    Real cases must keep all bounds of the policy, shape cases its tensor bounds (or only ``shape_sqnr_db`` where the
    policy has one, at no less than the scale of the real cases). A shape case whose reference is nearly zero, max|ref|
    below ``tie_margin`` times that of the real cases, has no meaningful ratio: its max|d| is judged on the scale of the
    real cases, as that of faint cases. Stress cases must keep ``stress_sqnr_db``. Where the reference of a case that is
    not real is itself not finite, nothing is compared.

    Agreement is the observed share over all real cases, ties aside, so below 100 decisions a single changed one
    rejects under "99 %"; the Wilson interval beside it says how little 32 of 32 prove. Where the policy says so, only
    a share proven to be smaller rejects.

    Args:
        reference: the source. What it raises passes through.
        candidate: the lowered model. What it raises is a rejection.
        cases: from ``parity_cases``; at least one real.
        policy: the bounds.
        weighted_ops: convolutions and matrix products in the model; loosens fp32 with depth.
        decisions: outputs whose argmax (last axis; axis 1 of four axes and more) is a decision; by default every float
            output with a class axis of at least two. Integer outputs are always decisions, value by value.
    """
    if not any(case.kind == "real" for case in cases):
        raise DataError(
            "comparing two runnables", got=f"{len(cases)} cases, none real", expected="at least one real case"
        )
    policy = policy.loosened(weighted_ops)
    ordered = sorted(cases, key=lambda case: case.kind != "real")
    errors: list[OutputError] = []
    failures: list[_Failure] = []
    scales: dict[str, float] = {}
    first: tuple[Case, Mapping[str, np.ndarray], Mapping[str, np.ndarray]] | None = None
    for case in ordered:
        wanted = reference.run(case.inputs)
        got = _run_candidate(candidate, case)
        if isinstance(got, _Failure):
            failures.append(got)
            continue
        first = first or (case, wanted, got)
        for item in _compare_case(case, wanted, got, policy, decisions):
            if isinstance(item, _Failure):
                failures.append(item)
                continue
            errors.append(item)
            if case.kind == "real":
                scales[item.output] = max(scales.get(item.output, 0.0), item.scale)
            if reason := beyond(item, policy, scales.get(item.output, 0.0), wanted[item.output].dtype):
                failures.append(_Failure(case.name, item.output, reason))
    agreement = _agreement(errors)
    failures += _agreement_failures(agreement, errors, policy)
    doubts: tuple[str, ...] = ()
    if first is not None:
        doubts, unstable = _repeat(reference, candidate, first, policy)
        failures += unstable
    order = [case.name for case in ordered]
    failures.sort(key=lambda failure: order.index(failure.case))
    repeatable = not doubts
    verdict: ParityVerdict = "exact" if all(error.bitwise for error in errors) and repeatable else "equivalent"
    failure = failures[0] if failures else _Failure("", "", "")
    return Parity(
        verdict="rejected" if failures else verdict,
        reason=failure.reason,
        failed_case=failure.case,
        failed_output=failure.output,
        policy=policy,
        errors=tuple(errors),
        agreement=agreement,
        repeatable=repeatable,
        doubts=doubts,
        fingerprints={"reference": reference.fingerprint, "candidate": candidate.fingerprint},
    )


def tensor_error(case: Case, output: str, wanted: np.ndarray, got: np.ndarray) -> OutputError:
    """Statistics of one output of equal shape, without its decisions."""
    reference, other = wanted.astype(np.float64), got.astype(np.float64)
    both = np.isfinite(reference) & np.isfinite(other)
    broken = ~both & ~(reference == other) & ~(np.isnan(reference) & np.isnan(other))
    if case.kind != "real":
        broken &= np.isfinite(reference)
    reference, other = reference[both], other[both]
    delta = other - reference
    signal, noise, length = (float(np.linalg.norm(values)) for values in (reference, delta, other))
    max_abs, scale = (float(np.abs(values).max(initial=0.0)) for values in (delta, reference))
    cosine = float(reference @ other) / (signal * length) if signal and length else float(signal == length)
    return OutputError(
        case=case.name,
        kind=case.kind,
        output=output,
        bitwise=wanted.dtype == got.dtype and wanted.tobytes() == got.tobytes(),
        not_finite=int(broken.sum()),
        max_abs=max_abs,
        scale=scale,
        scaled_max=_ratio(max_abs, scale),
        relative_l2=_ratio(noise, signal),
        cosine=cosine,
        sqnr_db=20 * math.log10(signal / noise) if signal and noise else math.inf if not noise else -math.inf,
        decisions=0,
        agreed=0,
        ties=0,
    )


def count_decisions(wanted: np.ndarray, got: np.ndarray, tie_margin: float, *, argmax: bool) -> tuple[int, int, int]:
    """Decisions (ties aside), how many agree, and ties.

    Args:
        wanted: the reference's output.
        got: the candidate's, of equal shape.
        tie_margin: share of max|wanted| below which the top-2 margin is a tie.
        argmax: whether the argmax of a float output is a decision.
    """
    if not np.issubdtype(wanted.dtype, np.floating):
        return wanted.size, int(np.sum(wanted == got)), 0
    axis = 1 if wanted.ndim >= 4 else -1
    if not argmax or wanted.ndim < 2 or wanted.shape[axis] < 2:
        return 0, 0, 0
    pair = np.partition(wanted.astype(np.float64), -2, axis=axis).take([-2, -1], axis=axis)
    with np.errstate(invalid="ignore"):
        margin = pair.take(1, axis=axis) - pair.take(0, axis=axis)
    finite = np.isfinite(wanted)
    tie = ~(margin > tie_margin * np.abs(wanted[finite]).max(initial=0.0))
    same = (wanted.argmax(axis=axis) == got.argmax(axis=axis)) & ~tie
    return int(np.sum(~tie)), int(np.sum(same)), int(np.sum(tie))


def _run_candidate(candidate: Runnable, case: Case) -> Mapping[str, np.ndarray] | _Failure:
    try:
        return candidate.run(case.inputs)
    except Exception as error:  # noqa: BLE001 - a runtime may raise anything, and that is the finding
        return _Failure(case.name, "", f"{case.name}: the candidate raised {type(error).__name__}: {error}")


def _compare_case(
    case: Case,
    wanted: Mapping[str, np.ndarray],
    got: Mapping[str, np.ndarray],
    policy: Policy,
    decisions: Sequence[str] | None,
) -> Iterator[OutputError | _Failure]:
    for name, expected in wanted.items():
        where = f"{case.name}, output {name}"
        if name not in got:
            yield _Failure(case.name, name, f"{where}: missing; the candidate has {', '.join(got)}")
            continue
        actual = np.asarray(got[name])
        if actual.shape != expected.shape:
            shapes = f"{list(actual.shape)} instead of {list(expected.shape)}"
            yield _Failure(case.name, name, f"{where}: shape {shapes}")
            continue
        if np.issubdtype(actual.dtype, np.floating) != np.issubdtype(expected.dtype, np.floating):
            yield _Failure(case.name, name, f"{where}: dtype {actual.dtype} instead of {expected.dtype}")
            continue
        argmax = decisions is None or name in decisions
        counted = count_decisions(expected, actual, policy.tie_margin, argmax=argmax)
        error = tensor_error(case, name, expected, actual)
        yield replace(error, decisions=counted[0], agreed=counted[1], ties=counted[2])


def beyond(error: OutputError, policy: Policy, real_scale: float, dtype: np.dtype) -> str:
    """Why a tensor is not acceptable under a policy, or an empty text.

    Args:
        error: its statistics.
        policy: the bounds.
        real_scale: largest |reference| of this output on real cases.
        dtype: of the reference; whole numbers have no bound here.
    """
    where = f"{error.case}, output {error.output}"
    if error.not_finite:
        return f"{where}: {error.not_finite} values are NaN or infinite on one side only"
    if policy.bitwise:
        return "" if error.bitwise else f"{where}: not bitwise equal, max |d| {error.max_abs:.3g}"
    if not np.issubdtype(dtype, np.floating):
        return ""
    if error.kind == "faint" or (error.kind == "shape" and error.scale < policy.tie_margin * real_scale):
        bound = policy.scaled_max or 10 ** (-(policy.sqnr_db or 0.0) / 20)
        small = error.max_abs <= bound * real_scale
        return "" if small else f"{where}: max |d| {error.max_abs:.3g} > {bound:g} of the scale of real cases"
    least = {"shape": policy.shape_sqnr_db, "stress": policy.stress_sqnr_db}.get(error.kind)
    if least is not None:
        # one sample may have hardly any output: a shape case says what a size does, not what a sample does
        weak = error.kind == "shape" and 0 < error.scale < real_scale
        sqnr = error.sqnr_db + (20 * math.log10(real_scale / error.scale) if weak else 0.0)
        bounds = [("SQNR [dB]", -sqnr, -least)]
    else:
        sqnr = None if policy.sqnr_db is None else -policy.sqnr_db
        bounds = [
            ("relative L2", error.relative_l2, policy.relative_l2),
            ("scaled max", error.scaled_max, policy.scaled_max),
            ("SQNR [dB]", -error.sqnr_db, sqnr),
        ]
    for label, value, limit in bounds:
        if limit is not None and not value <= limit:
            sign = "<" if limit < 0 else ">"
            return f"{where}: {label} {abs(value):.3g} {sign} {abs(limit):.3g}"
    return ""


def _agreement(errors: Sequence[OutputError]) -> dict[str, Agreement]:
    counts: dict[str, Agreement] = {}
    for error in errors:
        if error.kind == "real":
            sofar = counts.get(error.output, Agreement(0, 0, 0))
            counts[error.output] = Agreement(
                sofar.decisions + error.decisions, sofar.agreed + error.agreed, sofar.ties + error.ties
            )
    return counts


def _agreement_failures(
    agreement: Mapping[str, Agreement], errors: Sequence[OutputError], policy: Policy
) -> Iterator[_Failure]:
    for name, entry in agreement.items():
        if entry.share is None:
            continue
        share = entry.interval[1] if policy.proven else entry.share
        if share >= policy.agreement:
            continue
        case = next(e.case for e in errors if e.output == name and e.kind == "real" and e.agreed < e.decisions)
        yield _Failure(case, name, f"output {name}: {entry}; the policy wants {policy.agreement:.0%}")


def _repeat(
    reference: Runnable,
    candidate: Runnable,
    first: tuple[Case, Mapping[str, np.ndarray], Mapping[str, np.ndarray]],
    policy: Policy,
) -> tuple[tuple[str, ...], list[_Failure]]:
    """Run the first case again on both sides, after all others: hidden state, randomness, uninitialised reads.

    Other bits are a doubt; a difference that the policy would not accept between the two sides is a failure.
    """
    case, *before = first
    doubts: list[str] = []
    failures: list[_Failure] = []
    for side, runnable, earlier in zip(("reference", "candidate"), (reference, candidate), before, strict=True):
        later = runnable.run(case.inputs) if runnable is reference else _run_candidate(candidate, case)
        if isinstance(later, _Failure):
            failures.append(later)
            continue
        for item in _compare_case(case, earlier, later, policy, ()):
            if isinstance(item, _Failure):
                failures.append(item)
            elif not item.bitwise:
                doubts.append(f"{case.name}: the {side} gives another {item.output} when run again")
                if beyond(item, policy, 0.0, earlier[item.output].dtype):
                    failures.append(_Failure(case.name, item.output, doubts[-1]))
    return tuple(doubts), failures


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0 if not part else math.inf


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
