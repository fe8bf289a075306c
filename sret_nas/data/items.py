"""Undecoded images with their labels, by index, whatever they are stored in.

Shapes: N images, C channels, S the side asked for.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

Indices = npt.NDArray[np.int64]
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)
"""What Pillow raises for a file that is no image, or half of one."""
KINDS = {"P": "palette", "PA": "palette"} | dict.fromkeys(("1", "L", "LA", "F"), "grey")
MODES_LOOKED_AT = 5_000
"""Headers read to tell grey from colour; more are sampled evenly."""


class Items(ABC):
    """Images that can be decoded by index.

    Attributes:
        labels: Class indices, (N,).
        channels: 1 grey, 3 RGB.
        kinds: How many of the images looked at are grey, RGB, …
    """

    labels: Indices
    channels: int
    kinds: Counter[str]

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def decode(self, indices: Indices, side: int) -> tuple[Tensor, list[int]]:
        """Images of ``indices`` as uint8 (N, C, S, S), and which positions are unreadable."""

    @abstractmethod
    def name(self, index: int) -> str:
        """What a person would look for to find the image."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of what the images are."""


class ArrayItems(Items):
    """Images of one size in memory.

    Args:
        images: uint8, (N, H, W) or (N, H, W, C) or (N, C, H, W), C 1 or 3.
        labels: (N,).
    """

    def __init__(self, images: npt.NDArray[np.uint8], labels: npt.ArrayLike) -> None:
        if images.ndim == 3:
            images = images[:, None]
        elif images.shape[-1] in (1, 3):
            images = images.transpose(0, 3, 1, 2)
        self.images = images
        self.labels = np.asarray(labels, np.int64)
        self.channels = images.shape[1]
        self.kinds = Counter({"grey" if self.channels == 1 else "RGB": len(images)})

    def decode(self, indices: Indices, side: int) -> tuple[Tensor, list[int]]:
        """Cut the middle square and resize it where the size differs."""
        images = torch.from_numpy(np.ascontiguousarray(self.images[indices]))
        height, width = images.shape[2:]
        square = min(height, width)
        top, left = (height - square) // 2, (width - square) // 2
        images = images[:, :, top : top + square, left : left + square]
        if square != side and len(images):
            images = F.interpolate(images, (side, side), mode="bilinear", antialias=True)
        return images.contiguous(), []

    def name(self, index: int) -> str:
        """The position in the array."""
        return f"image {index}"

    def fingerprint(self) -> str:
        """Hash of labels and pixels."""
        digest = hashlib.sha256(self.labels.tobytes())
        digest.update(str(self.images.shape).encode())
        digest.update(np.ascontiguousarray(self.images).data)
        return digest.hexdigest()


class PictureItems(Items):
    """Images that Pillow opens one by one.

    Args:
        labels: (N,).
        open_image: Image of an index, not yet decoded.
    """

    def __init__(self, labels: npt.ArrayLike, open_image: Callable[[int], Image.Image]) -> None:
        self.labels = np.asarray(labels, np.int64)
        self.open_image = open_image
        step = -(-len(self) // MODES_LOOKED_AT) or 1
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            self.kinds = Counter(filter(None, pool.map(self._kind, range(0, len(self), step))))
        self.channels = 1 if set(self.kinds) == {"grey"} else 3

    def _kind(self, index: int) -> str | None:
        try:
            with self.open_image(index) as image:
                mode = image.mode.split(";")[0]
        except UNREADABLE:
            return None
        return "grey" if mode == "I" else KINDS.get(mode, mode)

    def decode(self, indices: Indices, side: int) -> tuple[Tensor, list[int]]:
        """Decode in parallel threads; an unreadable image is black."""
        images = np.zeros((len(indices), self.channels, side, side), np.uint8)

        def fill(at: int) -> bool:
            try:
                with self.open_image(int(indices[at])) as image:
                    images[at] = square_pixels(image, self.channels, side)
            except UNREADABLE:
                return False
            return True

        with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
            warnings.simplefilter("ignore")  # Pillow's remarks on odd but readable files
            good = list(pool.map(fill, range(len(indices))))
        return torch.from_numpy(images), [at for at, ok in enumerate(good) if not ok]


class FileItems(PictureItems):
    """Image files.

    Args:
        paths: One per image.
        labels: (N,).
        root: What names and the fingerprint are relative to.
    """

    HASHED_BYTES = 2 << 30
    """Files of more than this together are fingerprinted by name and size alone."""

    def __init__(self, paths: Sequence[Path], labels: npt.ArrayLike, root: Path) -> None:
        self.paths = paths
        self.root = root
        super().__init__(labels, self._open)

    def _open(self, index: int) -> Image.Image:
        return Image.open(self.paths[index])

    def name(self, index: int) -> str:
        """The path."""
        return str(self.paths[index])

    def fingerprint(self) -> str:
        """Hash of relative paths, sizes and, where it can be afforded, contents."""
        sizes = [path.stat().st_size for path in self.paths]
        digest = hashlib.sha256()
        for path, size in zip(self.paths, sizes, strict=True):
            digest.update(f"{path.relative_to(self.root).as_posix()}\0{size}\0".encode())
            if sum(sizes) <= self.HASHED_BYTES:
                digest.update(path.read_bytes())
        return digest.hexdigest()


class IndexedItems(PictureItems):
    """Images of a map-style data set that gives ``(image, …)`` by index.

    Args:
        dataset: The data set; an image is a Pillow image or an open file.
        labels: (N,).
        title: What to call the data set.
    """

    def __init__(self, dataset: Any, labels: npt.ArrayLike, title: str) -> None:
        self.dataset = dataset
        self.title = title
        super().__init__(labels, self._open)

    def _open(self, index: int) -> Image.Image:
        image = self.dataset[index][0]
        return image if isinstance(image, Image.Image) else Image.open(image)

    def name(self, index: int) -> str:
        """The data set and the index."""
        return f"{self.title}, image {index}"

    def fingerprint(self) -> str:
        """Hash of the name and of all labels in order."""
        return hashlib.sha256(self.title.encode() + self.labels.tobytes()).hexdigest()


def square_pixels(image: Image.Image, channels: int, side: int) -> npt.NDArray[np.uint8]:
    """The middle square of an image at ``side`` px, uint8 (C, S, S).

    Grey becomes RGB where the set is RGB; transparency lies on black; 16-bit and
    floating-point grey is scaled to 8 bits; the camera's orientation is applied.
    """
    if image.format == "JPEG" and image.mode in ("L", "RGB"):
        image.draft(image.mode, (2 * side, 2 * side))  # decodes at a fraction of the size
    image = ImageOps.exif_transpose(image)
    if image.mode[0] in "IF":
        grey = np.asarray(image, np.float64)
        top = 65535.0 if grey.max(initial=0) > 255 else 255.0 if grey.max(initial=0) > 1 else 1.0
        image = Image.fromarray((grey.clip(0, top) * (255.0 / top)).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    image = image.convert("L" if channels == 1 else "RGB")
    image = ImageOps.fit(image, (side, side), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, np.uint8)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
