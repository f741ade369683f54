"""Lowering: a Program becomes an ONNX model, written directly."""

from gossamer.lowering.emitter import LoweringOptions
from gossamer.lowering.writer import Lowered, lower_to_onnx

__all__ = ["Lowered", "LoweringOptions", "lower_to_onnx"]
