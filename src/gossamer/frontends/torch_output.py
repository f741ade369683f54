"""What torch prints and says while it exports: kept off the terminal, and put in one plain line."""

from __future__ import annotations

import io
import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@contextmanager
def quiet_torch() -> Iterator[None]:
    """No warnings, log lines or graph listings of torch inside; the errors themselves say what is needed.

    Whoever sets ``TORCH_LOGS`` wants to see them, and does.
    """
    if os.environ.get("TORCH_LOGS"):
        yield
        return
    loggers = [logging.getLogger(name) for name in (None, *logging.root.manager.loggerDict) if _is_torch(name)]
    handlers = {handler for logger in loggers for handler in logger.handlers}
    for handler in handlers:  # not the loggers: those that torch makes while exporting pass theirs on to these handlers
        handler.addFilter(_refuse_torch)
    try:
        # A failed export prints its partial graph on stderr.
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for handler in handlers:
            handler.removeFilter(_refuse_torch)


def plain_line(error: BaseException, limit: int = 200) -> str:
    """The first line of a message that says something, without terminal colours; empty if there is none."""
    lines = [line.strip() for line in _COLOURS.sub("", str(error)).splitlines() if line.strip()]
    return lines[0][:limit] if lines else ""


def _is_torch(name: str | None) -> bool:
    return name is None or name == "torch" or name.startswith("torch.")


def _refuse_torch(record: logging.LogRecord) -> bool:
    return not _is_torch(record.name)
