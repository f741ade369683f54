"""Objects from Python files: fresh runs, and errors with the user's own line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gossamer.core.errors import DataError, ModelError, OptionError
from gossamer.core.pyfile import load_object


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str, name: str = "mine.py") -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def test_the_named_object_is_returned(write) -> None:
    assert load_object(f"{write('answer = 42')}:answer", error=ModelError) == 42


def test_dataclasses_with_postponed_annotations_work(write) -> None:
    file = write(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n    x: int = 1\n"
    )
    assert load_object(f"{file}:A", error=ModelError)().x == 1


def test_files_of_one_name_do_not_meet_and_each_load_runs_afresh(write) -> None:
    file = write("state = []")
    first = load_object(f"{file}:state", error=ModelError)
    first.append(1)
    assert load_object(f"{file}:state", error=ModelError) == []
    write("state = 7")
    assert load_object(f"{file}:state", error=ModelError) == 7


def test_the_folder_is_importable_during_the_import_only(write) -> None:
    write("value = 3", "neighbour_of_mine.py")
    before = list(sys.path)
    try:
        assert load_object(f"{write('import neighbour_of_mine as n')}:n", error=ModelError).value == 3
    finally:
        sys.modules.pop("neighbour_of_mine", None)
    assert sys.path == before


@pytest.mark.parametrize("text", ["mine.py", "mine.py:", ":name", ""])
def test_a_text_without_file_or_name_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match=r"expected: file\.py:name"):
        load_object(text, error=OptionError)


def test_a_missing_file_offers_its_neighbours(write, tmp_path: Path) -> None:
    write("", "loader.py")
    with pytest.raises(ModelError, match=r"try: loader\.py"):
        load_object(f"{tmp_path}/loadr.py:x", error=ModelError)


def test_a_missing_name_offers_the_nearest(write) -> None:
    file = write("def resnet20(): ...\ndef _resnet(): ...\n")
    with pytest.raises(ModelError, match="expected: one of: resnet20\n  try: resnet20"):
        load_object(f"{file}:resnet2", error=ModelError)


def test_a_file_that_is_not_python_is_refused(write) -> None:
    with pytest.raises(DataError, match=r"a file whose name ends in \.py"):
        load_object(f"{write('', 'mine.txt')}:x", error=DataError)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = 1\nb = a / 0\n", "ZeroDivisionError: division by zero at mine.py:2: b = a / 0"),
        ("import json\njson.loads('{')\n", "at mine.py:2: json.loads('{')"),
        ("a = 1\ndef f(:\n", "def f(:"),
        ("import no_such_module_at_all\n", "No module named 'no_such_module_at_all' at mine.py:1"),
        ("raise SystemExit(1)\n", "SystemExit: 1 at mine.py:1"),
    ],
    ids=["own line", "line that called", "syntax", "import", "exit"],
)
def test_an_exception_is_shown_with_the_users_line(write, text: str, message: str) -> None:
    modules = set(sys.modules)
    with pytest.raises(DataError) as caught:
        load_object(f"{write(text)}:x", error=DataError)
    assert message in caught.value.got
    assert not [name for name in set(sys.modules) - modules if name.startswith("gossamer_file")]


def test_ctrl_c_and_our_own_errors_pass_through(write) -> None:
    with pytest.raises(KeyboardInterrupt):
        load_object(f"{write('raise KeyboardInterrupt')}:x", error=DataError)
    file = write("from gossamer.core.errors import OptionError\nraise OptionError('mine')")
    with pytest.raises(OptionError, match="mine"):
        load_object(f"{file}:x", error=DataError)
