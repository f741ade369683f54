"""The axis algebra by itself: refinement, unification, evaluation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossamer.analysis.axes import Axes, Axis, Concat, Dim, Fixed, Product, describe, is_symbolic


def test_two_leaves_become_one_with_the_facts_of_both():
    axes = Axes()
    a, b = axes.new(8, "hidden"), axes.new(8, "heads")
    axes.freeze(b, "an output")
    axes.mark_renormalising(a)
    axes.unify(a, b, "add")
    (leaf,) = {axes.resolve(a), axes.resolve(b)}
    assert isinstance(leaf, Dim)
    assert (axes.kind(leaf), axes.frozen(leaf), axes.renormalising(leaf)) == ("heads", "an output", True)


def test_a_leaf_that_meets_a_product_is_refined_wherever_it_occurs():
    axes = Axes()
    width, heads, size = axes.new(12), axes.new(3), axes.new(4)
    flat = axes.product((width, Fixed(5)))
    axes.unify(width, Product((heads, size)), "reshape")
    assert axes.resolve(flat) == Product((heads, size, Fixed(5)))


def test_different_factorizations_are_refined_to_a_common_one():
    axes = Axes()
    a, b = axes.new(2), axes.new(12)
    c, d = axes.new(6), axes.new(4)
    axes.unify(Product((a, b)), Product((c, d)), "view")
    assert [leaf.size for leaf in axes.leaves(Product((a, b)))] == [2, 3, 4]
    assert axes.resolve(Product((a, b))) == axes.resolve(Product((c, d)))
    assert not any(axes.frozen(leaf) for leaf in axes.leaves(b))


def test_factors_without_a_common_refinement_are_frozen_with_the_place():
    axes = Axes()
    a, b, c, d = axes.new(6), axes.new(4), axes.new(4), axes.new(6)
    axes.unify(Product((a, b)), Product((c, d)), "view x")
    assert all("factors of a product do not fit at view x" in axes.frozen(leaf) for leaf in (a, b, c, d))


def test_concatenations_are_split_at_each_others_boundaries():
    axes = Axes()
    a, b, c, d = axes.new(2), axes.new(6), axes.new(5), axes.new(3)
    axes.unify(Concat((a, b)), Concat((c, d)), "add")
    assert [leaf.size for leaf in axes.leaves(Concat((a, b)))] == [2, 3, 3]
    assert axes.resolve(Concat((a, b))) == axes.resolve(Concat((c, d)))


def test_a_product_is_split_along_its_outer_factor_only():
    axes = Axes()
    outer, inner = axes.new(4), axes.new(3)
    left, right = axes.split(Product((outer, inner)), 6) or pytest.fail("6 is a boundary")
    assert (left.size, right.size) == (6, 6)
    assert axes.split(Product((outer, inner)), 4) is None


def test_a_boundary_inside_an_inner_factor_freezes():
    axes = Axes()
    outer, inner, a, b = axes.new(4), axes.new(3), axes.new(4), axes.new(8)
    axes.unify(Concat((a, b)), Product((outer, inner)), "cat y")
    assert "boundaries of a concatenation do not fit at cat y" in axes.frozen(outer)


def test_the_parts_of_a_concatenation_are_divided_alike():
    axes = Axes()
    a, b = axes.new(8), axes.new(4)
    outer, inner = axes.factor(Concat((a, b)), 4) or pytest.fail("4 divides both")
    assert (outer.size, inner.size) == (3, 4)
    assert axes.leaves(b) == axes.leaves(inner)
    assert axes.factor(Concat((a, b)), 8) is None


def test_what_meets_a_fixed_axis_is_frozen_by_name():
    axes = Axes()
    leaf = axes.new(8)
    axes.unify(leaf, Fixed(8, "input x, axis 1"), "conv c")
    axes.unify(Fixed(8, "too late"), leaf, "add")
    assert axes.frozen(leaf) == "meets input x, axis 1 at conv c"


def test_different_sizes_freeze_both():
    axes = Axes()
    a, b = axes.new(8), axes.new(6)
    axes.unify(a, b, "add z")
    assert axes.frozen(a) == axes.frozen(b) == "sizes 8 and 6 meet at add z"


def test_an_axis_cannot_be_refined_to_a_part_of_itself():
    axes = Axes()
    a, b = axes.new(2), axes.new(2)
    axes.unify(Product((a, b)), Product((b, a)), "transposed")
    assert axes.repeats_a_leaf(Product((a, b)))


def test_broadcast_axes_and_leaves_of_one_stay_alone():
    axes = Axes()
    one, other = axes.new(1), axes.new(1)
    axes.unify(one, other, "add")
    assert axes.resolve(one) != axes.resolve(other)
    assert axes.frozen(one) == "size 1"


def test_evaluation_follows_the_description():
    axes = Axes()
    channels, other = axes.new(4), axes.new(3)
    flat = Concat((Product((channels, Fixed(2))), other))
    keep = {channels.id: np.array([0, 3])}
    assert axes.kept(flat, keep).tolist() == [0, 1, 6, 7, 8, 9, 10]
    assert axes.kept_size(flat, keep) == 7
    assert axes.index(flat, channels).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, -1, -1, -1]
    assert axes.touched(flat, keep)
    assert not axes.touched(other, keep)


def test_sizes_that_vary_are_seen_and_printed():
    axes = Axes()
    heads = axes.new(4)
    batch = Fixed(1000003, "input", "batch")
    merged = axes.product((batch, heads))
    assert is_symbolic(merged)
    assert describe(merged) == f"Product(batch, d{heads.id}[4])"
    assert describe(Concat((heads, Fixed(2)))) == f"Concat(d{heads.id}[4], 2)"
    assert axes.split(batch, 2) is None
    assert axes.kept(merged, {heads.id: np.array([1])}, lambda fixed: 2 if fixed.text else fixed.size).tolist() == [
        1,
        5,
    ]
    outer, inner = axes.factor(Fixed(4 * 1000003, "", "4*batch"), 4) or pytest.fail("4 divides it")
    assert (describe(outer), inner.size) == ("(4*batch)//4", 4)


def trees(depth: int = 3) -> st.SearchStrategy[tuple]:
    leaf = st.tuples(st.just("dim"), st.integers(1, 4)) | st.tuples(st.just("fixed"), st.integers(1, 3))
    return st.recursive(
        leaf, lambda inner: st.tuples(st.sampled_from(["product", "concat"]), st.lists(inner, min_size=1, max_size=3)),
        max_leaves=depth * 2,
    )  # fmt: skip


def built(axes: Axes, tree: tuple) -> Axis:
    kind, content = tree
    if kind == "dim":
        return axes.new(content)
    if kind == "fixed":
        return Fixed(content)
    return (Product if kind == "product" else Concat)(tuple(built(axes, one) for one in content))


@given(trees(), st.data())
def test_resolving_changes_no_position(tree: tuple, data: st.DataObject):
    axes = Axes()
    axis = built(axes, tree)
    keep = {
        leaf.id: np.array(sorted(data.draw(st.sets(st.integers(0, leaf.size - 1), min_size=1))))
        for leaf in axes.leaves(axis)
    }
    kept = axes.kept(axis, keep)
    assert len(kept) == axes.kept_size(axis, keep)
    assert (np.diff(kept) > 0).all()
    stays = np.ones(axis.size, bool)
    for leaf in axes.leaves(axis):
        index = axes.index(axis, leaf)
        stays &= (index == -1) | np.isin(index, keep[leaf.id])
    assert kept.tolist() == np.flatnonzero(stays).tolist()


@given(trees(), st.integers(1, 60))
def test_split_and_factor_give_back_the_whole(tree: tuple, at: int):
    axes = Axes()
    axis = built(axes, tree)
    parts = axes.split(axis, min(at, axis.size))
    if parts is not None:
        for leaf in (leaf for leaf in axes.leaves(axis) if leaf.size > 1):
            assert axes.index(axes.concat(parts), leaf).tolist() == axes.index(axis, leaf).tolist()
    factors = axes.factor(axis, at)
    if factors is not None:
        assert factors[1].size == at
        # Parts that had to be divided alike and cannot be are frozen: nobody asks where these are.
        for leaf in (leaf for leaf in axes.leaves(axis) if leaf.size > 1 and not axes.frozen(leaf)):
            assert axes.index(axes.product(factors), leaf).tolist() == axes.index(axis, leaf).tolist()
