"""Budgets: what a compressed model must keep, as text: ``top1 drop <= 1pt; latency p50 <= 5ms; size <= 2MB``.

    budget  = clause { ";" clause }
    clause  = [ scope ] subject ( "<=" | ">=" ) amount [ "@" number "%" ]
    scope   = "worst class" | "slice" name [ "=" value ] | "worst slice" [ name ] | "head" name | "output" name
    subject = [ metric ] "drop" | metric | "latency" [ "p50" | "p90" | "p95" | "p99" | "mean" ] | "throughput" | "size"
            | "peak memory" | "load time" | "macs" | "flips" | "negative flips" | "calibration error" [ "rise" ]
    amount  = number ( "x baseline" | "pt" | "%" | "us" | "ms" | "s" | "B" | "kB" | "MB" | "GB" | "KiB" | "MiB"
            | "M" | "G" | "/s" | "" )

``pt`` is percentage points, ``%`` a share of samples or a level of a metric; kB and MB are decimal. A level may also be
written as a bare share (``top1 >= 0.91``). The default percentile is p50, the default confidence 95 %. A metric is
taken to be a share of which more is better, unless it is said to be a figure in its own unit: then its limits have none
(``mae <= 1.5``, ``mae drop <= 0.1``, ``mae <= 1.05x baseline``), and a drop is by how much it gets worse.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from gossamer.core.errors import BudgetSyntaxError
from gossamer.core.names import nearest
from gossamer.core.units import BYTES, COUNTS, TIME_MS

Comparison = Literal["<=", ">="]
Better = Literal["higher", "lower"]
Unit = Literal["ms", "B", "pt", "share", "x", "count", "/s", "own"]

STATISTICS = ("p50", "p90", "p95", "p99", "mean")
DEFAULT_CONFIDENCE = 0.95

TESTABLE = frozenset(
    {
        "metric",
        "metric drop",
        "worst class metric drop",
        "worst slice metric drop",
        "calibration error",
        "calibration error rise",
        "latency",
        "throughput",
        "size",
        "peak memory",
        "load time",
        "flips",
        "negative flips",
    }
)
"""The kinds of clause (``Clause.kind``) that this version can test; the others parse and are then refused."""


@dataclass(frozen=True, kw_only=True)
class Clause:
    """One limit of a budget; prints as the text that parses back to it.

    Attributes:
        quantity: a metric's name, or ``latency``, ``size``, ``peak memory``, ...
        comparison: ``<=`` or ``>=``; each quantity has one that makes sense.
        amount: the limit in ``unit``, never negative.
        unit: ``ms``, ``B``, ``pt`` (percentage points), ``share`` (0.02 = 2 %), ``x`` (times the baseline's value),
            ``count``, ``/s``, or ``own`` (the metric's own).
        is_drop: the limit is on how much it gets worse, not on its level: a drop of a metric, a rise of the calibration
            error.
        statistic: of latency only: ``p50``, ``p90``, ``p95``, ``p99`` or ``mean``.
        scope: the samples or outputs it is about: empty for all, or ``worst class``, ``slice``, ``worst slice``,
            ``head``, ``output``.
        scope_name: which slice, head or output; ``name=value`` for one value of a slice; empty for the worst of all
            slices.
        confidence: of the test that must hold.
    """

    quantity: str
    comparison: Comparison
    amount: float
    unit: Unit
    is_drop: bool = False
    statistic: str = ""
    scope: str = ""
    scope_name: str = ""
    confidence: float = DEFAULT_CONFIDENCE

    @property
    def subject(self) -> str:
        """What is limited: ``top1 drop``, ``latency p50``, ``worst class top1 drop``."""
        words = (self.scope, self.scope_name, self.quantity, self._change, self.statistic)
        return " ".join(word for word in words if word)

    @property
    def kind(self) -> str:
        """The subject with ``metric`` for any metric's name, and without names and statistics: see ``TESTABLE``."""
        quantity = self.quantity if self.quantity in _RULES else "metric"
        return " ".join(word for word in (self.scope, quantity, self._change) if word)

    @property
    def _change(self) -> str:
        return _CHANGES.get(self.quantity, "drop") if self.is_drop else ""

    @property
    def limit_text(self) -> str:
        """The limit without its subject, for tables: ``<= 1pt``, ``<= 2MB @ 99%``."""
        limit = f"{self.comparison} {_amount_text(self.amount, self.unit)}"
        if self.confidence == DEFAULT_CONFIDENCE:
            return limit
        return f"{limit} @ {_amount_text(self.confidence, 'share')}"

    def __str__(self) -> str:
        return f"{self.subject} {self.limit_text}"


@dataclass(frozen=True)
class Budget:
    """Limits that must all hold; prints as canonical text, which parses back to an equal Budget."""

    clauses: tuple[Clause, ...]

    def __str__(self) -> str:
        return "; ".join(map(str, self.clauses))


def parse_budget(
    text: str, metric: str | None, metrics: Collection[str], figures: Mapping[str, Better] | None = None
) -> Budget:
    """Read a budget text such as ``drop <= 1pt; latency p50 <= 5ms; size <= 2MB``.

    Args:
        text: clauses separated by ``;``. Blanks do not matter; ``≤`` and ``≥`` are read as ``<=`` and ``>=``.
        metric: the metric that a ``drop`` without a name is about.
        metrics: names of all the metrics that a clause may use; ``metric`` need not be among them.
        figures: those that are no shares but figures in their own unit, and which direction is better.

    Raises:
        BudgetSyntaxError: the text does not parse, limits one subject twice, has a unit or a direction that its subject
            cannot have, or asks for what this version cannot test. The message points at the wrong word.
    """
    reader = _Reader(text)
    if reader.peek.kind == "end":
        raise reader.error(reader.peek, got="an empty budget", expected="at least one clause", try_=_EXAMPLE)
    known = sorted({*metrics, metric} if metric else set(metrics))
    clauses: dict[str, Clause] = {}
    while True:
        start = reader.peek
        clause = _read_clause(reader, metric, known, figures or {})
        if clause.subject in clauses:
            earlier = clauses[clause.subject].limit_text
            raise reader.error(start, got=f"{clause.subject} limited twice, before by {earlier}", expected="one limit")
        clauses[clause.subject] = clause
        separator = reader.take()
        if separator.kind == "end":
            return Budget(tuple(clauses.values()))
        if separator.text != ";":
            got = f"{separator.text!r} after a complete clause"
            raise reader.error(separator, got=got, expected="';' and another clause, or the end")
        if reader.peek.kind == "end":
            raise reader.error(separator, got="nothing after ';'", expected="another clause", try_="leave the ';' out")


_EXAMPLE = "top1 drop <= 1pt; latency p50 <= 5ms; size <= 2MB"


# What may be written about each quantity.

_Scales = Mapping[str, tuple[Unit, Decimal]]


@dataclass(frozen=True)
class _Rule:
    """How a subject may be limited.

    Attributes:
        comparison: the direction that makes sense.
        units: unit as written -> base unit and factor; the empty text stands for no unit.
        example: an amount, for messages.
        of_samples: computed over samples, so that a scope (worst class, slice) can pick some of them.
        zero: whether a limit of 0 can be met and means something.
        exact: counted rather than sampled, so that a confidence has no meaning.
        level: of a metric, which may be limited in its drop as well.
    """

    comparison: Comparison
    units: _Scales
    example: str
    of_samples: bool = False
    zero: bool = False
    exact: bool = False
    level: bool = False


def _scales(unit: Unit, factors: Mapping[str, float | str]) -> _Scales:
    return {name: (unit, Decimal(str(factor))) for name, factor in factors.items()}


_TIME = _scales("ms", TIME_MS)
_BYTES = _scales("B", BYTES)
_COUNT = _scales("count", {**COUNTS, "": 1})
_RATE = _scales("/s", {"/s": 1})
_RATIO = _scales("x", {"x baseline": 1})
_POINTS = _scales("pt", {"pt": 1})
_SHARE = _scales("share", {"%": "0.01"})
_ALL_UNITS: _Scales = {**_TIME, **_BYTES, **_COUNT, **_RATE, **_RATIO, **_POINTS, **_SHARE}

_RULES: Mapping[str, _Rule] = {
    "latency": _Rule("<=", {**_TIME, **_RATIO}, "5ms"),
    "throughput": _Rule(">=", {**_RATE, **_RATIO}, "100/s"),
    "size": _Rule("<=", {**_BYTES, **_RATIO}, "2MB", exact=True),
    "peak memory": _Rule("<=", {**_BYTES, **_RATIO}, "64MB"),
    "load time": _Rule("<=", {**_TIME, **_RATIO}, "100ms"),
    "macs": _Rule("<=", {**_COUNT, **_RATIO}, "50M", exact=True),
    "flips": _Rule("<=", _SHARE, "2%", of_samples=True, zero=True),
    "negative flips": _Rule("<=", _SHARE, "1%", of_samples=True, zero=True),
    "calibration error": _Rule("<=", _SHARE, "2%", of_samples=True, zero=True),
}
_DROP = _Rule("<=", _POINTS, "1pt", of_samples=True, zero=True)
_RISE = _Rule("<=", _POINTS, "1pt", of_samples=True, zero=True)
_LEVEL = _Rule(">=", {**_SHARE, **_scales("share", {"": 1}), **_RATIO}, "91%", of_samples=True, level=True)

_CHANGES: Mapping[str, str] = {"calibration error": "rise"}
"""The word for getting worse, where it is not ``drop``."""

_OWN: _Scales = {**_scales("own", {"": 1}), **_RATIO}
_FIGURE_DROP = _Rule("<=", _OWN, "0.1", of_samples=True, zero=True)
_FIGURE_LEVEL: Mapping[Better, _Rule] = {
    "higher": _Rule(">=", _OWN, "1.5", of_samples=True, level=True),
    "lower": _Rule("<=", _OWN, "1.5", of_samples=True, level=True),
}

_PRINTED: Mapping[Unit, tuple[str, ...]] = {
    "ms": ("s", "ms", "us"),
    "B": ("GB", "MiB", "MB", "KiB", "kB", "B"),
    "count": ("G", "M", ""),
    "/s": ("/s",),
    "x": ("x baseline",),
    "pt": ("pt",),
    "share": ("%",),
    "own": ("",),
}
"""Units in which an amount is printed: the first that gives a short figure of at least 1, else the last."""


def _amount_text(amount: float, unit: Unit) -> str:
    """Text of an amount that reads back as exactly the same float: decimal arithmetic, never a rounded quotient."""
    exact = Decimal(repr(amount))
    *larger, last = _PRINTED[unit]
    for name in larger:
        factor = _ALL_UNITS[name][1]
        number = _plain(exact / factor)
        if exact >= factor and len(number) <= 6 and Decimal(number) * factor == exact:
            return f"{number}{name}"
    return f"{_plain(exact / _ALL_UNITS[last][1])}{last}"


def _plain(number: Decimal) -> str:
    return f"{number.normalize():f}"


# Reading.


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    start: int


_TOKEN = re.compile(
    r"(?P<number>[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?)"
    r"|(?P<comparison>[<>]=?|==?|[≤≥])"
    r"|(?P<mark>[;,@%])"
    r"|(?P<word>[^\s;,@%<>=≤≥]+)"
)


def _tokens(text: str) -> Iterator[_Token]:
    for match in _TOKEN.finditer(text):
        yield _Token(match.lastgroup or "", match.group(), match.start())
    yield _Token("end", "", len(text.rstrip()))


class _Reader:
    """The tokens of one budget text, taken one by one; errors point into the text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(_tokens(text))
        self._position = 0
        for token in self._tokens:
            if token.text == ",":
                raise self.error(token, got="a comma", expected="';' between clauses, '.' in a number")

    @property
    def peek(self) -> _Token:
        return self._tokens[self._position]

    def take(self) -> _Token:
        token = self.peek
        if token.kind != "end":
            self._position += 1
        return token

    def error(self, token: _Token, *, got: str, expected: str = "", try_: str = "") -> BudgetSyntaxError:
        shown = re.sub(r"\s", " ", self._text)
        marker = " " * token.start + "^" * max(1, len(token.text))
        return BudgetSyntaxError(
            f"reading the budget\n    {shown}\n    {marker}", got=got, expected=expected, try_=try_
        )


def _rule_of(quantity: str, is_drop: bool, figures: Mapping[str, Better]) -> _Rule:
    if quantity in figures:
        return _FIGURE_DROP if is_drop else _FIGURE_LEVEL[figures[quantity]]
    if is_drop:
        return _RISE if quantity in _CHANGES else _DROP
    return _RULES.get(quantity, _LEVEL)


def _read_clause(
    reader: _Reader, metric: str | None, metrics: Collection[str], figures: Mapping[str, Better]
) -> Clause:
    start = reader.peek
    scope, scope_name = _read_scope(reader, metrics)
    quantity, is_drop = _read_quantity(reader, metric, metrics)
    statistic = _read_statistic(reader) if quantity == "latency" else ""
    rule = _rule_of(quantity, is_drop, figures)
    subject = f"{quantity} {_CHANGES.get(quantity, 'drop')}" if is_drop else quantity
    if scope and not rule.of_samples:
        expected = "a metric, flips or calibration error after it"
        raise reader.error(
            start, got=f"{scope!r} with {subject}, which is not computed over samples", expected=expected
        )
    comparison = _read_comparison(reader, subject, rule)
    amount, unit = _read_amount(reader, subject, rule)
    confidence = _read_confidence(reader, subject, rule)
    clause = Clause(
        quantity=quantity,
        comparison=comparison,
        amount=amount,
        unit=unit,
        is_drop=is_drop,
        statistic=statistic,
        scope=scope,
        scope_name=scope_name,
        confidence=confidence,
    )
    if clause.kind not in TESTABLE:
        got = f"{clause.subject!r}, which cannot be tested in this version"
        raise reader.error(start, got=got, expected=f"one of: {', '.join(sorted(TESTABLE))}")
    return clause


def _read_scope(reader: _Reader, metrics: Collection[str]) -> tuple[str, str]:
    """The scope and the name it takes, both empty where the clause has none."""
    word = reader.peek.text
    if word not in ("worst", "slice", "head", "output"):
        return "", ""
    reader.take()
    scope = word
    if word == "worst":
        kind = reader.take()
        if kind.text not in ("class", "slice"):
            raise reader.error(kind, got=_seen(kind), expected="'class' or 'slice' after 'worst'")
        scope = f"worst {kind.text}"
    if scope == "worst class" or (scope == "worst slice" and reader.peek.text in ("drop", *metrics)):
        return scope, ""
    name = reader.take()
    if name.kind != "word":
        expected = f"{'drop, or ' if scope == 'worst slice' else ''}the name of the {scope.removeprefix('worst ')}"
        raise reader.error(name, got=_seen(name), expected=expected)
    if scope == "slice" and name.text == "drop":
        raise reader.error(name, got="'drop' of no slice", expected="its name", try_="worst slice drop")
    if scope != "slice" or reader.peek.text != "=":
        return scope, name.text
    reader.take()
    value = reader.take()
    if value.kind not in ("word", "number"):
        raise reader.error(value, got=_seen(value), expected=f"a value of the slice {name.text!r}")
    return scope, f"{name.text}={value.text}"


def _read_quantity(reader: _Reader, metric: str | None, metrics: Collection[str]) -> tuple[str, bool]:
    """The quantity, and whether the clause is about its drop."""
    first = reader.take()
    known = [*_RULES, *metrics, "drop", "worst class"]
    if first.kind != "word":
        raise reader.error(first, got=_seen(first), expected=f"what is limited: {', '.join(known)}")
    if first.text == "drop":
        if not metric:
            expected = "the metric that may drop"
            raise reader.error(first, got="'drop' of no metric", expected=expected, try_="top1 drop, or --metric")
        return metric, True
    if first.text in metrics:
        if reader.peek.text == "drop":
            reader.take()
            return first.text, True
        return first.text, False
    if first.text in _RULES:
        return first.text, False
    for name in _RULES:
        before, _, after = name.partition(" ")
        if before == first.text:
            second = reader.take()
            if second.text != after:
                raise reader.error(second, got=_seen(second), expected=f"{after!r} after {before!r}", try_=name)
            if reader.peek.text == _CHANGES.get(name):
                reader.take()
                return name, True
            return name, False
    raise reader.error(
        first,
        got=f"{first.text!r}, which is neither a metric nor anything else that can be limited",
        expected=f"one of: {', '.join(known)}",
        try_=_suggest(first.text, known),
    )


def _read_statistic(reader: _Reader) -> str:
    token = reader.peek
    if token.kind != "word":
        return STATISTICS[0]
    reader.take()
    if token.text in STATISTICS:
        return token.text
    expected = f"one of: {', '.join(STATISTICS)}, or a comparison"
    raise reader.error(
        token, got=f"{token.text!r} after latency", expected=expected, try_=_suggest(token.text, STATISTICS)
    )


def _read_comparison(reader: _Reader, subject: str, rule: _Rule) -> Comparison:
    token = reader.take()
    written = {"≤": "<=", "≥": ">="}.get(token.text, token.text)
    if written == rule.comparison:
        return rule.comparison
    if token.kind == "word":
        changes = ["drop"] if rule.level else [_CHANGES[subject]] if subject in _CHANGES else []
        expected = f"{''.join(f'{word}, or ' for word in changes)}{rule.comparison} and an amount"
        raise reader.error(token, got=_seen(token), expected=expected, try_=_suggest(token.text, changes))
    if written in ("<=", ">="):
        got = f"a limit on {subject} in the wrong direction"
        raise reader.error(token, got=got, expected=f"{subject} {rule.comparison} {rule.example}")
    try_ = rule.comparison if token.kind == "comparison" else ""
    raise reader.error(token, got=_seen(token), expected=f"{rule.comparison} after {subject}", try_=try_)


def _read_amount(reader: _Reader, subject: str, rule: _Rule) -> tuple[float, Unit]:
    token = reader.take()
    example = f"an amount such as {rule.example}"
    if token.kind != "number":
        raise reader.error(token, got=_seen(token), expected=example)
    if token.text.startswith("-"):
        raise reader.error(token, got=f"the negative amount {token.text}", expected=example)
    if not math.isfinite(float(token.text)):
        raise reader.error(token, got=f"{token.text}, which is too large", expected=example)
    base, factor = _read_unit(reader, token, subject, rule)
    amount = float(Decimal(token.text) * factor)
    if not math.isfinite(amount):
        raise reader.error(token, got=f"{token.text}, which is too large", expected=example)
    if amount == 0 and not rule.zero:
        raise reader.error(token, got=f"a limit of 0 on {subject}", expected=f"{example}, above 0")
    most = {"share": 1.0, "pt": 100.0}.get(base, math.inf)
    if amount > most:
        percent = f"{token.text}%" if factor == 1 and base == "share" and amount <= 100 else ""
        expected = "at most 100pt" if base == "pt" else "a share of at most 1, or 100%"
        raise reader.error(token, got=f"{token.text}, more than {subject} can be", expected=expected, try_=percent)
    return amount, base


def _read_unit(reader: _Reader, number: _Token, subject: str, rule: _Rule) -> tuple[Unit, Decimal]:
    """Base unit and factor of the unit behind ``number``."""
    unit = reader.peek
    units = [name for name in rule.units if name]
    own = "" in rule.units and rule.units[""][0] == "own"
    expected = f"no unit, or {', '.join(units)}" if own else f"a unit of {subject}: {', '.join(units)}"
    if unit.kind != "word" and unit.text != "%":
        if "" in rule.units:
            return rule.units[""]
        raise reader.error(
            number,
            got=f"{number.text} without a unit",
            expected=expected,
            try_=f"{number.text}{rule.example.lstrip('0123456789')}",
        )
    reader.take()
    written = unit.text
    if written == "x":
        follower = reader.take()
        if follower.text != "baseline":
            try_ = f"{number.text}x baseline"
            raise reader.error(follower, got=_seen(follower), expected="'baseline' after 'x'", try_=try_)
        written = "x baseline"
    if written in rule.units:
        return rule.units[written]
    if rule is _DROP and written == "%":
        share = 1 - Decimal(number.text) / 100
        level = f", or {subject.removesuffix(' drop')} >= {_plain(share)}x baseline" if share > 0 else ""
        got = "a % after drop, which could mean points or a part of the baseline"
        raise reader.error(unit, got=got, expected=expected, try_=f"{number.text}pt{level}")
    if written in _ALL_UNITS:
        try_ = f"{_plain(Decimal(number.text) / 100)}, if it is a share from 0 to 1" if own and written in "pt%" else ""
        raise reader.error(unit, got=f"{written!r}, which is not a unit of {subject}", expected=expected, try_=try_)
    raise reader.error(unit, got=f"the unknown unit {written!r}", expected=expected, try_=_suggest(written, units))


def _read_confidence(reader: _Reader, subject: str, rule: _Rule) -> float:
    if reader.peek.text != "@":
        return DEFAULT_CONFIDENCE
    at = reader.take()
    if rule.exact:
        raise reader.error(at, got=f"a confidence for {subject}, which is counted exactly", expected="no '@'")
    number = reader.take()
    percent = reader.take()
    if number.kind != "number" or percent.text != "%":
        wrong = percent if number.kind == "number" else number
        raise reader.error(wrong, got=_seen(wrong), expected="a confidence such as @ 95%")
    confidence = float(Decimal(number.text) / 100) if math.isfinite(float(number.text)) else math.inf
    if not 0.5 < confidence < 1:
        raise reader.error(number, got=f"a confidence of {number.text}%", expected="more than 50% and less than 100%")
    return confidence


def _seen(token: _Token) -> str:
    return "the end of the budget" if token.kind == "end" else repr(token.text)


def _suggest(word: str, known: Iterable[str]) -> str:
    """The nearest names, whatever the case: ``Latency`` and ``MB`` for ``mb`` are the commonest slips."""
    folded = {name.casefold(): name for name in known}
    return ", ".join(folded[name] for name in nearest(word.casefold(), folded))
