"""Files are read whole or refused: nothing waits, nothing grows without bound."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sret_nas import files
from sret_nas.errors import ConfigError, UsageError
from sret_nas.study.address import Address


def test_text_is_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes("größe: 1\r\n".encode() + b"b: 2\r")
    assert files.read_text(path) == "größe: 1\nb: 2\n"


@pytest.mark.parametrize("suffix", [".yaml", ".json", ""])
def test_what_is_no_regular_file_is_refused_unread(tmp_path: Path, suffix: str) -> None:
    endless, pipe = tmp_path / f"zero{suffix}", tmp_path / f"pipe{suffix}"
    endless.symlink_to("/dev/zero")
    os.mkfifo(pipe)
    for path in (endless, pipe):
        with pytest.raises(ConfigError, match="cannot be read: not a regular file"):
            files.read_text(path)
        with pytest.raises(UsageError, match="not a regular file"):
            Address.parse(f"@{path}")


def test_no_more_is_read_than_a_file_may_have(tmp_path: Path) -> None:
    path = tmp_path / "big.yaml"
    path.write_bytes(b"#" * files.MAX_BYTES)
    assert len(files.read_text(path)) == files.MAX_BYTES
    path.write_bytes(b"#" * (files.MAX_BYTES + 1))
    with pytest.raises(ConfigError, match="larger than 1,000,000 bytes"):
        files.read_text(path)


@pytest.mark.parametrize(
    ("path", "reason"),
    [("gone", "No such file"), (".", "Is a directory"), ("a\0b", "not a path")],
)
def test_what_cannot_be_read_is_one_line(path: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        files.read_text(Path(path))
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8 text"):
        files.read_text(tmp_path / "a.yaml")
