"""Which of several files in int8 to take: what is lost decides, then time, then bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sret_nas.errors import SretNasError

SAME_LOSS = 0.001
"""Losses that differ by less are the same: a tenth of a point."""
SAME_TIME = 1.05
"""Files up to so much slower than the fastest are as fast."""


@dataclass(frozen=True)
class Candidate:
    """A file that was made, run and measured; or what went wrong.

    Attributes:
        name: How it was made.
        path: The file.
        size_bytes: Its size.
        difference: Largest absolute difference of logits from PyTorch's.
        equal_predictions: Share of images of the same class as PyTorch says.
        top1: Accuracy on the labelled images; ``None`` without labels.
        loss: What is lost, 0 to 1: of accuracy, else of equal predictions. A gain is no loss.
        latency_ms: Median of one batch.
        error: Why there is no such file.
    """

    name: str
    path: Path | None = None
    size_bytes: int = 0
    difference: float = 0.0
    equal_predictions: float = 0.0
    top1: float | None = None
    loss: float = 1.0
    latency_ms: float = 0.0
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain data, without the file, which may be gone."""
        data = asdict(self)
        del data["path"]
        return data


def choose(candidates: Sequence[Candidate]) -> Candidate:
    """The candidate that loses least; of those that lose as much the fastest, then the smallest.

    Args:
        candidates: All that were tried.

    Raises:
        SretNasError: none of them is a file that runs.
    """
    sound = [one for one in candidates if one.error is None]
    if not sound:
        reasons = "; ".join(f"{one.name}: {one.error}" for one in candidates)
        raise SretNasError(f"--int8: no way to int8 gives a file that runs ({reasons})")
    least = min(max(one.loss, 0.0) for one in sound)
    good = [one for one in sound if one.loss <= least + SAME_LOSS]
    fastest = min(one.latency_ms for one in good)
    fast = [one for one in good if one.latency_ms <= SAME_TIME * fastest]
    return min(fast, key=lambda one: (one.size_bytes, one.latency_ms))
