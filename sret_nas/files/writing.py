"""Files written whole or not at all, and names that are safe for them."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MAX_NAME = 100
"""Characters of a file's name that somebody else has chosen."""


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all: a temporary file of its own, then a rename.

    Nobody knows the temporary name beforehand, and what should lie there, a link too, is
    not opened. What is no file, a device, is never replaced.

    Raises:
        OSError: it cannot be written; what was there stays as it was.
    """
    if path.exists() and not path.is_file():
        code = errno.EISDIR if path.is_dir() else errno.EINVAL
        why = os.strerror(code) if path.is_dir() else "not a regular file"
        raise OSError(code, why, str(path))
    temporary = path.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        with temporary.open("x", encoding="utf-8") as file:  # created, or nothing at all
            try:
                file.write(text)
                file.close()
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
    except OSError as error:  # of the file that was meant
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A place where somebody else's code writes a file, which takes its name only if all is well.

    It may write further files beside it, as formats of two files do: they move along.

    Args:
        path: The file that is meant; its folder must be there.

    Yields:
        Where to write: a file of the same name in a folder of its own.

    Raises:
        OSError: it cannot be written; what was there stays as it was.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as place:
        draft = Path(place) / path.name
        yield draft
        for made in sorted(Path(place).iterdir(), key=lambda one: one == draft):
            made.replace(path.parent / made.name)  # the file that was meant comes last


def safe_name(name: str) -> str:
    """Make any name that of one file in one folder; different names stay different.

    Example:
        >>> safe_name("smoke-2mmacs")
        'smoke-2mmacs'
        >>> safe_name("../up")
        'up-8c722b'
    """
    safe = re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII).strip("-.")[:MAX_NAME]
    if safe and safe == name:
        return name
    return f"{safe}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:6]}".lstrip("-")
