"""Small models of every kind, for the model matrix: each has a verdict on each target, and none crashes it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as everybody writes it

from gossamer.core.errors import CaptureError, UnsupportedOp
from gossamer.frontends.torch_module import capture
from gossamer.program.program import Program


@dataclass(frozen=True, eq=False)
class SmallModel:
    """A way to make a model, with example inputs.

    Attributes:
        make: the module; called with a fixed seed.
        inputs: by argument name; samples on the first axis.
        dynamic: which dims vary.
        refused: the error of a model that cannot be captured.
    """

    make: Callable[[], nn.Module]
    inputs: Mapping[str, Tensor]
    dynamic: Any = "batch"
    refused: type[Exception] | None = None

    @functools.cached_property
    def program(self) -> Program:
        """The captured model."""
        torch.manual_seed(0)
        return capture(self.make().eval(), dict(self.inputs), dynamic=self.dynamic)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The example inputs as arrays of their own."""
        return {name: tensor.numpy().copy() for name, tensor in self.inputs.items()}


class Lambda(nn.Module):
    """Layers by name, and a function of them and the inputs."""

    def __init__(self, function: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.layers = nn.ModuleDict(layers)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
        """What the function makes of the layers and the inputs."""
        return self.function(self.layers, x) if y is None else self.function(self.layers, x, y)


def _conv(inputs: int, outputs: int, kernel: int = 3, **options: Any) -> nn.Sequential:
    options = {"padding": kernel // 2} | options
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, bias=False, **options), nn.BatchNorm2d(outputs), nn.ReLU())


def _heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _attention(q: Tensor, k: Tensor, v: Tensor, heads: int, kv_heads: int, **options: Any) -> Tensor:
    mixed = F.scaled_dot_product_attention(
        _heads(q, heads), _heads(k, kv_heads), _heads(v, kv_heads), enable_gqa=heads != kv_heads, **options
    )
    return mixed.transpose(1, 2).flatten(2)


def _encoder(m: Any, x: Tensor, **options: Any) -> Tensor:
    x = x + m["out"](_attention(*m["qkv"](m["norm1"](x)).chunk(3, -1), heads=4, kv_heads=4, **options))
    return x + m["down"](F.gelu(m["up"](m["norm2"](x))))


def _encoder_layers() -> dict[str, nn.Module]:
    return {
        "norm1": nn.LayerNorm(16), "qkv": nn.Linear(16, 48), "out": nn.Linear(16, 16), "norm2": nn.LayerNorm(16),
        "up": nn.Linear(16, 32), "down": nn.Linear(32, 16),
    }  # fmt: skip


def _rotated(x: Tensor) -> Tensor:
    """Rotary positions on (batch, heads, tokens, 4)."""
    angle = torch.arange(x.shape[2])[:, None] * torch.tensor([1.0, 0.1])
    even, odd = x[..., ::2], x[..., 1::2]
    turned = (even * angle.cos() - odd * angle.sin(), even * angle.sin() + odd * angle.cos())
    return torch.stack(turned, -1).flatten(-2)


def _llama(m: Any, x: Tensor) -> Tensor:
    x = m["embed"](x)
    h = m["norm1"](x)
    q, k, v = _heads(m["q"](h), 4), _heads(m["k"](h), 2), _heads(m["v"](h), 2)
    mixed = F.scaled_dot_product_attention(_rotated(q), _rotated(k), v, is_causal=True, enable_gqa=True)
    x = x + m["o"](mixed.transpose(1, 2).flatten(2))
    h = m["norm2"](x)
    x = x + m["down"](F.silu(m["gate"](h)) * m["up"](h))
    return F.linear(m["norm3"](x), m["embed"].weight)  # the head is tied to the embedding


def _llama_layers() -> dict[str, nn.Module]:
    linear = functools.partial(nn.Linear, bias=False)
    return {
        "embed": nn.Embedding(20, 16), "norm1": nn.RMSNorm(16), "q": linear(16, 16), "k": linear(16, 8),
        "v": linear(16, 8), "o": linear(16, 16), "norm2": nn.RMSNorm(16), "gate": linear(16, 32),
        "up": linear(16, 32), "down": linear(32, 16), "norm3": nn.RMSNorm(16),
    }  # fmt: skip


def _unet(m: Any, x: Tensor) -> Tensor:
    down = m["down"](x)
    deep = F.max_pool2d(down, 2)
    up = m["up"](m["deep"](deep)) + F.interpolate(deep, scale_factor=2.0, mode="bilinear")
    return torch.sigmoid(m["head"](torch.cat([up, down], 1)))


def _squeezed(m: Any, x: Tensor) -> Tensor:
    x = m["stem"](x)
    return m["head"]((x * torch.sigmoid(m["gate"](x.mean((2, 3), keepdim=True)))).flatten(1))


def _experts(m: Any, x: Tensor) -> Tensor:
    """The two best of four experts for each row, as a weighted sum."""
    scores, chosen = m["gate"](x).softmax(-1).topk(2)
    results = torch.stack([m[f"expert{i}"](x) for i in range(4)], 1)
    picked = results.gather(1, chosen[..., None].expand(-1, -1, 6))
    return (picked * scores[..., None]).sum(1)


