"""Techniques: what makes a Program smaller or faster, one frozen dataclass a file."""

from collections.abc import Mapping

from gossamer.techniques.base import Technique, parse_technique_text
from gossamer.techniques.prune.blocks import DropBlocks
from gossamer.techniques.prune.channels import Prune
from gossamer.techniques.quantize.equalize import Equalize
from gossamer.techniques.quantize.int8 import Int8
from gossamer.techniques.quantize.smooth import Smooth

TECHNIQUES: Mapping[str, type[Technique]] = {
    "int8": Int8,
    "equalize": Equalize,
    "smooth": Smooth,
    "prune": Prune,
    "drop_blocks": DropBlocks,
}
"""Every technique by the name it has in recipes."""


def resolve_technique(text: str) -> Technique:
    """Read ``name{option=value,...}``.

    Raises:
        UnknownName: no such technique or option; the nearest name is offered.
        OptionError: a value outside the option's range.
    """
    return parse_technique_text(text, TECHNIQUES)
