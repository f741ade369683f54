"""The page in a real browser: charts appear, the console stays silent, the network is left alone, and it fits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, Browser

from gossamer.reporting.html import write_report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser") / "profile") as opened:
        yield opened


@pytest.fixture
def path(rich: dict[str, Any], tmp_path: Path) -> Path:
    return write_report(rich, tmp_path / "page.html")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1200, 400])
def test_the_charts_are_drawn_and_everything_fits(browser: Browser, path: Path, width: int, dark: bool):
    browser.open(path, width=width, dark=dark)
    assert browser.problems == []
    assert browser.asked == [path.as_uri()]
    assert browser.ask("document.body.dataset.charts") == "drawn"
    places, drawn = browser.ask(
        "[document.querySelectorAll('.chart').length, "
        "[...document.querySelectorAll('.chart')].filter(c => c.querySelector('.main-svg')).length]"
    )
    assert (places, drawn) == (5, 5)
    assert browser.ask("document.documentElement.scrollWidth") == width
    paper = browser.ask("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(17, 22, 27)" if dark else "rgb(247, 248, 248)")
    assert browser.ask("[...document.images].every(i => i.naturalWidth > 0)")


def test_charts_follow_a_change_of_theme(browser: Browser, path: Path):
    colour = "document.querySelector('#chart-latency .js-line:last-of-type').style.stroke"
    browser.open(path)
    light = browser.ask(colour)
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    browser.wait(f"{colour} !== '{light}'")


def test_without_javascript_the_figures_are_in_tables(browser: Browser, path: Path):
    browser.open(path, scripts=False)
    assert browser.problems == []
    hidden, rows = browser.outline()
    assert hidden
    assert rows > 30


def test_what_is_not_the_pages_own_does_not_run(browser: Browser, path: Path):
    """Even a script that got into the page would be refused by its policy, and so would a picture from elsewhere."""
    text = path.read_text(encoding="utf-8")
    planted = '<script>document.title = "owned"</script><img src="http://example.com/x.png"></body>'
    path.write_text(text.replace("</body>", planted), encoding="utf-8")
    browser.open(path)
    assert browser.ask("document.title") != "owned"
    assert len(browser.problems) == 2
    assert all("Content Security Policy" in problem for problem in browser.problems)


@pytest.mark.parametrize("width", [1200, 400])
def test_names_of_any_length_fit(browser: Browser, rich: dict[str, Any], tmp_path: Path, width: int):
    long = "blocks.0.conv1|" * 40
    evidence = rich["evidence"]
    evidence["provenance"].append(long)
    evidence["member"] = long
    evidence["layers"][0]["layer"] = long
    evidence["task"]["search"] |= {"notes": [long], "budget": long, "summary": long}
    for member in evidence["story"]["members"]:
        member |= {"name": long, "reasons": [long]}
    for claim in evidence["claims"]:
        claim |= {"clause": long, "found": long}
    for group in evidence["behaviour"]["per_class"]:
        group["name"] = group["name"] + long
    rich |= {"name": long, "recipe": long, "targets": [{"target": long, "precision": "int8"}]}
    browser.open(write_report(rich, tmp_path / "page.html"), width=width)
    assert browser.problems == []
    assert browser.ask("document.documentElement.scrollWidth") == width
