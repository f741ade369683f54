"""Rules about the code itself: sizes, names, documentation, errors, and facts with one home."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import gossamer
from gossamer.core import errors
from gossamer.techniques import TECHNIQUES
from gossamer.techniques.base import Technique

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "gossamer"
SOURCES = sorted(PACKAGE.rglob("*.py"))
SIZED = sorted([*SOURCES, *(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "examples").rglob("*.py")])
MAX_FILE, MAX_FUNCTION = 600, 80
FORBIDDEN_FOLDERS = {"utils", "util", "common", "helpers", "helper", "misc", "managers", "prototype"}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_no_file_is_too_long():
    lengths = {name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in SIZED}
    assert {path: length for path, length in lengths.items() if length > MAX_FILE} == {}


def test_no_function_is_too_long():
    lengths = {
        f"{name(path)}:{function.name}": (function.end_lineno or 0) - function.lineno + 1
        for path in SIZED
        for function in functions(path)
    }
    assert {function: length for function, length in lengths.items() if length > MAX_FUNCTION} == {}


def test_folders_say_what_is_in_them():
    folders = {path for root in ("src", "tests", "benchmarks") for path in (ROOT / root).rglob("*") if path.is_dir()}
    assert {name(folder) for folder in folders if folder.name in FORBIDDEN_FOLDERS} == set()


ERRORS = [
    key for key, value in vars(errors).items() if isinstance(value, type) and key not in ("GossamerError", "UserError")
]


@pytest.mark.parametrize("error", ERRORS)
def test_each_error_is_raised_somewhere_and_provoked_by_a_test(error: str):
    """Raised directly, or handed on as the class to raise (``load_object(..., error=ModelError)``)."""
    used = re.compile(rf"raise {error}\(|error={error}\b|return {error}\(|else {error}\(")
    raising = [path for path in SOURCES if path.name != "errors.py" and used.search(path.read_text(encoding="utf-8"))]
    assert raising, f"{error} is never raised"
    provoked = re.compile(rf"raises\(\s*\(?[\w., ]*\b{error}\b|\b{error}\b")
    here = Path(__file__).parent
    tests = [
        path for path in (ROOT / "tests").rglob("test_*.py") if path.parent != here and path.name != "test_errors.py"
    ]
    assert [path for path in tests if provoked.search(path.read_text(encoding="utf-8"))], f"{error} is in no test"


def undocumented(path: Path) -> Iterator[str]:
    """Public modules, classes, functions and methods without a docstring."""
    if tree(path).body and ast.get_docstring(tree(path)) is None:
        yield "module"
    scopes: list[tuple[str, ast.Module | ast.ClassDef]] = [("", tree(path))]
    while scopes:
        prefix, scope = scopes.pop()
        for node in scope.body:
            if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
                continue
            overloaded = any("overload" in ast.unparse(decorator) for decorator in node.decorator_list)
            if ast.get_docstring(node) is None and not overloaded:
                yield prefix + node.name
            if isinstance(node, ast.ClassDef):
                scopes.append((f"{prefix}{node.name}.", node))


def test_every_public_name_is_documented():
    """Methods that PyTorch calls (``forward``) say what they do in their class."""
    missing = {f"{name(path)}: {entry}" for path in SOURCES for entry in undocumented(path)}
    assert {entry for entry in missing if not entry.endswith(".forward")} == set()


def test_nothing_prints_but_the_command_line_and_the_probe():
    """Standard output belongs to the user: with --json it is one JSON value."""
    printing = {
        name(path)
        for path in SOURCES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert printing == set()
    writing = {name(path) for path in SOURCES if "sys.stdout" in path.read_text(encoding="utf-8")}
    assert writing <= {"src/gossamer/cli.py", "src/gossamer/runtimes/probe.py"}


PICKLING = re.compile(
    r"pickle\.(load|dump)|allow_pickle=True|weights_only=False|(?<!safetensors\.)torch\.save\(|joblib"
)


def test_no_pickle():
    """Advice to users may name ``torch.save``; nothing calls it."""
    lines = [(name(path), line) for path in SOURCES for line in path.read_text(encoding="utf-8").splitlines()]
    assert [(path, line) for path, line in lines if PICKLING.search(line) and "try_=" not in line] == []


def test_every_technique_is_in_the_table():
    """A subclass that no recipe can name would be dead code."""
    for path in (PACKAGE / "techniques").rglob("*.py"):
        __import__(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"))
    ours = {kind for kind in Technique.__subclasses__() if kind.__module__.startswith("gossamer.")}
    assert set(TECHNIQUES.values()) == ours
    assert all(kind.name == key for key, kind in TECHNIQUES.items())


def test_the_version_is_stated_once_and_the_same():
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert config["project"]["version"] == gossamer.__version__


def test_test_files_have_names_of_their_own():
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def test_what_belongs_to_the_base_install_imports_without_the_rest(tmp_path: Path):
    """Each torch-free folder of the layers contract, in one fresh process."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = [item for item in config["tool"]["importlinter"]["contracts"] if item["type"] == "forbidden"]
    modules = []
    for source in contract["source_modules"]:
        path = PACKAGE.parent / source.replace(".", "/")
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
        modules += [".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts) for file in files]
    modules = [module.removesuffix(".__init__") for module in modules]
    forbidden = set(contract["forbidden_modules"])
    code = f"""
import importlib, sys
for module in {modules!r}:
    importlib.import_module(module)
    assert not {forbidden!r} & set(sys.modules), module
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_the_layers_hold():
    """``make check`` runs the same; here for those who only run the tests."""
    command = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([str(command)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
