"""Every technique against its contract."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from gossamer.program import Program
from gossamer.program.dialect import bound_arguments, op_class
from gossamer.program.fold import fold_batch_norms
from gossamer.program.values import tensor_value
from gossamer.techniques import TECHNIQUES
from gossamer.techniques.quantize.equalize import Equalize
from gossamer.techniques.quantize.int8 import Int8
from gossamer.techniques.quantize.placement import weighted_sites
from gossamer.techniques.quantize.smooth import Smooth
from gossamer.testing import TechniqueContract
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
    variants = (Smooth(alpha=0.5),)
    exact = True


def test_every_technique_has_a_contract():
    contracts = [
        value for value in globals().values() if isinstance(value, type) and issubclass(value, TechniqueContract)
    ]
    assert {type(one.technique) for one in contracts if hasattr(one, "technique")} == set(TECHNIQUES.values())
