"""Structured pruning: widths and depth."""
