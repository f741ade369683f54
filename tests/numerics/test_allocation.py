"""Allocation: golden shares, laws that every allocator obeys, and the best choice found by trying them all."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gossamer.core.errors import OptionError
from gossamer.numerics import allocation
from gossamer.numerics.allocation import (
    Counts,
    Path,
    align,
    allocate,
    energy_count,
    global_rank,
    knapsack,
    power_law,
    power_law_counts,
    power_law_shares,
    uniform,
)

SIZES = {"stem": 16, "body": 40, "head": 7}


def drawn_scores(sizes: Mapping[str, int], seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(size, generator=generator).double() for name, size in sizes.items()}


def macs(counts: Mapping[str, int]) -> float:
    """A chain of layers between the groups: products of neighbouring widths."""
    widths = [3, *counts.values(), 10]
    return float(sum(a * b * 9 for a, b in itertools.pairwise(widths)))


def paths(sizes: Mapping[str, int], seed: int = 0) -> dict[str, Path]:
    scores = drawn_scores(sizes, seed)
    weights = {name: 9 * size * size for name, size in sizes.items()}
    return {
        "uniform": uniform(sizes),
        "global": global_rank(scores),
        "energy": allocation.energy(scores),
        "power_law": power_law(sizes, weights, 0.5),
        "knapsack": knapsack(scores, macs),
    }


ALLOCATORS = sorted(paths(SIZES))
KNOBS = [0.0, 0.013, 0.1, 0.25, 0.5, 0.6, 0.9, 0.999, 1.0]


@pytest.mark.parametrize("name", ALLOCATORS)
class TestEveryAllocator:
    def test_counts_rise_with_the_knob_from_at_least_one_to_all(self, name: str) -> None:
        path = paths(SIZES)[name]
        found = [path(knob) for knob in KNOBS]
        assert min(found[0].values()) >= 1
        assert found[-1] == SIZES
        for smaller, larger in itertools.pairwise(found):
            assert list(smaller) == list(SIZES)
            assert all(smaller[group] <= larger[group] for group in SIZES)
        assert found[0] != found[4] != found[-1]

    @pytest.mark.parametrize("multiple", [1, 4, {"body": 8}])
    def test_the_budget_holds_and_is_used(self, name: str, multiple: int | dict[str, int]) -> None:
        path = paths(SIZES)[name]
        for budget in (0.25, 0.5, 0.8, 0.95):
            counts = allocate(path, macs, budget, multiple)
            assert macs(counts) <= budget * macs(SIZES)
            for group, count in counts.items():
                step = multiple if isinstance(multiple, int) else multiple.get(group, 1)
                assert 1 <= count <= SIZES[group]
                assert count % step == 0 or count == SIZES[group]
            grown = [
                macs({**counts, group: min(SIZES[group], counts[group] + 8)}) / macs(SIZES)
                for group in SIZES
                if counts[group] < SIZES[group]
            ]
            assert max(grown) > budget  # room for one more step of some group would be a budget left unused

    def test_a_larger_budget_never_keeps_less(self, name: str) -> None:
        path = paths(SIZES)[name]
        found = [allocate(path, macs, 0.1 + 0.01 * step) for step in range(91)]
        assert found[-1] == SIZES
        for smaller, larger in itertools.pairwise(found):
            assert all(smaller[group] <= larger[group] for group in SIZES)
        assert len({tuple(counts.values()) for counts in found}) > 20

    @settings(max_examples=15, deadline=None)
    @given(
        sizes=st.lists(st.integers(1, 20), min_size=1, max_size=4),
        budget=st.floats(0.3, 1.0),
        multiple=st.sampled_from([1, 2, 8]),
        seed=st.integers(0, 99),
    )
    def test_random_networks(self, name: str, sizes: list[int], budget: float, multiple: int, seed: int) -> None:
        groups = {f"g{number}": size for number, size in enumerate(sizes)}
        path = paths(groups, seed)[name]
        least = macs({group: align(count, multiple, groups[group]) for group, count in path(0.0).items()})
        if least > budget * macs(groups):
            with pytest.raises(OptionError, match="is left"):
                allocate(path, macs, budget, multiple)
            return
        counts = allocate(path, macs, budget, multiple)
        assert macs(counts) <= budget * macs(groups)
        assert all(1 <= counts[group] <= size for group, size in groups.items())


class TestAllocate:
    def test_groups_that_grow_together_grow_one_after_the_other(self) -> None:
        """All four groups of 10 turn at the same knob; 27 of 40 units are not a uniform choice, but near one."""
        sizes = dict.fromkeys("abcd", 10)
        counts = allocate(uniform(sizes), lambda widths: float(sum(widths.values())), 0.675)
        assert counts == {"a": 7, "b": 7, "c": 7, "d": 6}

    @pytest.mark.parametrize("budget", [0.0, -0.5, 1.01, float("nan")])
    def test_a_budget_that_is_no_share_is_refused(self, budget: float) -> None:
        with pytest.raises(OptionError, match="expected: a share within"):
            allocate(uniform(SIZES), macs, budget)

    def test_a_budget_below_one_block_each_says_what_is_left(self) -> None:
        smallest = macs({"stem": 8, "body": 8, "head": 7}) / macs(SIZES)
        with pytest.raises(OptionError, match=rf"at least {smallest:.4g} is left"):
            allocate(uniform(SIZES), macs, 0.05, multiple=8)

    def test_align(self) -> None:
        assert [align(count, 8, 20) for count in (0, 1, 8, 9, 16, 17, 20)] == [8, 8, 8, 16, 16, 20, 20]
        assert align(2, 8, 5) == 5
        with pytest.raises(OptionError, match="multiple 0"):
            align(3, 0, 5)

    @given(size=st.integers(1, 99), multiple=st.integers(1, 70), data=st.data())
    def test_align_rounds_up_once(self, size: int, multiple: int, data: st.DataObject) -> None:
        count = data.draw(st.integers(1, size))
        found = align(count, multiple, size)
        assert count <= found < count + multiple
        assert found <= size
        assert align(found, multiple, size) == found


class TestRankings:
    def test_one_ranking_for_all_groups(self) -> None:
        path = global_rank({"a": torch.tensor([5.0, 1.0, 3.0]), "b": torch.tensor([4.0, 2.0, 3.0, 0.0])})
        assert path(4 / 7) == {"a": 2, "b": 2}
        assert path(3 / 7) == {"a": 2, "b": 1}  # of the two threes the one of the first group

    def test_no_group_is_emptied(self) -> None:
        path = global_rank({"a": torch.ones(3), "b": 10 * torch.ones(5)})
        assert path(0.0) == {"a": 1, "b": 1}
        assert path(0.5) == {"a": 1, "b": 4}

    @pytest.mark.parametrize(("share", "count"), [(0.9, 2), (0.92, 3), (0.95, 3), (0.98, 4), (0.0, 1), (1.0, 4)])
    def test_energy_golden(self, share: float, count: int) -> None:
        assert energy_count(torch.tensor([1.0, 4.0, 2.0, 1.0]).square(), share) == count

    def test_energy_of_nothing(self) -> None:
        assert energy_count(torch.zeros(5), 0.9) == 1
        assert energy_count(torch.zeros(5), 1.0) == 5


def resnet34() -> dict[str, list[int]]:
    """Weights of the 37 layers of a ResNet-34 for CIFAR-10."""
    stages = {64: (64, 3), 128: (64, 4), 256: (128, 6), 512: (256, 3)}
    layers = {"stem": [3 * 64 * 9], "classifier": [512 * 10], "shortcuts": [], "entries": []}
    for width, (before, blocks) in stages.items():
        inner = 2 * blocks
        if before != width:
            layers["entries"].append(before * width * 9)
            layers["shortcuts"].append(before * width)
            inner -= 1
        layers[f"{width}x{width}"] = [width * width * 9] * inner
    return layers


class TestPowerLaw:
    def test_golden(self) -> None:
        layers = resnet34()
        weights = list(itertools.chain(*layers.values()))
        assert (len(weights), sum(weights)) == (37, 21_265_088)
        shares = dict(zip(weights, power_law_shares(weights, 0.01 * sum(weights), 0.1), strict=True))
        assert shares[layers["stem"][0]] == 1
        golden = {
            layers["classifier"][0]: 0.7746,
            **dict(zip(layers["shortcuts"], (0.5074, 0.1457, 0.0418), strict=True)),
            64 * 64 * 9: 0.1311,
            128 * 128 * 9: 0.0376,
            256 * 256 * 9: 0.0108,
            512 * 512 * 9: 0.0031,
        }
        assert {count: round(shares[count], 4) for count in golden} == golden
        counts = power_law_counts(weights, 212_651, 0.1)
        assert sum(counts) == 212_651
        exact = [shares[count] * count for count in weights]
        assert [sum(rounding(each) for each in exact) for rounding in (int, round)] == [212_634, 212_646]
        assert sum(int(each) + (each > int(each)) for each in exact) == 212_670
        assert all(abs(count - each) < 1 for count, each in zip(counts, exact, strict=True))

    def test_the_ends_of_the_law(self) -> None:
        weights = list(itertools.chain(*resnet34().values()))
        assert power_law_counts(weights, 212_651, 1.0)[0] == 17
        assert power_law_shares(weights, 1000.0, 1.0) == pytest.approx([1000 / sum(weights)] * 37)
        equal = [share * count for share, count in zip(power_law_shares(weights, 3700.0, 0.0), weights, strict=True)]
        assert equal == pytest.approx([100.0] * 37)

    @settings(deadline=None)
    @given(
        weights=st.lists(st.integers(1, 10_000), min_size=1, max_size=8),
        share=st.floats(0, 1),
        p=st.floats(0, 1),
    )
    def test_it_fills_up_to_the_total(self, weights: list[int], share: float, p: float) -> None:
        total = round(share * sum(weights))
        shares = power_law_shares(weights, total, p)
        assert sum(s * count for s, count in zip(shares, weights, strict=True)) == pytest.approx(total)
        assert all(0 <= s <= 1 for s in shares)
        free = [s * count / count**p for s, count in zip(shares, weights, strict=True) if s < 1 - 1e-9]
        assert free == pytest.approx([free[0]] * len(free)) if free else True
        counts = power_law_counts(weights, total, p)
        assert sum(counts) == total
        assert all(0 <= kept <= count for kept, count in zip(counts, weights, strict=True))

    def test_small_groups_keep_more(self) -> None:
        counts = power_law({"a": 10, "b": 10}, {"a": 100, "b": 10_000}, 0.5)(0.3)
        assert counts == {"a": 10, "b": 3}

    def test_bad_requests_are_refused(self) -> None:
        with pytest.raises(OptionError, match=r"p 1\.5"):
            power_law(SIZES, SIZES, 1.5)
        with pytest.raises(OptionError, match=r"total 7\n.*0 to 6"):
            power_law_counts([1, 2, 3], 7)


def least_loss(scores: Mapping[str, Tensor], cost: allocation.Cost, limit: float) -> float:
    """The smallest sum of removed scores within the limit, by trying every choice of counts."""
    removed = {name: [0.0, *each.sort().values.cumsum(0).tolist()] for name, each in scores.items()}
    best = float("inf")
    for widths in itertools.product(*[range(1, len(each) + 1) for each in scores.values()]):
        counts = dict(zip(scores, widths, strict=True))
        if cost(counts) <= limit * (1 + 1e-12):
            best = min(best, loss_of(removed, counts))
    return best


def loss_of(removed: Mapping[str, list[float]], counts: Counts) -> float:
    return sum(removed[name][len(removed[name]) - 1 - count] for name, count in counts.items())


class TestKnapsack:
    @settings(max_examples=25, deadline=None)
    @given(
        prices=st.lists(st.floats(0.1, 10.0), min_size=2, max_size=3),
        sizes=st.lists(st.integers(1, 5), min_size=3, max_size=3),
        seed=st.integers(0, 999),
    )
    def test_where_costs_add_up_every_step_is_the_best_choice_of_its_cost(
        self, prices: list[float], sizes: list[int], seed: int
    ) -> None:
        groups = {str(number): size for number, size in zip(range(len(prices)), sizes, strict=False)}
        by_group = dict(zip(groups, prices, strict=True))
        scores = drawn_scores(groups, seed)
        removed = {name: [0.0, *each.sort().values.cumsum(0).tolist()] for name, each in scores.items()}

        def cost(counts: Mapping[str, int]) -> float:
            return sum(by_group[name] * count for name, count in counts.items())

        path = knapsack(scores, cost)
        steps = sum(groups.values()) - len(groups)
        for step in range(steps + 1):
            counts = path(1 - step / max(1, steps))
            assert sum(groups.values()) - sum(counts.values()) == step
            assert loss_of(removed, counts) == pytest.approx(least_loss(scores, cost, cost(counts)))

    def test_with_products_of_widths_it_is_close_to_the_best_and_beats_what_ignores_cost(self) -> None:
        greedy = ranked = 0.0
        for seed in range(20):
            sizes = {"a": 4, "b": 6, "c": 5}
            scores = drawn_scores(sizes, seed)
            removed = {name: [0.0, *each.sort().values.cumsum(0).tolist()] for name, each in scores.items()}
            for budget in (0.4, 0.6, 0.8):
                best = least_loss(scores, macs, budget * macs(sizes))
                greedy += loss_of(removed, allocate(knapsack(scores, macs), macs, budget)) / best
                ranked += loss_of(removed, allocate(global_rank(scores), macs, budget)) / best
        assert 1 <= greedy / 60 < ranked / 60
        assert greedy / 60 < 1.2

    def test_lazy_prices_choose_as_fresh_ones_do(self) -> None:
        scores = drawn_scores(SIZES, 3)
        losses = {name: each.sort().values.tolist() for name, each in scores.items()}
        counts = dict(SIZES)
        path, steps = knapsack(scores, macs), sum(SIZES.values()) - len(SIZES)
        for step in range(1, steps + 1):
            price = {
                name: losses[name][SIZES[name] - count] / (macs(counts) - macs({**counts, name: count - 1}))
                for name, count in counts.items()
                if count > 1
            }
            counts[min(price, key=price.__getitem__)] -= 1
            assert path(1 - step / steps) == counts

    def test_steps_are_multiples_and_keep_one_block(self) -> None:
        path = knapsack(drawn_scores(SIZES), macs, {"stem": 8, "body": 16, "head": 8})
        seen = [path(knob / 100) for knob in range(101)]
        assert {counts["stem"] for counts in seen} == {16, 8}
        assert {counts["body"] for counts in seen} == {40, 32, 16}
        assert {counts["head"] for counts in seen} == {7}

    def test_what_saves_nothing_goes_last(self) -> None:
        free = {"free": torch.zeros(3).double(), "paid": torch.ones(3).double()}
        path = knapsack(free, lambda counts: float(counts["paid"]))
        assert [path(1 - step / 4) for step in range(5)] == [
            {"free": 3, "paid": 3},
            {"free": 3, "paid": 2},
            {"free": 3, "paid": 1},
            {"free": 2, "paid": 1},
            {"free": 1, "paid": 1},
        ]
