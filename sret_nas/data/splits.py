"""Splits, and how batches come out of them.

Shapes: B batch, N images, C channels, S side.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sret_nas.data.errors import DataError
from sret_nas.data.items import Indices, Items

Batch = tuple[Tensor, Tensor]


class Split(ABC):
    """Images of one size with labels, to be run through in batches.

    Attributes:
        skipped: Images left out because they cannot be decoded.
    """

    skipped: int = 0

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def first(self, count: int) -> Split:
        """The same split with its first images alone, at most ``count``."""

    @abstractmethod
    def to(self, device: torch.device) -> Split:
        """The same split, its images on ``device`` where they are held in memory."""

    @abstractmethod
    def _take(self, batches: list[Tensor], device: torch.device) -> Iterator[Batch]:
        """Batches by their indices."""

    def batches(
        self, size: int, device: torch.device, generator: torch.Generator | None = None
    ) -> Iterator[Batch]:
        """Run through the split once.

        Args:
            size: Images per batch B.
            device: Where the batches shall be.
            generator: On the CPU; shuffles. A shuffled run leaves out an
                incomplete last batch (unless it is the only one), so that every
                step is over the same number of images. Without it: in order, all.

        Yields:
            Images uint8 (B, C, S, S) and labels int64 (B,).
        """
        if generator is None:
            order = torch.arange(len(self))
        else:
            order = torch.randperm(len(self), generator=generator)
            if len(self) > size:
                order = order[: len(self) // size * size]
        return self._take([order[i : i + size] for i in range(0, len(order), size)], device)


class Resident(Split):
    """A split held in memory.

    Args:
        images: uint8 (N, C, S, S).
        labels: int64 (N,).
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int) -> Resident:
        """A view of the first images."""
        return Resident(self.images[:count], self.labels[:count])

    def to(self, device: torch.device) -> Resident:
        """Move the images."""
        return Resident(self.images.to(device), self.labels.to(device))

    def _take(self, batches: list[Tensor], device: torch.device) -> Iterator[Batch]:
        for at in batches:
            at = at.to(self.images.device)
            yield self.images[at].to(device), self.labels[at].to(device)


class Stream(Split):
    """A split too large for memory: decoded by worker processes as it is read.

    Args:
        items: Where the images come from.
        indices: Which of them, (N,).
        side: S.
    """

    def __init__(self, items: Items, indices: Indices, side: int) -> None:
        self.items = items
        self.indices = indices
        self.side = side

    def __len__(self) -> int:
        return len(self.indices)

    def first(self, count: int) -> Stream:
        """Fewer indices."""
        return Stream(self.items, self.indices[:count], self.side)

    def to(self, device: torch.device) -> Stream:
        """Nothing to move."""
        return self

    def _take(self, batches: list[Tensor], device: torch.device) -> Iterator[Batch]:
        loader = DataLoader(
            _Decoded(self),
            batch_size=None,
            sampler=[at.numpy() for at in batches],
            num_workers=(os.cpu_count() or 1) if self.items.parallel else 0,
            pin_memory=device.type == "cuda",
            # The loader draws its workers' seeds from a generator; not from the global one.
            generator=torch.Generator(),
        )
        for images, labels, broken in loader:
            if broken:
                raise DataError(
                    f"{broken}: cannot be decoded", "remove or replace the file, then start again"
                )
            yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)


class _Decoded(Dataset[tuple[Tensor, Tensor, str]]):
    """A data set whose items are whole batches, asked for by their indices."""

    def __init__(self, split: Stream) -> None:
        self.split = split

    def __getitem__(self, at: Indices) -> tuple[Tensor, Tensor, str]:
        chosen = self.split.indices[at]
        images, bad = self.split.items.decode(chosen, self.split.side)
        broken = self.split.items.name(int(chosen[bad[0]])) if bad else ""
        return images, torch.from_numpy(self.split.items.labels[chosen]), broken


def stratified(labels: Indices, count: int, seed: int) -> Indices:
    """Positions of ``count`` items whose class shares are those of ``labels``.

    Shares are rounded by the largest remainder; every class keeps at least one
    where ``count`` allows it. The result is a sorted, seeded choice.
    """
    if count >= len(labels):
        return np.arange(len(labels))
    random = np.random.default_rng(seed)
    classes, sizes = np.unique(labels, return_counts=True)
    floor = 1 if count >= len(classes) else 0
    share = np.maximum(sizes * (count / len(labels)), floor)
    quota = np.floor(share).astype(int)
    while quota.sum() < count:
        open_ = np.where(quota < sizes, share - quota, -np.inf)
        quota[open_.argmax()] += 1
    while quota.sum() > count:
        quota[np.where(quota > floor, quota - share, -np.inf).argmax()] -= 1
    chosen = [
        random.permutation(np.flatnonzero(labels == label))[:take]
        for label, take in zip(classes, quota, strict=True)
    ]
    return np.sort(np.concatenate(chosen)).astype(np.int64)