def _detector(m: Any, x: Tensor) -> dict[str, Tensor]:
    features = m["stem"](x)
    scores, places = m["scores"](features).flatten(1).topk(3)  # of logits: large ones are all 1 behind a sigmoid
    boxes = m["boxes"](features).flatten(2).gather(2, places[:, None].expand(-1, 4, -1))
    return {"scores": scores.sigmoid(), "boxes": boxes, "kept": scores > 0, "places": places}


class Recurrence(nn.Module):
    """A loop in Python over a fixed number of steps: control flow that capture unrolls."""

    def __init__(self, cell: nn.Module | None = None) -> None:
        super().__init__()
        self.cell = cell or Lambda(
            lambda m, x, y: torch.tanh(m["x"](x) + m["y"](y)), x=nn.Linear(5, 6), y=nn.Linear(6, 6)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Last state after the three steps of (batch, 3, 5)."""
        state = x.new_zeros(x.shape[0], 6)
        for step in range(3):
            state = self.cell(x[:, step], state)
        return state


class Branch(nn.Module):
    """A branch on a value: cannot be one graph, and must be refused."""

    def forward(self, x: Tensor) -> Tensor:
        """Doubled where the sum is positive."""
        return 2 * x if x.sum() > 0 else x


def _normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def _ids(*shape: int, size: int = 20) -> Tensor:
    return torch.randint(0, size, shape, generator=torch.Generator().manual_seed(sum(shape)))


_IMAGE = {"x": _normal(8, 3, 9, 11)}
_TEXT = {"x": _ids(8, 7)}
_LENGTH = {"x": {0: "batch", 1: "length=2..16"}}


def _last(m: Any, x: Tensor) -> Tensor:
    return m["head"](m["layer"](x)[0][:, -1])


MODELS: Mapping[str, SmallModel] = {
    "mlp with batch norm": SmallModel(
        lambda: nn.Sequential(nn.Linear(10, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3)),
        {"input": _normal(8, 10)},
    ),
    "conv 1d, any length": SmallModel(
        lambda: nn.Sequential(nn.Conv1d(2, 8, 5, 2, 2), nn.ReLU(), nn.Conv1d(8, 4, 3), nn.AdaptiveAvgPool1d(1)),
        {"input": _normal(8, 2, 33)}, {"input": {0: "batch", 2: "length=16..64"}},
    ),
    "conv 2d": SmallModel(
        lambda: nn.Sequential(_conv(3, 8, stride=2), _conv(8, 8), nn.Flatten(), nn.Linear(240, 5)),
        {"input": _normal(8, 3, 9, 11)},
    ),
    "conv 3d": SmallModel(
        lambda: nn.Sequential(nn.Conv3d(1, 4, 3, 2, 1), nn.BatchNorm3d(4), nn.ReLU(), nn.Conv3d(4, 2, 1)),
        {"input": _normal(4, 1, 5, 7, 6)},
    ),
    "grouped conv": SmallModel(
        lambda: Lambda(lambda m, x: F.relu(x + m["wide"](m["grouped"](m["narrow"](x)))),
                       narrow=_conv(8, 8, 1), grouped=_conv(8, 8, groups=4), wide=nn.Conv2d(8, 8, 1)),
        {"x": _normal(8, 8, 7, 9)},
    ),
    "depthwise conv": SmallModel(
        lambda: nn.Sequential(_conv(3, 8, stride=2), _conv(8, 8, groups=8), nn.Conv2d(8, 12, 1), nn.Hardswish()),
        {"input": _normal(8, 3, 9, 11)},
    ),
    "transposed conv": SmallModel(
        lambda: nn.Sequential(nn.ConvTranspose2d(4, 8, 3, 2, 1, 1), nn.ReLU(), nn.ConvTranspose2d(8, 1, 2, 2)),
        {"input": _normal(8, 4, 5, 3)},
    ),
    "transposed conv 1d": SmallModel(
        lambda: nn.Sequential(nn.ConvTranspose1d(4, 8, 4, 2, 1), nn.ELU(), nn.Conv1d(8, 1, 1), nn.Tanh()),
        {"input": _normal(8, 4, 9)},
    ),
    "residual": SmallModel(
        lambda: Lambda(lambda m, x: m["head"](F.relu(m["b"](m["a"](x)) + m["short"](x)).mean((2, 3))),
                       a=_conv(3, 8, stride=2), b=nn.Conv2d(8, 8, 3, 1, 1), short=nn.Conv2d(3, 8, 1, 2),
                       head=nn.Linear(8, 4)),
        _IMAGE,
    ),
    "dense blocks": SmallModel(
        lambda: Lambda(lambda m, x: m["c"](torch.cat([x, a := m["a"](x), m["b"](torch.cat([x, a], 1))], 1)),
                       a=_conv(3, 4), b=_conv(7, 4), c=nn.Conv2d(11, 2, 1)),
        _IMAGE,
    ),
    "squeeze and excite": SmallModel(
        lambda: Lambda(_squeezed, stem=_conv(3, 8), gate=nn.Conv2d(8, 8, 1), head=nn.Linear(792, 3)), _IMAGE
    ),
    "u-net": SmallModel(
        lambda: Lambda(_unet, down=_conv(3, 8), deep=_conv(8, 8), up=nn.ConvTranspose2d(8, 8, 2, 2),
                       head=nn.Conv2d(16, 1, 1)),
        {"x": _normal(8, 3, 8, 12)},
    ),
    "super resolution": SmallModel(
        lambda: nn.Sequential(nn.Conv2d(1, 8, 5, 1, 2), nn.PReLU(8), nn.Conv2d(8, 4, 3, 1, 1), nn.PixelShuffle(2)),
        {"input": _normal(8, 1, 7, 9)},
    ),
    "convnext block": SmallModel(
        lambda: Lambda(lambda m, x: x + m["mlp"](m["norm"](m["conv"](x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2),
                       conv=nn.Conv2d(8, 8, 7, 1, 3, groups=8), norm=nn.LayerNorm(8),
                       mlp=nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8))),
        {"x": _normal(8, 8, 7, 9)},
    ),
    "group norm": SmallModel(
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.SiLU(), nn.InstanceNorm2d(8, affine=True)),
        {"input": _normal(8, 3, 9, 11)},
    ),
    "vision transformer": SmallModel(
        lambda: Lambda(
            lambda m, x: m["head"](_encoder(m, m["patch"](x).flatten(2).transpose(1, 2))[:, 0]),
            patch=nn.Conv2d(3, 16, 4, 4), head=nn.Linear(16, 5), **_encoder_layers()),
        {"x": _normal(8, 3, 8, 12)},
    ),
    "lstm": SmallModel(
        lambda: Lambda(_last, layer=nn.LSTM(5, 8, num_layers=2, batch_first=True), head=nn.Linear(8, 3)),
        {"x": _normal(8, 7, 5)},
    ),
    "gru, both directions": SmallModel(
        lambda: Lambda(_last, layer=nn.GRU(5, 8, bidirectional=True, batch_first=True), head=nn.Linear(16, 3)),
        {"x": _normal(8, 7, 5)},
    ),
    "loop over a cell": SmallModel(Recurrence, {"x": _normal(8, 3, 5)}),
    "loop over PyTorch's cell": SmallModel(
        lambda: Recurrence(nn.GRUCell(5, 6)), {"x": _normal(8, 3, 5)}, refused=UnsupportedOp
    ),
    "embedding": SmallModel(
        lambda: Lambda(lambda m, x: m["head"](m["embed"](x).mean(1)), embed=nn.Embedding(20, 8), head=nn.Linear(8, 3)),
        _TEXT, _LENGTH,
    ),
    "attention": SmallModel(
        lambda: Lambda(lambda m, x: _encoder(m, m["embed"](x)), embed=nn.Embedding(20, 16), **_encoder_layers()),
        _TEXT, _LENGTH,
    ),
    "attention with a mask": SmallModel(
        lambda: Lambda(lambda m, x, y: _encoder(m, m["embed"](x), attn_mask=y[:, None, None, :] > 0),
                       embed=nn.Embedding(20, 16), **_encoder_layers()),
        {"x": _ids(8, 7), "y": (torch.arange(7) < torch.arange(8)[:, None] % 6 + 2).long()},
        {"x": {0: "batch", 1: "length=2..16"}, "y": {0: "batch", 1: "length=2..16"}},
    ),
    "causal, grouped queries, rotary, tied head": SmallModel(
        lambda: Lambda(_llama, **_llama_layers()), _TEXT, _LENGTH
    ),
    "several inputs": SmallModel(
        lambda: Lambda(lambda m, x, y: m["head"](torch.cat([m["image"](x).mean((2, 3)), m["embed"](y).sum(1)], 1)),
                       image=_conv(3, 8), embed=nn.Embedding(20, 6), head=nn.Linear(14, 3)),
        {"x": _normal(8, 3, 9, 11), "y": _ids(8, 4)},
    ),
    "several outputs": SmallModel(
        lambda: Lambda(_detector, stem=_conv(3, 8, stride=2), scores=nn.Conv2d(8, 1, 1), boxes=nn.Conv2d(8, 4, 1)),
        _IMAGE,
    ),
    "experts": SmallModel(
        lambda: Lambda(_experts, gate=nn.Linear(10, 4), **{f"expert{i}": nn.Linear(10, 6) for i in range(4)}),
        {"x": _normal(8, 10)},
    ),
    "bilinear": SmallModel(
        lambda: Lambda(lambda m, x, y: torch.einsum("bi,oij,bj->bo", x, m["form"].weight.view(4, 5, 6), y),
                       form=nn.Linear(30, 4, bias=False)),
        {"x": _normal(8, 5), "y": _normal(8, 6)},
    ),
    "branch on a value": SmallModel(Branch, {"x": _normal(8, 5)}, refused=CaptureError),
}  # fmt: skip
"""Models by name."""
