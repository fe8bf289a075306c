"""``summary.csv`` of a model folder: a training, a line an epoch. No torch here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from sret_nas import files
from sret_nas.errors import ConfigError

SUMMARY = "summary.csv"


@dataclass(frozen=True)
class Epoch:
    """A line of ``summary.csv``.

    Attributes:
        epoch: From 1.
        train_loss: Mean over the epoch's steps, with augmentation and all.
        val_loss: Cross-entropy on the validation images, of the moving average if there is one.
        val_accuracy: Share of them classified right, 0 to 1.
        lr: Learning rate of its last step.
        images_per_second: Training images, validation left out.
        seconds: Of the epoch, validation included.
    """

    epoch: int
    train_loss: float
    val_loss: float
    val_accuracy: float
    lr: float
    images_per_second: float
    seconds: float


NAMES = tuple(one.name for one in fields(Epoch))


def write_summary(folder: Path, rows: Sequence[Epoch]) -> None:
    """Write the file whole.

    Args:
        folder: The model folder.
        rows: All epochs so far.

    Raises:
        OSError: it cannot be written.
    """
    lines = [",".join(NAMES)]
    lines += [",".join(f"{getattr(row, name):.6g}" for name in NAMES) for row in rows]
    files.write(folder / SUMMARY, "\n".join(lines) + "\n")


def read_summary(folder: Path) -> list[Epoch]:
    """The epochs of a training; none where it has not ended one yet.

    Args:
        folder: The model folder.

    Raises:
        ConfigError: the file is broken.
    """
    path = folder / SUMMARY
    if not path.exists():
        return []
    heading, *lines = files.read_text(path).splitlines() or [""]
    if heading != ",".join(NAMES):
        raise ConfigError(
            f"{path}:1: given '{heading[:80]}'; allowed: {','.join(NAMES)}", "train writes it"
        )
    return [_epoch(line, number, path) for number, line in enumerate(lines, 1)]


def _epoch(line: str, number: int, path: Path) -> Epoch:
    try:
        first, *values = map(float, line.split(","))
        row = Epoch(int(first), *values)
    except (ValueError, TypeError, OverflowError):
        row = None
    if row is None or first != number or not all(map(math.isfinite, values)):
        raise ConfigError(
            f"{path}:{number + 1}: given '{line[:80]}'; allowed: {len(NAMES)} numbers, the first "
            f"{number}",
            "the training's checkpoints have the true ones: the same train command writes it anew",
        )
    return row
