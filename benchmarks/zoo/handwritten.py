"""Convolutional networks as users write them: hard-coded sizes, reshapes, concatenation, shuffles, several branches."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as everybody writes it

from zoo.entry import Architecture, image, noise


def conv_norm(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, *, groups: int = 1) -> nn.Sequential:
    """Convolution and batch norm, the same size for stride 1."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; the shortcut pads missing channels with zeros, as in the CIFAR ResNets."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = conv_norm(inputs, outputs, 3, stride), conv_norm(outputs, outputs)
        self.stride, self.missing = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h/stride, w/stride)."""
        y = self.second(F.relu(self.first(x)))
        if self.missing or self.stride > 1:
            half = self.missing // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.missing - half))
        return F.relu(x + y)


class ResNet20(nn.Module):
    """ResNet for CIFAR (arXiv:1512.03385) with parameter-free shortcuts."""

    def __init__(self, blocks: int = 3) -> None:
        super().__init__()
        self.stem = conv_norm(3, 16)
        plan = [(16, 16, 1), (16, 32, 2), (32, 64, 2)]
        layers = [BasicBlock(a if i == 0 else b, b, s if i == 0 else 1) for a, b, s in plan for i in range(blocks)]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images to scores."""
        x = self.layers(F.relu(self.stem(x)))
        return self.head(F.avg_pool2d(x, x.shape[2]).flatten(1))


class Bottleneck(nn.Module):
    """1x1, 3x3 (grouped in ResNeXt, arXiv:1611.05431), 1x1, with a projection shortcut."""

    def __init__(self, inputs: int, width: int, outputs: int, stride: int, groups: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv_norm(inputs, width, 1), nn.ReLU(inplace=True),
            conv_norm(width, width, 3, stride, groups=groups), nn.ReLU(inplace=True),
            conv_norm(width, outputs, 1),
        )  # fmt: skip
        self.shortcut = conv_norm(inputs, outputs, 1, stride) if stride > 1 or inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h/stride, w/stride)."""
        return F.relu(self.body(x) + self.shortcut(x), inplace=True)


def bottlenecks(groups: int) -> nn.Module:
    """ResNet-50's blocks, or ResNeXt's with ``groups``."""
    return nn.Sequential(
        conv_norm(3, 16), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1),
        Bottleneck(16, 16, 32, 1, groups), Bottleneck(32, 16, 32, 1, groups), Bottleneck(32, 32, 64, 2, groups),
        Bottleneck(64, 32, 64, 1, groups),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


class DenseLayer(nn.Module):
    """Norm, ReLU, 1x1, norm, ReLU, 3x3; appended to what came in."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(4 * growth), nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, inputs + growth, h, w)."""
        y = self.conv1(F.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(F.relu(self.norm2(y)))], 1)


def densenet(growth: int = 8) -> nn.Module:
    """Two dense blocks and a transition (arXiv:1608.06993)."""
    parts: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1)]
    parts += [DenseLayer(16 + growth * i, growth) for i in range(3)]
    parts += [nn.BatchNorm2d(40), nn.ReLU(), nn.Conv2d(40, 20, 1), nn.AvgPool2d(2)]
    parts += [DenseLayer(20 + growth * i, growth) for i in range(3)]
    parts += [nn.BatchNorm2d(44), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(44, 10)]
    return nn.Sequential(*parts)


class InvertedResidual(nn.Module):
    """Expand, depthwise, project (arXiv:1801.04381); optionally squeeze and excite (arXiv:1905.11946)."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int = 4, *, squeeze: bool = False) -> None:
        super().__init__()
        hidden = inputs * expand
        act = nn.SiLU if squeeze else nn.ReLU6
        self.expand = nn.Sequential(conv_norm(inputs, hidden, 1), act())
        self.depthwise = nn.Sequential(conv_norm(hidden, hidden, 3, stride, groups=hidden), act())
        self.squeeze = SqueezeExcite(hidden, hidden // 4) if squeeze else nn.Identity()
        self.project = conv_norm(hidden, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h/stride, w/stride)."""
        y = self.project(self.squeeze(self.depthwise(self.expand(x))))
        return x + y if self.residual else y


class SqueezeExcite(nn.Module):
    """Scales channels by what their means say."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        return x * torch.sigmoid(self.up(F.silu(self.down(x.mean((2, 3), keepdim=True)))))


def mobilenet(*, squeeze: bool) -> nn.Module:
    """MobileNetV2, or EfficientNet with squeeze and excite."""
    plan = [(16, 16, 1), (16, 24, 2), (24, 24, 1), (24, 32, 2), (32, 32, 1)]
    blocks = [InvertedResidual(a, b, s, squeeze=squeeze) for a, b, s in plan]
    return nn.Sequential(
        conv_norm(3, 16), nn.SiLU() if squeeze else nn.ReLU6(), *blocks, conv_norm(32, 64, 1), nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(64, 10),
    )  # fmt: skip


class ShuffleUnit(nn.Module):
    """ShuffleNetV2's unit (arXiv:1807.11164): split, transform one half, concatenate, shuffle by view and transpose."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(
            conv_norm(half, half, 1), nn.ReLU(), conv_norm(half, half, groups=half), conv_norm(half, half, 1), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        left, right = x.chunk(2, 1)
        return shuffled(torch.cat([left, self.branch(right)], 1))


