"""Folding a batch norm into the layer before it changes nothing but the number of operations."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gossamer import flow
from gossamer.program import Program
from gossamer.program.dialect import aten
from gossamer.program.fold import fold_batch_norms


def worn_in(norm: nn.Module) -> nn.Module:
    """Statistics as after training, some variances tiny."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in norm.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype))
            if name == "running_var":
                tensor.copy_(10 ** (4 * tensor))
    return norm


CASES = {
    "conv1d": (nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6), (4, 9)),
    "conv2d": (nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), (4, 7, 7)),
    "conv2d without bias": (nn.Conv2d(4, 6, 3, stride=2, bias=False), nn.BatchNorm2d(6), (4, 7, 7)),
    "grouped conv2d": (nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), (4, 7, 7)),
    "depthwise conv2d": (nn.Conv2d(6, 6, 3, groups=6), nn.BatchNorm2d(6), (6, 7, 7)),
    "conv3d": (nn.Conv3d(2, 6, 2), nn.BatchNorm3d(6), (2, 4, 4, 4)),
    "transposed conv1d": (nn.ConvTranspose1d(4, 6, 3, stride=2), nn.BatchNorm1d(6), (4, 5)),
    "transposed conv2d": (nn.ConvTranspose2d(4, 6, 3, stride=2, bias=False), nn.BatchNorm2d(6), (4, 5, 5)),
    "linear": (nn.Linear(5, 6), nn.BatchNorm1d(6), (5,)),
    "without weight": (nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6, affine=False), (4, 5, 5)),
}


def norms(program: Program) -> int:
    return sum(node.target is aten.batch_norm.default for node in program.call_nodes)


def captured(net: nn.Module, shape: tuple[int, ...]) -> tuple[Program, np.ndarray]:
    torch.manual_seed(0)
    net = net.double().eval()
    x = torch.randn(3, *shape, dtype=torch.float64)
    return flow.capture(net, x), x.numpy()


@pytest.mark.parametrize("name", CASES)
def test_the_result_is_the_same(name: str):
    layer, norm, shape = CASES[name]
    program, x = captured(nn.Sequential(layer, worn_in(norm.double())), shape)
    folded = fold_batch_norms(program)
    assert (norms(program), norms(folded)) == (1, 0)
    exact, got = program(x), folded(x)
    # Float64 has 53 bits; sums of at most 36 products, scaled, leave more than twelve digits.
    np.testing.assert_allclose(got, exact, rtol=1e-12, atol=1e-12 * np.abs(exact).max())
    assert folded.provenance[-1] == "folded 1 batch norms"


def test_a_program_without_norms_is_itself():
    program, _ = captured(nn.Sequential(nn.Linear(3, 2)), (3,))
    assert fold_batch_norms(program) is program


class Shared(nn.Module):
    """One convolution read by two norms."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norm1, self.norm2 = worn_in(nn.BatchNorm2d(4)), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm2(self.conv(self.norm1(self.conv(x))))


class Branch(nn.Module):
    """The norm's input is read by another node."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 1), worn_in(nn.BatchNorm2d(4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.norm(y) + y


class Early(nn.Module):
    """The norm comes before the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv = worn_in(nn.BatchNorm2d(4)), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.norm(x))


class Tokens(nn.Module):
    """A norm over the tokens of a linear layer's (batch, tokens, features): another axis than the layer's own."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norm = nn.Linear(6, 5), worn_in(nn.BatchNorm1d(5))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.fc(x))


class Tied(nn.Module):
    """Two layers of one weight, with a norm behind the first."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.two.weight = self.one.weight
        self.norm = worn_in(nn.BatchNorm2d(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.norm(self.one(x)))


UNTOUCHED = {
    "weight used twice": (Shared(), (4, 5, 5)),
    "other readers": (Branch(), (4, 5, 5)),
    "norm before the layer": (Early(), (4, 5, 5)),
    "norm over tokens": (Tokens(), (5, 6)),
    "tied weights": (Tied(), (4, 5, 5)),
    "grouped transposed": (
        nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=2), worn_in(nn.BatchNorm2d(6))),
        (4, 5, 5),
    ),
}


@pytest.mark.parametrize("name", UNTOUCHED)
def test_a_norm_that_cannot_be_folded_is_left_alone(name: str):
    program, _ = captured(*UNTOUCHED[name])
    assert fold_batch_norms(program) is program


def test_a_tensor_that_has_two_names_is_left_alone():
    """As in a saved program with tied weights: each name has one reader, and both are one tensor."""
    one, two = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
    program, _ = captured(nn.Sequential(one, worn_in(nn.BatchNorm2d(4)), two), (4, 5, 5))
    tied = {**program.tensors, "2.weight": program.tensors["0.weight"]}
    assert norms(fold_batch_norms(program)) == 0
    assert norms(fold_batch_norms(dataclasses.replace(program, tensors=tied))) == 1
