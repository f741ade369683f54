"""Claims about the worst of several groups of samples: "worst class drop <= 3pt".

Every group is tested on its own samples. All of them pass only if the worst does, so for "holds" each is tested at
level alpha without a correction (intersection-union); for "fails" one bad group is enough, so each of m is tested at
level alpha / m (Bonferroni), or chance would make one of many fail.

The largest of several noisy drops is larger than the drop of the worst group: with ten equal classes, the bootstrap of
the maximum lay wholly above the truth in more than nine of ten cases. So its interval is that of the tests: the largest
upper bound at level alpha, and the largest lower bound at the corrected level.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from gossamer.core.errors import DataError
from gossamer.verification.certificates import Certificate, Claim, Decision
from gossamer.verification.paired import samples_needed, smallest_provable_limit

_LISTED = 8
"""Groups with too few samples that are listed; the others are counted."""


def certify_each(
    groups: Mapping[str, np.ndarray], claim: Claim, certify: Callable[[np.ndarray, Claim], Certificate]
) -> Certificate:
    """Certificate that the drop is below the limit in each of several groups; ``parts`` has each group's own.

    Args:
        groups: by name, the indices of its samples, at least one; groups may share samples.
        claim: what is to be proven of each.
        certify: tests a claim on the samples with these indices.

    Raises:
        DataError: no groups.
    """
    if not groups:
        raise DataError(f"testing the claim {claim.text!r}", got="no groups of samples", expected="at least one")
    strict = replace(claim, alpha=claim.alpha / len(groups))
    parts = {name: certify(rows, claim) for name, rows in groups.items()}
    strictly = {name: certify(rows, strict) for name, rows in groups.items()} if len(groups) > 1 else parts
    decision: Decision = "undecided"
    if any(part.decision == "fails" for part in strictly.values()):
        decision = "fails"
    elif all(part.decision == "holds" for part in parts.values()):
        decision = "holds"
    n = len(np.unique(np.concatenate(list(groups.values()))))
    lows = [part.interval[0] for part in strictly.values() if part.interval is not None]
    highs = [part.interval[1] for part in parts.values() if part.interval is not None]
    worst = max(parts.values(), key=lambda part: part.estimate)
    return replace(
        worst,
        test=f"{worst.test}, each of {len(parts)}",
        n=n,
        available=n,
        interval=(max(lows), max(highs)) if len(highs) == len(parts) else None,
        decision=decision,
        samples_needed=_needed_in_all(parts, n) if decision == "undecided" else None,
        evidence={"groups": len(parts), "hold": sum(part.decision == "holds" for part in parts.values())},
        parts=parts,
    )


def _needed_in_all(parts: Mapping[str, Certificate], n: int) -> int | None:
    """Samples of the whole, in the present mixture, with which every undecided group has what it needs."""
    open_ = [part for part in parts.values() if part.decision == "undecided"]
    if any(part.samples_needed is None for part in open_):
        return None
    # A group that fails at level alpha, but not at the corrected one, has no number of its own: any more may decide it.
    return max([math.ceil(n * (part.samples_needed or 0) / part.n) for part in open_], default=n + 1)


def group_power_lines(
    sizes: Mapping[str, int], disagreement: float, limit_pt: float, *, alpha: float = 0.05
) -> list[str]:
    """Sentences for start-up: which groups have enough samples to prove a limit in points, if nothing is lost?

    Args:
        sizes: samples by group.
        disagreement: share of samples that exactly one of the models has right.
        limit_pt: in points.
        alpha: one-sided level of each group's test.
    """
    needed = samples_needed(limit_pt / 100, disagreement, alpha=alpha) if limit_pt > 0 else None
    if needed is None:
        return [f"{limit_pt:g} pt in each of {len(sizes)} groups needs a candidate that is better in each"]
    small = {name: size for name, size in sorted(sizes.items(), key=lambda item: item[1]) if size < needed}
    text = f"{limit_pt:g} pt in each of {len(sizes)} groups needs about {needed} samples a group"
    lines = [f"{text} at {disagreement:.1%} disagreement: {len(sizes) - len(small)} have them"]
    lines += [
        f"undecidable: {name} with {size} samples can prove {_provable(size, disagreement, alpha)} at most"
        for name, size in list(small.items())[:_LISTED]
    ]
    return lines + ([f"undecidable: {len(small) - _LISTED} more groups"] if len(small) > _LISTED else [])


def _provable(size: int, disagreement: float, alpha: float) -> str:
    return f"{100 * smallest_provable_limit(size, disagreement, alpha=alpha):.1f} pt"
