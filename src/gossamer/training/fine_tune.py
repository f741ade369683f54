"""Plain fine-tuning: what follows surgery when labels are at hand. Techniques never train; whoever calls them may."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from gossamer.core.errors import DataError, OptionError
from gossamer.core.names import require_known
from gossamer.program.program import Program

OPTIMIZERS = ("adamw", "sgd")


@dataclass(frozen=True)
class FineTuning:
    """How to train; the learning rate falls from ``lr`` to 0 along half a cosine.

    Attributes:
        steps: batches to train on.
        batch: samples in each; that of the program where it takes no other.
        lr: learning rate at the start.
        optimizer: "adamw", or "sgd" with momentum 0.9.
        weight_decay: of the optimizer.
        autocast: compute in bfloat16 where that is safe.
        seed: of the order of samples and of dropout.
    """

    steps: int = 200
    batch: int = 64
    lr: float = 1e-3
    optimizer: str = "adamw"
    weight_decay: float = 1e-4
    autocast: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        doing = "checking the settings of fine-tuning"
        require_known(self.optimizer, OPTIMIZERS, "optimizer", doing)
        if self.steps < 1 or self.batch < 1 or not self.lr > 0:
            got = f"steps={self.steps}, batch={self.batch}, lr={self.lr}"
            raise OptionError(doing, got=got, expected="at least one step and sample, a learning rate above 0")


def fine_tune(
    program: Program,
    inputs: Mapping[str, np.ndarray],
    labels: np.ndarray,
    settings: FineTuning = FineTuning(),
) -> Program:
    """Train all parameters of a program for a few steps.

    Args:
        program: what to train; the given one is untouched.
        inputs: by name, first axis the samples.
        labels: (samples, ...): whole numbers are classes, for cross entropy with the first output, which has them on
            its second axis; other numbers are what it should be, for the mean squared error.
        settings: how.

    Returns:
        The program with trained parameters and the batch-norm statistics of training. Same settings, data and thread
        count: same bytes.

    Raises:
        DataError: no samples, labels of another number or shape, or a loss that is not finite.
        OptionError: the program has no parameters.
    """
    doing = f"fine-tuning {program.name}"
    count = len(next(iter(inputs.values()))) if inputs else 0
    if not count or len(labels) != count:
        raise DataError(doing, got=f"{count} samples, {len(labels)} labels", expected="at least one, and as many")
    module = program.module(training=True)
    parameters = list(module.parameters())
    if not parameters:
        raise OptionError(doing, got="a program without parameters", expected="one with some")
    optimizer = _optimizer(parameters, settings)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    goals = torch.from_numpy(np.ascontiguousarray(labels))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        for step, rows in enumerate(_rows(program, count, settings)):
            batch = program.signature.check({name: array[rows] for name, array in inputs.items()})
            tensors = [torch.from_numpy(batch[spec.name]) for spec in program.signature.inputs]
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=settings.autocast):
                loss = _loss(module(*tensors)[0], goals[rows])
            if not bool(torch.isfinite(loss)):
                got = f"a loss that is not finite at step {step}"
                raise DataError(doing, got=got, expected="finite data and a rate that converges", try_="a smaller lr")
            loss.backward()
            optimizer.step()
            schedule.step()
    return program.with_tensors_of(module, f"fine-tuned for {settings.steps} steps of {settings.optimizer}")


def _optimizer(parameters: list[nn.Parameter], settings: FineTuning) -> torch.optim.Optimizer:
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, settings.lr, momentum=0.9, weight_decay=settings.weight_decay)
    return torch.optim.AdamW(parameters, settings.lr, weight_decay=settings.weight_decay)


def _rows(program: Program, count: int, settings: FineTuning) -> Iterator[np.ndarray]:
    """Samples of each step: epoch after epoch in random order, without what does not fill a batch."""
    fixed = program.signature.inputs[0].shape[0]
    size = fixed if isinstance(fixed, int) else min(settings.batch, count)
    random = np.random.default_rng(settings.seed)
    order = np.empty(0, np.intp)
    for _ in range(settings.steps):
        if len(order) < size:
            order = np.resize(random.permutation(count), max(count, size))
        yield order[:size]
        order = order[size:]


def _loss(output: Tensor, goal: Tensor) -> Tensor:
    if goal.is_floating_point():
        if goal.shape != output.shape:
            got = f"labels of shape {tuple(goal.shape)} for outputs of shape {tuple(output.shape)}"
            raise DataError("fine-tuning on numbers", got=got, expected="the same")
        return nn.functional.mse_loss(output.float(), goal.float())
    return nn.functional.cross_entropy(output.float(), goal.long())
