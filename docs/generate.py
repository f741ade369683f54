"""Write the generated pages: python docs/generate.py. A test compares them with what this would write."""

from __future__ import annotations

from pathlib import Path

from gossamer.lowering.writer import RULES
from gossamer.program import dialect

HEADER = "<!-- written by docs/generate.py -->\n"


def dialect_page() -> str:
    """The operations of a program, and whether each is written to ONNX."""
    lines = [
        HEADER,
        "# The dialect",
        "",
        "Every operation that may stand in a Program. Other spellings are rewritten to these at capture.",
        "",
        "| operation | class for placement | written to ONNX |",
        "|---|---|---|",
    ]
    for name, target in sorted(dialect.TARGETS.items()):
        written = "yes" if target in RULES else "folded or refused"
        lines.append(f"| `{name}` | {dialect.CLASSES.get(target, '')} | {written} |")
    return "\n".join(lines) + "\n"


PAGES = {"dialect.md": dialect_page}

if __name__ == "__main__":
    for file, page in PAGES.items():
        (Path(__file__).parent / file).write_text(page(), encoding="utf-8")
