"""Why a network cannot be trained."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch

from sret_nas.errors import TrainingError

DIVERGED = 3.0
"""A training loss of more than this times that of guessing has diverged."""


class NotFiniteError(TrainingError):
    """The loss became NaN or infinite."""

    reason = "NaN"


class DivergedError(TrainingError):
    """The loss grew far above that of guessing."""

    reason = "diverged"


class OutOfMemoryError(TrainingError):
    """Not even one image at a time fits into memory, or not even what all images share."""

    reason = "out of memory"


def checked(loss: float, epoch: int, num_classes: int, begun: bool = False) -> float:
    """The training loss, if it is one that a training can go on from.

    Args:
        loss: Mean loss of an epoch.
        epoch: Number of the epoch, from 1, for the message.
        num_classes: Classes that guessing has to choose from.
        begun: Whether the rate is rising still: a loss may be large then, and fall later.

    Raises:
        NotFiniteError: it is NaN or infinite.
        DivergedError: it is far above that of guessing.
    """
    if not math.isfinite(loss):
        raise NotFiniteError(f"epoch {epoch}: the training loss is {loss}", "a lower lr")
    if not begun and loss > DIVERGED * math.log(num_classes):
        raise DivergedError(
            f"epoch {epoch}: the training loss is {loss:.3g}, that of guessing "
            f"{math.log(num_classes):.3g}",
            "a lower lr",
        )
    return loss


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of torch or Python is a lack of memory."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError)
        and ("can't allocate memory" in str(error) or "not enough memory" in str(error))
    )


@contextlib.contextmanager
def needing_room(what: str, device: torch.device) -> Iterator[None]:
    """Within, a lack of memory is a failure of the training: nothing can be made smaller.

    Args:
        what: What the room is for, for the message.
        device: The device whose memory it is.

    Raises:
        OutOfMemoryError: there is not enough.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"{what}: out of memory on {device}",
            "a smaller image size or width, or fewer workers",
        ) from error
