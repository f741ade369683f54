"""Sums of 8-bit products: against one product after the other, against the instruction, against real kernels."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper

from gossamer.core.errors import UnknownName
from gossamer.core.isa import host_profile
from gossamer.numerics.quantizers import best_symmetric_scale
from gossamer.numerics.saturation import (
    KERNELS,
    Arithmetic,
    Kernel,
    Window,
    deviation,
    input_columns,
    kernel_for,
    multiply,
    operands_form,
    pairs_at_risk,
    pairs_fit,
    weight_rows,
)
from gossamer.testing.older_cpu import LEVELS, older_cpu, why_not

ARITHMETICS = get_args(Arithmetic)
RANGES = {"exact32": (0, 255), "pair16": (0, 255), "u8u8_exact": (0, 255)}  # the others take signed inputs


def one_by_one(codes: list[int], weight: list[int], arithmetic: str) -> int:
    """The definition, in Python integers."""
    shift = 128 if arithmetic in ("shift_pair16", "half_weight") else 0
    used = [round(w / 2) for w in weight] if arithmetic == "half_weight" else weight
    total = 0
    for j in range(0, len(codes), 2):
        pair = sum((a + shift) * w for a, w in zip(codes[j : j + 2], used[j : j + 2], strict=True))
        total += pair if arithmetic in ("exact32", "u8u8_exact") else max(-32768, min(32767, pair))
    total -= shift * sum(used)
    return 2 * total if arithmetic == "half_weight" else total


def numbers(rng: np.random.Generator, ends: tuple[int, int], shape: tuple[int, ...], extreme: bool) -> torch.Tensor:
    found = rng.choice([*ends, 0, 1], shape) if extreme else rng.integers(ends[0], ends[1] + 1, shape)
    return torch.from_numpy(found).float()


@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_sums_are_those_of_the_definition(arithmetic: Arithmetic, extreme: bool):
    rng = np.random.default_rng(0)
    codes = numbers(rng, RANGES.get(arithmetic, (-128, 127)), (24, 30), extreme)
    weight = numbers(rng, (-128, 127), (7, 24), extreme)
    expected = [
        [one_by_one(column, row, arithmetic) for column in codes.T.int().tolist()] for row in weight.int().tolist()
    ]
    assert multiply(codes, weight, arithmetic).tolist() == expected
    found = deviation(codes, weight, arithmetic)
    assert bool(found.amount.any()) == (arithmetic not in ("exact32", "u8u8_exact"))
    assert bool(found.saturated) == (arithmetic in ("pair16", "shift_pair16"))


def test_sums_beyond_the_precision_of_float32_stay_exact():
    codes, weight = torch.full((2000, 1), 255.0), torch.full((1, 2000), 127.0)
    weight[0, -1] = 126
    assert multiply(codes, weight, "exact32").item() == 255 * (127 * 1999 + 126) > 2**24


def test_an_unknown_arithmetic_is_named():
    with pytest.raises(UnknownName, match="pair32"):
        multiply(torch.zeros(2, 1), torch.zeros(1, 2), "pair32")  # pyright: ignore[reportArgumentType]


def test_weights_of_seven_bits_never_saturate():
    """Every pair of weights in [-64, 63] with every pair of extreme inputs: in between, sums lie in between."""
    values = torch.arange(-64, 64)
    weight = torch.cartesian_prod(values, values).float()
    ends = torch.tensor([0.0, 255.0])
    for arithmetic, shift in (("pair16", 0), ("shift_pair16", 128)):
        codes = torch.cartesian_prod(ends, ends).T - shift
        low, high = -shift, 255 - shift
        assert not pairs_at_risk(weight, low, high, arithmetic).any()  # pyright: ignore[reportArgumentType]
        assert deviation(codes, weight, arithmetic).saturated == 0  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("pair", "highest", "risk"),
    [
        ((64, 64), 255, False), ((64, 65), 255, True), ((-64, -64), 255, False), ((-64, -65), 255, True),
        ((127, -127), 255, False), ((127, 1), 255, False), ((127, 2), 255, True), ((127, 127), 127, False),
        ((127, 127), 129, False), ((127, 127), 130, True), ((-128, -128), 128, False), ((-128, -128), 129, True),
    ],
)  # fmt: skip
def test_the_bound_at_its_edge(pair: tuple[int, int], highest: int, risk: bool):
    weight = torch.tensor([pair]).float()
    assert pairs_at_risk(weight, 0, highest, "pair16").item() == risk
    worst = torch.tensor([[highest * (w > 0) for w in pair], [highest * (w < 0) for w in pair]]).float().T
    assert bool(deviation(worst, weight, "pair16").saturated) == risk  # reached by some input, so it is tight


def test_nothing_saturates_outside_the_bound():
    rng = np.random.default_rng(1)
    weight = torch.from_numpy(np.clip(rng.normal(0, 45, (40, 32)), -127, 127).round()).float()
    codes = numbers(rng, (0, 255), (32, 200), extreme=False)
    safe = torch.where(pairs_at_risk(weight, 0, 255, "pair16").repeat_interleave(2, 1), 0, weight)
    assert deviation(codes, weight, "pair16").saturated > 0
    assert deviation(codes, safe, "pair16").saturated == 0


def test_safe_scales_lose_less_than_seven_bits():
    """Both never saturate; of Gaussian weights the former keep more."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(32, 5, 3, 3, generator=generator)

    def codes_and_error(scale: torch.Tensor, high: int) -> tuple[torch.Tensor, float]:
        codes = torch.clamp(torch.round(weight / scale[:, None, None, None]), -high, high)
        return codes, float((codes * scale[:, None, None, None] - weight).square().sum())

    plain, best = codes_and_error(best_symmetric_scale(weight, 0, 127), 127)
    safe, error = codes_and_error(best_symmetric_scale(weight, 0, 127, 80, (2.0, 0.5), pairs_fit), 127)
    narrow, worse = codes_and_error(best_symmetric_scale(weight, 0, 63), 63)
    assert not pairs_fit(plain).all()
    assert pairs_fit(safe).all()
    assert pairs_fit(narrow).all()
    assert best < error < 0.8 * worse


