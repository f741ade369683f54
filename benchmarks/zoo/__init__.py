"""Architectures with random weights on which coverage is measured: the benchmark's list, one name each."""

from collections.abc import Mapping

from zoo import audio, handwritten, language, sequences, vision
from zoo.entry import Architecture

_ALL: list[Architecture] = [
    *handwritten.CONVOLUTIONAL,
    *sequences.SEQUENCES,
    *vision.CONVOLUTIONAL,
    *vision.ATTENTION,
    *vision.HYBRID,
    *vision.DENSE,
    *language.ENCODERS,
    *language.DECODERS,
    *language.SEQ2SEQ,
    *audio.AUDIO,
    *audio.MULTI_MODAL,
]

ZOO: Mapping[str, Architecture] = {architecture.name: architecture for architecture in _ALL}
assert len(ZOO) == len(_ALL), "two architectures of one name"
