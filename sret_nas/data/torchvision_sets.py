"""Data sets that torchvision downloads and keeps in a folder."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sret_nas.data.errors import DownloadError
from sret_nas.data.items import ArrayItems, IndexedItems, Items
from sret_nas.data.labels import labels_of
from sret_nas.data.source import Source


@dataclass(frozen=True)
class Known:
    """How torchvision is asked for a data set.

    Attributes:
        cls: Class in ``torchvision.datasets``.
        train: Keywords that select what may be trained on.
        test: Keywords that select the test images.
        mirror: Whether a mirrored image keeps its class.
    """

    cls: str
    train: Mapping[str, Any] = field(default_factory=lambda: {"train": True})
    test: Mapping[str, Any] = field(default_factory=lambda: {"train": False})
    mirror: bool = True


def _by_split(cls: str, train: str = "train", mirror: bool = True) -> Known:
    return Known(cls, {"split": train}, {"split": "test"}, mirror)


SETS = {
    "cifar10": Known("CIFAR10"),
    "cifar100": Known("CIFAR100"),
    "dtd": _by_split("DTD"),
    "fashion_mnist": Known("FashionMNIST"),
    "fgvc_aircraft": _by_split("FGVCAircraft", "trainval"),
    "flowers102": _by_split("Flowers102"),
    "food101": _by_split("Food101"),
    "gtsrb": _by_split("GTSRB", mirror=False),
    "kmnist": Known("KMNIST", mirror=False),
    "mnist": Known("MNIST", mirror=False),
    "oxford_iiit_pet": _by_split("OxfordIIITPet", "trainval"),
    "stl10": _by_split("STL10"),
    "svhn": _by_split("SVHN", mirror=False),
}


def torchvision_set(name: str, root: Path) -> Source:
    """Find a data set of torchvision; it is downloaded where it is not there yet.

    Args:
        name: One of ``SETS``.
        root: Folder that holds the data.

    Raises:
        DownloadError: it is not there and cannot be downloaded.
    """
    known = SETS[name]
    train = _open(name, known.train, root)
    items = _items(train, name)
    classes = tuple(map(str, getattr(train, "classes", None) or np.unique(items.labels)))
    return Source(
        name, classes, items, test=functools.partial(_test, name, root), mirror=known.mirror
    )


def _test(name: str, root: Path) -> Items:
    return _items(_open(name, SETS[name].test, root), f"{name} test")


def _open(name: str, select: Mapping[str, Any], root: Path) -> Any:
    """The data set, without touching the network where its files are complete."""
    from torchvision import datasets  # a slow import, needed here alone

    cls = getattr(datasets, SETS[name].cls)
    try:
        return cls(root, **select, download=False)
    except (RuntimeError, OSError):
        pass  # not there, or not complete
    try:
        root.mkdir(parents=True, exist_ok=True)
        with contextlib.redirect_stdout(sys.stderr):
            return cls(root, **select, download=True)
    except (RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DownloadError(
            f"{name}: not in {root}, and it cannot be downloaded: {reason}",
            f"put torchvision's files for {SETS[name].cls} into {root}, or name a folder of "
            "images of your own, or leave --data out for the built-in demo",
        ) from error


def _items(dataset: Any, title: str) -> Items:
    images = getattr(dataset, "data", None)
    labels = labels_of(dataset)
    if images is not None and hasattr(images, "__array__"):
        return ArrayItems(np.asarray(images, np.uint8), labels)
    return IndexedItems(dataset, labels, title, _paths(dataset))


def _paths(dataset: Any) -> list[str] | None:
    """The files of the images, where torchvision's class has them."""
    for name in ("_image_files", "_images", "_samples"):
        found = getattr(dataset, name, None)
        if isinstance(found, list) and len(found) == len(dataset):
            return [str(one[0] if isinstance(one, tuple) else one) for one in found]
    return None
