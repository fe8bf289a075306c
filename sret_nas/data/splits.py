"""Splits, and how batches come out of them.

Shapes: B batch, N images, C channels, S side.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from sret_nas.data.errors import DataError
from sret_nas.data.items import Indices, Items

Batch = tuple[Tensor, Tensor]
AHEAD = 4
"""Batches of a stream that are decoded before they are asked for."""


class Split(ABC):
    """Images of one size with labels, to be run through in batches.

    Attributes:
        items: Where the images come from, undecoded; ``None`` for images made by hand.
        indices: Which of them, (N,), in the order of the split.
        unreadable: Names of images left out because they cannot be decoded.
    """

    items: Items | None = None
    indices: Indices = np.empty(0, np.int64)
    unreadable: tuple[str, ...] = ()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def first(self, count: int) -> Split:
        """The split without all but its first images.

        Args:
            count: How many at most.
        """

    @abstractmethod
    def to(self, device: torch.device) -> Split:
        """The split with its images on a device, where it holds them in memory.

        Args:
            device: Where they shall be; batches can be had on any other all the same.
        """

    @abstractmethod
    def take(self, batches: Iterable[Tensor], device: torch.device) -> Iterator[Batch]:
        """Batches by the positions of their images.

        Args:
            batches: Positions in the split, int64 (B,) each.
            device: Where the batches shall be.

        Yields:
            Images uint8 (B, C, S, S) and labels int64 (B,).
        """

    def shuffled(self, size: int, generator: torch.Generator) -> Tensor:
        """Positions in random order, cut into T whole batches: int64 (T, B).

        An incomplete last batch is left out (unless it is the only one), so that every
        step is over the same number of images.

        Args:
            size: Images per batch, B.
            generator: Source of the order, on the CPU.
        """
        order = torch.randperm(len(self), generator=generator)
        size = min(size, len(self))
        return order[: len(self) // size * size].view(-1, size)

    def batches(
        self, size: int, device: torch.device, generator: torch.Generator | None = None
    ) -> Iterator[Batch]:
        """Run through the split once.

        Args:
            size: Images per batch, B.
            device: Where the batches shall be.
            generator: Shuffles, as ``shuffled`` says; on the CPU. Without it: in order, all.

        Yields:
            Images uint8 (B, C, S, S) and labels int64 (B,).
        """
        if generator is not None:
            return self.take(self.shuffled(size, generator), device)
        return self.take(torch.split(torch.arange(len(self)), size), device)


class Resident(Split):
    """A split held in memory.

    Args:
        images: All images, uint8 (N, C, S, S).
        labels: Class indices, int64 (N,).
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int) -> Resident:
        """The first images as a view: nothing is copied."""
        return Resident(self.images[:count], self.labels[:count])

    def to(self, device: torch.device) -> Resident:
        """Move images and labels to a device."""
        return Resident(self.images.to(device), self.labels.to(device))

    def take(self, batches: Iterable[Tensor], device: torch.device) -> Iterator[Batch]:
        """Gather the images of each batch where all of them are, then move the batch."""
        for at in batches:
            at = at.to(self.images.device)
            yield self.images[at].to(device), self.labels[at].to(device)

    def batches(
        self, size: int, device: torch.device, generator: torch.Generator | None = None
    ) -> Iterator[Batch]:
        """Run through the split once; in order, batches are views of images on ``device``."""
        if generator is not None:
            return super().batches(size, device, generator)
        pairs = zip(torch.split(self.images, size), torch.split(self.labels, size), strict=True)
        return ((images.to(device), labels.to(device)) for images, labels in pairs)


class Stream(Split):
    """A split too large for memory: decoded by threads, ahead of its reader.

    Threads, not processes: decoding runs outside Python's lock, and a search worker
    need not fork from a process in which torch runs threads.

    Args:
        items: Where the images come from.
        indices: Which of them, (N,).
        side: Side at which they are decoded in px, S.
    """

    def __init__(self, items: Items, indices: Indices, side: int) -> None:
        self.items: Items = items
        self.indices = indices
        self.side = side

    def __len__(self) -> int:
        return len(self.indices)

    def first(self, count: int) -> Stream:
        """Keep the first indices alone; nothing is decoded."""
        return Stream(self.items, self.indices[:count], self.side)

    def to(self, device: torch.device) -> Stream:
        """The split itself: it holds no images, and its batches go where they are asked for."""
        return self

    def take(self, batches: Iterable[Tensor], device: torch.device) -> Iterator[Batch]:
        """Decode up to ``AHEAD`` batches while earlier ones are used; copies to a GPU do not block.

        Raises:
            DataError: an image cannot be decoded.
        """
        waiting = iter(batches)
        with ThreadPoolExecutor(1) as reader:
            ahead = deque(reader.submit(self._read, at) for at in itertools.islice(waiting, AHEAD))
            try:
                while ahead:
                    images, labels = ahead.popleft().result()
                    ahead.extend(
                        reader.submit(self._read, at) for at in itertools.islice(waiting, 1)
                    )
                    if device.type == "cuda":
                        images, labels = images.pin_memory(), labels.pin_memory()
                    yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            finally:
                reader.shutdown(cancel_futures=True)

    def _read(self, at: Tensor) -> Batch:
        chosen = self.indices[at.numpy()]
        images, bad = self.items.decode(chosen, self.side)
        if bad:
            raise DataError(
                f"{self.items.name(int(chosen[bad[0]]))}: cannot be decoded",
                "remove or replace the file, then start again",
            )
        return images, torch.from_numpy(self.items.labels[chosen])


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
