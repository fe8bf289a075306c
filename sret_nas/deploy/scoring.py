"""How good predictions are: accuracy with its interval, loss, calibration, confusion.

Shapes: N images, B batch, K classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from sret_nas.deploy.intervals import wilson
from sret_nas.errors import SretNasError, UsageError

BINS = 15
"""Bins of the calibration error, as in arXiv 1706.04599."""
TOP = 5


@dataclass(frozen=True)
class Scores:
    """What a classifier's predictions are worth; shares are from 0 to 1.

    Attributes:
        classes: Names of the classes, (K,).
        images: How many images were predicted, N.
        top1: Share of images whose class has the largest logit.
        top5: Share of images whose class is among the five largest; ``None`` below six classes.
        loss: Mean cross-entropy in nats.
        low: Lower end of the 95% Wilson interval of ``top1``.
        high: Its upper end.
        calibration_error: Expected calibration error of the largest probability, in 15 bins of
            equal width (arXiv 1706.04599).
        per_class: Accuracy of each class, (K,); ``None`` for one without images.
        counts: Images by (class, predicted class), where there are any.
    """

    classes: tuple[str, ...]
    images: int
    top1: float
    top5: float | None
    loss: float
    low: float
    high: float
    calibration_error: float
    per_class: tuple[float | None, ...]
    counts: dict[tuple[int, int], int]

    @cached_property
    def confusion(self) -> npt.NDArray[np.int64]:
        """Images by class (rows) and predicted class (columns), (K, K)."""
        matrix = np.zeros((len(self.classes),) * 2, np.int64)
        for pair, count in self.counts.items():
            matrix[pair] = count
        return matrix

    def worst(self, most: int = 5) -> list[tuple[str, float, int]]:
        """The classes of the lowest accuracy: name, accuracy, images; those without fault not.

        Args:
            most: How many at most.
        """
        sizes = Counter[int]()
        for (label, _), count in self.counts.items():
            sizes[label] += count
        found = [
            (share, label)
            for label, share in enumerate(self.per_class)
            if share is not None and share < 1
        ]
        return [(self.classes[at], share, sizes[at]) for share, at in sorted(found)[:most]]

    def confused(self, most: int = 5) -> list[tuple[str, str, int]]:
        """The commonest mistakes: class, what it was taken for, images.

        Args:
            most: How many at most.
        """
        wrong = [(-count, pair) for pair, count in self.counts.items() if pair[0] != pair[1]]
        return [
            (self.classes[label], self.classes[taken], -count)
            for count, (label, taken) in sorted(wrong)[:most]
        ]

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data for JSON; the confusion as its non-zero counts by name."""
        return {
            "top1": self.top1,
            "top1_low": self.low,
            "top1_high": self.high,
            "top5": self.top5,
            "loss": self.loss,
            "calibration_error": self.calibration_error,
            "images": self.images,
            "per_class": dict(zip(self.classes, self.per_class, strict=True)),
            "confusion": [
                [self.classes[label], self.classes[taken], count]
                for (label, taken), count in sorted(self.counts.items())
            ],
        }


class Tally:
    """Scores in the making, batch by batch: logits need not be kept.

    Args:
        classes: Names of the classes, (K,).
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self.images = self.right = self.among = 0
        self.loss = 0.0
        self.counts: Counter[tuple[int, int]] = Counter()
        self.in_bin = torch.zeros(3, BINS, dtype=torch.float64)  # images, confidence, right

    def add(self, logits_BK: Tensor, labels_B: Tensor) -> None:
        """Count a batch.

        Args:
            logits_BK: Logits, (B, K), on any device.
            labels_B: Classes, int64 (B,).

        Raises:
            UsageError: the shapes are not those of so many classes.
            SretNasError: logits are not finite.
        """
        logits_BK, labels_B = logits_BK.detach().double().cpu(), labels_B.cpu()
        if logits_BK.shape != (len(labels_B), len(self.classes)):
            raise UsageError(
                f"logits of shape {tuple(logits_BK.shape)}; "
                f"allowed: {(len(labels_B), len(self.classes))} (images, classes)"
            )
        bad = int((~logits_BK.isfinite()).any(1).sum())
        if bad:
            raise SretNasError(
                f"the logits of {bad:,} of {len(labels_B):,} images are not finite",
                "compute in fp32; if they stay so, the weights are broken",
            )
        if not len(labels_B):
            return
        self.images += len(labels_B)
        self.loss += F.cross_entropy(logits_BK, labels_B, reduction="sum").item()
        confidence_B, taken_B = logits_BK.softmax(1).max(1)
        right_B = taken_B == labels_B
        self.right += int(right_B.sum())
        top = logits_BK.topk(min(TOP, logits_BK.shape[1])).indices
        self.among += int((top == labels_B[:, None]).any(1).sum())
        self.counts.update(zip(labels_B.tolist(), taken_B.tolist(), strict=True))
        bin_B = (confidence_B * BINS).ceil().long().clamp(1, BINS) - 1  # (low, high]
        for row, values in zip(
            self.in_bin, (torch.ones_like(confidence_B), confidence_B, right_B), strict=True
        ):
            row += torch.bincount(bin_B, values.double(), BINS)

    def scores(self) -> Scores:
        """What was counted so far.

        Raises:
            UsageError: nothing was.
        """
        if not self.images:
            raise UsageError("no images to score; allowed: at least one")
        _, confidence, right = self.in_bin
        sizes, hits = Counter[int](), Counter[int]()
        for (label, taken), count in self.counts.items():
            sizes[label] += count
            hits[label] += count * (label == taken)
        low, high = wilson(self.right, self.images)
        return Scores(
            classes=self.classes,
            images=self.images,
            top1=self.right / self.images,
            top5=self.among / self.images if len(self.classes) > TOP else None,
            loss=self.loss / self.images,
            low=low,
            high=high,
            calibration_error=float((confidence - right).abs().sum() / self.images),
            per_class=tuple(
                hits[at] / sizes[at] if sizes[at] else None for at in range(len(self.classes))
            ),
            counts=dict(self.counts),
        )


def score(logits_NK: Tensor, labels_N: Tensor, classes: Sequence[str]) -> Scores:
    """Score all predictions at once.

    Args:
        logits_NK: Logits, (N, K).
        labels_N: Classes, int64 (N,).
        classes: Names of the classes, (K,).

    Example:
        >>> score(torch.eye(3) * 9, torch.tensor([0, 1, 1]), "abc").top1
        0.6666666666666666

    Raises:
        UsageError: no images, or other shapes.
        SretNasError: logits are not finite.
    """
    tally = Tally(classes)
    tally.add(logits_NK, labels_N)
    return tally.scores()
