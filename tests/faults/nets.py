"""Small nets in which every fault of the suite has a place, on real inputs: the bundled digits, and text of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Node

from gossamer import flow
from gossamer.core.target import Target
from gossamer.demo import load_digits
from gossamer.program import Edit, Program, dialect
from gossamer.techniques.quantize.int8 import Int8
from gossamer.verification.inputs import Case, parity_cases
from gossamer.verification.policies import FP32, INT8, Policy

ROWS = 160


class Residual(nn.Module):
    """Convolutions with batch norm, a residual, padding on one side at stride 2, both kinds of pooling; any size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv3, self.bn3 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.down = nn.Conv2d(8, 16, 3, stride=2)
        self.fc1, self.fc2 = nn.Linear(16, 16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(x + self.bn3(self.conv3(F.relu(self.bn2(self.conv2(x))))))
        x = F.max_pool2d(x, 3, 2, 1)
        x = F.relu(self.down(F.pad(x, (0, 1, 0, 1))))
        x = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        return self.fc2(F.relu(self.fc1(x.mean((2, 3)))))


class Flat(nn.Module):
    """PReLU, a strided convolution, flatten before a linear layer, probabilities; 8x8."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.act = nn.Conv2d(1, 8, 2), nn.PReLU(8)
        self.conv2 = nn.Conv2d(8, 16, 3, stride=2)
        self.fc = nn.Linear(144, 10)

    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(self.fc(F.elu(self.conv2(self.act(self.conv1(x)))).flatten(1)), dim=-1)


class Branches(nn.Module):
    """Concat, split, depthwise convolution, two kinds of resize; any size."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(1, 8, 1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.act = nn.PReLU(8)
        self.head = nn.Conv2d(8, 6, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        both = self.depthwise(torch.cat([self.left(x), self.right(x)], 1))
        gate, value = both.split([8, 8], 1)
        x = self.act(value) * torch.sigmoid(gate)
        fine = F.interpolate(x, scale_factor=1.5, mode="nearest")
        coarse = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.head(fine), self.head(coarse).mean((2, 3))


class Mixer(nn.Module):
    """Sixteen tokens of width sixteen: norms, attention spelled out, mixing of tokens, GELU; 8x8."""

    def __init__(self) -> None:
        super().__init__()
        self.norm0, self.patch = nn.LayerNorm(4), nn.Linear(4, 16)
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.q, self.k, self.v = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.tokens = nn.Linear(16, 16)
        self.fc1, self.fc2 = nn.Linear(16, 32), nn.Linear(32, 16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(-1, 4, 2, 4, 2).permute(0, 1, 3, 2, 4).reshape(-1, 16, 4)
        x = self.patch(self.norm0(x))
        y = self.norm1(x)
        scores = self.q(y) @ self.k(y).transpose(1, 2) / math.sqrt(16)
        x = x + F.softmax(scores, dim=-1) @ self.v(y)
        x = x + self.tokens(x.transpose(1, 2)).transpose(1, 2)
        x = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return self.head(x.mean(1))


class Reader(nn.Module):
    """A transformer block with a causal and a padding mask; any length."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.embed = nn.Embedding(18, width)
        self.position = nn.Parameter(0.3 * torch.randn(24, width))
        self.norm = nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.head = nn.Linear(width, 10)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        length = ids.shape[1]
        x = self.embed(ids) + self.position[:length]
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        allowed = causal & mask.bool()[:, None, None, :]
        q, k, v = (part.unflatten(-1, (2, -1)).transpose(1, 2) for part in self.qkv(self.norm(x)).chunk(3, -1))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=allowed).transpose(1, 2).flatten(2))
        x = x + self.fc2(F.gelu(self.fc1(x)))
        return self.head(x)


class Pair(nn.Module):
    """Two inputs of one shape, as many channels as rows and columns, and two outputs of one shape."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.fc, self.one, self.other = nn.Linear(16, 16), nn.Linear(16, 5), nn.Linear(16, 5)

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        both = torch.cat([F.relu(self.first(a)).mean((2, 3)), torch.tanh(self.second(b)).amax((2, 3))], 1)
        hidden = F.silu(self.fc(both))
        return self.one(hidden), self.other(hidden)


class Text(nn.Module):
    """Embedding, LSTM, log-probabilities; any length."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm = nn.Embedding(18, 12), nn.LSTM(12, 16, batch_first=True)
        self.fc1, self.fc2 = nn.Linear(16, 16), nn.Linear(16, 10)

    def forward(self, ids: Tensor) -> Tensor:
        x, _ = self.lstm(self.embed(ids))
        return F.log_softmax(self.fc2(torch.relu(self.fc1(x[:, -1]))), dim=-1)


@dataclass(frozen=True)
class Net:
    """A net as a program, with the data it is compared on.

    Attributes:
        name: for tables.
        program: captured, quantized where the name says so.
        data: ``ROWS`` real samples by input name.
        cases: parity cases of them.
        policy: under which its lowering is judged.
    """

    name: str
    program: Program
    data: Mapping[str, np.ndarray]
    cases: tuple[Case, ...]
    policy: Policy


@cache
def images() -> np.ndarray:
    """(ROWS, 1, 8, 8) in [-1, 1]."""
    return np.ascontiguousarray(load_digits()[0][:ROWS, :, ::2, ::2])


def _stacked(shift: int) -> np.ndarray:
    """Eight channels of which each is the image moved by one more row."""
    moved = np.roll(images(), shift, axis=0)
    return np.concatenate([np.roll(moved, row, axis=2) * (1 - row / 10) for row in range(8)], axis=1)


def _letters() -> np.ndarray:
    """Grey levels of two rows of each image as tokens 1..17: (ROWS, 16)."""
    return np.rint((images()[:, 0, 3:5].reshape(ROWS, 16) + 1) * 8).astype(np.int64) + 1


def _of_images() -> dict[str, np.ndarray]:
    return {"x": images()}


def _of_text() -> dict[str, np.ndarray]:
    return {"ids": _letters()}


def _of_masked_text() -> dict[str, np.ndarray]:
    return {"ids": _letters(), "mask": np.ones((ROWS, 16), np.int64)}


def _of_pairs() -> dict[str, np.ndarray]:
    return {"a": _stacked(0).astype(np.float32), "b": _stacked(7).astype(np.float32)}


_SIZES = {0: "batch", 2: "rows=7..24", 3: "columns=7..24"}
_LENGTH = {0: "batch", 1: "length=2..24"}

NETS: Mapping[str, tuple[Callable[[], nn.Module], Callable[[], dict[str, np.ndarray]], Any]] = {
    "residual": (Residual, _of_images, {"x": _SIZES}),
    "flat": (Flat, _of_images, "batch"),
    "branches": (Branches, _of_images, {"x": _SIZES}),
    "mixer": (Mixer, _of_images, "batch"),
    "reader": (Reader, _of_masked_text, {"ids": _LENGTH, "mask": _LENGTH}),
    "pair": (Pair, _of_pairs, "batch"),
    "text": (Text, _of_text, "batch"),
}
"""Module, data and dynamic dims."""

QUANTIZED = {"residual int8": "residual", "mixer int8": "mixer"}
ALL = (*NETS, *QUANTIZED)


@cache
def _captured(name: str) -> tuple[Program, Mapping[str, np.ndarray], tuple[Case, ...]]:
    make, data_of, dynamic = NETS[name]
    torch.manual_seed(0)
    data = data_of()
    program = flow.capture(
        make().eval(), {key: torch.from_numpy(array[:2]) for key, array in data.items()}, dynamic=dynamic
    )
    return program, data, parity_cases(program.signature, data)


@cache
def net(name: str, target: Target, seed: int = 0) -> Net:
    """A net with weights drawn by ``seed``; a quantized one with scales that are powers of two, so that codes tie."""
    program, data, cases = _captured(QUANTIZED.get(name, name))
    program = with_weights(program, seed)
    if name not in QUANTIZED:
        return Net(name, program, data, cases, FP32)
    quantized = with_round_scales(Int8(observer="minmax").apply(program, data, target))
    return Net(name, quantized, data, parity_cases(program.signature, data, count=128), INT8)


def with_weights(program: Program, seed: int) -> Program:
    """Weights of about the same size, batch norms as if trained: means off zero, variances from 1e-3 to 3."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(name: str, tensor: Tensor) -> Tensor:
        if name.endswith("running_var"):
            return 10 ** (torch.rand(tensor.shape, generator=generator) * 3.5 - 3)
        if name.endswith("running_mean"):
            return 0.2 * torch.randn(tensor.shape, generator=generator)
        if program.roles[name] != "parameter":
            return tensor
        factor = torch.exp(0.3 * torch.randn(tensor.shape, generator=generator))
        return tensor * factor + 0.1 * tensor.std(correction=0) * torch.randn(tensor.shape, generator=generator)

    tensors = {name: drawn(name, tensor.detach()) for name, tensor in program.tensors.items()}
    return replace(program, tensors=tensors)


def with_round_scales(program: Program) -> Program:
    """Every scale the next power of two, as accelerators with shifters have them; a bias still has the product."""
    edit = Edit(program)
    pairs = [node for node in program.call_nodes if node.target is dialect.quantize]
    biases = {str(node.args[1].target) for node in pairs if node.args[5] > 255}
    rounded = {
        name: torch.exp2(torch.ceil(torch.log2(program.tensors[name])))
        for name in dict.fromkeys(str(node.args[1].target) for node in pairs)
    }
    for layer in program.call_nodes:
        grids = [
            used.args[1] for used in layer.args[:3] if isinstance(used, Node) and used.target is dialect.dequantize
        ]
        if len(grids) == 3 and str(grids[2].target) in biases:
            rounded[str(grids[2].target)] = rounded[str(grids[0].target)] * rounded[str(grids[1].target)]
    for name, scale in rounded.items():
        edit.tensor(name, scale, program.roles[name])
    return edit.finish("scales rounded up to powers of two")
