"""A page may be made of a stranger's artifact: nothing in it is run, and nothing is fetched."""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
from plotly.offline import get_plotlyjs
from report_pages import Page, render

from gossamer.core.errors import ArtifactError

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'`</style></title>&lt;"

LOADING = {"src", "srcset", "href", "action", "formaction", "data", "poster", "background", "xlink:href", "ping"}


def loads(page: Page) -> set[str]:
    """Every address in an attribute that a browser follows or fetches, and in the styles."""
    found = {str(value) for _, attributes in page.tags for name, value in attributes.items() if name in LOADING}
    return found | set(re.findall(r"(?:url\(|@import)[^;]*", page.styles))


def hostile(value: Any) -> Any:
    """The same evidence with hostile text in place of each free text."""
    if isinstance(value, dict):
        return {key: item if key in KEPT else hostile(item) for key, item in value.items()}
    if isinstance(value, list):
        return [hostile(item) for item in value]
    return HOSTILE if isinstance(value, str) else value


KEPT = {"unit", "better", "kind", "decision", "word", "verdict", "picture", "name"}
"""Words that the page looks up, kept here so that every section still appears."""


def test_nothing_is_loaded_from_anywhere(rich: dict[str, Any], tmp_path: Path):
    page = render(rich, tmp_path)
    addresses = loads(page)
    assert {address for address in addresses if not address.startswith(("#", "data:image/png;base64,"))} == set()
    assert any(address.startswith("data:") for address in addresses)
    assert not [tag for tag, _ in page.tags if tag in ("link", "iframe", "object", "embed", "base", "form")]


def test_the_policy_of_the_page_lets_only_its_own_scripts_run(rich: dict[str, Any], tmp_path: Path):
    page = render(rich, tmp_path)
    (policy,) = [
        str(a["content"]) for tag, a in page.tags if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    ]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    plotly = gzip.decompress(base64.b64decode(page.scripts["text/plain"]))
    scripts = (page.scripts["text/javascript"].encode(), plotly)
    digests = {f"'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'" for script in scripts}
    assert set(rules["script-src"].split()) == digests


def test_plotly_is_embedded_once_and_whole(rich: dict[str, Any], tmp_path: Path):
    page = render(rich, tmp_path)
    assert gzip.decompress(base64.b64decode(page.scripts["text/plain"])).decode() == get_plotlyjs()
    assert page.html.count("H4sI") == 1  # how a gzip file begins in base64
    assert len(page.html) < 2_200_000


def test_every_text_is_escaped(rich: dict[str, Any], tmp_path: Path):
    harmless = render(rich, tmp_path)
    evidence = hostile(rich["evidence"])
    evidence["member"] = "int8"
    for member in evidence["story"]["members"]:
        member["reasons"] = [HOSTILE]
    evidence["behaviour"]["per_class"][0]["name"] = HOSTILE
    rich |= {
        "name": HOSTILE,
        "recipe": HOSTILE,
        "evidence": evidence,
        "targets": [{"target": HOSTILE, "precision": ""}],
    }
    page = render(rich, tmp_path)
    assert [tag for tag, _ in page.tags if tag == "script"] == [tag for tag, _ in harmless.tags if tag == "script"]
    assert page.scripts["text/javascript"] == harmless.scripts["text/javascript"]
    assert not [a for _, a in page.tags if any(name.startswith("on") for name in a)]
    assert loads(page) == loads(harmless)
    assert page.text().count(HOSTILE) > 20
    assert "</script" not in page.scripts["application/json"]


def test_names_in_charts_are_escaped_for_plotly_too(rich: dict[str, Any], tmp_path: Path):
    """Plotly reads links in its texts."""
    rich["evidence"]["layers"][0]["layer"] = '<a href="https://example.com">conv</a>'
    rich["evidence"]["member"] = "<b>int8</b>"
    figures = render(rich, tmp_path).figures
    assert figures["layer_bytes"]["data"][0]["y"][0] == "&lt;a href=&quot;https://example.com&quot;&gt;conv&lt;/a&gt;"
    assert figures["latency"]["data"][1]["name"] == "&lt;b&gt;int8&lt;/b&gt;"


@pytest.mark.parametrize(
    "picture",
    [
        "https://example.com/seen.png",
        "data:image/svg+xml;base64,PHN2Zy8+",
        'data:image/png;base64,AAAA" onload="alert(1)',
        "data:image/png;base64,AAAA\n",
        "",
    ],
)
def test_only_png_data_is_shown_as_a_picture(rich: dict[str, Any], tmp_path: Path, picture: str):
    rich["evidence"]["lost_samples"][0]["picture"] = picture
    page = render(rich, tmp_path)
    assert sum(tag == "img" for tag, _ in page.tags) == len(rich["evidence"]["lost_samples"]) - 1


@pytest.mark.parametrize(
    ("group", "value"),
    [
        ("performance", []),
        ("performance", {"measurements": [{"name": "latency p50"}], "against_baseline": None}),
        ("claims", [{"clause": "size <= 1MB"}]),
        ("layers", [{"layer": "head"}]),
        ("story", {"members": "none"}),
        ("behaviour", {"four_way": {"both_right": "many"}}),
        ("task", "text"),
    ],
)
def test_evidence_of_another_form_is_refused_and_nothing_written(
    facts: dict[str, Any], tmp_path: Path, group: str, value: Any
):
    facts["evidence"][group] = value
    with pytest.raises(ArtifactError, match=r"report of DigitNet\n +got: evidence that breaks its form: [A-Z]\w+Error"):
        render(facts, tmp_path)
    assert list(tmp_path.iterdir()) == []
