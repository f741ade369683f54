"""Networks on sequences, points and tokens as users write them: recurrent, convolutional, attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as everybody writes it

from zoo.entry import Architecture, image, noise, text

TOKENS = text(mask=False)


class LSTMClassifier(nn.Module):
    """Embedding, two layers of LSTM in both directions, the last state to scores."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, 16)
        self.lstm = nn.LSTM(16, 24, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(48, 4)

    def forward(self, input_ids: Tensor) -> Tensor:
        """(n, t) tokens to (n, 4)."""
        states, _ = self.lstm(self.embedding(input_ids))
        return self.head(states[:, -1])


class GRUTagger(nn.Module):
    """Embedding, GRU, a score for each step."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, 16)
        self.gru = nn.GRU(16, 32, batch_first=True)
        self.hidden, self.head = nn.Linear(32, 24), nn.Linear(24, 5)

    def forward(self, input_ids: Tensor) -> Tensor:
        """(n, t) tokens to (n, t, 5)."""
        states, _ = self.gru(self.embedding(input_ids))
        return self.head(F.gelu(self.hidden(states)))


class MixerBlock(nn.Module):
    """One MLP across tokens, one across channels (arXiv:2105.01601)."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.across = nn.Sequential(nn.Linear(tokens, 32), nn.GELU(), nn.Linear(32, tokens))
        self.within = nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width))

    def forward(self, x: Tensor) -> Tensor:
        """Same shape (n, tokens, width)."""
        x = x + self.across(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.within(self.norm2(x))


class Mixer(nn.Module):
    """Patches, two blocks, mean, scores."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 8, 8)
        self.blocks = nn.Sequential(MixerBlock(16, 32), MixerBlock(16, 32))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images to scores."""
        return self.head(self.norm(self.blocks(self.patches(x).flatten(2).transpose(1, 2))).mean(1))


class PackedAttention(nn.Module):
    """Queries, keys and values by one layer, cut apart with sizes written down."""

    def __init__(self, width: int = 32, heads: int = 4, *, fused: bool = True) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fused = fused
        assert (width, heads) == (32, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape (n, t, 32)."""
        n, t, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, 4, 8).permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(8), -1) @ v
        return self.out(y.transpose(1, 2).reshape(n, t, 32))


class PackedTransformer(nn.Module):
    """A pre-norm vision transformer in one file, with a class token."""

    def __init__(self, *, fused: bool) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, 32))
        self.positions = nn.Parameter(torch.randn(1, 17, 32))
        self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(5))
        self.attentions = nn.ModuleList(PackedAttention(fused=fused) for _ in range(2))
        self.mlps = nn.ModuleList(nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32)) for _ in range(2))
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images to scores."""
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        for i in range(2):
            x = x + self.attentions[i](self.norms[2 * i](x))
            x = x + self.mlps[i](self.norms[2 * i + 1](x))
        return self.head(self.norms[4](x)[:, 0])


class TiedLanguageModel(nn.Module):
    """PyTorch's own encoder layers with a causal mask; the embedding is the output layer, too."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, 32)
        self.positions = nn.Embedding(64, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, activation="gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(32)
        self.head = nn.Linear(32, 100, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, input_ids: Tensor) -> Tensor:
        """(n, t) tokens to (n, t, 100)."""
        t = input_ids.shape[1]
        x = self.embedding(input_ids) + self.positions(torch.arange(t))
        mask = torch.full((t, t), float("-inf")).triu(1)
        return self.head(self.norm(self.layers(x, mask=mask, is_causal=True)))


class TemporalBlock(nn.Module):
    """Two dilated causal convolutions and a shortcut (arXiv:1803.01271)."""

    def __init__(self, inputs: int, outputs: int, dilation: int) -> None:
        super().__init__()
        self.pad = 2 * dilation
        self.conv1 = nn.Conv1d(inputs, outputs, 3, padding=self.pad, dilation=dilation)
        self.conv2 = nn.Conv1d(outputs, outputs, 3, padding=self.pad, dilation=dilation)
        self.shortcut = nn.Conv1d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, t) -> (n, outputs, t)."""
        y = F.relu(self.conv1(x)[:, :, : -self.pad])
        y = F.relu(self.conv2(y)[:, :, : -self.pad])
        return F.relu(y + self.shortcut(x))


class TCN(nn.Module):
    """Three temporal blocks and a score from the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(TemporalBlock(6, 16, 1), TemporalBlock(16, 24, 2), TemporalBlock(24, 24, 4))
        self.head = nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 6, t) to (n, 3)."""
        return self.head(self.blocks(x)[:, :, -1])


class PointNet(nn.Module):
    """Shared layers over points, the maximum over them, put beside each point again (arXiv:1612.00593)."""

    def __init__(self) -> None:
        super().__init__()
        self.near = nn.Sequential(nn.Conv1d(3, 16, 1), nn.BatchNorm1d(16), nn.ReLU())
        self.far = nn.Sequential(nn.Conv1d(16, 32, 1), nn.BatchNorm1d(32), nn.ReLU())
        self.head = nn.Sequential(nn.Conv1d(48, 24, 1), nn.BatchNorm1d(24), nn.ReLU(), nn.Conv1d(24, 5, 1))

    def forward(self, points: Tensor) -> Tensor:
        """(n, 3, points) to (n, 5, points)."""
        near = self.near(points)
        overall = self.far(near).max(2, keepdim=True)[0]
        return self.head(torch.cat([near, overall.expand(-1, -1, points.shape[2])], 1))


class WaveNet(nn.Module):
    """Gated dilated convolutions, skips summed (arXiv:1609.03499)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(1, 16, 1)
        self.gates = nn.ModuleList(nn.Conv1d(16, 32, 3, padding=2**i, dilation=2**i) for i in range(3))
        self.residuals = nn.ModuleList(nn.Conv1d(16, 16, 1) for _ in range(3))
        self.skips = nn.ModuleList(nn.Conv1d(16, 24, 1) for _ in range(3))
        self.head = nn.Conv1d(24, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1, t) to (n, 8, t)."""
        x, total = self.stem(x), torch.zeros(())
        for gate, residual, skip in zip(self.gates, self.residuals, self.skips, strict=True):
            a, b = gate(x).split(16, 1)
            y = torch.tanh(a) * torch.sigmoid(b)
            total = total + skip(y)
            x = x + residual(y)
        return self.head(F.relu(total))


class ConvRecurrent(nn.Module):
    """Convolutions over an image, columns to a GRU (arXiv:1507.05717)."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 24, 3, padding=1), nn.ReLU(),
            nn.MaxPool2d(2),
        )  # fmt: skip
        self.gru = nn.GRU(24 * 4, 32, batch_first=True, bidirectional=True)
        self.head = nn.Linear(64, 11)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1, 16, w) to (n, w/4, 11)."""
        x = self.convs(x).permute(0, 3, 1, 2).flatten(2)
        return self.head(self.gru(x)[0])


class TwoTower(nn.Module):
    """A recommender: embeddings of users and items with numbers beside, two towers, an inner product."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(50, 16), nn.Embedding(80, 16)
        self.left = nn.Sequential(nn.Linear(16 + 5, 32), nn.ReLU(), nn.Linear(32, 24))
        self.right = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 24))

    def forward(self, user: Tensor, item: Tensor, facts: Tensor) -> Tensor:
        """Ids (n,), (n,) and facts (n, 5) to (n,)."""
        left = self.left(torch.cat([self.users(user), facts], -1))
        return (left * self.right(self.items(item))).sum(-1)


def _ids() -> dict[str, Tensor]:
    return {"user": torch.randint(0, 50, (2,)), "item": torch.randint(0, 80, (2,)), "facts": torch.randn(2, 5)}


SEQUENCES = [
    Architecture("own-lstm", "recurrent", LSTMClassifier, TOKENS),
    Architecture("own-gru", "recurrent", GRUTagger, TOKENS),
    Architecture("own-crnn", "recurrent", ConvRecurrent, lambda: {"x": torch.randn(2, 1, 16, 32)}),
    Architecture("own-mixer", "vit", Mixer, image(name="x")),
    Architecture("own-packed-vit", "vit", lambda: PackedTransformer(fused=True), image(name="x")),
    Architecture("own-packed-vit-plain", "vit", lambda: PackedTransformer(fused=False), image(name="x")),
    Architecture("own-tied-lm", "decoder", TiedLanguageModel, TOKENS),
    Architecture("own-tcn", "other", TCN, noise("x", 6, 32)),
    Architecture("own-wavenet", "audio", WaveNet, noise("x", 1, 64)),
    Architecture("own-pointnet", "other", PointNet, noise("points", 3, 20)),
    Architecture("own-two-tower", "other", TwoTower, _ids),
]
