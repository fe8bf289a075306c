"""The one door to data: from whatever names them to a ``DataSet``.

Validation is cut from what may be trained on, by a seed.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from operator import methodcaller
from pathlib import Path

import numpy as np
import torch

from sret_nas.data import dataset, embedded, folder, tars, timm_sets, torchvision_sets
from sret_nas.data.dataset import DataSet, fits, refuse_unreadable, split_of
from sret_nas.data.digests import Tell
from sret_nas.data.errors import DataError
from sret_nas.data.items import FileItems, Indices, Items
from sret_nas.data.source import Source
from sret_nas.data.splits import Resident, Split, stratified
from sret_nas.device import cache_folder
from sret_nas.files import nearest

STATISTICS_IMAGES = 2_000
"""Images of which mean and deviation of a streamed set are taken."""


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
        seed: Seed of the cut and of the subset.
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
    found = source
    if not isinstance(found, Source):
        found = find(str(source), image_size, root, tell)
    cut = divide(found, subset=subset, val_fraction=val_fraction, val_images=val_images, seed=seed)
    train, chosen, val, val_chosen = cut.train, cut.chosen, cut.val, cut.val_chosen
    resident = fits(train, len(chosen) + len(val_chosen), image_size)
    splits = {
        "training": split_of(train, chosen, image_size, resident),
        "validation": split_of(val, val_chosen, image_size, resident),
    }
    refuse_unreadable(*splits.values())
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
        fingerprint=cut.fingerprint(),
        notes=(*found.notes, *cut.notes, *_remarks(found, splits)),
        open_test=found.test,
        own_val=found.val is not None,
        listing=found if isinstance(train, FileItems) else None,
        former_fingerprint=functools.partial(cut.fingerprint, methodcaller("former_fingerprint")),
    )


@dataclass(frozen=True)
class Division:
    """Which images are for training, and which for validation.

    Attributes:
        train: What may be trained on.
        chosen: Which of it to train on, (N,).
        val: Where the validation images are.
        val_chosen: Which of them, (N,).
        own_val: Whether the data brought them; else they are cut from ``train``.
        notes: What a user should know.
    """

    train: Items
    chosen: Indices
    val: Items
    val_chosen: Indices
    own_val: bool
    notes: tuple[str, ...] = ()

    def fingerprint(self, of: Callable[[Items], str] = methodcaller("fingerprint")) -> str:
        """Hash of the images and of how they are divided, wherever they lie.

        Args:
            of: The hash of some images.
        """
        digest = hashlib.sha256(of(self.train).encode())
        if self.own_val:
            digest.update(of(self.val).encode())
        digest.update(self.chosen.tobytes())
        digest.update(self.val_chosen.tobytes())
        return digest.hexdigest()[:16]


def divide(
    found: Source,
    *,
    subset: int | None = None,
    val_fraction: float = 0.2,
    val_images: int | None = None,
    seed: int = 0,
) -> Division:
    """Cut validation from what may be trained on, unless the data bring their own.

    Args:
        found: The data.
        subset: As in ``load_data``, like all that follow.
        val_fraction: Share that is cut off.
        val_images: Most of it that are kept.
        seed: Seed of the cut.

    Raises:
        DataError: there is nothing to tell apart.
    """
    if not 0 < val_fraction < 1:
        raise DataError(f"val_fraction: given {val_fraction}; allowed: between 0 and 1")
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
    return Division(train, chosen, val, val_chosen, found.val is not None, tuple(grown))


def find(
    source: str, image_size: int, root: Path | None = None, tell: Tell = lambda _: None
) -> Source:
    """Find what a name stands for, and read its layout.

    Args:
        source: As in ``load_data``.
        image_size: Side in px at which data that can only be read in order are kept.
        root: Where downloads are kept; default ``downloads``.
        tell: Told of the progress.

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
        return timm_sets.timm_set(
            source, root, image_size, dataset.RESIDENT_BYTES // (3 * image_size**2)
        )
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