def test_a_safe_scale_exists_for_the_worst_weights():
    weight = torch.tensor([[1.0, 1.0, -1.0, -1.0], [1.0, -1.0, 1.0, -1.0], [0.0, 0.0, 0.0, 0.0]])
    scale = best_symmetric_scale(weight, 0, 127, 80, (2.0, 0.5), pairs_fit)
    codes = torch.round(weight / scale[:, None])
    assert pairs_fit(codes).all()
    assert codes[0].abs().max() <= 64  # half of 128: two of them add up
    assert torch.allclose(codes * scale[:, None], weight, rtol=0.01)  # half the distance of the ranges tried


CONVOLUTIONS = [
    ((2, 5, 9), (4, 5, 3), {"stride": (2,), "padding": (1,), "dilation": (2,)}),
    ((2, 4, 7, 8), (6, 4, 3, 2), {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)}),
    ((1, 3, 5, 4, 6), (2, 3, 2, 1, 3), {"stride": (1, 2, 1), "padding": (0, 1, 1), "dilation": (1, 1, 2)}),
]


@pytest.mark.parametrize("packing", ["row", "position"])
@pytest.mark.parametrize(("size", "kernel", "steps"), CONVOLUTIONS)
def test_packed_convolutions_are_convolutions(size, kernel, steps, packing):
    rng = np.random.default_rng(2)
    codes, weight = numbers(rng, (0, 255), size, False), numbers(rng, (-127, 127), kernel, False)
    convolve = (F.conv1d, F.conv2d, F.conv3d)[len(size) - 3]
    expected = convolve(codes - 3, weight, **steps)  # inputs are real zeros outside: code 3
    columns = input_columns(codes, Window(kernel[2:], **steps), packing, 3)
    rows = weight_rows(weight, packing)
    assert columns.shape[0] == rows.shape[1] == rows.shape[1] // 2 * 2
    sums = multiply(columns, rows, "exact32") - 3 * rows.sum(1).int()[:, None]
    assert torch.equal(sums.reshape(kernel[0], size[0], *expected.shape[2:]).transpose(0, 1).float(), expected)


