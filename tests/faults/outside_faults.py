"""Faults 41 to 45: what capture froze, and what no file is to blame for: preprocessing, labels.

Reference and candidate agree in these; they are found by the comparison with the eager model, and by the accuracy that
the original is known to have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from nets import Flat, images, net
from suite import Result, random_gate_rejects
from torch import Tensor, nn

from gossamer import flow
from gossamer.core.errors import CaptureError
from gossamer.core.target import Target
from gossamer.demo import load_digits
from gossamer.frontends.agreement import require_agreement
from gossamer.program import Edit, Interpreter, Program
from gossamer.program.dialect import aten
from gossamer.runtimes import lower_for, open_executable
from gossamer.verification.boundaries import check_baseline
from gossamer.verification.inputs import Case
from gossamer.verification.parity import compare_runnables
from gossamer.verification.policies import FP32

MEAN, STD = (0.19, 0.11, 0.79), (0.27, 0.15, 0.30)


class Branching(Flat):
    """Takes another way where the image is bright."""

    def forward(self, x: Tensor) -> Tensor:
        if x.mean() > -0.3:
            return super().forward(x * 0.5)
        return super().forward(x)


class HiddenBranch(Flat):
    """The same, where the compiler cannot see it."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting() or x.mean() > 0:
            return super().forward(x * 0.5)
        return super().forward(x)


class Colour(nn.Module):
    """Three channels, outliers clipped, to ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 24, 3, padding=1, stride=2)
        self.fc = nn.Linear(24 * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = x.clamp(-2.0, 2.0)
        return self.fc(F.relu(self.conv2(F.relu(self.conv1(x)))).flatten(1))


@dataclass(frozen=True)
class Trained:
    """A trained net with data it has not seen, and what it is known to get right of them in percent."""

    program: Program
    photos: np.ndarray
    labels: np.ndarray
    stated: float


def photos() -> np.ndarray:
    """(1797, 3, 16, 16): the digit by day or night, in another brightness in each channel.

    The noise is such that the mean of two rows is free of it.
    """
    grey = (load_digits()[0][:, 0] / 2 + 0.5) * np.where(_by_night(), 0.4, 1.0)[:, None, None]
    noise = np.random.default_rng(0).normal(0, 0.6, (len(grey), 8, 16)).repeat(2, axis=1)
    noise[:, 1::2] *= -1
    return np.stack([grey * 0.9 + noise, 0.5 * grey + noise, 1 - grey + noise], axis=1).astype(np.float32)


def _by_night() -> np.ndarray:
    return np.random.default_rng(1).random(1797) < 0.5


def _labels() -> np.ndarray:
    """The digit's last bits, and whether it is night: ten classes of which five look alike but for the light."""
    return load_digits()[1] % 5 + 5 * _by_night()


def by_area(raw: np.ndarray) -> np.ndarray:
    """To 8x8, the mean of each four pixels."""
    return raw.reshape(len(raw), 3, 8, 2, 8, 2).mean((3, 5))


def by_nearest(raw: np.ndarray) -> np.ndarray:
    """To 8x8, one of each four pixels."""
    return np.ascontiguousarray(raw[:, :, ::2, ::2])


def normalised(x: np.ndarray) -> np.ndarray:
    """With the mean and deviation of the training data."""
    return ((x - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))).astype(np.float32)


@cache
def trained() -> Trained:
    """A net that gets most of the unseen photos right."""
    torch.manual_seed(0)
    raw, labels = photos(), _labels()
    x, y = torch.from_numpy(normalised(by_area(raw[:900]))), torch.from_numpy(labels[:900])
    model = Colour().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for _ in range(6):
        for rows in torch.randperm(900)[:896].split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    program = flow.capture(model.eval(), x[:2])
    seen = normalised(by_area(raw[900:]))
    scores = Interpreter(program).run({"x": seen})["output"]
    return Trained(program, raw[900:], labels[900:], round(100 * float(np.mean(scores.argmax(-1) == labels[900:])), 1))


ONE_INPUT = ("residual", "flat", "branches", "mixer", "text")
"""Nets whose input can be cut without breaking them at other sizes."""


def frozen_batch(name: str, target: Target) -> Result:
    """An input cut to the example's two rows."""
    one = net(name, target)
    edit = Edit(one.program)
    first = next(node for node in edit.graph.nodes if node.op == "placeholder")
    cut = edit.after(first, "planted", aten.slice.Tensor, (first, 0, 0, 2), first.meta["value"])
    edit.replace(first, cut)
    frozen = edit.finish("batch frozen at two")
    example = {key: values[:2] for key, values in one.data.items()}
    message = _refusal(frozen, lambda inputs: list(Interpreter(one.program).run(inputs).values()), example)
    random = random_gate_rejects(one.program, Interpreter(frozen))
    return Result(41, "batch frozen to the example size", name, "capture", first.name, bool(message), message,
                  "batch" in message, message, 0, random)  # fmt: skip


def _refusal(program: Program, eager, example: Mapping[str, np.ndarray]) -> str:
    try:
        require_agreement(program, eager, example)
    except CaptureError as error:
        return " ".join(str(error).split())
    return ""


def frozen_branch(model: type[nn.Module]) -> Result:
    """A decision on values, taken once and for all when captured."""
    torch.manual_seed(0)
    try:
        program, message, place = flow.capture(model().eval(), torch.from_numpy(images()[:2])), "", ""
    except CaptureError as error:
        program, message, place = None, " ".join(str(error).split()), error.location
    random = program is not None and random_gate_rejects(program, Interpreter(program))
    return Result(42, "data-dependent branch frozen at capture", model.__name__, "capture", "forward", bool(message),
                  message, "outside_faults.py" in place and "if x.mean()" in place, message, 0, random)  # fmt: skip


def _wrong_data(way: str) -> tuple[int, str, str, np.ndarray, np.ndarray]:
    """Number, text, word to be named, inputs, labels."""
    good = trained()
    small = normalised(by_area(good.photos))
    order = np.random.default_rng(0).permutation(10)
    return {
        "twice": (43, "normalised twice", "once less", normalised(small), good.labels),
        "never": (43, "never normalised", "once more", by_area(good.photos), good.labels),
        "channels": (44, "BGR for RGB", "channels", np.ascontiguousarray(small[:, ::-1]), good.labels),
        "filter": (44, "another resize filter", "by area", normalised(by_nearest(good.photos)), good.labels),
        "labels": (45, "label map permuted", "label map", small, order[good.labels]),
    }[way]


WAYS = ("twice", "never", "channels", "filter", "labels")


def wrong_data(way: str, target: Target, folder) -> Result:
    """Data prepared, or labelled, in another way than the model was trained with."""
    good = trained()
    number, text, word, x, labels = _wrong_data(way)
    path = folder / "colour.onnx"
    path.write_bytes(lower_for(target, good.program).model)
    candidate = open_executable(path, good.program.signature, target)
    cases = [Case("real 0-31", "real", {"x": x[:32]})]
    parity = compare_runnables(Interpreter(good.program), candidate, cases, FP32)
    assert parity.verdict != "rejected", "the tensors are clean"
    message = check_baseline(
        candidate, {"x": x}, labels, good.stated,
        normalisation=(MEAN, STD), alternatives={"resized by area": {"x": normalised(by_area(good.photos))}},
    )  # fmt: skip
    random = random_gate_rejects(good.program, candidate)
    candidate.close()
    return Result(
        number, text, "colour", target.runtime, way, bool(message), message, word in message, message, 0, random
    )
