"""A network planted to saturate on processors without integer dot products."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


class Averaging(nn.Module):
    """Adds up channels with equal weights, so with the largest codes: bright neighbours exceed 16 bits.

    What is left of them, half of the largest sum at most, is then cut off as if it were dark. Input (batch, 1, 8, 8)
    with values from -1 to 1; ten class scores.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.mean = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8 * 16, 10)
        nn.init.zeros_(self.stem.weight)
        nn.init.zeros_(self.stem.bias)  # pyright: ignore[reportArgumentType]
        nn.init.constant_(self.stem.weight[:, :, 1, 1], 1.0)
        nn.init.constant_(self.mean.weight, 0.125)
        nn.init.constant_(self.mean.bias, -0.6)  # pyright: ignore[reportArgumentType]

    def features(self, x: Tensor) -> Tensor:
        """What the head reads, (batch, 128)."""
        bright = torch.relu(self.mean(torch.relu(self.stem(x))))
        return torch.nn.functional.avg_pool2d(bright, 2).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores (batch, 10)."""
        return self.head(self.features(x))


@torch.no_grad()
def averaging_network(images: np.ndarray, labels: np.ndarray) -> Averaging:
    """The network with its head fitted to labelled images by least squares: it decides about three of four rightly."""
    net = Averaging().eval()
    wanted = nn.functional.one_hot(torch.from_numpy(labels), 10).float()
    solution = torch.linalg.lstsq(net.features(torch.from_numpy(images)), wanted, driver="gelsd").solution
    net.head.weight.copy_(solution.T)
    net.head.bias.zero_()
    return net
