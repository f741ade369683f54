"""Spectral energy: goldens that a pencil can check, and a loop written from the formula."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gossamer.core.errors import DataError, OptionError
from gossamer.numerics.spectra import spectral_energy


def one(image: Tensor) -> Tensor:
    return image[None, None]


def impulse(height: int, width: int) -> Tensor:
    """Its spectrum is 1 everywhere, so the score is the share of the map outside the window."""
    image = torch.zeros(height, width)
    image[height // 3, width // 2] = 1.0
    return one(image)


CHECKERBOARD = 1.0 - 2.0 * ((torch.arange(16)[:, None] + torch.arange(16)) % 2)


class TestGoldens:
    @pytest.mark.parametrize(
        ("side", "window"),
        [(1, 1), (3, 1), (4, 3), (8, 3), (14, 5), (16, 5), (28, 9), (32, 9), (56, 15), (112, 29)],
    )
    def test_the_window_of_low_frequencies(self, side: int, window: int) -> None:
        assert float(spectral_energy(impulse(side, side))) == pytest.approx(1 - (window / side) ** 2, abs=1e-12)

    def test_simple_maps(self) -> None:
        maps = torch.stack([torch.full((16, 16), 3.0), CHECKERBOARD, (CHECKERBOARD + 1) / 2, impulse(16, 16)[0, 0]])
        scores = spectral_energy(maps[None])
        # The checkerboard from 0 to 1 has a mean of 1/2: its spectrum is two equal peaks, one of them at zero.
        torch.testing.assert_close(scores, torch.tensor([0, 1, 0.5, 231 / 256]).double(), rtol=0, atol=1e-12)

    def test_white_noise(self) -> None:
        noise = torch.randn(50, 1, 16, 16, generator=torch.Generator().manual_seed(0))
        assert float(spectral_energy(noise)) == pytest.approx(0.902, abs=2e-3)

    def test_a_map_of_zeros_or_of_one_pixel_scores_zero(self) -> None:
        assert spectral_energy(torch.zeros(2, 3, 8, 8)).tolist() == [0, 0, 0]
        assert spectral_energy(torch.randn(4, 3, 1, 1)).tolist() == [0, 0, 0]


def looped(image: Tensor, alpha: float) -> float:
    """The formula term by term, with a slow transform."""
    height, width = image.shape
    rows, columns = height // 2, width // 2
    steps = [math.ceil(alpha * (height - rows - 1)), math.ceil(alpha * (width - columns - 1))]
    step = 0 if 1 in {rows, columns} else min(steps)
    total = low = 0.0
    for u in range(height):
        for v in range(width):
            f, g = u - rows, v - columns  # frequencies after the shift of zero to the centre
            angles = [2 * math.pi * (f * i / height + g * j / width) for i in range(height) for j in range(width)]
            pixels = image.flatten().tolist()
            real = sum(p * math.cos(a) for p, a in zip(pixels, angles, strict=True))
            imaginary = sum(p * math.sin(a) for p, a in zip(pixels, angles, strict=True))
            level = math.log1p(math.hypot(real, imaginary))
            total += level
            low += level * (abs(f) <= step and abs(g) <= step)
    return 1 - low / total


@pytest.mark.parametrize("size", [(8, 8), (7, 7), (6, 9), (9, 6), (2, 8), (3, 5)])
@pytest.mark.parametrize("alpha", [0.25, 0.6])
def test_it_is_the_formula(size: tuple[int, int], alpha: float) -> None:
    maps = torch.randn(2, 2, *size, generator=torch.Generator().manual_seed(1)).double()
    expected = [sum(looped(maps[n, c], alpha) for n in range(2)) / 2 for c in range(2)]
    torch.testing.assert_close(
        spectral_energy(maps, alpha), torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=0
    )


@pytest.mark.parametrize("size", [(8, 5), (5, 8), (7, 9), (6, 6)])
def test_a_constant_map_scores_zero_on_every_size(size: tuple[int, int]) -> None:
    assert float(spectral_energy(torch.full((1, 1, *size), 2.0))) == pytest.approx(0, abs=1e-12)


def test_stronger_low_pass_means_a_lower_score() -> None:
    noise = torch.randn(8, 1, 24, 24, generator=torch.Generator().manual_seed(2))
    maps = [noise]
    for _ in range(4):  # each channel is the one before, blurred once more
        maps.append(torch.nn.functional.avg_pool2d(maps[-1], 3, stride=1, padding=1))
    scores = spectral_energy(torch.cat(maps, 1), normalize=True)
    assert scores.argsort(descending=True).tolist() == [0, 1, 2, 3, 4]


def test_scale_matters_unless_maps_are_normalised() -> None:
    noise = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(3))
    raw = [float(spectral_energy(noise * scale)) for scale in (0.01, 1.0, 100.0)]
    assert raw[0] < raw[1] < raw[2]
    same = [float(spectral_energy(noise * scale, normalize=True)) for scale in (0.01, 1.0, 100.0)]
    assert same == pytest.approx([same[0]] * 3, rel=1e-5)
    assert spectral_energy(torch.zeros(1, 2, 8, 8), normalize=True).tolist() == [0, 0]


def test_channels_are_scored_apart() -> None:
    maps = torch.randn(3, 5, 8, 8, generator=torch.Generator().manual_seed(4))
    order = [3, 0, 4, 1, 2]
    assert torch.equal(spectral_energy(maps[:, order]), spectral_energy(maps)[order])


def test_bad_input_is_refused() -> None:
    with pytest.raises(DataError, match=r"(?s)spectral energy.*\(2, 3, 4\)"):
        spectral_energy(torch.zeros(2, 3, 4))
    with pytest.raises(OptionError, match=r"alpha 1\.5"):
        spectral_energy(torch.zeros(1, 1, 4, 4), alpha=1.5)
