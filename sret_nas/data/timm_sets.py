"""Anything that timm's ``create_dataset`` reads: tar files, ``hfds/``, ``wds/``, ``tfds/``."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sret_nas.data.errors import DataError, DownloadError
from sret_nas.data.items import ArrayItems, IndexedItems, Items
from sret_nas.data.labels import labels_of
from sret_nas.data.pictures import square_pixels
from sret_nas.data.source import Source
from sret_nas.data.tars import Pieces

PACKAGES = {
    "hfds": "datasets",
    "hfids": "datasets",
    "tfds": "tensorflow_datasets",
    "wds": "webdataset",
}
"""Prefixes of timm's names, and the package that reads each."""
TEST_SPLITS = ("test", "validation")


def is_timm_name(name: str) -> bool:
    """Whether a name begins with a prefix that timm reads, such as ``hfds/``."""
    return name.partition("/")[0].lower() in PACKAGES and "/" in name


def timm_set(name: str, root: Path | None, image_size: int, most: int) -> Source:
    """Find a data set that timm can read.

    Args:
        name: ``hfds/…``, ``wds/…``, ``tfds/…``, or the path of a tar file.
        root: Folder of the data or of its cache, as timm understands it.
        image_size: Side at which a data set that can only be read in order is kept.
        most: Most images of such a data set.

    Raises:
        DataError: timm cannot read it, or it is too large to be kept.
        DownloadError: it is not here and cannot be downloaded.
    """
    train = _open(name, root, "train")
    if hasattr(train, "__getitem__") and hasattr(train, "__len__"):
        items: Items = _indexed(train, name)
    else:
        items = _kept(train, name, image_size, most)
    test = None if _is_tar(name) else functools.partial(_test, name, root, image_size, most)
    names = _class_names(train, int(items.labels.max(initial=-1)) + 1)
    return Source(name, names, items, test=test)


def _is_tar(name: str) -> bool:
    return not is_timm_name(name)


def _test(name: str, root: Path | None, image_size: int, most: int) -> Items:
    for split in TEST_SPLITS:
        try:
            dataset = _open(name, root, split)
        except DataError as error:
            reason = error
            continue
        if hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__"):
            return _indexed(dataset, f"{name} {split}")
        return _kept(dataset, name, image_size, most)
    raise reason


def _open(name: str, root: Path | None, split: str) -> Any:
    from timm.data import create_dataset  # a slow import, needed here alone

    package = None if _is_tar(name) else PACKAGES[name.partition("/")[0].lower()]
    if package and importlib.util.find_spec(package) is None:
        raise DataError(f"{name}: needs the package '{package}'", f"pip install {package}")
    try:
        with contextlib.redirect_stdout(sys.stderr):
            if package is None:
                return create_dataset("", root=name, split=split)
            return create_dataset(name, root=str(root) if root else None, split=split)
    except ConnectionError as error:
        raise DownloadError(
            f"{name}: cannot be downloaded: {_line(error)}",
            "download it on a machine with a network and name the folder",
        ) from error
    except Exception as error:  # whatever the reader of that format raises
        raise DataError(f"{name}: timm cannot read split '{split}': {_line(error)}") from error


def _line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _indexed(dataset: Any, name: str) -> Items:
    """Through the reader: the data set itself replaces an unreadable image by its neighbour."""
    reader = getattr(dataset, "reader", dataset)
    targets = getattr(reader, "targets", None)
    if targets is None and hasattr(reader, "samples"):
        targets = [target for _, target in reader.samples]
    if targets is None and hasattr(reader, "label_key"):
        targets = reader.dataset[reader.label_key]
    labels = labels_of(reader) if targets is None else np.asarray(targets, np.int64)
    if _is_tar(name):
        places = [
            (image.offset_data + (inner.offset_data if inner else 0), image.size)
            for image, _, inner in reader.samples  # ``inner``: a tar within the tar
        ]
        path = Path(reader.root)
        return IndexedItems(Pieces(path, places), labels, name, [str(path)] * len(places), places)
    return IndexedItems(reader, labels, name)


def _kept(dataset: Any, name: str, image_size: int, most: int) -> ArrayItems:
    """A data set that can only be read in order, read once and kept."""
    images: list[Any] = []
    labels: list[int] = []
    for image, label in dataset:
        if len(labels) == most:
            raise DataError(
                f"{name}: more than {most:,} images, too many to keep at {image_size} px, and "
                "this format can only be read in order",
                "use hfds/… or a folder, or a smaller image size in the proxy",
            )
        grey = isinstance(image, Image.Image) and image.mode == "L"
        images.append(square_pixels(image, 1 if grey else 3, image_size))
        labels.append(int(label))
    if not images:
        raise DataError(f"{name}: no images")
    if len({pixels.shape for pixels in images}) > 1:
        images = [np.broadcast_to(p, (3, image_size, image_size)) for p in images]
    return ArrayItems(np.stack(images), labels)


def _class_names(dataset: Any, classes: int) -> tuple[str, ...]:
    reader = getattr(dataset, "reader", dataset)
    by_name = getattr(reader, "class_to_idx", None) or getattr(reader, "class_name_to_idx", None)
    if by_name:
        names = {int(index): str(name) for name, index in by_name.items()}
        return tuple(names.get(i, str(i)) for i in range(max(classes, max(names) + 1)))
    return tuple(map(str, range(classes)))
