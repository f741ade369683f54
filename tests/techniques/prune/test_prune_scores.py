"""Evidence for scores: what numerics is given, groups without evidence, and units that plainly do nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gossamer import flow
from gossamer.analysis.coupling import Coupling, couple
from gossamer.core.errors import UnknownName, UnsupportedOp
from gossamer.numerics import saliency
from gossamer.numerics.spectra import spectral_energy
from gossamer.program.interpreter import Interpreter
from gossamer.techniques.prune.scores import SCORES, score_groups


def samples(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def scores(score: str, coupling: Coupling, x: np.ndarray, loss: str = "outputs", seed: int = 0) -> dict[str, Tensor]:
    names = [group.name for group in coupling.free]
    inputs = {coupling.program.signature.inputs[0].name: x}
    return score_groups(score, coupling, names, inputs, loss=loss, seed=seed)


@pytest.fixture(scope="module")
def planted() -> Coupling:
    """A convolution with a batch norm, whose third channel nobody reads and whose scale is least, then another."""
    torch.manual_seed(0)
    first, norm, second = nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 8, 3)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.bias.uniform_(0, 1)
        norm.weight[2] = 0.01
        first.weight[2] *= 0.5
        second.weight[:, 2] = 0
    net = nn.Sequential(first, norm, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), nn.Linear(8 * 12, 3))
    return couple(flow.capture(net.eval(), torch.randn(2, 2, 8, 7)))


@pytest.mark.parametrize("score", set(SCORES) - {"random", "hrank", "spectral"})
def test_a_channel_that_nobody_reads_comes_last(planted: Coupling, score: str):
    for loss in ("outputs", "predictions") if score in ("taylor", "fisher") else ("outputs",):
        found = scores(score, planted, samples(64, 2, 8, 7), loss)["0"]
        assert int(found.argmin()) == 2
        assert found.dtype == torch.float64


def test_magnitudes_are_those_behind_the_norm(planted: Coupling):
    tensors = planted.program.tensors
    scale = tensors["1.weight"] / (tensors["1.running_var"] + 1e-5).sqrt()
    for score, power in (("l1", 1), ("l2", 2)):
        sums = [float((tensors["0.weight"][unit] * scale[unit]).abs().pow(power).sum()) for unit in range(6)]
        expected = saliency.relative(torch.tensor(sums)).square()
        torch.testing.assert_close(scores(score, planted, samples(1, 2, 8, 7))["0"], expected, rtol=1e-5, atol=0)


def test_fisher_is_half_the_mean_square_of_the_derivative_of_one_sample(planted: Coupling):
    """Of a linear program with one output the projection is a factor: the ratio of scores is that of squared gates."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 1, bias=False))
    coupling, x = couple(flow.capture(net.eval(), torch.randn(2, 4))), samples(400, 4)
    hidden = torch.from_numpy(x) @ coupling.program.tensors["0.weight"].T
    gates = (hidden * coupling.program.tensors["1.weight"]).detach().double()
    found = scores("fisher", coupling, x)["0"]
    torch.testing.assert_close(found, gates.square().mean(0) / 2, rtol=0.25, atol=0)
    taylor = scores("taylor", coupling, x)["0"]
    assert (taylor < found / 10).all()  # random signs cancel within a batch


def test_map_scores_are_those_of_what_the_reader_reads(planted: Coupling):
    x = samples(40, 2, 8, 7)
    relu = next(node.name for node in planted.program.call_nodes if node.meta["module"] == "2")
    maps = torch.from_numpy(Interpreter(planted.program).run({"input": x}, taps=(relu,))[relu])
    for score, of_maps in (("hrank", saliency.hrank), ("spectral", spectral_energy)):
        found = scores(score, planted, x)
        assert set(found) == {"0"}  # the other group is read behind a flatten: there are no maps
        torch.testing.assert_close(found["0"], saliency.relative(of_maps(maps)).square(), rtol=1e-6, atol=1e-9)


def test_removal_costs_add_over_readers_and_groups_of_a_convolution():
    """A channel twice as large as another costs nothing; each group of a convolution is a reader of its own."""
    torch.manual_seed(0)
    first, second = nn.Conv2d(2, 8, 1), nn.Conv2d(8, 6, 1, groups=2)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter[[1, 5]] = 2 * parameter[[0, 4]]
    coupling = couple(flow.capture(nn.Sequential(first, second).eval(), torch.randn(2, 2, 4, 4)))
    (inner,) = (group.name for group in coupling.free if group.size == 4)
    found = scores("removal_cost", coupling, samples(64, 2, 4, 4))[inner]
    assert (found[[0, 1]] < 1e-2 * found.max()).all()


def test_random_scores_are_another_permutation_in_each_group_and_seed(digit_program, digits):
    coupling = couple(digit_program)
    one, same, other = (scores("random", coupling, digits[0][:1], seed=seed) for seed in (0, 0, 1))
    sizes = {group.name: group.size for group in coupling.free}
    assert {name: sorted(each.tolist()) for name, each in one.items()} == {
        name: list(range(1, size + 1)) for name, size in sizes.items()
    }
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("score", SCORES)
def test_every_score_is_finite_on_a_trained_net(score: str, digit_program, digits):
    coupling = couple(digit_program)
    found = scores(score, coupling, digits[0][:64])
    sizes = {group.name: group.size for group in coupling.free}
    assert found
    assert {name: len(each) for name, each in found.items()} == {name: sizes[name] for name in found}
    assert all(torch.isfinite(each).all() and (each >= 0).all() for each in found.values())


def test_heads_and_hidden_units_of_a_transformer_are_scored(reader_program, reader_ids):
    coupling = couple(reader_program)
    for score in ("l2", "taylor", "fisher", "removal_cost"):
        found = scores(score, coupling, reader_ids[:64])
        assert {coupling.group(name).kind for name in found} >= {"heads", "hidden"}


def test_unknown_names_are_refused(planted: Coupling):
    with pytest.raises(UnknownName, match="'fisher'"):
        scores("fischer", planted, samples(2, 2, 8, 7))
    with pytest.raises(UnknownName, match="'outputs'"):
        scores("fisher", planted, samples(2, 2, 8, 7), loss="output")


def test_outputs_without_gradients_are_refused_with_a_way_out():
    class Decided(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.relu(self.a(x))).argmax(1)

    coupling = couple(flow.capture(Decided().eval(), torch.randn(2, 4)))
    with pytest.raises(UnsupportedOp, match="try: a score of the weights"):
        scores("fisher", coupling, samples(8, 4))
    assert set(scores("l2", coupling, samples(8, 4))) == {"a"}


def test_groups_that_nothing_sums_over_have_no_gates():
    coupling = couple(flow.capture(nn.Linear(4, 3).eval(), torch.randn(2, 4)))
    assert scores("fisher", coupling, samples(8, 4)) == {}
