"""A folder of images, one subfolder per class."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from sret_nas.data.digests import Tell
from sret_nas.data.errors import DataError
from sret_nas.data.items import FileItems
from sret_nas.data.pictures import shown
from sret_nas.data.source import Source

TRAIN = ("train", "training")
VAL = ("val", "valid", "validation")
TEST = ("test", "testing")
LAYOUT = (
    "expected: FOLDER/CLASS/IMAGE files, or FOLDER/train/CLASS/IMAGE with val/ and test/ "
    "beside train/ where you have them"
)
NO_TEST = "no test images in {}: the front is confirmed on validation alone"
NO_READER = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PALM", "PDF", "WMF"}
"""Formats that Pillow writes, or reads with another program's help alone."""
MOST_OTHERS = 100_000
"""Files that are no images, and ten times as many as there are images, before it is no data."""


def folder(root: Path, tell: Tell = lambda _: None) -> Source:
    """Read the layout of a folder; ``val`` and ``test`` beside ``train`` are optional.

    A ``val`` folder becomes the validation set; without one, validation is cut
    from the training images. Only a ``test`` folder is test data.

    Args:
        root: The folder.
        tell: Told of the progress.

    Raises:
        DataError: no images, one class, or a class without enough images.
    """
    parts = {path.name.lower(): path for path in _folders(root)}
    train = _first(parts, TRAIN)
    held_out = {name: _first(parts, names) for name, names in (("val", VAL), ("test", TEST))}
    if train is None and any(held_out.values()):
        raise DataError(f"{shown(root)}: has val/ or test/ but no train/", LAYOUT)
    top = train or root
    classes = tuple(path.name for path in _folders(top))
    if len(classes) < 2:
        raise DataError(
            f"{shown(top)}: {len(classes)} class folder(s)"
            f"{f' ({shown(classes[0])})' if classes else ''}; allowed: at least 2",
            LAYOUT,
        )
    items, notes = _items(top, classes, 1 if held_out["val"] else 2, tell)
    val = None
    if held_out["val"]:
        val, more = _items(held_out["val"], classes, 0, tell)
        notes += more
    test = None
    if held_out["test"]:
        _refuse_test(held_out["test"], classes)
        test = functools.partial(_test, held_out["test"], classes)
    else:
        notes.append(NO_TEST.format(shown(root)))
    names = tuple(map(shown, classes))
    return Source(shown(root), names, items, val, test, notes=tuple(notes))


def reads(root: Path, place: Path) -> bool:
    """Whether what is written into a folder would be taken for images of the data.

    Args:
        root: The folder of the data.
        place: Where somebody wants to write; it need not be there.
    """
    top, inside = root.resolve(), place.resolve()
    if not top.is_dir() or not inside.is_relative_to(top):
        return False
    if inside == top:
        return True
    parts = {path.name.lower(): path for path in _folders(top)}
    train = _first(parts, TRAIN)
    read = [_first(parts, names) for names in (TRAIN, VAL, TEST)] if train else [top]
    return any(one is not None and inside.is_relative_to(one) for one in read)


def _test(top: Path, classes: Sequence[str]) -> FileItems:
    return _items(top, classes)[0]


def _refuse_test(top: Path, classes: Sequence[str]) -> None:
    """Refuse test images that could not be used, before days are spent; none is opened."""
    inside = _folders(top)
    _refuse_others(top, inside, classes)
    walk = _Walk(suffixes())
    try:
        if any(walk.images(str(place)) for place in inside):
            return
    except OSError as error:
        raise DataError(f"{shown(top)}: cannot be read: {error.strerror}") from error
    raise DataError(
        f"{shown(top)}: no images; allowed: images by class, or no such folder",
        "remove the folder where there are no test images",
    )


def _refuse_others(top: Path, inside: Sequence[Path], classes: Sequence[str]) -> None:
    known = set(classes)
    unknown = [path.name for path in inside if path.name not in known]
    if unknown:
        raise DataError(
            f"{shown(top)}: class folder '{shown(unknown[0])}' is not among the training classes "
            f"({', '.join(map(shown, classes[:8]))}{', …' if len(classes) > 8 else ''})"
        )


def _first(parts: dict[str, Path], names: Sequence[str]) -> Path | None:
    return next((parts[name] for name in names if name in parts), None)


