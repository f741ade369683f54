"""ONNX Runtime: facts, lowering, sessions, profile."""
