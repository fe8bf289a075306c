"""A data set ready to train on, and the one door to it.

Validation is cut from what may be trained on, by a seed. The test images are
opened by ``DataSet.test`` alone, which confirmation calls once.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from operator import methodcaller
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sret_nas.data import embedded, folder, tars, timm_sets, torchvision_sets
from sret_nas.data.digests import Tell
from sret_nas.data.errors import DataError
from sret_nas.data.items import FileItems, Indices, Items
from sret_nas.data.source import Source
from sret_nas.data.splits import Resident, Split, Stream, stratified
from sret_nas.device import cache_folder
from sret_nas.files import nearest

RESIDENT_BYTES = 2 << 30
"""Splits larger than this together are streamed from where they lie."""
MOST_UNREADABLE = 0.05
"""Share of images that may be unreadable before the data are refused."""
MOST_NAMED = 100
"""Classes that a run writes down by name."""
STATISTICS_IMAGES = 2_000
"""Images of which mean and deviation of a streamed set are taken."""


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
        resident = _fits(items, len(items), self.image_size)
        split = _split(items, np.arange(len(items)), self.image_size, resident)
        _readable(split)
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


def load_data(
    source: str | Path | Source = embedded.NAME,
    *,
    image_size: int,
    subset: int | None = None,
    val_fraction: float = 0.2,
    val_images: int | None = None,
    seed: int = 0,
    root: Path | None = None,
    tell: Tell = lambda _: None,
) -> DataSet:
    """Load, split and resize data.

    Args:
        source: ``demo`` (built in), a name of torchvision's such as ``cifar10``, a
            folder of images by class, a tar file, or ``hfds/…``, ``wds/…``, ``tfds/…``;
            or the ``listing`` of a ``DataSet``.
        image_size: Side in px; the middle square of every image is resized to it.
        subset: Most training images, class shares kept; ``None`` for all. Never fewer
            than one a class.
        val_fraction: Share of the training images that is cut off for validation.
        val_images: Most validation images; what is cut off beyond it is left out.
        seed: Of the cut and of the subset.
        root: Where downloads are kept; default ``$SRET_NAS_DATA``, else the user's cache.
        tell: Told of the progress.

    Example:
        >>> data = load_data(image_size=32, subset=100)
        >>> len(data.train), len(data.val), data.num_classes
        (100, 2000, 10)

    Raises:
        DataError: nothing can be trained on there, with the reason.
        DownloadError: it is not here and cannot be downloaded.
    """
    if not 0 < val_fraction < 1:
        raise DataError(f"val_fraction: given {val_fraction}; allowed: between 0 and 1")
    found = source
    if not isinstance(found, Source):
        found = find(str(source), image_size, root, tell)
    train, val = found.train, found.val
    classes = len(found.classes)
    if len(np.unique(train.labels)) < 2:
        raise DataError(f"{found.name}: fewer than 2 classes have images; allowed: at least 2")
    grown: list[str] = []
    if subset is not None and subset < classes:
        grown = [f"{classes:,} training images, one a class, rather than a subset of {subset:,}"]
        subset = classes
    chosen = np.arange(len(train))
    if val is None:
        cut = stratified(train.labels, max(classes, round(val_fraction * len(train))), seed)
        chosen = np.setdiff1d(chosen, cut)
        val, val_chosen = train, cut
    else:
        val.channels = train.channels
        val_chosen = np.arange(len(val))
    if val_images is not None:
        val_chosen = val_chosen[stratified(val.labels[val_chosen], val_images, seed)]
    if subset is not None:
        chosen = chosen[stratified(train.labels[chosen], subset, seed)]
    resident = _fits(train, len(chosen) + len(val_chosen), image_size)
    splits = {
        "training": _split(train, chosen, image_size, resident),
        "validation": _split(val, val_chosen, image_size, resident),
    }
    _readable(*splits.values())
    _every_class_is_left(found, chosen, splits["training"])
    mean, std = _statistics(train, chosen, splits["training"], image_size)
    return DataSet(
        name=found.name,
        classes=found.classes,
        in_chans=train.channels,
        image_size=image_size,
        train=splits["training"],
        val=splits["validation"],
        mean=mean,
        std=std,
        mirror=found.mirror,
        fingerprint=_fingerprint(methodcaller("fingerprint"), found, chosen, val_chosen),
        notes=(*found.notes, *grown, *_remarks(found, splits)),
        open_test=found.test,
        own_val=found.val is not None,
        listing=found if isinstance(train, FileItems) else None,
        former_fingerprint=functools.partial(
            _fingerprint, methodcaller("former_fingerprint"), found, chosen, val_chosen
        ),
    )


def find(
    source: str, image_size: int, root: Path | None = None, tell: Tell = lambda _: None
) -> Source:
    """The reader of whatever ``source`` names.

    Raises:
        DataError: it names nothing, with the nearest name.
    """
    if source == embedded.NAME:
        return embedded.embedded()
    if source in torchvision_sets.SETS:
        return torchvision_sets.torchvision_set(source, root or downloads())
    if "\0" in source:
        raise DataError("--data: a path cannot hold a NUL")
    path = Path(source).expanduser()
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError as error:
        raise DataError(f"--data: cannot be looked at: {error.strerror}") from error
    if is_folder:
        return folder.folder(path, tell)
    if is_file and path.suffix == ".tar":
        packed = tars.tar(path, tell)
        if packed is not None:
            return packed
    if timm_sets.is_timm_name(source) or (is_file and path.suffix == ".tar"):
        return timm_sets.timm_set(source, root, image_size, RESIDENT_BYTES // (3 * image_size**2))
    if is_file:
        raise DataError(f"{source}: a file; allowed: a folder of images by class, or a .tar of one")
    names = [embedded.NAME, *torchvision_sets.SETS]
    guess = nearest(source, names)
    raise DataError(
        f"'{source}' is neither a folder nor the name of a data set"
        + (f"; did you mean '{guess}'?" if guess else ""),
        f"names: {', '.join(names)}; by timm: {', '.join(f'{p}/…' for p in timm_sets.PACKAGES)}",
    )


def downloads() -> Path:
    """Where downloads are kept: ``$SRET_NAS_DATA``, else ``data`` in the cache folder."""
    named = os.environ.get("SRET_NAS_DATA")
    return Path(named).expanduser() if named else cache_folder() / "data"


def _fits(items: Items, count: int, side: int) -> bool:
    return count * items.channels * side * side <= RESIDENT_BYTES


def _split(items: Items, indices: Indices, side: int, resident: bool) -> Split:
    if not resident:
        return Stream(items, indices, side)
    images, bad = items.decode(indices, side)
    labels = torch.from_numpy(items.labels[indices])
    if bad:
        good = np.setdiff1d(np.arange(len(indices)), bad)
        images, labels = images[good], labels[good]
    split = Resident(images, labels)
    split.unreadable = tuple(
        items.name(int(indices[at])) + (f": {items.why(int(indices[at]))}" if k == 0 else "")
        for k, at in enumerate(bad)
    )
    return split


def _readable(*splits: Split) -> None:
    """Refuse data of which too much cannot be decoded."""
    bad = [name for split in splits for name in split.unreadable]
    images = len(bad) + sum(map(len, splits))
    if len(bad) > MOST_UNREADABLE * images:
        raise DataError(
            f"{len(bad):,} of {images:,} images cannot be decoded, the first: {bad[0]}",
            f"remove or replace them; up to {MOST_UNREADABLE:.0%} are skipped",
        )


def _every_class_is_left(found: Source, chosen: Indices, train: Split) -> None:
    if isinstance(train, Resident) and train.unreadable:
        lost = np.setdiff1d(found.train.labels[chosen], train.labels.numpy())
        if len(lost):
            name = found.classes[int(lost[0])]
            raise DataError(f"{found.name}: no image of class '{name}' can be decoded")


def _statistics(
    items: Items, chosen: Indices, train: Split, side: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of the training images per channel, in 0 to 1."""
    if isinstance(train, Resident):
        images = train.images
    else:
        images, _ = items.decode(chosen[:: -(-len(chosen) // STATISTICS_IMAGES)], side)
    # By histogram: exact, and a large set is never held as floats.
    means, deviations = [], []
    values = torch.arange(256, dtype=torch.float64) / 255
    for channel in images.unbind(1):
        counts = torch.bincount(channel.flatten(), minlength=256).double()
        mean = (counts @ values / counts.sum()).item()
        variance = (counts @ (values - mean) ** 2 / counts.sum()).item()
        means.append(mean)
        deviations.append(max(variance**0.5, 1 / 255))
    return tuple(means), tuple(deviations)


def _fingerprint(of: Callable[[Items], str], found: Source, train: Indices, val: Indices) -> str:
    digest = hashlib.sha256(of(found.train).encode())
    if found.val is not None:
        digest.update(of(found.val).encode())
    digest.update(train.tobytes())
    digest.update(val.tobytes())
    return digest.hexdigest()[:16]


def _remarks(found: Source, splits: dict[str, Split]) -> list[str]:
    remarks = [
        f"{len(split.unreadable):,} {name} images cannot be decoded and were skipped, "
        f"the first: {split.unreadable[0]}"
        if len(split.unreadable) > 1
        else f"1 {name} image cannot be decoded and was skipped: {split.unreadable[0]}"
        for name, split in splits.items()
        if split.unreadable
    ]
    if any(items.sampled for items in (found.train, found.val) if items is not None):
        remarks.append(
            "identified by a sample of the content (large data are not read whole for it)"
        )
    kinds = found.train.kinds
    if len(kinds) > 1:
        listed = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
        remarks.append(f"mixed channels ({listed}): all are read as RGB")
    return remarks
