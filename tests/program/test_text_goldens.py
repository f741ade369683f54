"""Programs as text, compared with files in ``goldens/``.

``GOSSAMER_GOLDEN=1 pytest tests/program/test_text_goldens.py`` rewrites them; read the difference before committing it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gossamer.frontends.torch_module import capture
from gossamer.program import Program

GOLDENS = Path(__file__).parent / "goldens"


class Residual(nn.Module):
    """Two convolutions with batch norm and a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(4)
        self.blocks = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.ReLU(inplace=True))
        self.head = nn.Linear(4, 2)

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu6(self.norm1(self.conv1(image)))
        x = x + self.blocks(x)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Reader(nn.Module):
    """A tiny text model: tied embedding, one attention layer, padding mask, dict of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.out = nn.Linear(8, 11, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
        x = self.embed(tokens) + torch.arange(tokens.shape[1])[None, :, None]
        q, k, v = (F.linear(x, w) for w in self.attend.in_proj_weight.chunk(3))
        score = (q @ k.mT).masked_fill(mask[:, None] == 0, float("-inf"))
        x = self.norm(x + score.softmax(-1) @ v)
        return {"logits": self.out(x), "pooled": x.mean(1)}


def residual() -> Program:
    return capture(Residual(), torch.randn(2, 3, 8, 8))


def reader() -> Program:
    inputs = {"tokens": torch.randint(0, 11, (2, 5)), "mask": torch.ones(2, 5, dtype=torch.int64)}
    dims = {0: "batch=1..8", 1: "length=2..16"}
    return capture(Reader(), inputs, dynamic={"tokens": dims, "mask": dims}, name="reader")


@pytest.mark.parametrize("make", [residual, reader], ids=lambda make: make.__name__)
def test_the_text_is_as_on_disk(make) -> None:
    torch.manual_seed(0)
    text = f"{make()}\n"
    golden = GOLDENS / f"{make.__name__}.txt"
    if os.environ.get("GOSSAMER_GOLDEN") == "1":
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text)
    assert text == golden.read_text()
