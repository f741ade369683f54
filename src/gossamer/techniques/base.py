"""What a technique is: a frozen dataclass whose fields are its options, and a text that says the same.

    int8{observer=percentile,skip=conv1|fc}

An option's type is that of its default: a whole number, a number, a text, a tuple of texts written ``a|b``, or a choice
written ``on`` or ``off``.
"""

from __future__ import annotations

import dataclasses
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from gossamer.core.errors import OptionError
from gossamer.core.names import require_known
from gossamer.core.target import Target
from gossamer.program.program import Program


@dataclass(frozen=True)
class Technique(ABC):
    """Base of all techniques; declares only.

    Attributes:
        name: the name in recipes.
        family: what it changes: resize, rewrite, precision or train.
    """

    name: ClassVar[str]
    family: ClassVar[Literal["resize", "rewrite", "precision", "train"]]

    @abstractmethod
    def sites(self, program: Program, target: Target) -> tuple[str, ...]:
        """Names of the places in the program where the technique can act."""

    @abstractmethod
    def apply(self, program: Program, inputs: Mapping[str, np.ndarray], target: Target) -> Program:
        """A changed program; the given one is untouched.

        Args:
            program: what to change.
            inputs: calibration inputs by name, first axis the samples.
            target: where the result will run.

        Raises:
            UnknownName: a selector matched nothing.
            GossamerError: nothing could be changed (never a silent no-op).
        """

    def __str__(self) -> str:
        changed = [
            f"{field.name}={_option_text(getattr(self, field.name))}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        ]
        return f"{self.name}{{{','.join(changed)}}}" if changed else self.name


def parse_technique_text(text: str, table: Mapping[str, type[Technique]]) -> Technique:
    """Read the text form of a technique; see ``gossamer.techniques.resolve_technique``."""
    doing = f"reading the technique {text!r}"
    match = re.fullmatch(r"\s*(\w+)\s*(?:\{(.*)\})?\s*", text)
    if match is None:
        raise OptionError(doing, got=text, expected="name or name{option=value,...}")
    name, body = match.groups()
    require_known(name, table, "technique", doing)
    technique = table[name]
    defaults = {field.name: field.default for field in dataclasses.fields(technique)}
    options: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in (body or "").split(","))):
        option, equals, value = part.partition("=")
        require_known(option.strip(), defaults, "option", doing)
        if not equals or option.strip() in options:
            raise OptionError(doing, got=part, expected="each option once, as option=value")
        options[option.strip()] = _option_value(value.strip(), defaults[option.strip()], doing)
    return technique(**options)


def check_globs(technique: str, option: str, globs: tuple[str, ...]) -> None:
    """Raise ``OptionError`` unless the globs can be written in the text of a recipe and read back."""
    if isinstance(globs, str) or not all(re.fullmatch(r"[^\s,|]([^,|\n]*[^\s,|])?", glob) for glob in globs):
        raise OptionError(
            f"checking the options of {technique}",
            got=f"{option}={globs!r}",
            expected="globs of sites, without ',' and '|'",
        )


_SWITCH = {"on": True, "off": False}


def _option_text(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "|".join(value) if isinstance(value, tuple) else str(value)


def _option_value(text: str, default: Any, doing: str) -> Any:
    if isinstance(default, tuple):
        return tuple(part.strip() for part in text.split("|") if part.strip())
    if isinstance(default, str):
        return text
    if isinstance(default, bool):
        if text not in _SWITCH:
            raise OptionError(doing, got=text, expected="on or off")
        return _SWITCH[text]
    try:
        return type(default)(text)
    except ValueError as error:
        raise OptionError(doing, got=text, expected=f"a value like {default!r}") from error
