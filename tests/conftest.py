"""Shared by all tests: one thread, like the machines that the figures are quoted for; small networks and data."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gossamer import flow
from gossamer.core.measurement import Measurement
from gossamer.core.target import Target
from gossamer.demo import load_digits
from gossamer.demo.digits import DigitNet
from gossamer.metrics.comparison import Comparison, largest_difference, speed_word
from gossamer.program import Program
from gossamer.runtimes import resolve_target
from gossamer.search.front import Front

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def own_temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Temporary files, and with them the lock of measurements, are this session's own: nobody is waited for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("tmp")))
        patch.setattr("tempfile.tempdir", None)
        yield


class SmallReader(nn.Module):
    """A transformer of one block: token ids (batch, length) to four class scores (batch, 4)."""

    def __init__(self, width: int = 32, vocabulary: int = 40) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(0.3 * torch.randn(32, width))
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 2 * width)
        self.fc2 = nn.Linear(2 * width, width)
        self.head = nn.Linear(width, 4)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids) + self.position[: ids.shape[1]]
        q, k, v = (part.unflatten(-1, (4, -1)).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, -1))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        x = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return self.head(x.mean(1))


@pytest.fixture(scope="session")
def target() -> Target:
    return resolve_target("onnxruntime:cpu,batch=8")


@pytest.fixture(scope="session")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Images (1797, 1, 8, 8) and their labels: the first 900 are for training and calibrating, the rest unseen."""
    images, labels = load_digits()
    return np.ascontiguousarray(images[:, :, ::2, ::2]), labels


@pytest.fixture(scope="session")
def digit_net(digits: tuple[np.ndarray, np.ndarray]) -> DigitNet:
    """A residual network that gets about nine of ten unseen digits right."""
    torch.manual_seed(0)
    net = DigitNet(width=8).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=6e-3)
    x, y = torch.from_numpy(digits[0][:900]), torch.from_numpy(digits[1][:900])
    for _ in range(4):
        for rows in torch.randperm(900)[:896].split(64):
            optimizer.zero_grad()
            F.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
    return net.eval()


@pytest.fixture(scope="session")
def digit_program(digit_net: DigitNet, digits: tuple[np.ndarray, np.ndarray]) -> Program:
    return flow.capture(digit_net, torch.from_numpy(digits[0][:2]))


@pytest.fixture(scope="session")
def reader_ids() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 40, (160, 12))


@pytest.fixture(scope="session")
def reader_program(reader_ids: np.ndarray) -> Program:
    torch.manual_seed(0)
    dims = {"ids": {0: "batch", 1: "length=2..32"}}
    return flow.capture(SmallReader(), {"ids": torch.from_numpy(reader_ids[:2])}, dynamic=dims)


def comparison(speedup: float = 1.3, *, resolution: float = 0.01, baseline_ms: float = 1.0) -> Comparison:
    """A made-up comparison whose interval is the speedup within 2 %."""
    interval = (speedup * 0.98, speedup * 1.02)

    def side(value: float) -> tuple[Measurement, ...]:
        latency = Measurement("latency p50", value, "ms", "lower", 1000, (value * 0.98, value * 1.02), 0.03)
        rate = 1e3 / value
        return latency, Measurement("throughput", rate, "samples/s", "higher", 1000, (rate * 0.98, rate * 1.02), 0.03)

    word = speed_word(speedup, interval, resolution)
    within = largest_difference(interval, resolution)
    a, b = side(baseline_ms), side(baseline_ms / speedup)
    return Comparison(speedup, interval, interval, resolution, word, within, 8, a, b)


