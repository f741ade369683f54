"""Training: what changes the tensors of a Program by gradients."""
