"""The assets folder as NumPy arrays and trained networks, by name.

``load_network("resnet20", root)`` gives the torch module with its weights, ``load_samples("resnet20", "test", root)``
the preprocessed inputs and labels it is measured on, and ``calibration("resnet20", 512, root)`` a seeded draw from its
training data. Test data are never drawn for calibration where training data exist.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import lzma
import math
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import minilm
import networks
import numpy as np
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from gossamer.core.errors import DataError, ModelError, UnknownName

HELD_OUT = 192
"""Calibration samples taken from test data where there are no others: six batches of 32."""

DEFAULT_ROOT = Path(__file__).resolve().parents[2] / "shared" / "assets"


@dataclass(frozen=True)
class Samples:
    """Labelled samples.

    Attributes:
        inputs: model inputs by name, each with the sample axis first.
        labels: class numbers, int64 (samples,).
    """

    inputs: dict[str, np.ndarray]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: np.ndarray | slice) -> Samples:
        """The samples at ``index``."""
        return Samples({name: array[index] for name, array in self.inputs.items()}, self.labels[index])

    def shuffled(self, count: int, seed: int) -> Samples:
        """``count`` samples (or all, if fewer) drawn without replacement; same seed, same samples."""
        return self.take(np.random.default_rng(seed).permutation(len(self))[:count])


@dataclass(frozen=True)
class Workload:
    """A trained network and the data it is measured on.

    Attributes:
        weights: weight file below the assets folder; None where ``build`` gives the network with its weights.
        build: makes the network; gets the assets folder.
        splits: a reader for each part of the data; gets the assets folder.
        accuracy: top-1 in percent by split, as its asset's README states it.
    """

    weights: str | None
    build: Callable[[Path], nn.Module]
    splits: dict[str, Callable[[Path], Samples]]
    accuracy: dict[str, float]


def add_assets_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--assets DIR`` to a script's options."""
    parser.add_argument("--assets", type=Path, default=DEFAULT_ROOT, help=f"assets folder (default {DEFAULT_ROOT})")


def load_network(name: str, root: Path = DEFAULT_ROOT) -> nn.Module:
    """The trained network in evaluation mode, its weights loaded strictly."""
    workload = find(name)
    network = workload.build(root)
    if workload.weights is None:
        return network
    path = require(root, workload.weights)
    try:
        network.load_state_dict(load_file(path), strict=True)
    except RuntimeError as error:
        doing = f"loading {path} into {name}"
        raise ModelError(doing, got=str(error), expected="the keys in the asset's README") from error
    return network.eval()


def load_samples(name: str, split: str, root: Path = DEFAULT_ROOT) -> Samples:
    """All samples of one part (``train``, ``dev`` or ``test``) of the data belonging to a network, preprocessed."""
    splits = find(name).splits
    if split not in splits:
        raise UnknownName(f"loading the data of {name}", got=split, expected=f"one of {', '.join(splits)}")
    return splits[split](root)


def calibration(name: str, count: int, root: Path = DEFAULT_ROOT, seed: int = 0) -> Samples:
    """A seeded draw of ``count`` training samples.

    Raises:
        DataError: the asset has no training data; split its test data yourself and say so beside the figure.
    """
    if "train" not in find(name).splits:
        raise DataError(f"drawing calibration samples for {name}", got="an asset without training data")
    return load_samples(name, "train", root).shuffled(count, seed)


def calibration_and_test(name: str, count: int, root: Path = DEFAULT_ROOT, seed: int = 0) -> tuple[Samples, Samples]:
    """Calibration samples, and the test samples that are none of them.

    Training data give ``count`` calibration samples. Where an asset has none, ``HELD_OUT`` test samples calibrate (or
    ``count``, if fewer) and the others test.
    """
    test = load_samples(name, "test", root)
    if "train" in find(name).splits:
        return calibration(name, count, root, seed), test
    order = np.random.default_rng(seed).permutation(len(test))
    count = min(count, HELD_OUT)
    return test.take(order[:count]), test.take(np.sort(order[count:]))


def find(name: str) -> Workload:
    """The workload of that name."""
    if name not in WORKLOADS:
        raise UnknownName("looking up a network", got=name, expected=f"one of {', '.join(WORKLOADS)}")
    return WORKLOADS[name]


def require(root: Path, relative: str) -> Path:
    """The path of an asset file, which must exist."""
    path = root / relative
    if not path.is_file():
        raise DataError(
            f"reading the asset {relative}",
            got=f"no file {path}",
            expected="the assets folder described in its README.md",
            try_="--assets DIR with the folder that holds cifar10/, sst2/, ...",
        )
    return path


def _cifar10(*parts: str) -> Callable[[Path], Samples]:
    """Reader of CIFAR-10 parts with the normalisation of the published ResNets."""

    def read(root: Path) -> Samples:
        with np.load(require(root, "cifar10/labels.npz")) as labels:
            y = np.concatenate([labels[part] for part in parts]).astype(np.int64)
        pixels = np.concatenate([_tiles(require(root, f"cifar10/{part}.webp")) for part in parts])
        return Samples({"x": _normalised(pixels, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))}, y)

    return read


def _tiles(path: Path, per_row: int = 100, side: int = 32) -> np.ndarray:
    """Cut a mosaic into its tiles, uint8 (tiles, side, side, 3)."""
    mosaic = np.array(Image.open(path))
    rows = mosaic.shape[0] // side
    return mosaic.reshape(rows, side, per_row, side, 3).swapaxes(1, 2).reshape(rows * per_row, side, side, 3)


