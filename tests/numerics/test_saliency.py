"""Scores against loops written from their formulas; how units are read from an index, ranked and combined."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gossamer.core.errors import DataError, OptionError, UnknownName
from gossamer.numerics import saliency
from gossamer.numerics.saliency import combine, keep_indices, ranking, relative, unit_scores

UNITS = 4
INDEX = np.array([2, 0, -1, 3, 1, 0, 2, 3, 1])
"""Nine positions of four units with two each, and one of another group."""


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def positions_of(unit: int) -> list[int]:
    return [position for position, owner in enumerate(INDEX) if owner == unit]


def loop(value_of: Callable[[int], float]) -> Tensor:
    """Scores whose value for a unit is computed by plain Python from its positions."""
    return torch.tensor([value_of(unit) for unit in range(UNITS)], dtype=torch.float64)


class TestUnits:
    @pytest.mark.parametrize("axis", [0, 1, 2, -1])
    def test_sums_go_to_the_units_wherever_the_axis_is(self, axis: int) -> None:
        shape = [3, 5, 2]
        shape[axis] = len(INDEX)
        values = draw(*shape)
        slices = list(values.double().unbind(axis))
        expected = loop(lambda unit: sum(float(slices[position].sum()) for position in positions_of(unit)))
        torch.testing.assert_close(unit_scores(values, INDEX, UNITS, axis), expected)

    def test_a_vector_and_every_kind_of_index(self) -> None:
        values = torch.arange(9.0)
        for index in (INDEX, INDEX.tolist(), torch.from_numpy(INDEX), INDEX.astype(np.int32)):
            assert unit_scores(values, index, UNITS).tolist() == [6, 12, 6, 10]

    def test_a_unit_without_positions_scores_zero(self) -> None:
        assert unit_scores(torch.ones(2), [0, 2], 4).tolist() == [1, 0, 1, 0]

    def test_sums_are_in_double_precision(self) -> None:
        values = torch.cat([torch.tensor([1e8]), torch.ones(1000)])
        assert float(unit_scores(values, [0] * 1001, 1)) == 1e8 + 1000


class TestRanking:
    def test_ties_go_to_the_earlier_unit(self) -> None:
        scores = torch.tensor([1.0, 3.0, 1.0, 3.0, 1.0])
        assert ranking(scores) == [1, 3, 0, 2, 4]
        assert keep_indices(scores, 3) == [0, 1, 3]

    @settings(deadline=None)
    @given(values=st.lists(st.integers(-3, 3), min_size=1, max_size=12))
    def test_smaller_counts_are_subsets_and_nothing_better_is_left_out(self, values: list[int]) -> None:
        scores = torch.tensor(values, dtype=torch.float64)
        kept = [set(keep_indices(scores, count)) for count in range(1, len(values) + 1)]
        assert [len(each) for each in kept] == list(range(1, len(values) + 1))
        assert all(smaller < larger for smaller, larger in itertools.pairwise(kept))
        for each in kept:
            rest = set(range(len(values))) - each
            assert all((values[a], -a) > (values[b], -b) for a in each for b in rest)

    @pytest.mark.parametrize("count", [0, 4])
    def test_a_count_outside_the_group_is_refused(self, count: int) -> None:
        with pytest.raises(OptionError, match=f"count {count}\n.*1 to 3"):
            keep_indices(torch.ones(3), count)

    def test_scores_that_are_not_finite_are_refused(self) -> None:
        with pytest.raises(DataError, match="for 2 of 3 units, the first at index 1"):
            ranking(torch.tensor([1.0, torch.nan, torch.inf]))


class TestCombination:
    def test_the_formula(self) -> None:
        members = [torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, 30.0, 0.0])]
        assert combine(members).tolist() == [0.25, 1 + 9, 2.25]

    def test_the_scale_of_a_member_does_not_matter(self) -> None:
        members = [draw(7, seed=seed).abs() for seed in range(3)]
        scaled = [scores * factor for scores, factor in zip(members, (1e-6, 1.0, 1e6), strict=True)]
        torch.testing.assert_close(combine(scaled), combine(members), rtol=1e-6, atol=0)

    def test_a_member_of_zeros_says_nothing(self) -> None:
        scores = draw(5).abs()
        assert torch.equal(combine([scores, torch.zeros(5)]), combine([scores]))
        assert relative(torch.zeros(3)).tolist() == [0, 0, 0]


class TestWeights:
    def test_random_is_a_permutation_that_its_seed_fixes(self) -> None:
        assert sorted(saliency.random(50, 3).tolist()) == list(range(50))
        assert torch.equal(saliency.random(50, 3), saliency.random(50, 3))
        assert not torch.equal(saliency.random(50, 3), saliency.random(50, 4))

    @pytest.mark.parametrize(("score", "power"), [(saliency.l1, 1), (saliency.l2, 2)])
    def test_magnitudes(self, score: Callable[..., Tensor], power: int) -> None:
        weight, scale = draw(3, 9, 2, 2), draw(9, seed=1)
        for factors in (None, scale):

            def value(unit: int, factors: Tensor | None = factors) -> float:
                total = 0.0
                for row, position, i, j in itertools.product(range(3), positions_of(unit), range(2), range(2)):
                    factor = 1.0 if factors is None else float(factors[position])
                    total += abs(float(weight[row, position, i, j]) * factor) ** power
                return total

            torch.testing.assert_close(score(weight, INDEX, UNITS, 1, factors), loop(value))

    def test_half_precision_does_not_overflow(self) -> None:
        weight = torch.full((2, 3), 1000.0, dtype=torch.float16)
        assert saliency.l2(weight, [0, 1], 2).tolist() == [3e6, 3e6]

    def test_the_scale_of_a_norm(self) -> None:
        gamma = draw(9)
        expected = loop(lambda unit: sum(abs(float(gamma[position])) for position in positions_of(unit)))
        torch.testing.assert_close(saliency.norm_scale(gamma, INDEX, UNITS), expected)


class TestGradients:
    def test_taylor_in_both_forms(self) -> None:
        weight, gradient = draw(9, 3), draw(9, 3, seed=1)

        def products(unit: int) -> list[float]:
            own = itertools.product(positions_of(unit), range(3))
            return [float(weight[entry]) * float(gradient[entry]) for entry in own]

        torch.testing.assert_close(
            saliency.taylor(weight, gradient, INDEX, UNITS), loop(lambda unit: sum(products(unit)) ** 2)
        )
        torch.testing.assert_close(
            saliency.taylor(weight, gradient, INDEX, UNITS, inner="squares"),
            loop(lambda unit: sum(product**2 for product in products(unit))),
        )
        with pytest.raises(UnknownName, match="squares"):
            saliency.taylor(weight, gradient, INDEX, UNITS, inner="square")  # pyright: ignore[reportArgumentType]

    def test_gates_of_activation_and_of_norm_are_the_derivative_by_a_real_gate(self) -> None:
        x, gamma, beta = draw(6, 5, 3, 3).double(), draw(5, seed=1).double(), draw(5, seed=2).double()
        gate = torch.ones(5, dtype=torch.float64)
        for leaf in (gamma, beta, gate):
            leaf.requires_grad_()
        normed = torch.nn.functional.batch_norm(x, None, None, gamma, beta, training=True)
        normed.retain_grad()
        (gate[:, None, None] * normed).sin().square().mean().backward()
        assert gate.grad is not None
        assert normed.grad is not None
        assert gamma.grad is not None
        assert beta.grad is not None
        every = range(5)
        by_activation = saliency.gate_gradient(normed.detach(), normed.grad, every, 5, axis=1)
        by_norm = saliency.gate_gradient(gamma.detach(), gamma.grad, every, 5)
        by_norm = by_norm + saliency.gate_gradient(beta.detach(), beta.grad, every, 5)
        torch.testing.assert_close(by_activation, gate.grad, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(by_norm, gate.grad, rtol=1e-12, atol=1e-14)

    def test_gates_average_as_squares(self) -> None:
        assert saliency.taylor_gate(torch.tensor([[1.0, -2.0], [3.0, 2.0]])).tolist() == [5, 4]

    @pytest.mark.parametrize("mean_loss", [True, False])
    def test_fisher(self, mean_loss: bool) -> None:
        activation, gradient = draw(3, 9, 2, 2), draw(3, 9, 2, 2, seed=1)

        def value(unit: int) -> float:
            total = 0.0
            for sample in range(3):
                own = positions_of(unit)
                gate = float((activation[sample, own].double() * gradient[sample, own].double()).sum())
                total += (gate * (3 if mean_loss else 1)) ** 2
            return total / 6

        torch.testing.assert_close(
            saliency.fisher(activation, gradient, INDEX, UNITS, mean_loss=mean_loss), loop(value)
        )

    def test_fisher_reads_tokens_and_does_not_shrink_with_the_batch(self) -> None:
        activation, weight = draw(4, 6, 9).double(), draw(4, 6, 9, seed=1).double()

        def score(copies: int) -> Tensor:
            x = activation.repeat(copies, 1, 1).requires_grad_()
            (x * weight.repeat(copies, 1, 1)).sin().flatten(1).sum(1).mean().backward()
            assert x.grad is not None
            return saliency.fisher(x.detach(), x.grad, INDEX, UNITS, axis=2)

        torch.testing.assert_close(score(3), score(1))


class TestRank:
    def test_planted_ranks_are_found(self) -> None:
        maps = torch.stack([draw(5, 8, rank, seed=rank) @ draw(5, rank, 6, seed=10 + rank) for rank in (0, 1, 3, 6)], 1)
        assert saliency.hrank(maps).tolist() == [0, 1, 3, 6]

    def test_it_is_the_mean_over_samples_in_float32(self) -> None:
        maps = torch.zeros(2, 1, 4, 4, dtype=torch.float64)
        maps[0] = torch.eye(4)
        maps[1, 0, 0, 0] = 1.0
        maps[1, 0, 1, 1] = 1e-9  # a rank in float64 only
        assert saliency.hrank(maps).tolist() == [2.5]

    @pytest.mark.parametrize("shape", [(2, 3, 4), (0, 3, 4, 4)])
    def test_what_is_not_a_map_is_refused(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(DataError, match=r"(?s)rank of activation maps.*another score"):
            saliency.hrank(torch.zeros(shape))


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(9)))
def test_every_score_follows_a_permutation_of_the_channels(order: list[int]) -> None:
    weight, gradient = draw(9, 3, 2), draw(9, 3, 2, seed=1)
    maps, slopes = draw(2, 9, 4, 4), draw(2, 9, 4, 4, seed=1)
    own = range(9)

    def scores(to: list[int] | range) -> dict[str, Tensor]:
        to = list(to)
        return {
            "l1": saliency.l1(weight[to], own, 9),
            "l2": saliency.l2(weight[to], own, 9),
            "taylor": saliency.taylor(weight[to], gradient[to], own, 9),
            "fisher": saliency.fisher(maps[:, to], slopes[:, to], own, 9),
            "hrank": saliency.hrank(maps[:, to]),
        }

    before, after = scores(own), scores(order)
    for name, each in before.items():
        torch.testing.assert_close(after[name], each[list(order)], rtol=1e-12, atol=0, msg=name)
