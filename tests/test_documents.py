"""The documents are true: their Python runs, their commands parse, their links and file names lead somewhere."""

from __future__ import annotations

import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import typer

from gossamer import cli

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "gossamer"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PYTHON = [path for path in DOCUMENTS if "```python" in path.read_text(encoding="utf-8")]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path, language: str) -> list[str]:
    return [code for kind, code in BLOCK.findall(path.read_text(encoding="utf-8")) if kind == language]


@pytest.mark.parametrize("path", PYTHON, ids=name)
def test_the_python_of_a_document_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hasty):
    """Block after block in one namespace and an empty folder, on a narrower network and with hasty measurements."""
    from gossamer.demo.digits import DigitNet, load_digits

    monkeypatch.setattr(DigitNet.__init__, "__defaults__", (8,))
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    _forget_examples()
    monkeypatch.chdir(tmp_path)
    module = ModuleType("document")
    module.__dict__["images"] = load_digits()[0][:3]  # what a device would see
    monkeypatch.setitem(sys.modules, "document", module)
    for number, code in enumerate(blocks(path, "python")):
        exec(compile(code, f"{name(path)}, block {number}", "exec", dont_inherit=True), module.__dict__)
    _forget_examples()


def _forget_examples() -> None:
    for module in [key for key in sys.modules if key.partition(".")[0] == "examples"]:
        del sys.modules[module]


def commands(path: Path) -> Iterator[list[str]]:
    """The ``gossamer`` commands in the code blocks of a document, as argument lists."""
    for kind, code in BLOCK.findall(path.read_text(encoding="utf-8")):
        if kind in ("python", "toml"):
            continue
        for line in code.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars=";|&")
            lexer.whitespace_split = True
            words: list[str] = []
            try:
                words = list(lexer)
            except ValueError:  # a quote that does not close: prose or output, not a command
                continue
            command: list[str] = []
            for word in [*words, ";"]:
                if set(word) <= set(";|&"):
                    if command[:1] == ["gossamer"]:
                        yield command[1:]
                    command = []
                else:
                    command.append(word)


COMMANDS = [(name(path), command) for path in DOCUMENTS for command in commands(path)]


@pytest.mark.parametrize(("path", "words"), COMMANDS, ids=lambda value: str(value)[:60])
def test_a_command_in_a_document_parses(path: str, words: list[str]):
    """With every option known, every required one given and every value of its type; nothing is run."""
    group = typer.main.get_command(cli.app)
    assert words[0] in group.commands, path
    command = group.commands[words[0]]
    with command.make_context(words[0], words[1:]) as context:
        assert context.params is not None


def test_the_readme_shows_commands():
    assert sum(path == "README.md" for path, _ in COMMANDS) >= 5


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_links_lead_somewhere(path: Path):
    targets = re.findall(r"\]\(([^)\s#]+)[^)]*\)", BLOCK.sub("", path.read_text(encoding="utf-8")))
    local = [target for target in targets if "://" not in target and not target.startswith("mailto:")]
    assert [target for target in local if not (path.parent / target).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_files_that_are_named_exist(path: Path):
    """``folder/file.py`` in backticks is below the root, the package, or the folder that the document stands in."""
    text = BLOCK.sub("", path.read_text(encoding="utf-8"))
    named = set(re.findall(r"`((?:[\w.-]+/)+[\w-]+\.(?:py|md|toml|txt)|(?:[\w.-]+/)+)`", text))
    roots = (ROOT, PACKAGE, path.parent, ROOT / "tests")
    invented = {"small/", "program/", "deploy/", "evidence/"}  # folders of an artifact
    assert {entry for entry in named - invented if not any((root / entry).exists() for root in roots)} == set()


def test_every_folder_of_the_package_is_described():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")} - {"demo"}
    assert {folder for folder in folders if f"| `{folder}/` |" not in text} == set()


def test_the_layers_of_the_document_are_those_of_the_gate():
    """Those in parentheses in the gate are for later; the document leaves out what is not there yet."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (gate,) = [item for item in config["tool"]["importlinter"]["contracts"] if item["type"] == "layers"]
    there = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}

    def present(layer: str) -> list[str]:
        return [part for part in (part.strip(" ()") for part in layer.split("|")) if part in there]

    (drawn,) = [
        code
        for _, code in BLOCK.findall((ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"))
        if code.startswith("cli\n")
    ]
    assert [present(line) for line in drawn.splitlines()] == [
        parts for layer in gate["layers"] if (parts := present(layer))
    ]


def test_the_changelog_knows_this_version():
    from gossamer import __version__

    assert __version__ in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
