"""The generated documents say what the code says now."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from gossamer.testing.runtime_gaps import RUNTIME_GAPS

DOCS = Path(__file__).parents[2] / "docs"


def generator():
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", generator().PAGES)
def test_a_generated_page_is_not_stale(name: str):
    assert (DOCS / name).read_text(encoding="utf-8") == generator().PAGES[name](), "make docs"


def test_every_gap_of_every_runtime_stands_in_the_support_table():
    text = (DOCS / "support.md").read_text(encoding="utf-8")
    assert set(generator().TARGETS) == set(RUNTIME_GAPS)
    for gaps in RUNTIME_GAPS.values():
        assert [gap.reason for gap in gaps if gap.reason not in text] == []
