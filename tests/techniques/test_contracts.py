"""Every technique against its contract."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gossamer.analysis.coupling import couple
from gossamer.analysis.widths import Widths
from gossamer.program import Program
from gossamer.program.dialect import bound_arguments, op_class
from gossamer.program.fold import fold_batch_norms
from gossamer.program.values import tensor_value
from gossamer.techniques import TECHNIQUES
from gossamer.techniques.prune.blocks import DropBlocks
from gossamer.techniques.prune.channels import Prune
from gossamer.techniques.quantize.equalize import Equalize
from gossamer.techniques.quantize.int8 import Int8
from gossamer.techniques.quantize.placement import weighted_sites
from gossamer.techniques.quantize.smooth import Smooth
from gossamer.testing import TechniqueContract
from gossamer.testing.models import Lambda, SmallModel
from gossamer.testing.technique import NETS


class TestInt8(TechniqueContract):
    technique = Int8()
    variants = (
        Int8(observer="entropy", weight_steps=1),
        Int8(skip=("*head*",), narrow=("*",), narrow_activations=("*",), bias_correction=True),
        Int8(safe_pairs=("*",)),
        Int8(placement="integer_sums"),  # which another target has; this one must say so
    )
    ladder = tuple(Int8(observer="percentile", percentile=share) for share in (60, 80, 95, 99.9))
    policy = "int8"

    def closed_counts(self, before: Program) -> Mapping[str, int]:
        """A code for each weight, the first kernel widened to four channels; int32 biases; zero points of both."""
        int8 = int32 = 0
        for layer in weighted_sites(before).values():
            arguments = bound_arguments(layer)
            rows, columns, *kernel = tensor_value(arguments["weight"]).shape
            if op_class(layer) == "conv" and arguments["groups"] == 1:
                columns = max(columns, 4)
            int8 += rows * columns * math.prod(kernel)
            if op_class(layer) != "embedding":
                int8, int32 = int8 + rows, int32 + 2 * rows
        return {"int8 stored": int8, "int32 stored": int32, "parameters": fold_batch_norms(before).parameter_count}


class TestInt8OnOpenVino(TechniqueContract):
    """Its own places for pairs, of which it has two kinds; biases stay in float."""

    technique = Int8(placement="integer_sums")
    variants = (*TestInt8.variants[:3], Int8(observer="percentile", percentile=99))
    nets: ClassVar = {name: NETS[name] for name in ("images", "nothing to change")}
    fits = ("images",)
    target = "openvino:cpu,batch=4"
    policy = "int8"

    def closed_counts(self, before: Program) -> Mapping[str, int]:
        """A code for each weight and a zero point for each channel."""
        shapes = [tensor_value(bound_arguments(layer)["weight"]).shape for layer in weighted_sites(before).values()]
        return {"int8 stored": sum(math.prod(shape) + shape[0] for shape in shapes), "int32 stored": 0}


class TestEqualize(TechniqueContract):
    technique = Equalize()
    variants = (Equalize(sweeps=1),)
    exact = True
    needs_data = False
    fits = ("images", "features")


class TestSmooth(TechniqueContract):
    technique = Smooth()
    variants = (Smooth(alpha=0.5), Smooth(alpha=0.5, insert=True))
    exact = True


class TestPrune(TechniqueContract):
    technique = Prune(keep=0.5, round_to=1)
    variants = (
        Prune(macs=0.6, score="taylor", loss="predictions", reestimate=False, round_to=2),
        Prune(params=0.6, score="l2", allocation="power_law", p=0.5, seed=1, round_to=1),
        Prune(keep=0.5, compensate=False, only=("*",), skip=("*second*", "nothing.here"), head_dim=True, round_to=1),
    )
    ladder = tuple(Prune(keep=share, round_to=1) for share in (0.3, 0.5, 0.75))

    def closed_counts(self, before: Program) -> Mapping[str, int]:
        """Half of every group."""
        coupling = couple(before)
        groups = {group.name: group for group in coupling.free if group.kind not in ("head_dim", "value_dim")}
        return {"parameters": Widths(coupling).parameters({name: round(g.size / 2) for name, g in groups.items()})}


def _residual_net() -> nn.Module:
    """Three residual blocks, the last of which does least."""

    def function(m: Any, x: Tensor) -> Tensor:
        x = m["stem"](x)
        for name in ("first", "second", "third"):
            x = x + m[name](x)
        return m["head"](x.mean((2, 3)))

    def body(scale: float) -> nn.Module:
        last = nn.Conv2d(8, 6, 1)
        with torch.no_grad():
            last.weight.mul_(scale)
            last.bias.mul_(scale)
        return nn.Sequential(nn.Conv2d(6, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), last)

    bodies = {"first": body(1.0), "second": body(0.7), "third": body(0.2)}
    return Lambda(function, stem=nn.Conv2d(3, 6, 3, stride=2), **bodies, head=nn.Linear(6, 5))


class TestDropBlocks(TechniqueContract):
    technique = DropBlocks(count=1)
    variants = (DropBlocks(macs=0.6, compensate=False), DropBlocks(count=1, reestimate=False, skip=("third",)))
    ladder = (DropBlocks(count=3), DropBlocks(count=2), DropBlocks(count=1))
    nets: ClassVar = {
        "residual": SmallModel(_residual_net, NETS["images"].inputs),
        **{name: NETS[name] for name in ("features", "nothing to change")},
    }
    fits = ("residual",)

    def closed_counts(self, before: Program) -> Mapping[str, int]:
        """The last block has gone: two convolutions, the norm, a bias."""
        return {"parameters": before.parameter_count - (6 * 8 * 9 + 2 * 8 + 8 * 6 + 6)}


def test_every_technique_has_a_contract():
    contracts = [
        value for value in globals().values() if isinstance(value, type) and issubclass(value, TechniqueContract)
    ]
    assert {type(one.technique) for one in contracts if hasattr(one, "technique")} == set(TECHNIQUES.values())
