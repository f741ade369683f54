"""Bias correction takes the mean error off each output channel, whatever the bias was before."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gossamer import flow
from gossamer.core.target import Target
from gossamer.program import Program
from gossamer.runtimes import resolve_target
from gossamer.techniques.quantize.bias import channel_means, correct_biases
from gossamer.techniques.quantize.int8 import Int8, int8_layers
from gossamer.techniques.quantize.pairs import Grids, constant_value, insert_pairs
from gossamer.techniques.quantize.placement import place

ON = Int8(bias_correction=True)


def mean_errors(exact: Program, quantized: Program, inputs: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """Mean error of each output channel, by layer, float64 (channels,)."""
    layers = [node.name for node in int8_layers(quantized).values()]
    means, moved = channel_means(exact, layers, inputs), channel_means(quantized, layers, inputs)
    return {layer: moved[layer] - means[layer] for layer in layers}


def bias_steps(quantized: Program) -> dict[str, Tensor]:
    """By layer: the scale of its bias, (channels,). Rounding to it leaves half a step at most."""
    layers = int8_layers(quantized).values()
    return {node.name: quantized.tensors[node.args[2].args[1].target].double() for node in layers}


def in_steps(exact: Program, quantized: Program, inputs: dict[str, np.ndarray]) -> dict[str, float]:
    """Largest mean error of each layer in steps of its bias."""
    steps = bias_steps(quantized)
    return {name: float((e / steps[name]).abs().max()) for name, e in mean_errors(exact, quantized, inputs).items()}


@pytest.fixture(scope="module", params=["digits", "reader"])
def case(request, target):
    """Calibration, its data, and data that were not calibrated on."""
    if request.param == "digits":
        images = request.getfixturevalue("digits")[0]
        program, given, unseen = request.getfixturevalue("digit_program"), {"x": images[:200]}, {"x": images[900:1400]}
    else:
        program, ids = request.getfixturevalue("reader_program"), request.getfixturevalue("reader_ids")
        given, unseen = {"ids": ids[:100]}, {"ids": ids[100:]}
    return Int8(narrow=("*",)).calibrate(program, given, target), given, unseen


def test_the_mean_error_of_every_layer_falls_to_the_rounding_of_its_bias(case):
    """Weights of seven bits, so that there is something to correct."""
    calibration, given, _ = case
    plain, corrected = (
        in_steps(calibration.program, Int8(narrow=("*",), bias_correction=on).quantize(calibration), given)
        for on in (False, True)
    )
    assert max(corrected.values()) < 0.75, "half a step, and a few codes tipped over by float32 sums in another order"
    assert all(plain[name] > 4 * corrected[name] for name in plain)


def test_outputs_on_unseen_data_come_nearer_to_the_original(case):
    calibration, _, unseen = case
    (name,) = unseen
    exact = calibration.program(unseen[name])
    errors = [
        float(np.linalg.norm(technique.quantize(calibration)(unseen[name]) - exact))
        for technique in (Int8(narrow=("*",)), Int8(narrow=("*",), bias_correction=True))
    ]
    assert errors[1] < errors[0]


def one_layer(bias: bool, target: Target):
    torch.manual_seed(0)
    net = nn.Linear(6, 4, bias=bias)
    inputs = {"input": np.random.default_rng(0).uniform(0, 1, (75, 6)).astype(np.float32)}
    program = flow.capture(net, torch.ones(2, 6))
    return program, inputs, ON.calibrate(program, inputs, target)


@pytest.mark.parametrize("bias", [True, False])
def test_one_layer_by_hand(bias: bool, target: Target):
    program, inputs, calibration = one_layer(bias, target)
    quantized = ON.quantize(calibration)
    (pair,) = (node.args[2] for node in int8_layers(quantized).values())
    corrected = quantized.tensors[pair.args[0].args[0].target].detach().double()
    # The layer with its rounded input and weight, but no bias: what is missing to the mean is the new bias.
    bare = Int8().quantize(calibration)
    rounded = bare(inputs["input"]).astype(np.float64).mean(0)
    if bias:
        (old,) = (node.args[2] for node in int8_layers(bare).values())
        rounded -= constant_value(bare, old).double().numpy()
    wanted = program(inputs["input"]).astype(np.float64).mean(0) - rounded
    np.testing.assert_allclose(corrected.numpy(), wanted, rtol=0, atol=1e-6)  # float32 means of 75 rows


def test_float_biases_are_corrected_too():
    """A target that keeps biases in float."""
    program, inputs, calibration = one_layer(True, resolve_float_bias())
    (plain,), (left,) = (
        mean_errors(program, Int8(bias_correction=on).quantize(calibration), inputs).values() for on in (False, True)
    )
    assert left.abs().max() < 1e-6
    assert plain.abs().max() > 1e-4


def resolve_float_bias() -> Target:
    target = resolve_target("onnxruntime:cpu")
    rules = target.facts.quantizers
    assert rules is not None
    ops = {name: replace(rule, bias="float") for name, rule in rules.ops.items()}
    return replace(target, facts=replace(target.facts, quantizers=replace(rules, ops=ops)))


class Shared(nn.Module):
    """One layer called twice, and a bias that another layer and the output read."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)
        self.weight = nn.Parameter(torch.randn(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.fc(torch.tanh(self.fc(x))))
        return F.linear(x, self.weight, self.fc.bias * 2) + self.fc.bias


def test_a_bias_with_several_readers_is_corrected_for_each_alone(target: Target):
    torch.manual_seed(0)
    program = flow.capture(Shared(), {"x": torch.ones(2, 6)})
    inputs = {"x": np.random.default_rng(0).standard_normal((64, 6)).astype(np.float32)}
    quantized = ON.apply(program, inputs, target)
    assert torch.equal(quantized.tensors["fc.bias"], program.tensors["fc.bias"]), "the add reads what it read"
    assert len(int8_layers(quantized)) == 3
    assert max(in_steps(program, quantized, inputs).values()) < 0.6


def test_little_memory_means_fewer_samples(digit_program: Program, digits, target: Target):
    calibration = Int8().calibrate(digit_program, {"x": digits[0][:128]}, target)
    layers = [node.name for node in int8_layers(Int8().quantize(calibration)).values()]
    quantized = insert_with_biases(calibration)
    few, all_ = (
        correct_biases(quantized, calibration.program, layers, calibration.inputs, memory) for memory in (1, 2**40)
    )
    assert few.digest != all_.digest
    # One batch of 32 of the 128 samples, spread evenly.
    chosen = {"x": digits[0][:128][np.linspace(0, 127, 32).round().astype(int)]}
    by_hand = correct_biases(quantized, calibration.program, layers, chosen, 2**40)
    assert few.digest == by_hand.digest


def insert_with_biases(calibration) -> Program:
    """Quantized and not corrected, with a bias of its own in each layer."""
    placement = place(calibration.program, calibration.rules)
    grids = Grids(calibration.ranges, 40, own_biases=True)
    return insert_pairs(calibration.program, calibration.rules, placement, grids, "int8")


def test_the_input_is_unchanged_and_the_result_repeats(digit_program: Program, digits, target: Target):
    before = digit_program.digest
    first, second = (ON.apply(digit_program, {"x": digits[0][:64]}, target) for _ in range(2))
    assert first.digest == second.digest != before
    assert first.provenance[-2:] == (str(ON), f"corrected {len(int8_layers(first))} biases")
