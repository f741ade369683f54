"""A small trained network with its data: what the README's eight lines work on.

Run it to train for a few seconds, compress for ONNX Runtime, and compare: python examples/digits.py
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from gossamer.core.progress import Silent
from gossamer.demo import load_digits, train_network


@dataclass(frozen=True)
class Part:
    """Images (samples, 1, 16, 16) and their labels."""

    images: np.ndarray
    labels: np.ndarray


torch.set_num_threads(1)
_images, _labels = load_digits()
_order = np.random.default_rng(0).permutation(len(_images))
train = Part(_images[_order[:898]], _labels[_order[:898]])
held_out = Part(_images[_order[898:]], _labels[_order[898:]])
network = train_network(train.images, train.labels, Silent(), epochs=6)

if __name__ == "__main__":
    import gossamer as gs

    front = gs.compress(
        network,
        data=train.images,
        eval_data=(held_out.images, held_out.labels),
        metric="top1",
        target="onnxruntime:cpu,batch=32",
        budget="top1 drop <= 2pt",
    )
    print(front)
