"""Top-1 accuracy."""

from __future__ import annotations

import numpy as np

from gossamer.metrics.base import Labels, Metric, Outputs, class_logits, mean_per_sample


def top1_scores(outputs: Outputs, labels: Labels) -> np.ndarray:
    """1 where the largest logit is the label's, else 0; shape (samples,).

    A sample with several positions (pixels, tokens) scores the share of right ones. A row with a NaN is wrong: argmax
    would return the place of the NaN.
    """
    logits, targets = class_logits(outputs, labels, "computing top1")
    right = (logits.argmax(axis=-1) == targets) & ~np.isnan(logits).any(axis=-1)
    return mean_per_sample(right)


TOP1 = Metric("top1", "%", "higher", needs_labels=True, score=top1_scores)
