"""Small reference networks in plain PyTorch; their state-dict keys are those of the weight files in the assets folder.

Nothing here is written for gossamer: strided slices, ``F.pad``, ``chunk`` and ``scaled_dot_product_attention`` stand as
people write them. Each class says its input; ``forward`` argument names are the input names of the exported model.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone gives it
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around an identity shortcut of option A (every second pixel, zero-padded channels)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.stride = stride
        self.pad = (out_channels - in_channels) // 2

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in_channels, side, side) to (batch, out_channels, side / stride, side / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.stride != 1:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(y + x)


class CifarResNet(nn.Module):
    """ResNet for CIFAR-10 with 6n + 2 layers and widths 16, 32, 64 (He et al., 2015). Input (batch, 3, 32, 32)."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, blocks, stride=1)
        self.layer2 = self._stage(16, 32, blocks, stride=2)
        self.layer3 = self._stage(32, 64, blocks, stride=2)
        self.linear = nn.Linear(64, 10)

    @staticmethod
    def _stage(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
        first = BasicBlock(in_channels, out_channels, stride)
        return nn.Sequential(first, *[BasicBlock(out_channels, out_channels, 1) for _ in range(blocks - 1)])

    def forward(self, x: Tensor) -> Tensor:
        """Class scores (batch, 10)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean(dim=(2, 3)))


class SeparableBlock(nn.Module):
    """Depthwise 3x3 and pointwise convolution, each with BatchNorm and ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dw = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.bn1 = nn.BatchNorm2d(channels, eps=1e-3)
        self.pw = nn.Conv2d(channels, channels, 1)
        self.bn2 = nn.BatchNorm2d(channels, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape (batch, channels, rows, columns)."""
        x = F.relu(self.bn1(self.dw(x)))
        return F.relu(self.bn2(self.pw(x)))


class KeywordDsCnn(nn.Module):
    """MLPerf Tiny keyword spotter (DS-CNN). Input (batch, 1, 49, 10): 49 frames of 10 MFCCs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(1, 64, (10, 4), stride=2)
        self.bn0 = nn.BatchNorm2d(64, eps=1e-3)
        self.block0 = SeparableBlock(64)
        self.block1 = SeparableBlock(64)
        self.block2 = SeparableBlock(64)
        self.block3 = SeparableBlock(64)
        self.fc = nn.Linear(64, 12)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores (batch, 12)."""
        x = F.pad(x, (1, 1, 4, 5))  # TensorFlow's "same": one row more below than above
        x = F.relu(self.bn0(self.conv0(x)))
        x = self.block3(self.block2(self.block1(self.block0(x))))
        return self.fc(x.mean(dim=(2, 3)))


class FashionCnn(nn.Module):
    """Five 3x3 convolutions for Fashion-MNIST. Input (batch, 1, 28, 28)."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for in_channels, out_channels, stride in ((1, 16, 1), (16, 32, 2), (32, 64, 1), (64, 64, 2), (64, 128, 1)):
            conv = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
            layers += [conv, nn.BatchNorm2d(out_channels), nn.ReLU()]
        self.net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Class scores (batch, 10)."""
        return self.net(x)


class TransformerBlock(nn.Module):
    """Pre-norm block: self-attention and a GELU feed-forward layer, each added to its input."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.ln2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Keep the shape (batch, tokens, width); ``mask`` is True where a token may be attended to."""
        x = x + self._attention(self.ln1(x), mask)
        return x + self.fc2(F.gelu(self.fc1(self.ln2(x))))

    def _attention(self, x: Tensor, mask: Tensor | None) -> Tensor:
        batch, tokens, width = x.shape
        parts = self.qkv(x).chunk(3, dim=-1)
        q, k, v = (part.view(batch, tokens, self.heads, width // self.heads).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))


class FashionVit(nn.Module):
    """Vision transformer for Fashion-MNIST: 49 patches of 4x4, four blocks. Input (batch, 1, 28, 28)."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, 64, 4, stride=4)
        self.pos = nn.Parameter(torch.zeros(49, 64))
        self.layers = nn.ModuleList([TransformerBlock(64, heads=4, hidden=128) for _ in range(4)])
        self.ln = nn.LayerNorm(64)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores (batch, 10)."""
        x = self.patch(x).flatten(2).transpose(1, 2) + self.pos
        for layer in self.layers:
            x = layer(x)
        return self.head(self.ln(x).mean(dim=1))


class TextTransformer(nn.Module):
    """Sentence classifier for SST-2. Input: ``input_ids``, int64 (batch, up to 64 tokens), padded with 0."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(11_915, 64)
        self.pos = nn.Parameter(torch.zeros(64, 64))
        self.layers = nn.ModuleList([TransformerBlock(64, heads=4, hidden=256) for _ in range(2)])
        self.ln = nn.LayerNorm(64)
        self.head = nn.Linear(64, 2)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Class scores (batch, 2); 1 is positive."""
        real = input_ids != 0
        x = self.emb(input_ids) + self.pos[: input_ids.shape[1]]
        for layer in self.layers:
            x = layer(x, real[:, None, None, :])
        weight = real.unsqueeze(-1).to(x.dtype)
        pooled = (self.ln(x) * weight).sum(dim=1) / weight.sum(dim=1)
        return self.head(pooled)


def _conv_bn(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Convolution without bias and its BatchNorm, padded to keep the size at stride 1."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(out_channels, eps=1e-3)]


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise k x k, project 1x1; ReLU6 after the first two."""

    def __init__(self, spec: dict[str, Any]) -> None:
        super().__init__()
        mid = spec["mid"]
        if spec["expand"] != 1:
            self.exp = nn.Sequential(*_conv_bn(spec["in"], mid, 1), nn.ReLU6())
        self.dw = nn.Sequential(*_conv_bn(mid, mid, spec["kernel"], spec["stride"], groups=mid), nn.ReLU6())
        self.pw = nn.Sequential(*_conv_bn(mid, spec["out"], 1))
        self.expands = spec["expand"] != 1
        self.residual = spec["residual"]

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in, side, side) to (batch, out, side / stride, side / stride)."""
        y = self.exp(x) if self.expands else x
        y = self.pw(self.dw(y))
        return x + y if self.residual else y


class ProxylessNas(nn.Module):
    """ProxylessNAS from its ``arch.json``. Input (batch, 3, 176, 176)."""

    def __init__(self, arch: dict[str, Any]) -> None:
        super().__init__()
        first, mix, classifier = arch["first_conv"], arch["feature_mix"], arch["classifier"]
        self.first = nn.Sequential(*_conv_bn(first["in"], first["out"], first["kernel"], first["stride"]), nn.ReLU6())
        self.blocks = nn.Sequential(*[InvertedResidual(spec) for spec in arch["blocks"]])
        self.mix = nn.Sequential(*_conv_bn(mix["in"], mix["out"], 1), nn.ReLU6())
        self.fc = nn.Linear(classifier["in"], classifier["out"])

    def forward(self, x: Tensor) -> Tensor:
        """Class scores (batch, 1000)."""
        x = self.mix(self.blocks(self.first(x)))
        return self.fc(x.mean(dim=(2, 3)))
