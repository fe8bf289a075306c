"""What an export came to: a file, and what it is worth beside the model it was made of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sret_nas.deploy.choosing import Candidate
from sret_nas.deploy.comparing import Comparison
from sret_nas.deploy.exporting import Wanted
from sret_nas.latency.timing import Summary


@dataclass(frozen=True)
class Side:
    """A model before or after: where it runs, how good and how fast it is.

    Attributes:
        runtime: What runs it.
        dtype: What it computes in.
        top1: Accuracy on the images; ``None`` without labels.
        latency_ms: Median of one batch; ``None`` where it does not run here.
        p95_ms: 95th percentile.
        size_bytes: Of its file; ``None`` for PyTorch.
    """

    runtime: str
    dtype: str
    top1: float | None
    size_bytes: int | None
    latency_ms: float | None = None
    p95_ms: float | None = None

    def timed(self, found: Summary | None) -> Side:
        """The same with what was measured."""
        if found is None:
            return self
        return replace(self, latency_ms=1e3 * found.median_s, p95_ms=1e3 * found.p95_s)


@dataclass(frozen=True)
class Exported:
    """A file that was written, and what it is worth.

    Attributes:
        path: The file.
        to: Its kind.
        wanted: What it is like.
        images: Images it was run on, N.
        comparison: Its logits beside PyTorch's; ``None`` where it cannot run here.
        not_run: Why it did not run.
        before: PyTorch; of a file in int8 or half precision, the same kind of file in float32.
        after: The file.
        chosen: The way to int8 that was taken.
        candidates: All ways that were tried.
        threads: Threads that were computed with.
    """

    path: Path
    to: str
    wanted: Wanted
    images: int
    comparison: Comparison | None
    not_run: str | None
    before: Side
    after: Side
    chosen: str | None
    candidates: tuple[Candidate, ...]
    threads: int

    @property
    def lost(self) -> float | None:
        """Accuracy that is lost against ``before``, 0 to 1; ``None`` without labels."""
        if self.before.top1 is None or self.after.top1 is None:
            return None
        return self.before.top1 - self.after.top1

    def to_dict(self, model: str, device: str) -> dict[str, Any]:
        """What was done, as plain data for JSON.

        Args:
            model: What the model is called.
            device: The device in words.
        """
        found, wanted = self.comparison, self.wanted
        return {
            "model": model,
            "to": self.to,
            "file": str(self.path),
            "size_bytes": self.after.size_bytes,
            "dtype": self.after.dtype,
            "image_size": wanted.side,
            "batch": wanted.batch,
            "opset": wanted.opset,
            "images": self.images,
            "not_run": self.not_run,
            "difference": found and found.difference,
            "equal_predictions": found and found.equal_predictions,
            "top1_before": self.before.top1,
            "top1_after": self.after.top1,
            "lost": self.lost,
            "latency_before_ms": self.before.latency_ms,
            "latency_after_ms": self.after.latency_ms,
            "before": vars(self.before),
            "after": vars(self.after),
            "device": device,
            "threads": self.threads,
            "chosen": self.chosen,
            "candidates": [one.to_dict() for one in self.candidates],
        }
