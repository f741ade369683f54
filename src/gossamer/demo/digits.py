"""Train a small residual network on the digits, compress it, save and reload it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone gives it
from torch import Tensor, nn

from gossamer import flow
from gossamer.core.errors import MissingExtra
from gossamer.core.progress import Progress, Silent

EPOCHS = 12
TRAINING_SHARE = 0.5
TARGET = "onnxruntime:cpu,threads=1,batch=32"
BUDGET = "top1 drop <= 2pt"


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """Images (1797, 1, 16, 16) float32 in [-1, 1], each pixel of the scans doubled, and labels (1797,) int64."""
    with np.load(Path(__file__).with_name("digits.npz"), allow_pickle=False) as stored:
        images, labels = stored["images"], stored["labels"]
    large = images.repeat(2, axis=1).repeat(2, axis=2)
    return (large[:, None].astype(np.float32) / 8.0 - 1.0), labels.astype(np.int64)


class _Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + x)


class DigitNet(nn.Module):
    """A small residual network: (batch, 1, 16, 16) to ten class scores."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.blocks1 = nn.Sequential(_Block(width), _Block(width))
        self.down = nn.Sequential(
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU()
        )
        self.blocks2 = nn.Sequential(_Block(2 * width), _Block(2 * width))
        self.head = nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores (batch, 10)."""
        x = self.blocks2(self.down(self.blocks1(self.stem(x))))
        return self.head(x.mean((2, 3)))


def train_network(images: np.ndarray, labels: np.ndarray, progress: Progress, epochs: int = EPOCHS) -> DigitNet:
    """Train on the given digits; same data, same network."""
    torch.manual_seed(0)
    network = DigitNet().train()
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    batch = 64
    steps = epochs * (len(x) // batch)
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
    progress.stage(f"training a small network on {len(x)} handwritten digits", epochs)
    for _ in range(epochs):
        order = torch.randperm(len(x))
        for start in range(0, len(x) - batch + 1, batch):
            rows = order[start : start + batch]
            loss = F.cross_entropy(network(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        progress.advance()
    return network.eval()


def run_demo(
    out: Path, *, force: bool = False, progress: Progress | None = None, epochs: int = EPOCHS
) -> dict[str, Any]:
    """Train, compress for ONNX Runtime, save to ``out``, load it back and run it; returns the report of the search.

    Beside the folder lies the same as a page, ``out`` with ``.html``, if the extra ``report`` is installed.
    """
    progress = progress or Silent()
    page = _page(out, force=force)
    images, labels = load_digits()
    order = np.random.default_rng(0).permutation(len(images))
    cut = int(len(images) * TRAINING_SHARE)
    train, held_out = order[:cut], order[cut:]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        network = train_network(images[train], labels[train], progress, epochs)
        front = flow.compress(
            network,
            images[train],
            (images[held_out], labels[held_out]),
            target=TARGET,
            budget=BUDGET,
            progress=progress,
        )
    finally:
        torch.set_num_threads(threads)
    front.best.save(out, force=force, with_samples=True)  # the digits are everybody's
    progress.stage("running the artifact")
    with flow.load(out) as small:
        scores = np.asarray(small(images[held_out]))
        if page is not None:
            flow.report(small, page, force=force)
    report = front.report()
    report["page"] = None if page is None else str(page)
    report["held_out_top1"] = float((scores.argmax(1) == labels[held_out]).mean() * 100)
    return report


def _page(out: Path, *, force: bool) -> Path | None:
    """Where the report goes; ``None`` without the extra that writes it."""
    from gossamer.reporting.html import require_report

    folder = out.absolute()
    page = folder.with_name(f"{folder.name}.html")
    try:
        require_report(page, force=force)
    except MissingExtra:
        return None
    return page
