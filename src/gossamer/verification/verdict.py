"""The verdict on a compressed model: parity of the artifact and certificates of its metric, in one word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gossamer.verification.certificates import Certificate
from gossamer.verification.flips import Flips
from gossamer.verification.parity import Parity

VerdictKind = Literal["exact", "equivalent", "accepted", "undecided", "rejected"]


@dataclass(frozen=True)
class Verdict:
    """What was found, with its evidence.

    Attributes:
        kind: ``exact`` or ``equivalent`` where only parity was asked; ``accepted`` where every claim holds as well;
            ``undecided`` where some claim is; ``rejected`` where parity or a claim fails.
        reasons: why, most important first.
        parity: the artifact against the program it was made from.
        certificates: one for each claim.
        flips: answers that changed, where they were counted.
    """

    kind: VerdictKind
    reasons: tuple[str, ...]
    parity: Parity | None = None
    certificates: tuple[Certificate, ...] = ()
    flips: Flips | None = None

    @property
    def passed(self) -> bool:
        """Whether the artifact may ship: exact, equivalent or accepted."""
        return self.kind in ("exact", "equivalent", "accepted")

    def __str__(self) -> str:
        evidence = [str(entry) for entry in (self.parity, *self.certificates, self.flips) if entry is not None]
        reasons = [reason for reason in self.reasons if reason not in evidence]
        return "\n".join([self.kind, *(f"  {line}" for line in (*reasons, *evidence))])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value."""
        return {
            "kind": self.kind,
            "reasons": list(self.reasons),
            "parity": self.parity.to_json() if self.parity else None,
            "certificates": [certificate.to_json() for certificate in self.certificates],
            "flips": self.flips.to_json() if self.flips else None,
        }


def decide(parity: Parity | None, certificates: Sequence[Certificate] = (), flips: Flips | None = None) -> Verdict:
    """Join parity and certificates into one verdict; with neither, the verdict is ``undecided``.

    Args:
        parity: the artifact against its program (leg B); ``None`` if it was not compared.
        certificates: the claims about the metric (leg A).
        flips: kept as evidence; decides nothing.
    """

    def verdict(kind: VerdictKind, reasons: Sequence[str]) -> Verdict:
        return Verdict(kind, tuple(reasons), parity, tuple(certificates), flips)

    failed = [str(entry) for entry in certificates if entry.decision == "fails"]
    if parity is not None and parity.verdict == "rejected":
        return verdict("rejected", [str(parity), *failed])
    if failed:
        return verdict("rejected", failed)
    if parity is None:
        return verdict("undecided", ["the artifact was not compared with its program"])
    if undecided := [str(entry) for entry in certificates if entry.decision == "undecided"]:
        return verdict("undecided", undecided)
    if certificates:
        return verdict("accepted", [str(entry) for entry in certificates])
    return verdict("exact" if parity.verdict == "exact" else "equivalent", [str(parity)])
