"""Every error gossamer raises on purpose, as one tree.

    GossamerError
    ├── UserError                     something given to gossamer can be changed by the person who gave it
    │   ├── ModelError (ValueError)        the model file, factory or weights are missing, unreadable or do not fit
    │   ├── CaptureError (ValueError)      the model runs, but cannot be turned into a Program
    │   ├── UnsupportedOp (ValueError)     an operation outside the dialect, or one a runtime does not have
    │   ├── DataError (ValueError)         data are missing, empty, not finite, or of another shape or dtype
    │   ├── BudgetSyntaxError (ValueError) the budget text does not parse; points at the wrong word
    │   ├── UnknownName (LookupError)      no such target, technique, option, metric or selector; offers the nearest
    │   ├── OptionError (ValueError)       an option has a value outside its range
    │   ├── MissingExtra (ImportError)     an optional part is not installed; names the extra
    │   ├── OutputExists (FileExistsError) the output folder is there already
    │   └── ArtifactError (ValueError)     an artifact or program file is damaged, hostile or of an unknown version
    └── InternalError (RuntimeError)   our own bug: please report it

Each message says what was being done, what was found, what was expected, and what to try.
"""

from __future__ import annotations


class GossamerError(Exception):
    """Base of every error raised by gossamer.

    Args:
        doing: what gossamer was doing, as a phrase ("reading weights.safetensors").
        got: what it found.
        expected: what it needed, where that is not plain from ``got``.
        try_: what the reader can do next.
    """

    def __init__(self, doing: str, *, got: str = "", expected: str = "", try_: str = "") -> None:
        self.doing = doing
        self.got = got
        self.expected = expected
        self.try_ = try_
        lines = [doing]
        lines += [f"  {label}: {text}" for label, text in (("got", got), ("expected", expected), ("try", try_)) if text]
        super().__init__("\n".join(lines))

    def __str__(self) -> str:
        return str(self.args[0])


class UserError(GossamerError):
    """Something the caller gave cannot be used as it is."""


class ModelError(UserError, ValueError):
    """The model file, its factory or its weights are missing, unreadable or do not fit together."""


class CaptureError(UserError, ValueError):
    """The model cannot be turned into a Program.

    Attributes:
        problem: the class of the problem, for example ``data-dependent branch``.
        location: the user's source line, ``file.py:12: if x.sum() > 0``, or an empty text where it is not known.
        rungs: one line for each way of capturing that was tried.
    """

    def __init__(
        self,
        doing: str,
        *,
        problem: str,
        got: str = "",
        expected: str = "",
        try_: str = "",
        location: str = "",
        rungs: tuple[str, ...] = (),
    ) -> None:
        self.problem = problem
        self.location = location
        self.rungs = rungs
        where = f"{problem} at {location}" if location else problem
        details = [where, *([got] if got else []), *[f"tried: {rung}" for rung in rungs]]
        super().__init__(doing, got="\n       ".join(details), expected=expected, try_=try_)


class UnsupportedOp(UserError, ValueError):
    """An operation is outside the dialect, or the chosen runtime cannot run it."""


class DataError(UserError, ValueError):
    """Data are missing, empty, not finite, or do not fit the model's inputs."""


class BudgetSyntaxError(UserError, ValueError):
    """A budget text does not parse; the message points at the wrong word."""


class UnknownName(UserError, LookupError):
    """A name does not resolve; the message offers the nearest ones."""


class OptionError(UserError, ValueError):
    """An option has a value that it cannot take."""


class MissingExtra(UserError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""


class OutputExists(UserError, FileExistsError):
    """The output folder is there already and ``force`` was not given."""


class ArtifactError(UserError, ValueError):
    """An artifact or a program file is damaged, hostile, or of an unknown version."""


class InternalError(GossamerError, RuntimeError):
    """A state that gossamer itself should have prevented: please report it."""
