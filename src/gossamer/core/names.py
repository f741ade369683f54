"""Resolving names: the nearest name for a typing error, glob selectors that must match something."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from gossamer.core.errors import UnknownName


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The known names most like ``name``, best first."""
    return difflib.get_close_matches(name, list(known), n=count, cutoff=0.4)


def require_known(name: str, known: Iterable[str], what: str, doing: str, otherwise: str = "") -> None:
    """Raise ``UnknownName`` unless ``name`` is one of ``known``: with the nearest, or ``otherwise`` if none is near."""
    known = sorted(known)
    if name in known:
        return
    close = nearest(name, known)
    raise UnknownName(
        doing,
        got=f"{what} {name!r}",
        expected=f"one of: {', '.join(known)}",
        try_=f"{close[0]!r}?" if close else otherwise,
    )


def select(patterns: Sequence[str], names: Sequence[str], doing: str) -> list[str]:
    """The names that match any of the glob patterns, in the order of ``names``.

    Raises:
        UnknownName: a pattern matched nothing (a selector that does nothing is an error, not a silent no-op).
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UnknownName(
                doing,
                got=f"selector {pattern!r}, which matches 0 of {len(names)} sites",
                expected="at least one match",
                try_=", ".join(nearest(pattern, names)) or "gossamer inspect lists the sites",
            )
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def literal_glob(name: str) -> str:
    """A glob that matches this name only; letters that the text of a recipe cannot hold match any letter."""
    return "".join(f"[{letter}]" if letter in "*?[" else "?" if letter in ",| " else letter for letter in name)
