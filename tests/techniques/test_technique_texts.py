"""A technique is an object and a text that say the same; what the text cannot say is refused with the nearest name."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer.core.errors import OptionError, UnknownName
from gossamer.techniques import resolve_technique
from gossamer.techniques.base import Technique
from gossamer.techniques.quantize.calibration import OBSERVERS
from gossamer.techniques.quantize.equalize import Equalize
from gossamer.techniques.quantize.int8 import Int8
from gossamer.techniques.quantize.smooth import Smooth
from gossamer.techniques.recipe import Recipe, is_line

GLOBS = st.from_regex(r"[a-z0-9_.*?\[\]!{}=-]{1,12}", fullmatch=True)
INT8 = st.builds(
    Int8,
    observer=st.sampled_from(OBSERVERS),
    percentile=st.floats(50, 100, exclude_min=True),
    weight_steps=st.integers(1, 10**6),
    skip=st.lists(GLOBS, max_size=4).map(tuple),
    narrow=st.lists(GLOBS, max_size=4).map(tuple),
    narrow_activations=st.lists(GLOBS, max_size=4).map(tuple),
    bias_correction=st.booleans(),
)

TECHNIQUE = st.one_of(
    INT8,
    st.builds(Equalize, sweeps=st.integers(1, 10**6)),
    st.builds(Smooth, alpha=st.floats(0, 1), insert=st.booleans()),
)


@settings(deadline=None)
@given(TECHNIQUE)
def test_a_technique_reads_back_from_its_text(technique: Technique):
    assert resolve_technique(str(technique)) == technique


@settings(deadline=None)
@given(
    st.lists(TECHNIQUE, max_size=3),
    st.integers(0, 2**63 - 1),
    st.sampled_from(["", "onnxruntime:cpu"]),
    st.text(st.characters(codec="utf-8"), max_size=9),
)
def test_a_recipe_reads_back_from_its_text(steps: list[Technique], seed: int, target: str, digest: str):
    recipe = Recipe(tuple(steps), seed, target, digest)
    assert Recipe.from_toml(recipe.to_toml()) == recipe


def test_steps_in_one_line():
    """A bar divides steps, and inside braces the globs of an option."""
    recipe = Recipe.from_line("prune{macs=0.7,only=a|b.*} | int8{skip=head|stem} ")
    assert [str(step) for step in recipe.steps] == ["prune{macs=0.7,only=a|b.*}", "int8{skip=head|stem}"]
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    assert Recipe.from_line("int8") == Recipe((Int8(),))


@pytest.mark.parametrize("text", ["", "recipe.toml", "int8 |", "int8{", "version = 1", "a b", "int8{skip={a}}"])
def test_what_is_no_line_of_steps(text: str):
    assert not is_line(text)
    with pytest.raises(OptionError, match=r"name\{option=value,...\} \| name"):
        Recipe.from_line(text)


def test_defaults_are_left_out_of_the_text():
    assert str(Int8()) == "int8"
    assert str(Int8(observer="minmax", skip=("stem.*", "fc"))) == "int8{observer=minmax,skip=stem.*|fc}"
    assert str(Int8(bias_correction=True)) == "int8{bias_correction=on}"


def test_blanks_do_not_matter():
    assert resolve_technique(" int8 { skip = a | b , observer = mse } ") == Int8(skip=("a", "b"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("int9", r"technique 'int9'[\s\S]*try: 'int8'\?"),
        ("int8{obsever=mse}", r"option 'obsever'[\s\S]*try: 'observer'\?"),
        (
            "int8{observer=min-max}",
            r"observer 'min-max'[\s\S]*one of: entropy, minmax, mse, percentile[\s\S]*try: 'minmax'\?",
        ),
        ("int8{steps=3}", r"option 'steps'[\s\S]*try: 'weight_steps'\?"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(text: str, message: str):
    with pytest.raises(UnknownName, match=message):
        resolve_technique(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "name or name{option=value"),
        ("int8{", "name or name{option=value"),
        ("int8{observer}", "each option once, as option=value"),
        ("int8{skip=a,skip=b}", "each option once"),
        ("int8{percentile=high}", "a value like 99.99"),
        ("int8{percentile=50}", "more than 50, at most 100"),
        ("int8{percentile=100.1}", "more than 50, at most 100"),
        ("int8{percentile=nan}", "more than 50, at most 100"),
        ("int8{weight_steps=0}", "at least 1"),
        ("int8{weight_steps=1.5}", "a value like 40"),
        ("int8{bias_correction=yes}", "on or off"),
    ],
)
def test_a_wrong_option_is_refused(text: str, message: str):
    with pytest.raises(OptionError, match=re.escape(message)):
        resolve_technique(text)


@pytest.mark.parametrize("option", ["skip", "narrow", "narrow_activations"])
@pytest.mark.parametrize("globs", ["conv1", ("a,b",), ("a|b",), ("",), (" a",), ("a\nb",)])
def test_selectors_that_no_text_can_hold_are_refused(option: str, globs):
    with pytest.raises(OptionError, match=f"{option}=[\\s\\S]*globs of sites"):
        Int8(**{option: globs})


@pytest.mark.parametrize(
    ("toml", "error", "message"),
    [
        ("version = ", OptionError, "TOML text"),
        ("seed = 1", OptionError, "version None"),
        ("version = 2", OptionError, "version 2"),
        ("version = 1\nsede = 1", UnknownName, r"field 'sede'[\s\S]*'seed'\?"),
        ("version = 1\nseed = true", OptionError, "another type"),
        ('version = 1\nseed = "1"', OptionError, "another type"),
        ("version = 1\ntarget = 3", OptionError, "another type"),
        ('version = 1\nstep = "int8"', OptionError, "another type"),
        ("version = 1\nstep = 3", OptionError, "another type"),
        ("version = 1\n[[step]]", OptionError, "another type"),
        ("version = 1\n[[step]]\ntechnique = 8", OptionError, "another type"),
        ('version = 1\n[[step]]\ntechnique = "int8"\nrank = 3', UnknownName, "field 'rank'"),
        ('version = 1\n[[step]]\ntechnique = "int7"', UnknownName, r"'int8'\?"),
    ],
)
def test_a_recipe_that_does_not_read_says_why(toml: str, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        Recipe.from_toml(toml)