@pytest.mark.parametrize("packing", ["row", "position"])
def test_packed_linear_layers_are_linear_layers(packing):
    rng = np.random.default_rng(3)
    codes, weight = numbers(rng, (0, 255), (2, 3, 7), False), numbers(rng, (-127, 127), (5, 7), False)
    sums = multiply(input_columns(codes, Window(), packing, 0), weight_rows(weight, packing), "exact32")
    assert torch.equal(sums.T.reshape(2, 3, 5).float(), F.linear(codes, weight))


def test_packing_decides_which_products_meet():
    """Three channels at two positions: the third meets the next position's first, or nothing."""
    weight = torch.zeros(1, 3, 2)
    weight[0, 2, 0] = weight[0, 0, 1] = 127
    codes = torch.full((1, 3, 2), 255.0)
    window = Window((2,), (1,), (0,), (1,))
    lost = [
        deviation(input_columns(codes, window, packing, 0), weight_rows(weight, packing), "pair16").amount.item()
        for packing in ("row", "position")
    ]
    assert lost == [2 * 255 * 127 - 32767, 0]


def test_kernels_of_special_layers():
    assert kernel_for("onnxruntime", "avx2", "u8s8", (8, 5)).arithmetic == "pair16"
    assert kernel_for("onnxruntime", "avx2", "u8s8", (8, 1, 3, 3), 8).exact
    assert kernel_for("onnxruntime", "avx2", "u8s8", (8, 3, 3, 3)).packing == "position"
    assert kernel_for("onnxruntime", "avx2", "u8s8", (8, 5, 3, 3)).packing == "row"
    assert kernel_for("openvino", "avx2", "u8s8", (8, 5, 3, 3)).packing == "position"
    assert kernel_for("openvino", "avx2", "u8s8", (8, 3, 3, 3), 2) == Kernel("pair16", "row", "")
    assert kernel_for("openvino", "avx2", "s8s8", (8, 8, 3)).arithmetic == "half_weight"
    assert kernel_for("openvino", "avx2", "s8s8", (8, 8, 1)).arithmetic == "shift_pair16"
    assert kernel_for("openvino", "avx512", "s8s8", (8, 8, 1)).arithmetic == "half_weight"


@pytest.mark.parametrize(
    ("runtime", "profile", "form", "named"),
    [
        ("tensorflow", "avx2", "u8s8", "tensorflow"),
        ("openvino", "neon", "u8s8", "neon"),
        ("openvino", "avx2", "u8u8", "u8u8"),
    ],
)
def test_what_is_not_known_is_said(runtime: str, profile: str, form: str, named: str):
    with pytest.raises(UnknownName, match=named):
        kernel_for(runtime, profile, form)


def test_confirmed_kernels_are_those_of_the_installed_runtimes():
    """After an upgrade: run the slow tests here, then name the new version in the table."""
    named = {kernel.confirmed for kernel in KERNELS.values()} - {""}
    assert named == {f"{runtime} {metadata.version(runtime)}" for runtime in ("onnxruntime", "openvino")}


def test_signs_follow_from_the_codes():
    assert operands_form((0, 127), (-127, 127)) == "u8s8"
    assert operands_form((-128, 127), (-63, 63)) == "s8s8"
    assert operands_form((0, 255), (0, 255)) == "u8u8"


INSTRUCTION = r"""
#include <immintrin.h>
#include <stdio.h>
int main(void) {
    unsigned char bytes[64];
    while (fread(bytes, 1, 64, stdin) == 64) {
        __m256i a = _mm256_loadu_si256((void *)bytes), w = _mm256_loadu_si256((void *)(bytes + 32));
        short pairs[16];
        _mm256_storeu_si256((void *)pairs, _mm256_maddubs_epi16(a, w));
        fwrite(pairs, 2, 16, stdout);
    }
}
"""


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
@pytest.mark.skipif(host_profile() not in ("avx2", "avx512", "vnni"), reason="this processor has no vpmaddubsw")
def test_pairs_are_those_of_the_instruction(tmp_path: Path):
    program = tmp_path / "pairs"
    command = ["gcc", "-mavx2", "-O1", "-x", "c", "-", "-o", str(program)]
    subprocess.run(command, input=INSTRUCTION, text=True, check=True)
    rng = np.random.default_rng(4)
    codes = numbers(rng, (0, 255), (400, 32), False)
    weight = numbers(rng, (-128, 127), (400, 32), False)
    weight[:100], codes[:100] = numbers(rng, (-128, 127), (100, 32), True), numbers(rng, (0, 255), (100, 32), True)
    given = np.concatenate([codes.numpy().astype(np.uint8), weight.numpy().astype(np.int8).view(np.uint8)], 1)
    done = subprocess.run([str(program)], input=given.tobytes(), capture_output=True, check=True)
    expected = np.frombuffer(done.stdout, np.int16).reshape(400, 16)
    ours = np.stack(
        [multiply(codes[:, [j, j + 1]].T, weight[:, [j, j + 1]], "pair16").diagonal() for j in range(0, 32, 2)], 1
    )
    assert np.array_equal(ours, expected)


