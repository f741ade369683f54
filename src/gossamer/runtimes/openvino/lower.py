"""Program to the bytes that OpenVINO loads."""

from gossamer.lowering import Lowered, LoweringOptions, lower_to_onnx
from gossamer.program.program import Program

OPTIONS = LoweringOptions()

FILE_NAME = "model.onnx"


def lower(program: Program) -> Lowered:
    """Write a program as a plain ONNX file, which OpenVINO reads as it is."""
    return lower_to_onnx(program, OPTIONS)
