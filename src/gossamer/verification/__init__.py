"""Proof that a smaller model still works: parity of tensors, certificates of the metric, verdicts."""
