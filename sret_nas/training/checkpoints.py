"""States of a training as files: whole or not at all, the last ones kept, each with its hash."""

from __future__ import annotations

import hashlib
import io
import os
import re
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

KEPT = 2
NAME = re.compile(r"(\d{9})-([0-9a-f]{16})\.pt")


def save(state: Mapping[str, Any], folder: Path, number: int) -> Path:
    """Write a state beside the earlier ones, and remove all but the last ``KEPT``.

    Args:
        state: Tensors and plain data.
        folder: Where; made where there is none.
        number: Ascending, e.g. steps done.

    Raises:
        OSError: it cannot be written; the earlier ones stay.
    """
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    content = buffer.getbuffer()
    digest = hashlib.sha256(content).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{number:09d}-{digest}.pt"
    temporary = folder / f".{secrets.token_hex(8)}.tmp"
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
    for old in _states(folder)[:-KEPT]:
        old.unlink(missing_ok=True)
    return path


def latest(folder: Path, tell: Callable[[str], None] = lambda _: None) -> dict[str, Any] | None:
    """The last state that is whole, or ``None`` where there is none.

    Args:
        folder: Where states were saved.
        tell: Told of states that are broken, and passed over.
    """
    for path in reversed(_states(folder)):
        found = NAME.fullmatch(path.name)
        assert found is not None
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest()[:16] != found[2]:
            tell(f"{path}: broken (its content is not what was written); going on from before it")
            continue
        state: dict[str, Any] = torch.load(
            io.BytesIO(content), map_location="cpu", weights_only=True
        )
        return state
    return None


def _states(folder: Path) -> list[Path]:
    """States in a folder, the oldest first."""
    return sorted(path for path in folder.glob("*.pt") if NAME.fullmatch(path.name))
