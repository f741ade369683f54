"""Program to the bytes that ONNX Runtime loads."""

from gossamer.lowering import Lowered, LoweringOptions, lower_to_onnx
from gossamer.program.program import Program

OPTIONS = LoweringOptions(input_channel_multiple=4, shield_float_layers=True)
"""Integer convolutions have a fast kernel from four input channels on."""

FILE_NAME = "model.onnx"


def lower(program: Program) -> Lowered:
    """Write a program as a plain ONNX file that any ONNX runtime of opset 23 can take."""
    return lower_to_onnx(program, OPTIONS)
