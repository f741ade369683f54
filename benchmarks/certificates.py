"""How often each test of a budget accepts what it should not: simulated candidates at, inside and outside the limit.

Run: ``python benchmarks/certificates.py [--candidates 1000] [--resampled 400] [--out FILE] [--tiny]``. Needs no model.

Right and wrong answers of two models are drawn with a known true drop, and each test decides on them as it would on
real ones. A candidate that loses exactly the limit must pass in at most 5 % of cases; one inside should pass, and the
fewer samples that takes, the better. Then the trap that two splits are for: the luckiest of 200 equal candidates.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from record import conditions
from rich.console import Console
from rich.table import Table

from gossamer.core.files import write_atomic
from gossamer.verification.always_valid import certify_always
from gossamer.verification.certificates import (
    Certificate,
    Claim,
    certify_metric,
    certify_scores,
    certify_sequentially,
)
from gossamer.verification.paired import wilson_interval
from gossamer.verification.worst_group import certify_each

ALPHA = 0.05
CLASSES = 4
SEED = 0


@dataclass(frozen=True)
class Scale:
    """How much is simulated.

    Attributes:
        candidates: of each kind.
        resampled: of each kind, for the bootstrap: it computes each metric 4,400 times.
        samples: on which each is tested; the bootstrap has a fifth of them.
        limit_pt: of the drop; of the worst class three times as much, with a quarter of the samples each.
        disagreement: share of samples that one model alone has right.
        searches: in which the luckiest of ``crowd`` equal candidates is chosen.
        crowd: candidates of a search.
    """

    candidates: int = 1000
    resampled: int = 400
    samples: int = 10_000
    limit_pt: float = 1.0
    disagreement: float = 0.03
    searches: int = 1000
    crowd: int = 200


TINY = Scale(20, 4, 500, 3.0, 0.06, 20, 20)

Scores = tuple[np.ndarray, np.ndarray]
Test = Callable[[Scores, Claim], Certificate]


def draw(n: int, disagreement: float, drop: float, rng: np.random.Generator) -> Scores:
    """Right (1) and wrong (0) answers before and after, with this true drop."""
    place = rng.random(n)
    lost = (disagreement + drop) / 2
    return np.where((place >= lost) & (place < disagreement), 0.0, 1.0), np.where(place < lost, 0.0, 1.0)


def _ask(scores: Scores) -> Callable[[np.ndarray], Scores]:
    return lambda rows: (scores[0][rows], scores[1][rows])


def _bootstrap(scores: Scores, claim: Claim) -> Certificate:
    before, after = (lambda rows, side=side: 100 * float(side[rows].mean()) for side in scores)
    return certify_metric(before, after, len(scores[0]), claim)


TESTS: Mapping[str, Test] = {
    "fixed size": lambda scores, claim: certify_scores(*scores, claim),
    "5 looks": lambda scores, claim: certify_sequentially(_ask(scores), len(scores[0]), claim, futility=False),
    "5 looks, gives up": lambda scores, claim: certify_sequentially(_ask(scores), len(scores[0]), claim),
    "e-process": lambda scores, claim: certify_always(_ask(scores), len(scores[0]), claim),
    "bootstrap": _bootstrap,
}


def worst_class(drops: tuple[float, ...], limit: float, scale: Scale, rng: np.random.Generator) -> Certificate:
    """Four classes with a true drop each."""
    size = scale.samples // CLASSES
    parts = [draw(size, max(scale.disagreement, drop), drop, rng) for drop in drops]
    before, after = (np.concatenate(side) for side in zip(*parts, strict=True))
    groups = {f"class {i}": np.arange(i * size, (i + 1) * size) for i in range(CLASSES)}
    claim = Claim(f"worst class drop <= {limit:g}pt", limit)
    return certify_each(groups, claim, lambda rows, one: certify_scores(before[rows], after[rows], one))


def simulate(name: str, ratio: float, scale: Scale) -> dict[str, Any]:
    """One row: what a test does with candidates whose true drop is ``ratio`` times the limit."""
    count, n = scale.candidates, scale.samples
    if name == "bootstrap":
        count, n = scale.resampled, scale.samples // 5
    limit = scale.limit_pt * (3 if name == "worst class" else 1)
    rng = np.random.default_rng([SEED, sum(name.encode()), round(10 * ratio)])
    found = []
    for index in range(count):
        drop = ratio * limit / 100
        if name == "worst class":
            found.append(worst_class((drop, 0.0, 0.0, 0.0), limit, scale, rng))
        else:
            claim = Claim(f"drop <= {limit:g}pt", limit, data_digest=str(index))
            found.append(TESTS[name](draw(n, scale.disagreement, drop, rng), claim))
    held, failed = (sum(one.decision == decision for one in found) for decision in ("holds", "fails"))
    used = float(np.mean([one.n for one in found]))
    return {
        "test": name,
        "true_drop_pt": ratio * limit,
        "limit_pt": limit,
        "candidates": count,
        "accepted": held / count,
        "accepted_interval": wilson_interval(held, count),
        "rejected": failed / count,
        "samples": n,
        "samples_used": used,
        "samples_saved": 1 - used / n,
        "bound": _bound(count) if ratio == 1 else None,
    }


def selection(looks: int, scale: Scale) -> dict[str, Any]:
    """The luckiest on the choosing samples of many that all lose exactly the limit, tested on both splits."""
    rng = np.random.default_rng([SEED, looks])
    drop, n = scale.limit_pt / 100, scale.samples
    on_choose = on_prove = 0
    for index in range(scale.searches):
        claim = Claim("drop", scale.limit_pt, data_digest=str(index))
        shares = [(scale.disagreement + drop) / 2, (scale.disagreement - drop) / 2, 1 - scale.disagreement]
        lost, won = rng.multinomial(n * 2 // 5, shares, size=scale.crowd)[:, :2].T
        best = int((lost - won).argmin())
        choose = np.ones((2, n * 2 // 5))
        choose[1, : lost[best]] = choose[0, lost[best] : lost[best] + won[best]] = 0.0
        prove = draw(n * 3 // 5, scale.disagreement, drop, rng)
        on_choose += certify_scores(choose[0], choose[1], claim).decision == "holds"
        on_prove += certify_scores(*prove, claim, looks=looks).decision == "holds"
    count = scale.searches
    return {
        "looks": looks,
        "searches": count,
        "crowd": scale.crowd,
        "accepted_on_choose": on_choose / count,
        "accepted_on_prove": on_prove / count,
        "accepted_interval": wilson_interval(on_prove, count),
        "bound": _bound(count),
    }


def _bound(count: int) -> float:
    """The most that may pass at the limit: alpha and two standard errors of so many candidates."""
    return ALPHA + 2 * math.sqrt(ALPHA * (1 - ALPHA) / count)


def show(console: Console, report: Mapping[str, Any]) -> None:
    """Print both tables."""
    scale = report["conditions"]["scale"]
    title = f"{scale['disagreement']:.0%} disagreement, level {ALPHA:.0%}"
    table = Table(title=title, title_justify="left")
    for column in ("test", "true drop", "limit", "accepts [95 %]", "at most", "rejects", "samples", "used", "saved"):
        table.add_column(column, justify="left" if column == "test" else "right")
    for row in report["tests"]:
        table.add_row(
            row["test"],
            f"{row['true_drop_pt']:g} pt",
            f"{row['limit_pt']:g} pt",
            _share(row["accepted"], row["accepted_interval"]),
            f"{row['bound']:.1%}" if row["bound"] else "",
            f"{row['rejected']:.1%}",
            f"{row['samples']}",
            f"{row['samples_used']:.0f}",
            f"{row['samples_saved']:.0%}",
            end_section=row["true_drop_pt"] > row["limit_pt"],
        )
    console.print(table)
    for row in report["selection"]:
        looks = "fixed size" if row["looks"] == 1 else f"{row['looks']} looks"
        console.print(
            f"luckiest of {row['crowd']} at the limit, {looks}: passes {row['accepted_on_choose']:.1%} on "
            f"the choosing samples, {_share(row['accepted_on_prove'], row['accepted_interval'])} on the proving ones "
            f"(at most {row['bound']:.1%})",
            highlight=False,
        )


def _share(value: float, interval: tuple[float, float]) -> str:
    return f"{value:.1%} [{interval[0]:.1%}, {interval[1]:.1%}]"


def main() -> int:
    """Simulate, print, write; the exit status is 1 if any test accepts too much at the limit."""
    default = Scale()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=default.candidates, help="of each kind")
    parser.add_argument("--resampled", type=int, default=default.resampled, help="of each kind, for the bootstrap")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "certificates.json")
    parser.add_argument("--tiny", action="store_true", help="a few candidates: does it run at all?")
    options = parser.parse_args()
    scale = TINY if options.tiny else Scale(options.candidates, options.resampled)
    console = Console(width=max(140, Console().width))
    names = (*TESTS, "worst class")
    rows = []
    for name in names:
        console.print(f"{name}", style="dim")
        rows += [simulate(name, ratio, scale) for ratio in (0.0, 0.5, 1.0, 1.5)]
    report = {
        "conditions": conditions(("numpy",), seed=SEED, alpha=ALPHA, scale=asdict(scale)),
        "tests": rows,
        "selection": [selection(looks, scale) for looks in (1, 5)],
    }
    write_atomic(options.out, json.dumps(report, indent=1).encode())
    show(console, report)
    console.print(f"written to {options.out}")
    bounded = [(row["accepted"], row["bound"]) for row in rows if row["bound"] is not None]
    bounded += [(row["accepted_on_prove"], row["bound"]) for row in report["selection"]]
    return 0 if all(accepted <= bound for accepted, bound in bounded) else 1


if __name__ == "__main__":
    sys.exit(main())
