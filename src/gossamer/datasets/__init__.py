"""Samples: what calibration, training and evaluation read, and where they come from."""
