"""Recipes: ordered techniques as TOML text, replayed to the same program.

version = 1
seed = 0
target = "onnxruntime:cpu,threads=1,batch=1"
data_digest = "3f2a..."

[[step]]
technique = "int8{observer=minmax,skip=conv1}"

The steps alone also read as one line: ``prune{macs=0.7} | int8``.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from gossamer.core.errors import OptionError
from gossamer.core.names import require_known
from gossamer.core.progress import Progress, Silent
from gossamer.core.target import Target
from gossamer.program.program import Program
from gossamer.techniques import resolve_technique
from gossamer.techniques.base import Technique
from gossamer.techniques.prune.channels import Prune, Pruning

RECIPE_VERSION = 1
_FIELDS = ("version", "seed", "target", "data_digest", "step")
_STEP = r"\s*\w+\s*(?:\{[^{}]*\})?\s*"


@dataclass(frozen=True)
class Recipe:
    """Ordered techniques with what replaying them needs.

    Attributes:
        steps: in the order they are applied.
        seed: of everything random.
        target: text of the target they were chosen for.
        data_digest: of the calibration data; empty if it does not matter which are used.
    """

    steps: tuple[Technique, ...] = ()
    seed: int = 0
    target: str = ""
    data_digest: str = ""

    def to_toml(self) -> str:
        """The text form; ``from_toml`` reads it back."""
        lines = [f"version = {RECIPE_VERSION}", f"seed = {self.seed}"]
        lines += [f"{key} = {_toml_text(value)}" for key in ("target", "data_digest") if (value := getattr(self, key))]
        for step in self.steps:
            lines += ["", "[[step]]", f"technique = {_toml_text(str(step))}"]
        return "\n".join(lines) + "\n"

    @classmethod
    def from_toml(cls, text: str) -> Recipe:
        """Inverse of ``to_toml``.

        Raises:
            OptionError: not TOML, another version, or a field of the wrong type.
            UnknownName: a field, technique or option that does not exist.
        """
        doing = "reading a recipe"
        try:
            content = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise OptionError(doing, got=str(error), expected="TOML text") from error
        for field in content:
            require_known(field, _FIELDS, "field", doing)
        if content.get("version") != RECIPE_VERSION:
            raise OptionError(doing, got=f"version {content.get('version')!r}", expected=f"version = {RECIPE_VERSION}")
        steps = content.get("step", [])
        tables = [step for step in steps if isinstance(step, dict)] if isinstance(steps, list) else [{}]
        for field in (field for table in tables for field in table):
            require_known(field, ("technique",), "field", f"{doing}'s steps")
        texts = [table.get("technique") for table in tables]
        seed, target, digest = content.get("seed", 0), content.get("target", ""), content.get("data_digest", "")
        well_typed = type(seed) is int and isinstance(target, str) and isinstance(digest, str)
        if not well_typed or not all(isinstance(item, str) for item in texts) or len(texts) != len(steps):
            raise OptionError(
                doing, got="a field of another type", expected='[[step]] tables with technique = "name{...}"'
            )
        return cls(tuple(resolve_technique(item) for item in texts if item), seed, target, digest)

    @classmethod
    def from_line(cls, text: str) -> Recipe:
        """Steps written ``prune{macs=0.7} | int8``, without target and data.

        Raises:
            OptionError: another form, or a value outside an option's range.
            UnknownName: a technique or option that does not exist.
        """
        if not is_line(text):
            raise OptionError("reading a recipe", got=text, expected="name{option=value,...} | name{...}")
        return cls(tuple(resolve_technique(step) for step in re.findall(_STEP, text) if step.strip()))


def is_line(text: str) -> bool:
    """Whether a text has the form of steps in one line, whatever they are called."""
    return re.fullmatch(rf"{_STEP}(\|{_STEP})*", text) is not None


def _toml_text(text: str) -> str:
    """A TOML basic string: JSON's, except that TOML knows no surrogate pairs and wants DEL escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


@dataclass(frozen=True, eq=False)
class AppliedStep:
    """One step of a recipe, done.

    Attributes:
        technique: what was applied.
        before: the program that it got.
        after: the program that it made.
        pruning: of ``prune``, how that came about; ``None`` of others.
    """

    technique: Technique
    before: Program
    after: Program
    pruning: Pruning | None


def apply_steps(
    program: Program, recipe: Recipe, inputs: Mapping[str, np.ndarray], target: Target, progress: Progress | None = None
) -> Iterator[AppliedStep]:
    """Apply the steps of a recipe in order, one at a time; each step must change the program."""
    progress = progress or Silent()
    progress.stage("applying the recipe", len(recipe.steps))
    for step in recipe.steps:
        pruning = step.prune(program, inputs, target) if isinstance(step, Prune) else None
        after = pruning.program if pruning else step.apply(program, inputs, target)
        progress.advance(str(step))
        yield AppliedStep(step, program, after, pruning)
        program = after


def apply_recipe(
    program: Program, recipe: Recipe, inputs: Mapping[str, np.ndarray], target: Target, progress: Progress | None = None
) -> Program:
    """Apply the steps of a recipe in order; each step must change the program."""
    for step in apply_steps(program, recipe, inputs, target, progress):
        program = step.after
    return program
