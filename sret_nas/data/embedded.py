"""The demonstration set inside the package: 12,000 images of Fashion-MNIST."""

from __future__ import annotations

import functools
import io
import lzma
from importlib import resources

import numpy as np
import numpy.typing as npt

from sret_nas.data.items import ArrayItems
from sret_nas.data.source import Source

NAME = "demo"
FILE = "fashion_mnist_12k.npy.xz"
TRAIN_IMAGES = 10_000
SIDE = 28
CLASSES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
NOTE = (
    "demo data: 12,000 images of Fashion-MNIST, to show how a search works; "
    "name your own with --data FOLDER (one subfolder of images per class) or e.g. --data cifar10"
)


@functools.cache
def _rows() -> npt.NDArray[np.uint8]:
    """Label and pixels of every image; unpacked once, which takes longer than all the rest."""
    packed = (resources.files("sret_nas") / "assets" / FILE).read_bytes()
    rows: npt.NDArray[np.uint8] = np.load(io.BytesIO(lzma.decompress(packed)))
    rows.flags.writeable = False
    return rows


def _read(part: slice) -> ArrayItems:
    rows = _rows()[part]
    return ArrayItems(rows[:, 1:].reshape(-1, SIDE, SIDE), rows[:, 0])


def _test() -> ArrayItems:
    return _read(slice(TRAIN_IMAGES, None))


def embedded() -> Source:
    """10,000 training and 2,000 test images, 28 px, grey, ten classes of equal size."""
    return Source(NAME, CLASSES, _read(slice(TRAIN_IMAGES)), test=_test, notes=(NOTE,))
