"""What a reader or a browser finds in a page."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from gossamer.reporting.html import write_report

_EMPTY = {"meta", "link", "img", "br", "hr", "input", "base", "source"}


class Page(HTMLParser):
    """A page as its elements, its text by section, and its scripts by type."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self.styles = ""
        self._texts: dict[str, list[str]] = {}
        self._section = "top"
        self._open: list[str] = []
        self._script = ""
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "section":
            self._section = str(dict(attrs)["id"])
        if tag == "script":
            self._script = str(dict(attrs).get("type", "text/javascript"))
        if tag not in _EMPTY:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data: str) -> None:
        if "script" in self._open:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data
        elif "style" in self._open:
            self.styles += data
        else:
            self._texts.setdefault(self._section, []).append(data)

    def text(self, section: str = "") -> str:
        """What is read in a section (``top`` for what stands before the first), or everywhere."""
        chosen = [self._texts.get(section, [])] if section else self._texts.values()
        return " ".join(" ".join(part for texts in chosen for part in texts).split())

    @property
    def sections(self) -> list[str]:
        """In the order of the page."""
        return [str(attributes["id"]) for tag, attributes in self.tags if tag == "section"]

    @property
    def figures(self) -> dict[str, Any]:
        """The charts' data."""
        return json.loads(self.scripts["application/json"])

    def badges(self) -> list[str]:
        """Classes of the verdicts."""
        classes = [str(attributes.get("class", "")) for tag, attributes in self.tags if tag == "span"]
        return [text for text in classes if text.startswith("badge")]


def render(facts: dict[str, Any], folder: Path) -> Page:
    """The page of some facts."""
    return Page(write_report(facts, folder / "page.html").read_text(encoding="utf-8"))
