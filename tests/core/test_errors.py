"""The error tree: its drawing, the builtin each class also is, and the shape of messages."""

from __future__ import annotations

import inspect

import pytest

from gossamer.core import errors

BUILTIN = {
    "ModelError": ValueError,
    "CaptureError": ValueError,
    "UnsupportedOp": ValueError,
    "DataError": ValueError,
    "BudgetSyntaxError": ValueError,
    "UnknownName": LookupError,
    "OptionError": ValueError,
    "MissingExtra": ImportError,
    "OutputExists": FileExistsError,
    "ArtifactError": ValueError,
    "InternalError": RuntimeError,
}
CLASSES = {name: value for name, value in vars(errors).items() if inspect.isclass(value)}


def raised(name: str) -> errors.GossamerError:
    extra = {"problem": "branch"} if name == "CaptureError" else {}
    return CLASSES[name]("reading x", got="1", expected="2", try_="3", **extra)


def test_the_tree_is_complete() -> None:
    assert set(CLASSES) == {*BUILTIN, "GossamerError", "UserError"}


@pytest.mark.parametrize("name", BUILTIN)
def test_each_error_is_also_the_fitting_builtin(name: str) -> None:
    error = raised(name)
    assert isinstance(error, BUILTIN[name])
    assert isinstance(error, errors.InternalError if name == "InternalError" else errors.UserError)
    assert str(error).split("\n")[0] == "reading x"
    assert str(error).endswith("expected: 2\n  try: 3")


@pytest.mark.parametrize(("name", "builtin"), BUILTIN.items())
def test_the_docstring_draws_the_tree_as_it_is(name: str, builtin: type[Exception]) -> None:
    assert f"── {name} ({builtin.__name__})" in (errors.__doc__ or "")
    assert builtin in CLASSES[name].__mro__


def test_a_message_has_only_the_parts_that_are_known() -> None:
    assert str(errors.DataError("reading x.npz", got="0 samples")) == "reading x.npz\n  got: 0 samples"


def test_a_capture_error_names_problem_location_and_attempts() -> None:
    error = errors.CaptureError(
        "capturing", problem="branch", location="m.py:3: if x", got="a tensor", rungs=("strict",)
    )
    assert str(error) == "capturing\n  got: branch at m.py:3: if x\n       a tensor\n       tried: strict"
    assert (error.problem, error.rungs) == ("branch", ("strict",))
