"""Names: the nearest one for a slip, selectors that must match."""

from __future__ import annotations

import pytest

from gossamer.core.errors import UnknownName
from gossamer.core.names import literal_glob, nearest, require_known, select

SITES = ["blocks.0.conv1", "blocks.0.conv2", "blocks.1.conv1", "head"]


def test_nearest_is_best_first_and_empty_where_nothing_is_like_it() -> None:
    assert nearest("tucker", ["tucker2", "tuck", "svd"])[0] == "tucker2"
    assert nearest("zzz", ["svd"]) == []
    assert len(nearest("conv", ["conv1", "conv2", "conv3", "conv4"], count=2)) == 2


def test_a_known_name_passes_and_an_unknown_one_offers_the_nearest() -> None:
    require_known("svd", ["svd", "tucker"], "technique", "reading a recipe")
    with pytest.raises(UnknownName) as caught:
        require_known("svdd", ["tucker", "svd"], "technique", "reading a recipe")
    assert str(caught.value).split("\n") == [
        "reading a recipe",
        "  got: technique 'svdd'",
        "  expected: one of: svd, tucker",
        "  try: 'svd'?",
    ]


def test_select_keeps_the_order_of_names_and_each_name_once() -> None:
    assert select(["head", "*.conv1", "blocks.0.*"], SITES, "pruning") == [
        "blocks.0.conv1",
        "blocks.0.conv2",
        "blocks.1.conv1",
        "head",
    ]


def test_select_tells_upper_from_lower_case() -> None:
    with pytest.raises(UnknownName, match="matches 0 of 4 sites"):
        select(["HEAD"], SITES, "pruning")


def test_every_pattern_must_match() -> None:
    with pytest.raises(UnknownName) as caught:
        select(["head", "block.0.conv1"], SITES, "pruning")
    assert "selector 'block.0.conv1', which matches 0 of 4 sites" in str(caught.value)
    assert caught.value.try_.startswith("blocks.0.conv1")


def test_a_pattern_like_nothing_points_to_the_list_of_sites() -> None:
    with pytest.raises(UnknownName, match="gossamer inspect lists the sites"):
        select(["???"], SITES, "pruning")


@pytest.mark.parametrize("name", ["blocks.0.conv1", "a[0]*?", "two, or | more"])
def test_a_literal_glob_matches_its_name_and_fits_into_a_recipe(name: str) -> None:
    glob = literal_glob(name)
    assert select([glob], [name, "other"], "testing") == [name]
    assert not set(glob) & set(",| ")
