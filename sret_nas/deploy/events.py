"""Events for TensorBoard, an entry an epoch, where the package is installed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from sret_nas.deploy.full_training import Watch
from sret_nas.deploy.summary import Epoch

EVENTS = "tensorboard"
"""Folder of the events in a model folder."""
SCALARS = {
    "loss/train": "train_loss",
    "loss/validation": "val_loss",
    "accuracy/validation": "val_accuracy",
    "lr": "lr",
    "images_per_second": "images_per_second",
}
"""Fields of an epoch by the names of their charts; a step is an epoch."""


class Events:
    """Writes epochs; of a training that goes on from an earlier epoch the later ones are purged.

    Args:
        folder: The model folder.
        say: Told once why nothing more is written.
    """

    def __init__(self, folder: Path, say: Callable[[str], None] = lambda _: None) -> None:
        self.folder, self.say = folder / EVENTS, say
        self._make = _writer_class()
        self._writer: Any = None

    def __call__(self, row: Epoch) -> None:
        """Write an epoch. A disk that is full ends the events, not the training."""
        if self._make is None:
            return
        try:
            if self._writer is None:
                self._writer = self._make(log_dir=str(self.folder), purge_step=row.epoch)
            for name, field in SCALARS.items():
                self._writer.add_scalar(name, getattr(row, field), row.epoch)
            self._writer.flush()  # whoever looks sees it now
        except OSError as error:
            self.say(f"note: no more events for TensorBoard: {self.folder}: {error.strerror}")
            self._make = None

    def close(self) -> None:
        """End the file."""
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.close()


def _writer_class() -> Callable[..., Any] | None:
    """Torch's ``SummaryWriter``, or ``None`` where its package is missing or too old."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter


@contextlib.contextmanager
def with_events(watch: Watch, folder: Path) -> Iterator[Watch]:
    """A watch that writes events too.

    Args:
        watch: Whom else to tell.
        folder: The model folder.
    """
    events = Events(folder, watch.say)

    def epoch(row: Epoch) -> None:
        events(row)
        watch.epoch(row)

    try:
        yield replace(watch, epoch=epoch)
    finally:
        events.close()
