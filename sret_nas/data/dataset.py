"""A data set ready to train on, and how a split of it is held: in memory, or streamed.

The test images are opened by ``DataSet.test`` alone, which confirmation calls once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from sret_nas.data.errors import DataError
from sret_nas.data.items import Indices, Items
from sret_nas.data.source import Source
from sret_nas.data.splits import Resident, Split, Stream

RESIDENT_BYTES = 2 << 30
"""Splits larger than this together are streamed from where they lie."""
MOST_UNREADABLE = 0.05
"""Share of images that may be unreadable before the data are refused."""
SIZES_KEPT = 4
"""Sizes beside its own at which a data set keeps its images."""
MOST_NAMED = 100
"""Classes that a run writes down by name."""


@dataclass(frozen=True)
class DataSet:
    """Images of one size, split once and for all.

    Attributes:
        name: As the user named it.
        classes: Names of the classes.
        in_chans: 1 grey, 3 RGB.
        image_size: Side of the images in px.
        train: What to train on.
        val: What to compare candidates on.
        mean: Mean of the training images' pixels per channel, in 0 to 1.
        std: Their standard deviation per channel, on the same scale.
        mirror: Whether a mirrored image keeps its class.
        fingerprint: Hash of the images and of how they are split, wherever they lie.
        notes: What a user should know: skipped files, mixed channels, no test set.
    """

    name: str
    classes: tuple[str, ...]
    in_chans: int
    image_size: int
    train: Split
    val: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mirror: bool
    fingerprint: str
    notes: tuple[str, ...]
    open_test: Callable[[], Items] | None
    own_val: bool = False
    """Whether the data brought validation images of their own."""
    listing: Source | None = None
    """What was found of a folder: another process here loads it without a look at the files."""
    former_fingerprint: Callable[[], str] = lambda: ""
    """The fingerprint of versions before 0.2, which their runs have written down."""

    _others: dict[int, DataSet] = field(default_factory=dict, init=False, repr=False, compare=False)

    def at(self, image_size: int) -> DataSet:
        """The same images at another size, from wherever they come: the very ones, in their order.

        Mean and deviation stay those of this size. Up to ``SIZES_KEPT`` sizes are kept.

        Args:
            image_size: Side in px.

        Raises:
            DataError: most cannot be decoded any more.
        """
        if image_size == self.image_size:
            return self
        if image_size not in self._others:
            train, val = resized(self.train, image_size), resized(self.val, image_size)
            refuse_unreadable(train, val)
            while len(self._others) >= SIZES_KEPT:
                del self._others[next(iter(self._others))]
            self._others[image_size] = replace(self, image_size=image_size, train=train, val=val)
        return self._others[image_size]

    @property
    def num_classes(self) -> int:
        """How many classes there are, which is how many logits a model of the data has."""
        return len(self.classes)

    @property
    def has_test(self) -> bool:
        """Whether there are test images, so that ``test`` has something to open."""
        return self.open_test is not None

    def test(self) -> Split:
        """The test images, decoded now: for confirmation alone, at the very end.

        Raises:
            DataError: there are none, or most cannot be decoded.
        """
        if self.open_test is None:
            raise DataError(f"{self.name}: no test images")
        items = self.open_test()
        items.channels = self.in_chans
        resident = fits(items, len(items), self.image_size)
        split = split_of(items, np.arange(len(items)), self.image_size, resident)
        refuse_unreadable(split)
        return split

    def known_as(self, recorded: str) -> str:
        """The fingerprint for a run that may have written down that of a version before 0.2.

        Args:
            recorded: What the run has.

        Returns:
            ``recorded`` where it is of these data by either rule, else ``fingerprint``.
        """
        if recorded != self.fingerprint and recorded == self.former_fingerprint():
            return recorded
        return self.fingerprint

    def describe(self) -> dict[str, Any]:
        """What a run writes down about its data: name, fingerprint, sizes, notes; as plain data."""
        return {
            "name": self.name,
            "fingerprint": self.fingerprint,
            "image_size": self.image_size,
            "in_chans": self.in_chans,
            "num_classes": self.num_classes,
            "classes": list(self.classes[:MOST_NAMED]),
            "train": len(self.train),
            "val": len(self.val),
            "own_val": self.own_val,
            "notes": list(self.notes),
        }


def fits(items: Items, count: int, side: int) -> bool:
    """Whether so many images of a side in px are few enough to be held in memory."""
    return count * items.channels * side * side <= RESIDENT_BYTES


def split_of(items: Items, indices: Indices, side: int, resident: bool) -> Split:
    """Make a split of some images.

    Args:
        items: The images.
        indices: Which of them, (N,).
        side: Side that they are resized to in px.
        resident: Whether they are decoded now and held in memory, without those that cannot
            be; else they are streamed.
    """
    if not resident:
        return Stream(items, indices, side)
    images, bad = items.decode(indices, side)
    labels = torch.from_numpy(items.labels[indices])
    good = np.setdiff1d(np.arange(len(indices)), bad)
    if bad:
        images, labels = images[good], labels[good]
    split = Resident(images, labels)
    split.items, split.indices = items, indices[good]
    split.unreadable = tuple(
        items.name(int(indices[at])) + (f": {items.why(int(indices[at]))}" if k == 0 else "")
        for k, at in enumerate(bad)
    )
    return split


def resized(split: Split, side: int) -> Split:
    """The images of a split at another side in px: decoded again, or those in memory resized."""
    if isinstance(split, Resident) and split.items is None:
        images = F.interpolate(split.images, (side, side), mode="bilinear", antialias=True)
        return Resident(images, split.labels)
    assert split.items is not None
    resident = isinstance(split, Resident) and fits(split.items, len(split), side)
    return split_of(split.items, split.indices, side, resident)


def refuse_unreadable(*splits: Split) -> None:
    """Refuse data of which too much cannot be decoded.

    Raises:
        DataError: more than ``MOST_UNREADABLE`` of the images, with the first of them.
    """
    bad = [name for split in splits for name in split.unreadable]
    images = len(bad) + sum(map(len, splits))
    if len(bad) > MOST_UNREADABLE * images:
        raise DataError(
            f"{len(bad):,} of {images:,} images cannot be decoded, the first: {bad[0]}",
            f"remove or replace them; up to {MOST_UNREADABLE:.0%} are skipped",
        )
