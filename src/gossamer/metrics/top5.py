"""Top-5 accuracy."""

from __future__ import annotations

import numpy as np

from gossamer.core.errors import DataError
from gossamer.metrics.base import Labels, Metric, Outputs, class_logits, mean_per_sample


def topk_scores(outputs: Outputs, labels: Labels, k: int) -> np.ndarray:
    """1 where fewer than ``k`` logits beat or tie the label's, the label itself aside, else 0; shape (samples,).

    Ties count against the model, so a constant output scores 0. A row with a NaN is wrong.
    """
    logits, targets = class_logits(outputs, labels, f"computing top{k}")
    if logits.shape[-1] <= k:
        raise DataError(
            f"computing top{k}", got=f"{logits.shape[-1]} classes", expected=f"more than {k}", try_="--metric top1"
        )
    own = np.take_along_axis(logits, targets[..., None], axis=-1)
    rivals = (logits >= own).sum(axis=-1) - 1
    return mean_per_sample((rivals < k) & ~np.isnan(logits).any(axis=-1))


def top5_scores(outputs: Outputs, labels: Labels) -> np.ndarray:
    """``topk_scores`` with k = 5."""
    return topk_scores(outputs, labels, 5)


TOP5 = Metric("top5", "%", "higher", needs_labels=True, score=top5_scores)
