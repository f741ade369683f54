"""Seven-bit weights and inputs: codes that fit in 16 bits when two products are added."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from torch import fx

from gossamer import flow
from gossamer.core.errors import UnknownName
from gossamer.program import Program, dialect
from gossamer.program.interpreter import Interpreter
from gossamer.runtimes import open_executable
from gossamer.techniques.quantize.int8 import Int8, int8_layers
from gossamer.techniques.quantize.pairs import halved


def weight_codes(program: Program) -> np.ndarray:
    """All codes of weights in the lowered file."""
    graph = onnx.load_from_string(flow.lower(program).model).graph
    arrays = [onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer if ".codes" in tensor.name]
    return np.concatenate([array.ravel() for array in arrays if array.dtype == np.int8]).astype(int)


def quantizer(layer: fx.Node, position: int = 0) -> fx.Node:
    """The quantize behind an argument of a layer: 0 its input, 1 its weight."""
    pair = layer.args[position]
    assert isinstance(pair, fx.Node)
    quantize = pair.args[0]
    assert isinstance(quantize, fx.Node)
    assert quantize.target is dialect.quantize
    return quantize


@pytest.mark.parametrize(("codes", "half"), [((0, 255), (0, 127)), ((-127, 127), (-63, 63)), ((-128, 127), (-64, 63))])
def test_half_of_the_codes(codes: tuple[int, int], half: tuple[int, int]):
    assert halved(codes) == half


def test_narrow_weights_never_exceed_16_bits_in_pairs(digit_program: Program, digits, target):
    data = {"x": digits[0][:64]}
    wide, narrow = (weight_codes(Int8(narrow=globs).apply(digit_program, data, target)) for globs in ((), ("*",)))
    assert (wide.min(), wide.max()) == (-127, 127)
    assert -64 <= narrow.min() < narrow.max() <= 63
    assert 2 * 255 * abs(narrow).max() <= np.iinfo(np.int16).max


def test_only_the_layers_chosen_are_narrow(digit_program: Program, digits, target):
    program = Int8(narrow=("head", "stem*")).apply(digit_program, {"x": digits[0][:64]}, target)
    ends = {name: quantizer(layer, 1).args[4:] for name, layer in int8_layers(program).items()}
    assert {name for name, codes in ends.items() if codes == (-63, 63)} == {"stem.0", "head"}
    assert {codes for name, codes in ends.items() if name not in ("stem.0", "head")} == {(-127, 127)}


def test_narrow_inputs_stay_in_half_of_the_codes_on_any_data(digit_program: Program, digits, target, tmp_path: Path):
    """Far outside the calibrated range the codes are clipped, in the interpreter and in the runtime alike."""
    program = Int8(narrow_activations=("*",)).apply(digit_program, {"x": digits[0][:64]}, target)
    wild = {"x": 50 * digits[0][:8]}
    quantizers = {quantizer(layer).name for layer in int8_layers(program).values()}
    outputs = Interpreter(program).run(wild, sorted(quantizers))
    assert max(outputs[name].max() for name in quantizers) == 127
    path = tmp_path / "model.onnx"
    path.write_bytes(flow.lower(program).model)
    executable = open_executable(path, program.signature, target)
    (got,) = executable.run(wild).values()
    executable.close()
    exact = outputs[program.signature.outputs[0].name]
    assert np.linalg.norm(got - exact) < 10 ** (-38 / 20) * np.linalg.norm(exact)  # the target's placement bound


def test_only_the_inputs_chosen_are_narrow(digit_program: Program, digits, target):
    program = Int8(narrow_activations=("head",)).apply(digit_program, {"x": digits[0][:64]}, target)
    ends = {name: quantizer(layer).args[5] for name, layer in int8_layers(program).items()}
    assert {name for name, end in ends.items() if end == 127} == {"head"}


def test_linear_layers_of_a_transformer_can_be_narrow(reader_program: Program, reader_ids, target, tmp_path: Path):
    technique = Int8(narrow=("fc*",), narrow_activations=("fc2", "out"))
    program = technique.apply(reader_program, {"ids": reader_ids}, target)
    ends = {name: quantizer(layer).args[5] for name, layer in int8_layers(program).items()}
    assert ends == {"qkv": 255, "out": 127, "fc1": 255, "fc2": 127, "head": 255}
    path = tmp_path / "model.onnx"
    path.write_bytes(flow.lower(program).model)
    executable = open_executable(path, program.signature, target)
    (got,) = executable.run({"ids": reader_ids[:8]}).values()
    executable.close()
    exact = program(reader_ids[:8])
    assert np.linalg.norm(got - exact) < 10 ** (-38 / 20) * np.linalg.norm(exact)


@pytest.mark.parametrize("option", ["narrow", "safe_pairs", "narrow_activations"])
@pytest.mark.parametrize(("skip", "glob"), [((), "hed"), (("head",), "head")])
def test_a_glob_that_narrows_nothing_is_refused(digit_program, digits, target, option: str, skip, glob: str):
    technique = Int8(skip=skip, **{option: (glob,)})
    with pytest.raises(UnknownName, match=rf"'{glob}', which matches 0 of"):
        technique.apply(digit_program, {"x": digits[0][:64]}, target)


def test_an_embedding_multiplies_nothing_and_cannot_be_narrowed(reader_program, reader_ids, target):
    with pytest.raises(UnknownName, match="'embed', which matches 0 of"):
        Int8(narrow=("embed",)).apply(reader_program, {"ids": reader_ids}, target)