class FakeMeasuring:
    """Stands in for the clock of a search: ``speedups`` by candidate name, ``default`` for the others.

    Attributes:
        compared: names of the candidates in the order in which they were timed.
    """

    def __init__(self) -> None:
        self.default = 1.3
        self.speedups: dict[str, float] = {}
        self.compared: list[str] = []

    def compare_speed(self, task: Any, baseline: Any, candidate: Any, resolution: float | None) -> Comparison:
        self.compared.append(candidate.name)
        plain = 1.0 if candidate is baseline else self.default
        return comparison(self.speedups.get(candidate.name, plain))

    def quick_times(self, task: Any, candidates: Sequence[Any]) -> list[float]:
        """The baseline stands first, mixes of int8 and float are not worth judging unless a test says so."""
        slow = {candidate.name: 0.9 for candidate in candidates if "in float" in candidate.name}
        return [1 / self.speedups.get(one.name, slow.get(one.name, 1.0)) for one in candidates]

    def measure_process(self, task: Any, candidate: Any) -> list[Measurement]:
        figures = {"load": (5.0, "ms"), "first inference": (1.0, "ms"), "peak memory": (2e6, "B")}
        size = Measurement("size", float(candidate.size_bytes), "B", "lower")
        return [size, *(Measurement(name, value, unit, "lower") for name, (value, unit) in figures.items())]


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch) -> FakeMeasuring:
    """Searches in this test measure nothing, in no time."""
    return install_fake(monkeypatch)


def install_fake(patch: pytest.MonkeyPatch) -> FakeMeasuring:
    fake = FakeMeasuring()
    patch.setattr("gossamer.search.judging.compare_speed", fake.compare_speed)
    patch.setattr("gossamer.search.judging.measure_process", fake.measure_process)
    patch.setattr("gossamer.search.compress.quick_times", fake.quick_times)
    return fake


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latencies in this test are measured as always, only with so few repetitions that they say little."""
    from gossamer.metrics import conditions, latency
    from gossamer.search import bench, evaluation

    def compare(*args: Any, **settings: Any) -> Comparison:
        few = {"loads": 2, "rounds": 1, "leg_ms": 1.0, "warmup_ms": 1.0}
        return latency.compare_latency(*args, **settings | few)

    def measure(*args: Any, **settings: Any) -> tuple[Measurement, ...]:
        return latency.measure_latency(*args, **settings | {"duration_ms": 20.0, "warmup_ms": 1.0})

    monkeypatch.setattr(evaluation, "compare_latency", compare)
    monkeypatch.setattr(bench, "compare_latency", compare)
    monkeypatch.setattr(bench, "measure_latency", measure)
    monkeypatch.setattr(bench, "noise_probe", partial(conditions.noise_probe, repetitions=10))


@pytest.fixture(scope="session")
def digit_front(digit_program: Program, digits: tuple[np.ndarray, np.ndarray]) -> Iterator[Front]:
    """Plain int8 accepted within two points; its speed is made up."""
    images, labels = digits
    with pytest.MonkeyPatch.context() as patch:
        install_fake(patch)
        return flow.compress(
            digit_program,
            images[:900],
            (images[900:], labels[900:]),
            target="onnxruntime:cpu,batch=8",
            budget="drop <= 2pt",
        )


@pytest.fixture(scope="session")
def digit_artifact(digit_front: Front, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of ``digit_front``'s best member; copy it before changing it."""
    folder = tmp_path_factory.mktemp("artifact") / "small"
    digit_front.best.save(folder)
    return folder


@pytest.fixture(scope="session")
def pruned_artifact(
    digit_program: Program, digits: tuple[np.ndarray, np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a network from which a block and half of the rest were cut; its speed is made up."""
    images, labels = digits
    with pytest.MonkeyPatch.context() as patch:
        install_fake(patch)
        front = flow.try_recipe(
            digit_program,
            "drop_blocks{count=1} | prune{score=l2,macs=0.5}",
            images[:200],
            eval_data=(images[900:1300], labels[900:1300]),
            target="onnxruntime:cpu,batch=8",
        )
    folder = tmp_path_factory.mktemp("pruned") / "pruned"
    front.best.save(folder)
    return folder
