"""Scores from the frequencies of activation maps."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gossamer.core.errors import OptionError
from gossamer.numerics.saliency import require_maps


def spectral_energy(maps: Tensor, alpha: float = 0.25, *, normalize: bool = False) -> Tensor:
    """Share of a map's log-magnitude spectrum that lies outside the low frequencies, mean over samples.

    The log is that of 1 + magnitude, so the score is not invariant to the scale of the maps. A map of zeros, a constant
    map and a map of one pixel score 0. The window is centred on frequency zero, also where one side of the map is even
    and the other odd (with halves rounded as for two odd sides it would miss it).

    Args:
        maps: (samples, channels, height, width).
        alpha: share of the half-spectrum that counts as low.
        normalize: divide each map by its root mean square first.

    Returns:
        (channels,) in [0, 1], float64.

    Raises:
        DataError: not of four dimensions.
        OptionError: ``alpha`` is not within 0..1.

    Reference: Lin et al., EZCrop: Energy-Zoned Channels for Robust Output Pruning, 2022.
    """
    require_maps(maps, "scoring by spectral energy")
    if not 0 <= alpha <= 1:
        raise OptionError("scoring by spectral energy", got=f"alpha {alpha}", expected="0 to 1")
    maps = maps.double()
    if normalize:
        power = maps.square().mean((2, 3), keepdim=True)
        maps = maps / torch.where(power > 0, power, 1.0).sqrt()
    spectrum = torch.fft.fftshift(torch.fft.fft2(maps), dim=(2, 3)).abs().log1p()
    step = _window_step(maps.shape[2], maps.shape[3], alpha)
    rows, columns = (slice(side // 2 - step, side // 2 + step + 1) for side in maps.shape[2:])
    total = spectrum.sum((2, 3))
    outside = total - spectrum[:, :, rows, columns].sum((2, 3))
    return torch.where(total > 0, outside / torch.where(total > 0, total, 1.0), 0.0).clamp(min=0).mean(0)


def _window_step(height: int, width: int, alpha: float) -> int:
    """Frequencies on each side of zero that count as low; the window is ``2 * step + 1`` wide."""
    if any(side // 2 == 1 for side in (height, width)):
        return 0
    return min(math.ceil(alpha * (side - side // 2 - 1)) for side in (height, width))
