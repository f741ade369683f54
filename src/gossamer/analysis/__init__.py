"""Facts about a Program alone: dimension coupling, residual blocks, and the proof of each cut."""
