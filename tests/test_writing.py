"""What is written: whole or not at all, and only where it was meant to be."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from sret_nas import files


def test_a_planted_link_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither under the name that earlier versions took, nor under the very one taken now."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / f".report.html.{os.getpid()}.tmp").symlink_to(victim)
    files.write(folder / "report.html", "page")
    assert victim.read_text() == "mine"
    monkeypatch.setattr(files.writing.secrets, "token_hex", lambda _: "guessed")
    (folder / ".guessed.tmp").symlink_to(victim)
    with pytest.raises(FileExistsError):
        files.write(folder / "report.html", "other")
    assert victim.read_text() == "mine"
    assert (folder / "report.html").read_text() == "page"


def test_what_is_a_link_itself_is_replaced(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "report.html").symlink_to(victim)
    files.write(tmp_path / "report.html", "page")
    assert victim.read_text() == "mine"
    assert not (tmp_path / "report.html").is_symlink()


def test_a_file_has_the_users_permissions_and_leaves_nothing_else(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        files.write(tmp_path / ("n" * 250), "text")
    finally:
        os.umask(before)
    (path,) = tmp_path.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


NAMES = [
    "../TRAV", "..", ".", "", "/etc/passwd", "a/b", "a\\b", "C:x", "-rf", "--out", ".hidden",
    "x" * 300, "é" * 200, "nul\0", "line\nbreak", "\x1b[31m", "\udc80", "a b", "a-b",
]  # fmt: skip


def test_every_name_becomes_one_file_in_the_folder(tmp_path: Path) -> None:
    made = [files.safe_name(name) for name in NAMES]
    assert len(set(made)) == len(NAMES)
    for name in made:
        assert Path(name).name == name
        assert not name.startswith(("-", "."))
        assert len(os.fsencode(name)) <= 120
        (tmp_path / name).touch()
    assert {path.name for path in tmp_path.iterdir()} == set(made)
    for name in ("smoke-2mmacs-0a1b2c", "demo", "run_1.2"):
        assert files.safe_name(name) == name


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    pipe, folder = tmp_path / "pipe", tmp_path / "folder"
    os.mkfifo(pipe)
    folder.mkdir()
    with pytest.raises(OSError, match="not a regular file"):
        files.write(pipe, "text")
    with pytest.raises(IsADirectoryError):
        files.write(folder, "text")
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert sorted(tmp_path.iterdir()) == [folder, pipe]
