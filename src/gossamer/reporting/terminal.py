"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

_STYLES = {"accepted": "green", "exact": "green", "equivalent": "green", "undecided": "yellow", "rejected": "red"}


def print_rows(console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """A table; empty columns are left out, verdicts are coloured."""
    used = [index for index in range(len(columns)) if any(row[index] for row in rows)]
    table = Table(box=SIMPLE_HEAD, title=title or None, title_justify="left", pad_edge=False)
    for index in used:
        table.add_column(columns[index], overflow="fold")
    for row in rows:
        table.add_row(*(Text(row[index], style=_STYLES.get(row[index], "")) for index in used))
    console.print(table)


def print_front(console: Console, front: Mapping[str, Any]) -> None:
    """The before/after table of a search (``Front.report()``), with what was tried and why it lost."""
    print_rows(
        console, front["columns"], front["rows"], title=f"{front['target']}   budget: {front['budget'] or 'none'}"
    )
    style = {"met": "green", "undecided": "yellow", "missed": "red"}[front["outcome"]]
    console.print(Text(front["summary"], style=style))
    for name, reasons in front["tried"].items():
        for reason in reasons:
            console.print(Text(f"  {name}: {reason}", style="dim"))
    for note in front["notes"]:
        console.print(Text(f"  note: {note}", style="dim"))


def print_facts(console: Console, facts: Mapping[str, Any], title: str = "") -> None:
    """Names and values in two columns."""
    if title:
        console.print(Text(title, style="bold"))
    width = max((len(name) for name in facts), default=0)
    for name, value in facts.items():
        text = ", ".join(f"{key} {item}" for key, item in value.items()) if isinstance(value, Mapping) else str(value)
        console.print(Text(f"  {name.ljust(width)}  {text}"))