# Real kernels. Small models are written here and run in a process that takes this processor for an older one.

RUN = """
import json, sys
import numpy as np
folder, runtime = sys.argv[1:]
inputs = dict(np.load(f"{folder}/inputs.npz"))
outputs = {}
if runtime == "onnxruntime":
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    for name, x in inputs.items():
        session = onnxruntime.InferenceSession(f"{folder}/{name}.onnx", options, providers=["CPUExecutionProvider"])
        outputs[name] = session.run(None, {"x": x})[0]
else:
    import openvino
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    for name, x in inputs.items():
        outputs[name] = openvino.compile_model(f"{folder}/{name}.onnx", "CPU", settings)(x)[0]
np.savez(f"{folder}/outputs.npz", **outputs)
"""

# name: input channels, output channels, window, groups; no window is a linear layer
LAYERS = {
    "three_by_three": (16, 16, 3, 1), "few_channels": (3, 16, 3, 1), "odd_channels": (5, 16, 3, 1),
    "few_outputs": (16, 10, 3, 1), "pointwise": (64, 32, 1, 1), "five_by_five": (3, 16, 5, 1),
    "groups": (16, 16, 3, 4), "depthwise": (16, 16, 3, 16), "depthwise_ten": (10, 10, 3, 10),
    "grouped_pointwise": (32, 32, 1, 4), "linear": (64, 16, 0, 1), "linear_odd": (63, 10, 0, 1),
}  # fmt: skip
ZERO, STEP = 90, np.float32(251.3)


def model(name: str, signed: bool, runtime: str, weight: np.ndarray, groups: int) -> bytes:
    """A quantized layer: with integer output where the runtime has it, else with unit scales and float output."""
    pads = [1 if weight.ndim == 4 and weight.shape[2] > 1 else 0] * 4
    kind = TensorProto.INT8 if signed else TensorProto.UINT8
    zero = np.array(0 if signed else ZERO, np.int8 if signed else np.uint8)
    one, ones = np.float32(1), np.ones(len(weight), np.float32)
    given = {"zero": zero, "one": one, "ones": ones, "zeros": np.zeros(len(weight), np.int8), "w": weight}
    given["low"] = np.array(-127, np.int8)
    if runtime == "onnxruntime" and weight.ndim == 2:
        nodes = [helper.make_node("MatMulInteger", ["x", "wt", "zero"], ["y"])]
        given["wt"], out = np.ascontiguousarray(weight.T), TensorProto.INT32
    elif runtime == "onnxruntime":
        names = ["x", "one", "zero", "w", "ones", "zeros", "step", "zero"]
        nodes = [helper.make_node("QLinearConv", names, ["y"], group=groups, pads=pads)]
        given["step"], out = STEP, kind
    else:
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["wide"]),
            # Without it OpenVINO makes signed codes unsigned; with it they are as signed as the lowering writes them.
            helper.make_node("Clip" if signed else "Identity", ["wide", "low"] if signed else ["wide"], ["codes"]),
            helper.make_node("DequantizeLinear", ["codes", "one", "zero"], ["real"]),
            helper.make_node("DequantizeLinear", ["w", "ones", "zeros"], ["kernel"], axis=0),
            helper.make_node("Conv", ["real", "kernel"], ["y"], group=groups, pads=pads)
            if weight.ndim == 4
            else helper.make_node("Gemm", ["real", "kernel"], ["y"], transB=1),
        ]
        kind, out = TensorProto.FLOAT, TensorProto.FLOAT
    stored = [numpy_helper.from_array(array, key) for key, array in given.items()]
    axes = ["n", weight.shape[1] * groups, "a", "b"][: weight.ndim]
    x = helper.make_tensor_value_info("x", kind, axes)
    y = helper.make_tensor_value_info("y", out, ["n", len(weight), "c", "d"][: weight.ndim])
    made = helper.make_model(
        helper.make_graph(nodes, name, [x], [y], stored), opset_imports=[helper.make_opsetid("", 13)]
    )
    made.ir_version = 8
    return made.SerializeToString()