def _folders(root: Path) -> list[Path]:
    try:
        return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError as error:
        raise DataError(f"{shown(root)}: cannot be read: {error.strerror}") from error


def suffixes() -> set[str]:
    """Suffixes in lower case, with their dot, of files that are taken for images."""
    known = Image.registered_extensions()
    return {suffix for suffix, kind in known.items() if kind not in NO_READER}


@dataclass
class _Walk:
    """The files of one class after the other; every entry is looked at once.

    Attributes:
        suffixes: Of images.
        found: Images so far, over all classes.
        others: Files that are no images, by suffix or reason.
    """

    suffixes: set[str]
    found: int = 0
    others: Counter[str] = field(default_factory=Counter)

    def images(self, top: str) -> list[str]:
        """Paths of the images below a folder, relative to it and sorted."""
        found: list[str] = []
        seen: set[tuple[int, int]] = set()
        todo = [""]
        while todo:
            inside = todo.pop()
            with os.scandir(os.path.join(top, inside)) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    path = os.path.join(inside, entry.name)
                    if entry.is_dir():
                        if entry.is_symlink() and self._again(entry, seen):
                            continue
                        todo.append(path)
                    elif self._is_image(entry):
                        found.append(path)
        self.found += len(found)
        # As paths are sorted: folder by folder.
        return sorted(found, key=lambda path: path.split(os.sep))

    def _again(self, entry: os.DirEntry[str], seen: set[tuple[int, int]]) -> bool:
        """Whether a link leads where one has led before, or back to where it is."""
        state, leads = entry.stat(), os.path.realpath(entry.path)
        place = state.st_dev, state.st_ino
        here = os.path.realpath(os.path.dirname(entry.path))
        if place in seen or os.path.commonpath((here, leads)) == leads:
            self.others["link to a folder that was read already"] += 1
            return True
        seen.add(place)
        return False

    def _is_image(self, entry: os.DirEntry[str]) -> bool:
        suffix = os.path.splitext(entry.name)[1].lower()
        if suffix in self.suffixes and entry.is_file():
            return True
        if entry.is_symlink() and not os.path.exists(entry.path):
            reason = "broken link"
        elif not entry.is_file():
            reason = "no regular file"
        else:
            reason = shown(suffix) or "without a suffix"
        self.others[reason] += 1
        if self.others.total() > MOST_OTHERS and self.others.total() > 10 * self.found:
            raise DataError(
                f"{shown(os.path.dirname(entry.path))}: more than {MOST_OTHERS:,} files that are "
                "no images; allowed: a folder of images",
                LAYOUT,
            )
        return False


def _items(
    top: Path, classes: Sequence[str], least: int = 0, tell: Tell = lambda _: None
) -> tuple[FileItems, list[str]]:
    """The images under ``top``, and what to say of the other files between them."""
    _refuse_others(top, _folders(top), classes)
    walk = _Walk(suffixes())
    names: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        tell(f"looking for images: {len(names):,} in {label:,} of {len(classes):,} classes")
        try:
            inside = os.path.join(top, name)
            images = walk.images(inside) if os.path.isdir(inside) else []
        except OSError as error:
            where = shown(error.filename or top / name)
            raise DataError(f"{where}: cannot be read: {error.strerror}") from error
        if len(images) < least:
            need = "one to train on and one to validate" if least > 1 else "to train on"
            raise DataError(
                f"{shown(top / name)}: {len(images) or 'no'} image{'s' * (len(images) != 1)}; "
                f"allowed: at least {least}, {need}",
                "add images to the class, or remove its folder",
            )
        names += [os.path.join(name, image) for image in images]
        labels += [label] * len(images)
    return FileItems(names, labels, top, tell), left_out(walk.others, top)


def left_out(others: Counter[str], top: Path) -> list[str]:
    """What to tell of files that are no images: a sentence with their number and kinds, or none."""
    if not others:
        return []
    kinds = ", ".join(f"{count:,} {reason}" for reason, count in others.most_common(5))
    one = others.total() == 1
    return [
        f"{others.total():,} file{'s' * (not one)} in {shown(top)} that {'is' if one else 'are'} "
        f"no image{'s' * (not one)} {'was' if one else 'were'} left out ({kinds})"
    ]
