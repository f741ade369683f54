"""Files and folders appear whole or not at all, whatever interrupts the writing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gossamer.core.errors import OptionError, OutputExists
from gossamer.core.files import new_folder, require_free, write_atomic

INTERRUPTIONS = [KeyboardInterrupt, SystemExit, ValueError, OSError]


def contents(folder: Path) -> dict[str, str]:
    """Relative path -> text, of everything under ``folder``, hidden files included."""
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def fill(out: Path, then: Callable[[], None]) -> None:
    with new_folder(out, force=True) as folder:
        (folder / "file").write_text("new")
        then()


def test_write_atomic_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")
    write_atomic(path, b"new")
    assert contents(tmp_path) == {"file": "new"}


@pytest.mark.parametrize("interruption", INTERRUPTIONS)
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_an_interrupted_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, interruption: type[BaseException]
) -> None:
    def interrupt(*_: object) -> None:
        raise interruption

    write_atomic(tmp_path / "file", b"old")
    monkeypatch.setattr(os if step == "fsync" else Path, step, interrupt)
    with pytest.raises(interruption):
        write_atomic(tmp_path / "file", b"new")
    assert contents(tmp_path) == {"file": "old"}


def test_a_taken_path_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputExists, match="try: another --out, or --force to replace it"):
        require_free(tmp_path / "out", force=False)
    with pytest.raises(OutputExists), new_folder(tmp_path / "out"):
        pytest.fail("the block ran")
    require_free(tmp_path / "out", force=True)
    require_free(tmp_path / "free", force=False)


def test_a_path_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionError, match=r"file, which is no folder\n  expected: a folder that can be written to"):
        require_free(tmp_path / "file" / "a" / "out", force=False)
    with monkeypatch.context() as full:
        full.setattr(Path, "mkdir", lambda *_, **__: (tmp_path / "file" / "x").read_text())  # any OSError
        with pytest.raises(OptionError, match="Not a directory"), new_folder(tmp_path / "out"):
            pytest.fail("the block ran")
    monkeypatch.setattr(os, "access", lambda *_: False)  # for root every folder is writable
    with pytest.raises(OptionError, match=r"which is not writable[\s\S]*try: another --out"):
        require_free(tmp_path / "a" / "out", force=True)
    assert contents(tmp_path) == {"file": ""}


def test_new_folder_appears_at_the_end_with_its_parents(tmp_path: Path) -> None:
    out = tmp_path / "a" / "out"
    with new_folder(out) as folder:
        (folder / "file").write_text("new")
        assert not out.exists()
    assert contents(tmp_path) == {"a/out/file": "new"}


@pytest.mark.parametrize("interruption", INTERRUPTIONS)
@pytest.mark.parametrize("was_there", [False, True])
def test_an_interrupted_block_leaves_what_was_there(
    tmp_path: Path, was_there: bool, interruption: type[BaseException]
) -> None:
    out = tmp_path / "out"
    if was_there:
        out.mkdir()
        (out / "file").write_text("old")
    before = contents(tmp_path)

    def interrupt() -> None:
        raise interruption

    with pytest.raises(interruption):
        fill(out, then=interrupt)
    assert contents(tmp_path) == before
    assert len(list(tmp_path.iterdir())) == was_there


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("failing_move", [1, 2])
def test_an_interrupted_swap_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing_move: int, interruption: type[BaseException]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "file").write_text("old")
    moves = 0
    replace = Path.replace

    def move(self: Path, target: Path) -> Path:
        nonlocal moves
        moves += 1
        if moves == failing_move:
            raise interruption
        return replace(self, target)

    with pytest.raises(interruption):
        fill(out, then=lambda: monkeypatch.setattr(Path, "replace", move))
    monkeypatch.undo()
    assert contents(tmp_path) == {"out/file": "old"}


def make_folder(out: Path) -> None:
    out.mkdir()
    (out / "old").write_text("old")


def make_file(out: Path) -> None:
    out.write_text("old")


def make_link(out: Path) -> None:
    elsewhere = out.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("kept")
    out.symlink_to(elsewhere)


@pytest.mark.parametrize("make", [make_folder, make_file, make_link])
def test_force_replaces_a_folder_a_file_or_a_link(tmp_path: Path, make) -> None:
    out = tmp_path / "out"
    make(out)
    with new_folder(out, force=True) as folder:
        (folder / "file").write_text("new")
    kept = {"elsewhere/kept": "kept"} if make is make_link else {}
    assert contents(tmp_path) == {"out/file": "new", **kept}
    assert not out.is_symlink()
