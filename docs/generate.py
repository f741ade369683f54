"""Write the generated pages: python docs/generate.py. A test compares them with what this would write."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from gossamer.core.specs import short_dtype
from gossamer.lowering.writer import RULES
from gossamer.program import dialect
from gossamer.program.values import TORCH_DTYPES
from gossamer.testing import Disagreement, Gap, MetricContract, RuntimeContract, TechniqueContract
from gossamer.testing.models import MODELS
from gossamer.testing.op_matrix import cases_in_other_dtypes
from gossamer.testing.runtime import CASES
from gossamer.testing.runtime_gaps import RUNTIME_GAPS, WRITER

HEADER = "<!-- written by docs/generate.py -->\n"
TARGETS = {"onnxruntime:cpu": ("ONNX Runtime", "R"), "openvino:cpu": ("OpenVINO", "V")}
"""Title in the support table, and the letter that its gaps are numbered with."""


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table and an empty line."""
    lines = [header, ["---"] * len(header), *rows]
    return [*(f"| {' | '.join(line)} |" if line[0] != "---" else f"|{'|'.join(line)}|" for line in lines), ""]


def dialect_page() -> str:
    """The operations of a program, and whether each is written to ONNX."""
    rows = [
        (f"`{name}`", dialect.CLASSES.get(target, ""), "yes" if target in RULES else "folded or refused")
        for name, target in sorted(dialect.TARGETS.items())
    ]
    lines = [
        HEADER,
        "# The dialect",
        "",
        "Every operation that may stand in a Program. Other spellings are rewritten to these at capture.",
        "",
        *table(("operation", "class for placement", "written to ONNX"), rows),
    ]
    return "\n".join(lines)


def support_page() -> str:
    """Which operation, in which dtype, runs where, with the reason of every gap."""
    cells: dict[str, list[tuple[str, str]]] = {}
    for case in (*CASES, *cases_in_other_dtypes(CASES)):
        cells.setdefault(case.covers, []).extend((part.note, part.dtype) for part in case.parts)
    lines = [
        HEADER,
        "# What runs where",
        "",
        "Each line is tested: an operation in the forms that capture makes of it, and one form in every dtype that",
        "PyTorch has it in, compared with the reference interpreter at several sizes. W1, R1, V1 name gaps, in the",
        "tables below. A gap must fail as it says: the day it works, a test fails and this page changes.",
        "",
        "- **notimpl**: gossamer does not write it yet",
        "- **notyet**: the runtime, or ONNX, does not have it",
        "- **never**: it cannot be done",
        "",
    ]
    rows = [
        (f"`{op}`", _dtypes({dtype for _, dtype in forms}), *(_support(op, forms, target) for target in TARGETS))
        for op, forms in sorted(cells.items())
    ]
    lines += table(("operation", "dtypes", *(title for title, _ in TARGETS.values())), rows)
    lines += ["## Not written to ONNX, for any target", "", *table(_GAP_HEADER, _gap_rows(WRITER, "W"))]
    for target, (title, letter) in TARGETS.items():
        lines += [f"## Not run by {title}", "", *table(_GAP_HEADER, _gap_rows(_own(target), letter))]
    taken = [name for name, model in MODELS.items() if model.refused is None]
    refused = [f"{name} ({model.refused.__name__})" for name, model in MODELS.items() if model.refused is not None]
    lines += [
        "## Whole models",
        "",
        f"Equal to the interpreter on every target: {'; '.join(taken)}.",
        "",
        f"Refused at capture: {'; '.join(refused)}.",
        "",
    ]
    return "\n".join(lines)


_GAP_HEADER = ("no.", "kind", "operations", "forms", "dtypes", "what happens", "reason")


def _own(target: str) -> list[Gap]:
    return [gap for gap in RUNTIME_GAPS[target] if gap not in WRITER]


def _gap_rows(gaps: Sequence[Gap], letter: str) -> list[tuple[str, ...]]:
    rows = []
    for name, gap in _numbered(gaps, letter):
        errors = gap.raises if isinstance(gap.raises, tuple) else (gap.raises,)
        happens = " or ".join("other results" if error is Disagreement else error.__name__ for error in errors)
        ops, forms = ("all" if text == "*" else text.replace("*", "...") for text in (gap.ops, gap.notes))
        rows.append((name, gap.kind, ops, forms, _dtypes(gap.dtypes.split()) or "all", happens, gap.reason))
    return rows


def _support(op: str, forms: Sequence[tuple[str, str]], target: str) -> str:
    """``yes``, or ``yes, but`` with the names of the gaps; those of all operations are not repeated in every line."""
    letter = TARGETS[target][1]
    named = [*_numbered(WRITER, "W"), *_numbered(_own(target), letter)]
    found = [
        name for name, gap in named if gap.ops != "*" and any(gap.covers(op, note, dtype) for note, dtype in forms)
    ]
    return f"yes, but {', '.join(found)}" if found else "yes"


def _numbered(gaps: Sequence[Gap], letter: str) -> list[tuple[str, Gap]]:
    return [(f"{letter}{number}", gap) for number, gap in enumerate(gaps, 1)]


def _dtypes(names: Iterable[str]) -> str:
    return " ".join(short_dtype(name) for name in TORCH_DTYPES if name in set(names))


def contracts_page() -> str:
    """What each contract checks, from the docstrings of its checks."""
    lines = [
        HEADER,
        "# Contracts",
        "",
        "What is checked of every technique, runtime and metric whose test class inherits the contract.",
        "",
    ]
    for contract in (TechniqueContract, RuntimeContract, MetricContract):
        rows = [
            (f"`{name}`", (inspect.getdoc(check) or "").replace("\n", " "))
            for name, check in vars(contract).items()
            if name.startswith("test_")
        ]
        lines += [f"## {contract.__name__}", "", *table(("check", "what it asks"), rows)]
    return "\n".join(lines)


PAGES: Mapping[str, Callable[[], str]] = {
    "dialect.md": dialect_page,
    "support.md": support_page,
    "contracts.md": contracts_page,
}

if __name__ == "__main__":
    for file, page in PAGES.items():
        (Path(__file__).parent / file).write_text(page(), encoding="utf-8")
