"""The result of a search: the members that hold, everything that was tried, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gossamer.core.measurement import Measurement
from gossamer.core.table import format_table
from gossamer.core.units import format_amount
from gossamer.metrics.comparison import Comparison
from gossamer.search.claims import ClauseResult
from gossamer.search.task import Candidate
from gossamer.verification.verdict import Verdict

if TYPE_CHECKING:
    from gossamer.artifacts import Artifact

Status = Literal["baseline", "accepted", "undecided", "rejected"]


@dataclass(frozen=True)
class Member:
    """One measured candidate.

    Attributes:
        candidate: program, recipe and file.
        status: ``baseline`` for the original; otherwise whether it may ship.
        reasons: why it was rejected or is undecided; empty for an accepted one.
        metric_value: on the proving samples, in the metric's unit; ``None`` if it never got that far.
        clauses: each clause of the budget.
        verdict: parity and certificates; ``None`` if it never got that far.
        comparison: interleaved with the baseline: ``speedup`` above 1 is faster than the baseline.
        measurements: latency, size, memory, load time.
        kernels: by weighted layer, the kernel that ran, from the runtime's profile.
        evidence: everything else worth keeping, as JSON.
    """

    candidate: Candidate
    status: Status
    reasons: tuple[str, ...] = ()
    metric_value: float | None = None
    clauses: tuple[ClauseResult, ...] = ()
    verdict: Verdict | None = None
    comparison: Comparison | None = None
    measurements: tuple[Measurement, ...] = ()
    kernels: Mapping[str, str] = field(default_factory=dict)
    evidence: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name for tables."""
        return self.candidate.name

    @property
    def size_bytes(self) -> int:
        """Bytes of the deployed file."""
        return self.candidate.size_bytes

    def measured(self, name: str) -> Measurement | None:
        """A measurement by name."""
        return next((item for item in self.measurements if item.name == name), None)

    def save(self, folder: str | Path, *, force: bool = False, with_samples: bool = False) -> Artifact:
        """Pack this member as an artifact in a new folder and load it.

        Args:
            folder: must not exist.
            force: replace an artifact that is there.
            with_samples: keep small pictures of samples that it gets wrong and the original right, for the report.

        Raises:
            OutputExists: the folder is there and ``force`` is not given.
        """
        from gossamer.search.packing import save_member

        return save_member(self, Path(folder), force=force, with_samples=with_samples)


@dataclass(frozen=True)
class Front:
    """What a search found.

    Attributes:
        members: the baseline and what holds the budget, fastest first.
        tried: everything else, with the reason why it is not on the front.
        best: the fastest member that holds; the baseline where nothing beats it; where the budget is missed, what came
            nearest.
        outcome: ``met``; ``undecided``: the data cannot tell for ``best``; ``missed``.
        improved: whether ``best`` is better than the baseline.
        budget: its text.
        metric: its name.
        target: its text.
        notes: what the reader should know: splits, power, what was skipped.
    """

    members: tuple[Member, ...]
    tried: tuple[Member, ...]
    best: Member
    outcome: Literal["met", "undecided", "missed"]
    improved: bool
    budget: str
    metric: str
    target: str
    notes: tuple[str, ...] = ()

    @property
    def baseline(self) -> Member:
        """The original, lowered for the target."""
        return next(member for member in (*self.members, *self.tried) if member.status == "baseline")

    def rows(self) -> list[dict[str, str]]:
        """The before/after table: one mapping from column to text a member, baseline first."""
        others = [member for member in (*self.members, *self.tried) if member.status != "baseline"]
        return [self._row(member) for member in (self.baseline, *others)]

    def _row(self, member: Member) -> dict[str, str]:
        latency, comparison = member.measured("latency p50"), member.comparison
        drop = str(member.evidence.get("drop", ""))
        faster = ""
        if comparison is not None:
            low, high = comparison.interval
            faster = f"{comparison.speedup:.2f}x [{low:.2f}, {high:.2f}]"
        mark = " *" if member is self.best else ""
        return {
            "model": member.name + mark,
            "size": format_amount(member.size_bytes, "B"),
            "latency p50": format_amount(latency.value, "ms") if latency else "",
            "speed": faster or ("1x" if member.status == "baseline" else ""),
            self.metric: "" if member.metric_value is None else _figure(member.metric_value),
            "drop": drop,
            "verdict": member.status,
        }

    def __str__(self) -> str:
        rows = self.rows()
        lines = [format_table(list(rows[0]), [list(row.values()) for row in rows])]
        lines += [f"{self.target}; budget: {self.budget or 'none'}; {self.summary}"]
        for member in self.tried:
            lines += [f"  {member.name}: {reason}" for reason in member.reasons]
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])

    @property
    def summary(self) -> str:
        """One line: what came out."""
        if self.outcome == "missed":
            failed = [_missed_text(result) for result in self.best.clauses if result.decision != "holds"]
            return f"budget missed; nearest is {self.best.name} ({'; '.join(failed or self.best.reasons)})"
        if self.outcome == "undecided":
            open_ = "; ".join(f"{r.clause}: {r.found}" for r in self.best.clauses if r.decision == "undecided")
            return f"undecided for {self.best.name} ({open_})"
        if not self.improved:
            return "nothing beats the baseline, so the baseline is kept"
        return f"budget met by {self.best.name}"

    def report(self) -> dict[str, Any]:
        """What a reader wants to see, as JSON: the table, the outcome, what was tried and why it lost."""
        return {
            "target": self.target,
            "metric": self.metric,
            "budget": self.budget,
            "outcome": self.outcome,
            "improved": self.improved,
            "summary": self.summary,
            "columns": list(self.rows()[0]),
            "rows": [list(row.values()) for row in self.rows()],
            "tried": {member.name: list(member.reasons) for member in self.tried},
            "notes": list(self.notes),
        }

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON."""
        return {
            **self.report(),
            "best": self.best.name,
            "members": [member_json(member) for member in self.members],
            "tried": [member_json(member) for member in self.tried],
        }


def _missed_text(result: ClauseResult) -> str:
    return f"{result.clause}: {result.found}" + (f"; beyond it by {result.beyond}" if result.beyond else "")


def member_json(member: Member) -> dict[str, Any]:
    """A member as plain JSON."""
    return {
        "name": member.name,
        "status": member.status,
        "reasons": list(member.reasons),
        "size_bytes": member.size_bytes,
        "program_digest": member.candidate.program.digest,
        "recipe": member.candidate.recipe.to_toml(),
        "metric_value": member.metric_value,
        "clauses": [result.to_json() for result in member.clauses],
        "verdict": member.verdict.to_json() if member.verdict else None,
        "comparison": member.comparison.to_json() if member.comparison else None,
        "measurements": [item.to_json() for item in member.measurements],
        "kernels": dict(member.kernels),
    }


def fastest_first(members: Sequence[Member]) -> list[Member]:
    """Members by measured speed against the baseline; the baseline itself counts as 1."""
    return sorted(members, key=lambda member: -(member.comparison.speedup if member.comparison else 1.0))


def _figure(value: float) -> str:
    """Two decimals, as percents have; small figures of a user's own metric by their digits instead."""
    return f"{value:.2f}" if value == 0 or abs(value) >= 1 else f"{value:.3g}"