def _normalised(pixels: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """(x/255 - mean)/std, from uint8 (samples, rows, columns, channels) to float32 with the channels second."""
    x = (pixels.astype(np.float32) / np.float32(255) - np.float32(mean)) / np.float32(std)
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


def _fashion(part: str) -> Callable[[Path], Samples]:
    """Reader of a Fashion-MNIST part."""

    def read(root: Path) -> Samples:
        with lzma.open(require(root, f"fashion-mnist/{part}_images.npy.xz")) as file:
            pixels = np.load(io.BytesIO(file.read()))
        y = np.load(require(root, f"fashion-mnist/{part}_labels.npy")).astype(np.int64)
        return Samples({"x": _normalised(pixels[..., None], (0.286,), (0.353,))}, y)

    return read


def _sentences(root: Path, part: str) -> tuple[list[str], np.ndarray]:
    """The sentences of an SST-2 part and their labels, 1 is positive."""
    with lzma.open(require(root, f"sst2/{part}.tsv.xz"), "rt", encoding="utf-8", newline="\n") as file:
        rows = [line.rstrip("\n").split("\t") for line in file][1:]
    return [sentence for sentence, _ in rows], np.array([int(label) for _, label in rows], np.int64)


def _sst2(part: str, length: int = 64) -> Callable[[Path], Samples]:
    """Reader of an SST-2 part: words to ids, unknown 1, padded with 0 to ``length``."""

    def read(root: Path) -> Samples:
        words = json.loads(require(root, "sst2/vocab.json").read_text(encoding="utf-8"))
        number = {word: index for index, word in enumerate(words)}
        sentences, labels = _sentences(root, part)
        ids = np.zeros((len(sentences), length), np.int64)
        for row, sentence in zip(ids, sentences, strict=True):
            tokens = [number.get(word, 1) for word in sentence.split()][:length]
            row[: len(tokens)] = tokens
        return Samples({"input_ids": ids}, labels)

    return read


def _sst2_pieces(part: str) -> Callable[[Path], Samples]:
    """Reader of an SST-2 part as MiniLM takes it."""

    def read(root: Path) -> Samples:
        sentences, labels = _sentences(root, part)
        return Samples(minilm.tokenize(sentences), labels)

    return read


def _keywords(root: Path) -> Samples:
    """The 1,000 keyword-spotting samples of MLPerf Tiny, dequantized."""
    with np.load(require(root, "mlperf-tiny-kws/kws01_mfcc.npz")) as file:
        mfcc, y = file["mfcc_int8"].astype(np.float32), file["labels"].astype(np.int64)
        scale, zero_point = np.float32(file["scale"]), np.float32(file["zero_point"])
    return Samples({"x": ((mfcc - zero_point) * scale)[:, None]}, y)


def _imagenet_like(root: Path, side: int = 176) -> Samples:
    """The 1,000 photographs, resized to side / 0.875 and cropped to ``side`` in the middle."""
    resized = math.ceil(side / 0.875)
    low = (resized - side) // 2
    with require(root, "imagenet-like-1000/labels.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    pixels = np.empty((len(rows), side, side, 3), np.uint8)
    with zipfile.ZipFile(require(root, "imagenet-like-1000/images.zip")) as images:
        for row, out in zip(rows, pixels, strict=True):
            picture = Image.open(io.BytesIO(images.read(row["file"]))).convert("RGB")
            scaled = picture.resize((resized, resized), Image.Resampling.BILINEAR)  # the stated figure's filter
            out[:] = np.asarray(scaled)[low : low + side, low : low + side]
    y = np.array([int(row["label"]) for row in rows], np.int64)
    return Samples({"x": _normalised(pixels, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))}, y)


def _proxyless(root: Path) -> nn.Module:
    arch = require(root, "imagenet-proxyless-w0.3-r176/arch.json").read_text(encoding="utf-8")
    return networks.ProxylessNas(json.loads(arch))


_CIFAR10 = {"train": _cifar10("train_1", "train_2", "train_3"), "test": _cifar10("test")}
_FASHION = {"train": _fashion("train"), "test": _fashion("test")}
_PIECES = {part: _sst2_pieces(name) for part, name in (("train", "train_sentences"), ("dev", "dev"), ("test", "test"))}
_SST2 = {"train": _sst2("train_sentences"), "dev": _sst2("dev"), "test": _sst2("test")}

WORKLOADS: dict[str, Workload] = {
    "resnet20": Workload(
        "cifar10-resnets/resnet20.safetensors", lambda _: networks.CifarResNet(20), _CIFAR10, {"test": 91.73}
    ),
    "resnet56": Workload(
        "cifar10-resnets/resnet56.safetensors", lambda _: networks.CifarResNet(56), _CIFAR10, {"test": 93.39}
    ),
    "cnn": Workload("fashion-mnist-models/cnn.safetensors", lambda _: networks.FashionCnn(), _FASHION, {"test": 92.95}),
    "vit": Workload("fashion-mnist-models/vit.safetensors", lambda _: networks.FashionVit(), _FASHION, {"test": 88.3}),
    "text": Workload(
        "sst2/transformer.safetensors", lambda _: networks.TextTransformer(), _SST2, {"dev": 82.5, "test": 80.9}
    ),
    "keywords": Workload(
        "mlperf-tiny-kws/dscnn.safetensors", lambda _: networks.KeywordDsCnn(), {"test": _keywords}, {"test": 91.3}
    ),
    "proxyless": Workload(
        "imagenet-proxyless-w0.3-r176/model.safetensors", _proxyless, {"test": _imagenet_like}, {"test": 59.5}
    ),
    # its figures are those that the classifier had when it was fitted: nobody else's are known
    "minilm": Workload(None, lambda _: minilm.load_minilm(), _PIECES, {"dev": 81.4, "test": 81.1}),
}
