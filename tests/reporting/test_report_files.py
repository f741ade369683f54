"""Where reports are written, what they never replace, and what they need."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import gossamer
from gossamer import cli, flow
from gossamer.core import extras
from gossamer.core.errors import ArtifactError, MissingExtra, OptionError, OutputExists
from gossamer.demo import digits


def test_the_verb_returns_the_path(digit_artifact: Path, tmp_path: Path):
    path = gossamer.report(digit_artifact, tmp_path / "new" / "page.html")
    assert path == tmp_path / "new" / "page.html"
    assert path.read_bytes().startswith(b"<!doctype html>")
    assert [entry.name for entry in path.parent.iterdir()] == ["page.html"]


def test_a_loaded_artifact_will_do(digit_artifact: Path, tmp_path: Path):
    with flow.load(digit_artifact) as artifact:
        one = gossamer.report(artifact, str(tmp_path / "one.html"))
    assert one.read_bytes() == gossamer.report(str(digit_artifact), tmp_path / "two.html").read_bytes()


def test_an_older_report_is_replaced_and_nothing_else(digit_artifact: Path, tmp_path: Path):
    path = tmp_path / "page.html"
    gossamer.report(digit_artifact, path)
    gossamer.report(digit_artifact, path)
    path.write_text("<html>years of work</html>")
    with pytest.raises(OutputExists, match=r"a file that is no report[\s\S]*--force"):
        gossamer.report(digit_artifact, path)
    assert "years of work" in path.read_text()
    gossamer.report(digit_artifact, path, force=True)
    assert b"years of work" not in path.read_bytes()


def test_a_folder_is_no_file(digit_artifact: Path, tmp_path: Path):
    with pytest.raises(OutputExists, match=r"a folder[\s\S]*report.html"):
        gossamer.report(digit_artifact, tmp_path, force=True)


@pytest.mark.parametrize("inner", ["report.html", "evidence/report.html"])
def test_no_report_is_written_into_an_artifact(digit_artifact: Path, inner: str):
    with pytest.raises(OptionError, match=r"inside an artifact[\s\S]*holds its own files and no other"):
        gossamer.report(digit_artifact, digit_artifact / inner)
    flow.load(digit_artifact).verify_integrity()


def test_a_path_that_cannot_be_written(digit_artifact: Path, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionError, match=r"writing the report [\s\S]*another --out"):
        gossamer.report(digit_artifact, tmp_path / "file" / "page.html")


def test_what_is_no_artifact_is_refused(tmp_path: Path):
    with pytest.raises(ArtifactError, match="nothing there"):
        gossamer.report(tmp_path / "small", tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["jinja2", "plotly"])
def test_without_the_extra_it_is_named(
    digit_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
):
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == missing else object())
    with pytest.raises(MissingExtra, match=rf"{missing} is not installed[\s\S]*pip install \"gossamer\[report\]\""):
        gossamer.report(digit_artifact, tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []


def test_the_demo_does_without_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert digits._page(tmp_path / "demo-out", force=False) == tmp_path / "demo-out.html"
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    assert digits._page(tmp_path / "demo-out", force=False) is None


def test_it_is_written_where_torch_is_not_installed(digit_artifact: Path, tmp_path: Path):
    code = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "onnx", "onnxruntime", "scipy", "safetensors", "PIL"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
sys.argv = ["gossamer", "report", sys.argv[1], "--out", "page.html", "--json"]
from gossamer.cli import main
main()
"""
    command = [sys.executable, "-c", code, str(digit_artifact)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    size = (tmp_path / "page.html").stat().st_size
    assert json.loads(done.stdout) == {"report": "page.html", "size_bytes": size}


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["gossamer", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def test_the_command_writes_report_html_here(digit_artifact: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, "report", digit_artifact) == 0
    assert capsys.readouterr().out == "wrote report.html\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


def test_bad_input_is_exit_code_2(digit_artifact: Path, tmp_path: Path, monkeypatch, capsys):
    assert run(monkeypatch, "report", tmp_path / "small", "--out", tmp_path / "page.html") == 2
    assert "nothing there" in capsys.readouterr().err
    (tmp_path / "page.html").write_text("mine")
    assert run(monkeypatch, "report", digit_artifact, "--out", tmp_path / "page.html") == 2
    assert "OutputExists" in capsys.readouterr().err
    assert run(monkeypatch, "report", digit_artifact, "--out", tmp_path / "page.html", "--force") == 0


def test_it_is_opened_in_the_browser_on_request(digit_artifact: Path, tmp_path: Path):
    """Output of this process is no terminal, so nothing is opened unless asked for."""
    browser = tmp_path / "browser"
    browser.write_text('#!/bin/sh\necho "$1" > seen\n')
    browser.chmod(0o755)
    code = "import sys; from gossamer.cli import main; sys.argv = ['gossamer', *sys.argv[1:]]; main()"
    command = [sys.executable, "-c", code, "report", str(digit_artifact), "--open"]
    environment = {**os.environ, "BROWSER": str(browser)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "seen").read_text().strip() == (tmp_path / "report.html").as_uri()


@pytest.mark.parametrize("flags", [[], ["--no-open"], ["--json"]])
def test_it_is_not_opened_otherwise(digit_artifact: Path, tmp_path: Path, monkeypatch, flags: list[str]):
    monkeypatch.setattr("webbrowser.open", pytest.fail)
    assert run(monkeypatch, "report", digit_artifact, "--out", tmp_path / "page.html", *flags) == 0
