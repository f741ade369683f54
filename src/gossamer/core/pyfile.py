"""Objects from the user's Python files, written ``file.py:name``."""

from __future__ import annotations

import importlib.util
import itertools
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from gossamer.core.errors import GossamerError, UserError
from gossamer.core.names import nearest

_numbers = itertools.count()


def load_object(text: str, *, error: type[UserError]) -> Any:
    """Import a Python file by its path and return one of its names: ``load_object("model.py:resnet", ...)``.

    The file runs afresh each time under a module name of its own, so that two files of one name do not meet and no
    state is carried over. Its folder is importable while it runs, and only then.

    Args:
        text: ``path/to/file.py:name``.
        error: what to raise where the text, the file or the name is wrong: ``ModelError``, ``DataError``, ...

    Raises:
        UserError: of the class ``error``. An exception inside the file is shown with the line it came from; a
            ``GossamerError`` raised by the file passes through.
    """
    doing = f"loading {text!r}"
    file, _, name = text.rpartition(":")
    if not file or not name:
        raise error(doing, got="no name behind the file", expected="file.py:name", try_=f"{text.rstrip(':')}:NAME")
    path = Path(file)
    if not path.is_file():
        close = nearest(path.name, [found.name for found in path.parent.glob("*.py")])
        raise error(doing, got=f"no file {path}", expected="a Python file", try_=", ".join(close))
    module = _run_file(path.resolve(), doing, error)
    if not hasattr(module, name):
        own = [known for known in vars(module) if not known.startswith("_")]
        got = f"no {name!r} in {path}"
        raise error(doing, got=got, expected=f"one of: {', '.join(sorted(own))}", try_=", ".join(nearest(name, own)))
    return getattr(module, name)


def describe_exception(exception: BaseException, path: Path) -> str:
    """An exception in one line, with the last line of ``path`` that led to it: ``KeyError: 3 at data.py:12: x[3]``."""
    what = f"{type(exception).__name__}: {exception}" if str(exception) else type(exception).__name__
    if isinstance(exception, SyntaxError):
        return f"{what}: {(exception.text or '').strip()}"
    frames = [frame for frame in traceback.extract_tb(exception.__traceback__) if Path(frame.filename) == path]
    return f"{what} at {path.name}:{frames[-1].lineno}: {frames[-1].line}" if frames else what


def _run_file(path: Path, doing: str, error: type[UserError]) -> ModuleType:
    name = f"gossamer_file_{next(_numbers)}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None:
        raise error(doing, got=f"{path.name}", expected="a file whose name ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling look their module up here
    try:
        with _importable(path.parent):
            # Compiled here, not by the import system: its cache does not see a second edit within one second.
            exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)  # noqa: S102
    except GossamerError:
        del sys.modules[name]
        raise
    except (Exception, SystemExit) as exception:
        del sys.modules[name]
        raise error(doing, got=describe_exception(exception, path), expected="a file that runs") from exception
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    entry = str(folder)
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        if entry in sys.path:
            sys.path.remove(entry)