def expected_sums(kernel: Kernel, codes: np.ndarray, weight: np.ndarray, groups: int, zero: int) -> np.ndarray:
    """Sums less the zero point's part, (samples, outputs, ...)."""
    x, w = torch.from_numpy(codes).float(), torch.from_numpy(weight).float()
    size, pad = w.shape[2:], 1 if w.dim() == 4 and w.shape[2] > 1 else 0
    window = Window(tuple(size), (1, 1), (pad, pad), (1, 1)) if size else Window()
    parts = []
    for part, rows in zip(x.chunk(groups, 1) if size else [x], w.chunk(groups), strict=True):
        packed = weight_rows(rows, kernel.packing)
        columns = input_columns(part, window, kernel.packing, zero)
        parts.append(multiply(columns, packed, kernel.arithmetic) - zero * packed.sum(1).int()[:, None])
    sums = torch.cat(parts).reshape(len(w), len(x), -1).transpose(0, 1)
    side = 8 + 2 * pad - size[0] + 1 if size else 0
    return sums.reshape(len(x), len(w), side, side).numpy() if size else sums[..., 0].numpy()


@pytest.mark.slow
@pytest.mark.skipif(bool(why_not()), reason=why_not())
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("profile", [*LEVELS, "vnni"])
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_sums_are_those_of_real_kernels(runtime: str, profile: str, signed: bool, tmp_path: Path):
    if profile == "vnni" and host_profile() != "vnni":
        pytest.skip("this processor has no integer dot products")
    pytest.importorskip(runtime)
    rng = np.random.default_rng(5)
    layers, inputs = {}, {}
    for name, (channels, outputs, size, groups) in LAYERS.items():
        weight = rng.integers(-127, 128, (outputs, channels // groups, *([size] * 2 if size else []))).astype(np.int8)
        shape = (2, channels, 8, 8) if size else (3, channels)
        ends, dtype = ((-127, 128), np.int8) if signed else ((120, 256), np.uint8)
        codes = rng.integers(*ends, shape).astype(dtype)
        layers[name] = (weight, codes, groups)
        inputs[name] = codes if runtime == "onnxruntime" else codes.astype(np.float32) - (0 if signed else ZERO)
        (tmp_path / f"{name}.onnx").write_bytes(model(name, signed, runtime, weight, groups))
    np.savez(tmp_path / "inputs.npz", **inputs)
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | ({} if profile == "vnni" else older_cpu(profile, tmp_path))
    command = [sys.executable, "-c", RUN, str(tmp_path), runtime]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    wrong = {}
    for name, got in np.load(tmp_path / "outputs.npz").items():
        weight, codes, groups = layers[name]
        kernel = kernel_for_layer(runtime, profile, signed, weight, groups)
        zero = 0 if signed else ZERO
        sums = expected_sums(kernel, codes, weight, groups, zero)
        if runtime == "onnxruntime" and weight.ndim == 4:
            ends = np.iinfo(got.dtype)
            sums = np.clip(np.rint(sums.astype(np.float32) * (1 / STEP)) + zero, ends.min, ends.max)
        if kernel.confirmed and not np.array_equal(got, sums):
            wrong[name] = str(kernel)
    assert wrong == {}


def kernel_for_layer(runtime: str, profile: str, signed: bool, weight: np.ndarray, groups: int) -> Kernel:
    """As it is looked up, but few channels are not padded here: no lowering wrote these files."""
    found = kernel_for(runtime, profile, "s8s8" if signed else "u8s8", weight.shape, groups)
    return replace(found, packing="row") if runtime == "onnxruntime" else found
