"""A folder of images, one subfolder per class."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from sret_nas.data.errors import DataError
from sret_nas.data.items import FileItems
from sret_nas.data.source import Source

TRAIN = ("train", "training")
VAL = ("val", "valid", "validation")
TEST = ("test", "testing")
LAYOUT = (
    "expected: FOLDER/CLASS/IMAGE files, or FOLDER/train/CLASS/IMAGE with val/ and test/ "
    "beside train/ where you have them"
)


def folder(root: Path) -> Source:
    """Read the layout of a folder; ``val`` and ``test`` beside ``train`` are optional.

    A ``val`` folder becomes the validation set; without one, validation is cut
    from the training images. Only a ``test`` folder is test data.

    Raises:
        DataError: no images, one class, or a class without enough images.
    """
    parts = {path.name.lower(): path for path in _folders(root)}
    train = _first(parts, TRAIN)
    held_out = {name: _first(parts, names) for name, names in (("val", VAL), ("test", TEST))}
    if train is None and any(held_out.values()):
        raise DataError(f"{root}: has val/ or test/ but no train/", LAYOUT)
    top = train or root
    classes = tuple(path.name for path in _folders(top))
    if len(classes) < 2:
        raise DataError(
            f"{top}: {len(classes)} class folder(s){f' ({classes[0]})' if classes else ''}; "
            "allowed: at least 2",
            LAYOUT,
        )
    items, ignored = _items(top, classes, least=2)
    notes = [f"{ignored:,} files that are no images were ignored in {top}"] if ignored else []
    val = _items(held_out["val"], classes)[0] if held_out["val"] else None
    test = functools.partial(_test, held_out["test"], classes) if held_out["test"] else None
    if test is None:
        notes.append(f"no test images in {root}: the front is confirmed on validation alone")
    return Source(str(root), classes, items, val, test, notes=tuple(notes))


def _test(top: Path, classes: Sequence[str]) -> FileItems:
    return _items(top, classes)[0]


def _first(parts: dict[str, Path], names: Sequence[str]) -> Path | None:
    return next((parts[name] for name in names if name in parts), None)


def _folders(root: Path) -> list[Path]:
    try:
        return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError as error:
        raise DataError(f"{root}: cannot be read: {error.strerror}") from error


def _items(top: Path, classes: Sequence[str], least: int = 0) -> tuple[FileItems, int]:
    """The images under ``top`` and how many other files lie between them."""
    unknown = [path.name for path in _folders(top) if path.name not in classes]
    if unknown:
        raise DataError(
            f"{top}: class folder '{unknown[0]}' is not among the training classes "
            f"({', '.join(classes[:8])}{', …' if len(classes) > 8 else ''})"
        )
    suffixes = set(Image.registered_extensions())
    paths: list[Path] = []
    labels: list[int] = []
    ignored = 0
    for label, name in enumerate(classes):
        files = [
            path
            for path in sorted((top / name).rglob("*"))
            if path.is_file() and not path.name.startswith(".")
        ]
        images = [path for path in files if path.suffix.lower() in suffixes]
        if len(images) < least:
            raise DataError(
                f"{top / name}: {len(images) or 'no'} image{'s' * (len(images) != 1)}; allowed: "
                f"at least {least}, one to train on and one to validate",
                "add images to the class, or remove its folder",
            )
        ignored += len(files) - len(images)
        paths += images
        labels += [label] * len(images)
    return FileItems(paths, labels, top), ignored