class ShuffleDown(nn.Module):
    """The unit that halves the size and doubles the channels: both branches transform."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.left = nn.Sequential(
            conv_norm(channels, channels, 3, 2, groups=channels), conv_norm(channels, channels, 1), nn.ReLU()
        )
        self.right = nn.Sequential(
            conv_norm(channels, channels, 1), nn.ReLU(), conv_norm(channels, channels, 3, 2, groups=channels),
            conv_norm(channels, channels, 1), nn.ReLU(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, 2c, h/2, w/2)."""
        return shuffled(torch.cat([self.left(x), self.right(x)], 1))


def shuffled(x: Tensor, groups: int = 2) -> Tensor:
    """Channels of the groups one after the other."""
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


def shufflenet() -> nn.Module:
    """Three units of 16 and 32 channels."""
    return nn.Sequential(
        conv_norm(3, 16), nn.ReLU(), ShuffleUnit(16), ShuffleDown(16), ShuffleUnit(32), conv_norm(32, 48, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10),
    )  # fmt: skip


class UNet(nn.Module):
    """Down, up by transposed convolution, skips by concatenation (arXiv:1505.04597)."""

    def __init__(self, widths: Sequence[int] = (16, 24, 32)) -> None:
        super().__init__()
        ends = [3, *widths]
        self.down = nn.ModuleList(self._double(a, b) for a, b in zip(ends, widths, strict=False))
        pairs = list(zip(widths[::-1], widths[-2::-1], strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, 2) for a, b in pairs)
        self.merge = nn.ModuleList(self._double(2 * b, b) for _, b in pairs)
        self.head = nn.Conv2d(widths[0], 2, 1)

    @staticmethod
    def _double(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(conv_norm(inputs, outputs), nn.ReLU(), conv_norm(outputs, outputs), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Images to a map of two scores of the same size."""
        skips = []
        for i, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if i else x)
            skips.append(x)
        for up, merge, skip in zip(self.up, self.merge, skips[-2::-1], strict=True):
            x = merge(torch.cat([skip, up(x)], 1))
        return self.head(x)


class InceptionBlock(nn.Module):
    """1x1, 3x3, two 3x3 and pooled branches, concatenated (arXiv:1512.00567)."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.one = conv_norm(inputs, 8, 1)
        self.three = nn.Sequential(conv_norm(inputs, 8, 1), nn.ReLU(), conv_norm(8, 12))
        self.five = nn.Sequential(conv_norm(inputs, 8, 1), nn.ReLU(), conv_norm(8, 8), nn.ReLU(), conv_norm(8, 8))
        self.pooled = conv_norm(inputs, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, 32, h, w)."""
        pooled = self.pooled(F.avg_pool2d(x, 3, 1, 1))
        return F.relu(torch.cat([self.one(x), self.three(x), self.five(x), pooled], 1))


class VGG(nn.Module):
    """Plain convolutions, then the map flattened into linear layers by a size written down (arXiv:1409.1556)."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3, 16, 16, 32, 32]
        convs: list[nn.Module] = []
        for i, (a, b) in enumerate(pairwise(widths)):
            convs += [nn.Conv2d(a, b, 3, padding=1), nn.ReLU(inplace=True)]
            convs += [nn.MaxPool2d(2)] if i % 2 else []
        self.features = nn.Sequential(*convs)
        self.classifier = nn.Sequential(nn.Linear(32 * 8 * 8, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Images to scores."""
        return self.classifier(self.features(x).view(-1, 32 * 8 * 8))


def espcn() -> nn.Module:
    """Super-resolution by three with a pixel shuffle (arXiv:1609.05158)."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 5, padding=2), nn.Tanh(), nn.Conv2d(32, 36, 3, padding=1), nn.PixelShuffle(2),
        nn.Conv2d(9, 16, 3, padding=1), nn.Tanh(), nn.Conv2d(16, 4, 3, padding=1), nn.PixelShuffle(2),
    )  # fmt: skip


def autoencoder() -> nn.Module:
    """Strided convolutions down, transposed ones up."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 8, 3, 2, 1),
        nn.ConvTranspose2d(8, 32, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(16, 3, 4, 2, 1), nn.Sigmoid(),
    )  # fmt: skip


def keywords() -> nn.Module:
    """Depthwise separable network for keyword spotting (arXiv:1711.07128)."""
    blocks: list[nn.Module] = []
    for _ in range(3):
        blocks += [conv_norm(32, 32, groups=32), nn.ReLU(), conv_norm(32, 32, 1), nn.ReLU()]
    return nn.Sequential(
        nn.Conv2d(1, 32, (10, 4), (2, 2), (5, 1)), nn.BatchNorm2d(32), nn.ReLU(), *blocks, nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(32, 12),
    )  # fmt: skip


class GroupNormNet(nn.Module):
    """Residual blocks with group norms, and an upsampled feature pyramid with two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.norm = nn.GroupNorm(4, 16)
        self.down = nn.Conv2d(16, 32, 3, 2, 1)
        self.norm2 = nn.GroupNorm(8, 32)
        self.lateral, self.top = nn.Conv2d(16, 24, 1), nn.Conv2d(32, 24, 1)
        self.score, self.box = nn.Conv2d(24, 3, 3, padding=1), nn.Conv2d(24, 4, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images to maps of scores and boxes."""
        small = F.relu(self.norm(self.stem(x)))
        smaller = F.relu(self.norm2(self.down(small)))
        merged = self.lateral(small) + F.interpolate(self.top(smaller), scale_factor=2, mode="nearest")
        return self.score(merged), self.box(merged)


class AnchorDetector(nn.Module):
    """One-stage detector: maps are permuted and flattened to anchors, as SSD does (arXiv:1512.02325)."""

    def __init__(self, anchors: int = 3, classes: int = 4) -> None:
        super().__init__()
        self.backbone = nn.Sequential(conv_norm(3, 16, 3, 2), nn.ReLU(), conv_norm(16, 24, 3, 2), nn.ReLU())
        self.extra = nn.Sequential(conv_norm(24, 32, 3, 2), nn.ReLU())
        self.scores = nn.ModuleList(nn.Conv2d(width, anchors * classes, 3, padding=1) for width in (24, 32))
        self.boxes = nn.ModuleList(nn.Conv2d(width, anchors * 4, 3, padding=1) for width in (24, 32))
        self.classes = classes

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images to (n, anchors, classes) and (n, anchors, 4)."""
        first = self.backbone(x)
        maps = [first, self.extra(first)]
        scores = [
            head(m).permute(0, 2, 3, 1).reshape(x.shape[0], -1, self.classes)
            for head, m in zip(self.scores, maps, strict=True)
        ]
        boxes = [
            head(m).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 4) for head, m in zip(self.boxes, maps, strict=True)
        ]
        return torch.cat(scores, 1), torch.cat(boxes, 1)


class Siamese(nn.Module):
    """One encoder on two images: weights shared by two calls, and a head on the difference."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            conv_norm(3, 16, 3, 2), nn.ReLU(), conv_norm(16, 32, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.head = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Two images to one score."""
        return self.head(torch.abs(self.encoder(left) - self.encoder(right)))


def inception() -> nn.Module:
    """Two inception blocks."""
    return nn.Sequential(
        conv_norm(3, 16), nn.ReLU(), InceptionBlock(16), nn.MaxPool2d(2), InceptionBlock(32), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


def _two_images() -> dict[str, Tensor]:
    return {"left": torch.randn(2, 3, 32, 32), "right": torch.randn(2, 3, 32, 32)}


CONVOLUTIONAL = [
    Architecture("own-resnet20", "cnn", ResNet20, image(name="x")),
    Architecture("own-bottleneck", "cnn", lambda: bottlenecks(1), image(name="input")),
    Architecture("own-resnext", "cnn", lambda: bottlenecks(4), image(name="input")),
    Architecture("own-densenet", "cnn", densenet, image(name="input")),
    Architecture("own-mobilenet-v2", "cnn", lambda: mobilenet(squeeze=False), image(name="input")),
    Architecture("own-efficientnet", "cnn", lambda: mobilenet(squeeze=True), image(name="input")),
    Architecture("own-shufflenet", "cnn", shufflenet, image(name="input")),
    Architecture("own-inception", "cnn", inception, image(name="input")),
    Architecture("own-vgg", "cnn", VGG, image(name="x")),
    Architecture("own-keywords", "audio", keywords, noise("input", 1, 49, 10)),
    Architecture("own-espcn", "other", espcn, image(16, "input", 1)),
    Architecture("own-autoencoder", "other", autoencoder, image(name="input")),
    Architecture("own-unet", "segmentation", UNet, image(name="x")),
    Architecture("own-pyramid", "detection", GroupNormNet, image(name="x")),
    Architecture("own-ssd", "detection", AnchorDetector, image(name="x")),
    Architecture("own-siamese", "cnn", Siamese, _two_images),
]
