"""Which planted faults are caught and named, beside a gate of allclose(1e-3) on random normal inputs.

Run: ``python benchmarks/faults.py [--runtimes onnxruntime,openvino] [--seeds 12] [--tiny]``.

Each fault of the suite in tests/faults is planted in every net where it applies: in the program, in the file, in an
option of the runtime, or between data and model. The file is compared with the program as every artifact is; what is
rejected is diagnosed. Then the same nets with other weights and nothing wrong, to see what is rejected for nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from record import conditions
from rich.console import Console
from rich.table import Table

from gossamer.core.errors import UserError
from gossamer.core.target import Target
from gossamer.runtimes import resolve_target

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "faults"))

from nets import ALL, ROWS  # noqa: E402 - what is planted stands beside the tests
from outside_faults import ONE_INPUT, WAYS, Branching, HiddenBranch, frozen_batch, frozen_branch, wrong_data  # noqa: E402
from suite import FAULTS, CleanPair, Result, check_clean, check_fault, plan  # noqa: E402

TINY = (3, 18, 28)
LIBRARIES = ("numpy", "onnx", "onnxruntime", "openvino", "torch")


def plant_all(target: Target, console: Console, *, tiny: bool) -> list[Result]:
    """All faults on one runtime, one line each."""
    faults = [fault for fault in FAULTS if not tiny or fault.number in TINY]
    results = []
    for fault, one, site in plan(target, faults):
        result = check_fault(fault, one, site, target)
        results.append(result)
        show(console, result)
    for way in WAYS[:1] if tiny else WAYS:
        with tempfile.TemporaryDirectory() as folder:
            results.append(wrong_data(way, target, Path(folder)))
        show(console, results[-1])
    return results


def freeze_all(target: Target, console: Console) -> list[Result]:
    """What capture froze; no runtime takes part."""
    results = [frozen_batch(name, target) for name in ONE_INPUT]
    results += [frozen_branch(model) for model in (Branching, HiddenBranch)]
    for result in results:
        show(console, result)
    return results


def show(console: Console, result: Result) -> None:
    """One planted fault."""
    words = ("caught" if result.caught else "MISSED", "named" if result.named else "not named")
    gate = "" if result.random_gate else "; random inputs miss it"
    where = f"{result.number:>2} {result.fault} in {result.net}, {result.target}, {result.site}"
    console.print(f"{where}: {', '.join(words)}{gate}", highlight=False, style="dim")


def table_of(results: Sequence[Result]) -> Table:
    """A row a fault, all nets and runtimes together."""
    table = Table("#", "fault", "nets", "caught", "named", "compilations", "random gate")
    for number in sorted({result.number for result in results}):
        rows = [result for result in results if result.number == number]
        count = len(rows)
        table.add_row(
            str(number),
            "; ".join(dict.fromkeys(row.fault for row in rows)),
            ", ".join(dict.fromkeys(row.net for row in rows)),
            f"{sum(row.caught for row in rows)}/{count}",
            f"{sum(row.named for row in rows)}/{count}",
            str(max(row.compilations for row in rows)),
            f"{sum(row.random_gate for row in rows)}/{count}",
        )
    return table


def summary_of(results: Sequence[Result], pairs: Sequence[CleanPair]) -> dict[str, Any]:
    """The figures that count."""

    def share(key: str) -> float:
        return sum(bool(getattr(result, key)) for result in results) / max(len(results), 1)

    return {
        "planted": len(results),
        "faults": len({result.number for result in results}),
        "caught": share("caught"),
        "named": share("named"),
        "caught_by_random_gate": share("random_gate"),
        "faults_random_gate_misses_somewhere": sorted({r.number for r in results if not r.random_gate}),
        "most_compilations": max((result.compilations for result in results), default=0),
        "clean_pairs": len(pairs),
        "alarms": sum(bool(pair.alarm) for pair in pairs),
        "named_on_clean_pairs": sum(bool(pair.named) for pair in pairs),
        "alarms_of_random_gate": sum(pair.random_gate for pair in pairs),
    }


def main() -> int:
    """Plant everything, then nothing; exit code 1 if a fault is missed, too few are named, or a clean pair alarms."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtimes", default="onnxruntime,openvino", help="names separated by commas")
    parser.add_argument("--seeds", type=int, default=12, help="draws of weights for the clean pairs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "faults.json")
    parser.add_argument("--tiny", action="store_true", help="three faults, one clean pair a net: does it run at all?")
    options = parser.parse_args()
    targets = [resolve_target(f"{name}:cpu") for name in options.runtimes.split(",")]
    torch.set_num_threads(1)
    console = Console(width=max(150, Console().width))
    results = [result for target in targets for result in plant_all(target, console, tiny=options.tiny)]
    results += [] if options.tiny else freeze_all(targets[0], console)
    seeds = range(1, 2 if options.tiny else options.seeds + 1)
    pairs = [check_clean(name, target, seed) for target in targets for name in ALL for seed in seeds]
    summary = summary_of(results, pairs)
    report = {
        "conditions": conditions(LIBRARIES, samples=ROWS, seeds=options.seeds, tiny=options.tiny),
        "summary": summary,
        "planted": [result.to_json() for result in results],
        "clean": [pair.to_json() for pair in pairs],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    console.print(table_of(results))
    for key, value in summary.items():
        console.print(f"{key.replace('_', ' ')}: {value}", highlight=False)
    console.print(f"written to {options.out}")
    fine = summary["caught"] == 1 and summary["named"] >= 0.9 and summary["alarms"] == 0
    return 0 if fine else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(str(error))
