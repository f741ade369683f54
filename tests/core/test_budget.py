"""Budgets: grammar, canonical printing, and errors that point at the wrong word."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossamer.core.budget import TESTABLE, Budget, Clause, parse_budget
from gossamer.core.errors import BudgetSyntaxError
from gossamer.core.units import format_amount
from gossamer.testing import strategies

METRICS = ("top1", "f1")


def parse(text: str, metric: str | None = "top1") -> Budget:
    return parse_budget(text, metric, METRICS)


def only(text: str) -> Clause:
    (clause,) = parse(text).clauses
    return clause


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("top1 drop <= 1pt", Clause(quantity="top1", is_drop=True, comparison="<=", amount=1.0, unit="pt")),
        ("drop <= 1pt", Clause(quantity="top1", is_drop=True, comparison="<=", amount=1.0, unit="pt")),
        ("f1 drop <= 0pt", Clause(quantity="f1", is_drop=True, comparison="<=", amount=0.0, unit="pt")),
        ("top1 >= 0.99x baseline", Clause(quantity="top1", comparison=">=", amount=0.99, unit="x")),
        ("top1 >= 57%", Clause(quantity="top1", comparison=">=", amount=0.57, unit="share")),
        ("top1 >= 0.57", Clause(quantity="top1", comparison=">=", amount=0.57, unit="share")),
        ("latency <= 5ms", Clause(quantity="latency", statistic="p50", comparison="<=", amount=5.0, unit="ms")),
        ("latency p99 <= 0.3us", Clause(quantity="latency", statistic="p99", comparison="<=", amount=3e-4, unit="ms")),
        ("latency mean <= 2s", Clause(quantity="latency", statistic="mean", comparison="<=", amount=2e3, unit="ms")),
        ("throughput >= 1e3/s", Clause(quantity="throughput", comparison=">=", amount=1000.0, unit="/s")),
        ("size <= 2MB", Clause(quantity="size", comparison="<=", amount=2e6, unit="B")),
        ("size <= 2MiB", Clause(quantity="size", comparison="<=", amount=2.0 * 2**20, unit="B")),
        ("size <= .25 x  baseline", Clause(quantity="size", comparison="<=", amount=0.25, unit="x")),
        ("peak memory <= 64KiB", Clause(quantity="peak memory", comparison="<=", amount=65536.0, unit="B")),
        ("load time <= 0.1s", Clause(quantity="load time", comparison="<=", amount=100.0, unit="ms")),
        ("flips <= 2%", Clause(quantity="flips", comparison="<=", amount=0.02, unit="share")),
        ("negative flips <= 0%", Clause(quantity="negative flips", comparison="<=", amount=0.0, unit="share")),
        ("calibration error <= 3%", Clause(quantity="calibration error", comparison="<=", amount=0.03, unit="share")),
        (
            "calibration error rise <= 1pt",
            Clause(quantity="calibration error", is_drop=True, comparison="<=", amount=1.0, unit="pt"),
        ),
        (
            "worst slice drop <= 3pt",
            Clause(scope="worst slice", quantity="top1", is_drop=True, comparison="<=", amount=3.0, unit="pt"),
        ),
        (
            "worst slice age f1 drop <= 3pt",
            Clause(
                scope="worst slice",
                scope_name="age",
                quantity="f1",
                is_drop=True,
                comparison="<=",
                amount=3.0,
                unit="pt",
            ),
        ),
        (
            "worst class drop <= 3pt @ 99%",
            Clause(
                scope="worst class",
                quantity="top1",
                is_drop=True,
                comparison="<=",
                amount=3.0,
                unit="pt",
                confidence=0.99,
            ),
        ),
    ],
)
def test_every_testable_clause_reads_in_base_units(text: str, expected: Clause) -> None:
    assert only(text) == expected


def test_clauses_keep_their_order_and_blanks_do_not_matter() -> None:
    budget = parse("\n top1   drop≤1 pt;size<=2\tMB ;latency p50 ≤ 5 ms@ 90 % ")
    assert str(budget) == "top1 drop <= 1pt; size <= 2MB; latency p50 <= 5ms @ 90%"


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("drop <= 1.50pt", "top1 drop <= 1.5pt"),
        ("latency <= 500us", "latency p50 <= 500us"),
        ("latency <= 1us", "latency p50 <= 1us"),
        ("latency <= 1500ms", "latency p50 <= 1.5s"),
        ("size <= 2000kB", "size <= 2MB"),
        ("size <= 2048KiB", "size <= 2MiB"),
        ("size <= 1234567B", "size <= 1234567B"),
        ("top1 >= 0.9", "top1 >= 90%"),
        ("top1 drop <= 1pt @ 95%", "top1 drop <= 1pt"),
        ("top1 drop <= 1pt @ 99.5%", "top1 drop <= 1pt @ 99.5%"),
        ("throughput >= 1e6/s", "throughput >= 1000000/s"),
    ],
)
def test_one_budget_has_one_text(text: str, canonical: str) -> None:
    assert str(parse(text)) == canonical


def test_limit_text_leaves_the_subject_out() -> None:
    clause = only("worst class drop <= 3pt @ 99%")
    assert (clause.subject, clause.limit_text) == ("worst class top1 drop", "<= 3pt @ 99%")
    assert str(clause) == f"{clause.subject} {clause.limit_text}"


@given(strategies.budgets(METRICS))
def test_printing_parses_back_to_an_equal_budget(budget: Budget) -> None:
    assert parse_budget(str(budget), None, METRICS) == budget
    assert str(parse_budget(str(budget), None, METRICS)) == str(budget)


@given(strategies.clauses(METRICS))
def test_what_prints_is_testable_and_has_no_exponent(clause: Clause) -> None:
    assert clause.kind in TESTABLE
    amount = clause.limit_text.split()[1]
    assert "e" not in amount.split("x")[0].removesuffix("baseline")


# Each bad text with its wrong word between guillemets, and a part of the message.
BAD = [
    ("«»", "an empty budget"),
    ("«»  ", "an empty budget"),
    ("top1 drop <= 1«%»", "try: 1pt, or top1 >= 0.99x baseline"),
    ("f1 drop <= 2.5 «%»", "try: 2.5pt, or f1 >= 0.975x baseline"),
    ("top1 drop <= 100«%»", "try: 100pt"),
    ("top1 drop «>=» 1pt", "wrong direction"),
    ("size «>=» 2MB", "expected: size <= 2MB"),
    ("top1 «<=» 90%", "expected: top1 >= 91%"),
    ("top1 «≤» 90%", "wrong direction"),
    ("throughput «<=» 10/s", "expected: throughput >= 100/s"),
    ("latency «<» 5ms", "expected: <= after latency"),
    ("latency «=» 5ms", "got: '='"),
    ("latency «<» 5ms", "try: <="),
    ("latency p50 «5»ms", "expected: <= after latency"),
    ("latency <= 2«MB»", "'MB', which is not a unit of latency"),
    ("latency <= 2«mss»", "try: ms"),
    ("size <= 2«mb»", "try: MB"),
    ("size <= 2«ms»", "not a unit of size"),
    ("size <= 5«%»", "not a unit of size"),
    ("flips <= 1«pt»", "expected: a unit of flips: %"),
    ("top1 drop <= 0.9«x» baseline", "not a unit of top1 drop"),
    ("latency <= «5»", "try: 5ms"),
    ("throughput >= «5»", "try: 5/s"),
    ("size <= 0.5x«»", "'baseline' after 'x'"),
    ("size <= 0.5x «base»", "try: 0.5x baseline"),
    ("«tp1» drop <= 1pt", "try: top1"),
    ("«TOP1» drop <= 1pt", "try: top1"),
    ("«latancy» <= 5ms", "try: latency"),
    ("«memory» <= 5MB", "try: peak memory"),
    ("top1 drop <= 1pt; «sise» <= 5MB", "try: size"),
    ("latency «p59» <= 2ms", "p99"),
    ("latency «drop» <= 2ms", "'drop' after latency"),
    ("peak «mem» <= 2MB", "'memory' after 'peak'"),
    ("load«»", "got: the end of the budget"),
    ("top1 «droop» <= 1pt", "try: drop"),
    ("top1 drop «p50» <= 1pt", "expected: <= and an amount"),
    ("size «small»", "expected: <= and an amount"),
    ("«<=» 5ms", "what is limited"),
    ("top1 drop«» ", "expected: <= after top1 drop"),
    ("latency <=«»", "an amount such as 5ms"),
    ("latency <= «fast»", "an amount such as 5ms"),
    ("latency <= «infms»", "an amount such as 5ms"),
    ("drop <= «-1»pt", "negative amount"),
    ("drop <= «-0»pt", "negative amount"),
    ("latency <= «0»ms", "a limit of 0 on latency"),
    ("top1 >= «0»%", "a limit of 0 on top1"),
    ("size <= «1e999»B", "too large"),
    ("size <= «1e308»GB", "too large"),
    ("top1 >= «91»", "try: 91%"),
    ("top1 >= «120»%", "more than top1 can be"),
    ("drop <= «101»pt", "at most 100pt"),
    ("size <= 2MB; latency <= 5ms;  «size» <= 1MB", "size limited twice, before by <= 2MB"),
    ("latency <= 5ms; «latency» p50 <= 4ms", "limited twice"),
    ("drop <= 1pt; «top1» drop <= 2pt", "limited twice"),
    ("drop <= 1pt«,» size <= 2MB", "';' between clauses"),
    ("latency <= 0«,»5ms", "'.' in a number"),
    ("top1 drop <= 1pt «latency» <= 5ms", "expected: ';' and another clause"),
    ("size <= 2MB «)»", "after a complete clause"),
    ("size <= 2MB«;»", "leave the ';' out"),
    ("size <= 2MB;«;» drop <= 1pt", "what is limited"),
    ("«;» size <= 2MB", "what is limited"),
    ("size <= 2MB «@» 99%", "counted exactly"),
    ("drop <= 1pt @ «high»", "a confidence such as @ 95%"),
    ("drop <= 1pt @ 99«»", "a confidence such as @ 95%"),
    ("drop <= 1pt @ «100»%", "less than 100%"),
    ("drop <= 1pt @ «5»%", "more than 50%"),
    ("drop <= 1pt @ «50»%", "more than 50%"),
    ("drop <= 1pt @ «1e999»%", "less than 100%"),
    ("worst «clas» drop <= 1pt", "'class' or 'slice'"),
    ("«worst» class latency <= 5ms", "not computed over samples"),
    ("slice «<=» 5ms", "the name of the slice"),
    ("slice «drop» <= 3pt", "try: worst slice drop"),
    ("worst slice «<=» 3pt", "drop, or the name of the slice"),
    ("calibration error «drop» <= 1pt", "rise, or <= and an amount"),
    ("calibration error «riise» <= 1pt", "try: rise"),
    ("calibration error rise <= 1«%»", "expected: a unit of calibration error rise: pt"),
    ("negative flips «rise» <= 1pt", "expected: <= and an amount"),
    ("slice age=«<=» 5ms", "a value of the slice 'age'"),
]


@pytest.mark.parametrize(("marked", "message"), BAD)
def test_errors_point_at_the_wrong_word(marked: str, message: str) -> None:
    text = marked.replace("«", "").replace("»", "")
    start, width = marked.index("«"), marked.index("»") - marked.index("«") - 1
    with pytest.raises(BudgetSyntaxError) as caught:
        parse(text)
    _, shown, marker, *rest = str(caught.value).split("\n")
    assert shown == f"    {text}"
    assert marker == "    " + " " * start + "^" * max(1, width)
    assert message in "\n".join(rest)


@pytest.mark.parametrize(
    "text",
    [
        "macs <= 50M",
        "macs <= 0.5x baseline",
        "worst class calibration error <= 2%",
        "worst class top1 >= 80%",
        "worst class flips <= 2%",
        "slice night drop <= 1pt",
        "slice age=old drop <= 1pt",
        "slice age=3 drop <= 1pt",
        "worst slice age flips <= 1%",
        "head boxes drop <= 1pt",
        "output logits top1 >= 90%",
    ],
)
def test_what_this_version_cannot_test_parses_and_is_refused(text: str) -> None:
    with pytest.raises(BudgetSyntaxError, match="cannot be tested in this version") as caught:
        parse(text)
    assert "worst class metric drop" in caught.value.expected


def test_drop_needs_a_metric() -> None:
    with pytest.raises(BudgetSyntaxError, match="try: top1 drop, or --metric"):
        parse("drop <= 1pt", metric=None)


def test_the_given_metric_is_known_even_if_it_is_not_listed() -> None:
    budget = parse_budget("drop <= 1pt", "my.py:score", METRICS)
    assert str(budget) == "my.py:score drop <= 1pt"
    assert parse_budget(str(budget), "my.py:score", METRICS) == budget


def test_line_breaks_do_not_displace_the_marker() -> None:
    with pytest.raises(BudgetSyntaxError) as caught:
        parse("drop <= 1pt;\n\tsise <= 2MB")
    _, shown, marker, *_ = str(caught.value).split("\n")
    assert shown[marker.index("^") :].startswith("sise")


@given(st.text(alphabet="top1 drfsizelancy<>=;@%.,0-5MBx\n", max_size=30))
def test_any_text_parses_or_raises_the_typed_error(text: str) -> None:
    try:
        budget = parse(text)
    except BudgetSyntaxError:
        return
    assert all(math.isfinite(clause.amount) for clause in budget.clauses)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.412, "ms", "0.412 ms"),
        (0.05, "ms", "50 us"),
        (1234.5, "ms", "1234 ms"),
        (999_600, "B", "1000 kB"),
        (1_090_000, "B", "1.09 MB"),
        (12, "B", "12 B"),
        (91.731, "%", "91.73 %"),
        (-0.5, "pt", "-0.50 pt"),
        (2.5, "x", "2.50x"),
        (0.123456, "1", "0.1235"),
        (3, "/s", "3 /s"),
    ],
)
def test_amounts_in_tables_have_three_digits_and_no_exponent(value: float, unit: str, text: str) -> None:
    assert format_amount(value, unit) == text
