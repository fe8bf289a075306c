"""Images to evaluate on: whole, undecoded, the same validation images as in training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sret_nas.data.digests import Tell
from sret_nas.data.embedded import NAME
from sret_nas.data.errors import DataError
from sret_nas.data.items import Indices, Items
from sret_nas.data.loading import divide, find
from sret_nas.data.splits import Split, Stream

WHICH = ("test", "val", "all")


@dataclass(frozen=True)
class Chosen:
    """Images that were asked for, none of them decoded yet.

    Attributes:
        name: The data, as the user named them.
        which: ``test``, ``val`` or ``all``.
        splits: The images; of ``all`` those for training, validation and test.
        classes: Names of the classes.
        fingerprint: As of the ``DataSet`` that ``load_data`` makes with the same options.
        notes: What a user should know.
    """

    name: str
    which: str
    splits: tuple[Split, ...]
    classes: tuple[str, ...]
    fingerprint: str
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return sum(map(len, self.splits))


def choose_images(
    source: str | Path = NAME,
    which: str | None = None,
    *,
    image_size: int,
    subset: int | None = None,
    val_fraction: float = 0.2,
    val_images: int | None = None,
    seed: int = 0,
    root: Path | None = None,
    tell: Tell = lambda _: None,
) -> Chosen:
    """Choose images to evaluate on.

    Args:
        source: As in ``load_data``, like all that is not named here.
        which: ``test``; ``val``, as it was cut for a training with the same options; ``all``,
            for a model that never saw any; ``None`` for test images where there are some.
        image_size: Side in px at which data that can only be read in order are kept.
        subset: Of what validation was not cut from.
        val_fraction: Share that was cut off.
        val_images: Most of it.
        seed: Seed of the cut.
        root: Where downloads are kept.
        tell: Told of the progress.

    Example:
        >>> chosen = choose_images("demo", image_size=28)
        >>> chosen.which, len(chosen)
        ('test', 2000)

    Raises:
        DataError: no such data, or no such images among them.
        DownloadError: they are not here and cannot be downloaded.
    """
    if which is not None and which not in WHICH:
        raise DataError(f"split: given '{which}'; allowed: {', '.join(WHICH)}")
    found = find(str(source), image_size, root, tell)
    cut = divide(found, subset=subset, val_fraction=val_fraction, val_images=val_images, seed=seed)
    notes = [*found.notes, *cut.notes]
    if which is None:
        which = "test" if found.test is not None else "val"
        if which == "val":
            notes.append("no test images: the validation images are taken")
    if which == "test" and found.test is None:
        raise DataError(f"{found.name}: no test images", "--split val, or all")
    wanted: list[tuple[Items, Indices]] = []
    if which == "val":
        wanted.append((cut.val, cut.val_chosen))
    if which == "all":
        wanted.append((cut.train, np.arange(len(cut.train))))
    if which == "all" and cut.own_val:
        wanted.append((cut.val, np.arange(len(cut.val))))
    if which != "val" and found.test is not None:
        tell("reading the test images")
        test = found.test()
        test.channels = cut.train.channels
        wanted.append((test, np.arange(len(test))))
    splits = tuple(Stream(items, indices, image_size) for items, indices in wanted)
    return Chosen(found.name, which, splits, found.classes, cut.fingerprint(), tuple(notes))
