"""Undecoded images with their labels, by index, whatever they are stored in.

Shapes: N images, C channels, S the side asked for.
"""

from __future__ import annotations

import hashlib
import os
import re
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
from PIL import Image
from torch import Tensor

from sret_nas.data.digests import Tell, digests, together
from sret_nas.data.pictures import (
    UNREADABLE,
    Room,
    open_picture,
    shown,
    square_pixels,
    whole,
)

Indices = npt.NDArray[np.int64]
KINDS = {"P": "palette", "PA": "palette"} | dict.fromkeys(("1", "L", "LA", "F"), "grey")
PIXELS_SAMPLED = 2_000
"""Images whose pixels identify a data set that does not say where its bytes are."""
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
        """Decode images, each cut to its middle square and resized.

        Args:
            indices: Which images, (N,).
            side: Side of the images in px, S.

        Returns:
            Images uint8 (N, C, S, S), and the positions in ``indices`` of those that cannot be
            decoded.
        """

    @abstractmethod
    def picture(self, index: int) -> Image.Image:
        """One whole image, of whatever size it has: ``L`` where the set is grey, else ``RGB``.

        Raises:
            OSError, ValueError: it cannot be decoded (``pictures.UNREADABLE``).
        """

    @abstractmethod
    def name(self, index: int) -> str:
        """What a person would look for to find an image: its path, or the data set and an index."""

    sampled = False
    """Whether the fingerprint is of a sample of the content; known once it was asked for."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of the content of the images and of their labels, wherever they lie."""

    def former_fingerprint(self) -> str:
        """The hash of versions before 0.2, which runs that they began have written down.

        It is today's where those versions did not look at the content.
        """
        return self.fingerprint()

    def why(self, index: int) -> str:
        """Why an image cannot be decoded, in a few words."""
        return "cannot be decoded"


class ArrayItems(Items):
    """Images of one size in memory.

    Args:
        images: uint8, (N, H, W) or (N, H, W, C) or (N, C, H, W), C 1 or 3.
        labels: Class indices, (N,).
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
        """Cut the middle square, and resize it where its side differs; every image is readable."""
        images = torch.from_numpy(np.ascontiguousarray(self.images[indices]))
        height, width = images.shape[2:]
        square = min(height, width)
        top, left = (height - square) // 2, (width - square) // 2
        images = images[:, :, top : top + square, left : left + square]
        if square != side and len(images):
            images = F.interpolate(images, (side, side), mode="bilinear", antialias=True)
        return images.contiguous(), []

    def picture(self, index: int) -> Image.Image:
        """The array of one image as a picture."""
        pixels = self.images[index]
        return Image.fromarray(pixels[0] if self.channels == 1 else pixels.transpose(1, 2, 0))

    def name(self, index: int) -> str:
        """The position of an image in the array."""
        return f"image {index}"

    def fingerprint(self) -> str:
        """A hash of the labels, the shape of the array and its pixels."""
        digest = hashlib.sha256(self.labels.tobytes())
        digest.update(str(self.images.shape).encode())
        digest.update(np.ascontiguousarray(self.images).data)
        return digest.hexdigest()


class PictureItems(Items):
    """Images that Pillow opens one by one.

    Args:
        labels: Class indices, (N,).
        open_image: Opens the image of an index, without decoding it.
    """

    def __init__(self, labels: npt.ArrayLike, open_image: Callable[[int], Image.Image]) -> None:
        self.labels = np.asarray(labels, np.int64)
        self.open_image = open_image
        step = -(-len(self) // MODES_LOOKED_AT) or 1
        with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
            warnings.simplefilter("ignore")  # Pillow's remarks on odd but readable files
            self.kinds = Counter(filter(None, pool.map(self._kind, range(0, len(self), step))))
        self.channels = 1 if set(self.kinds) == {"grey"} else 3

    def why(self, index: int) -> str:
        """Decode an image once more, at a small size, and repeat what Pillow says of it."""
        try:
            with self.open_image(index) as image, Room().taken(image, 8):
                image.load()
        except UNREADABLE as error:
            text = re.sub(r"\s*<_io\.\w+ object at 0x\w+>", "", str(error))
            return shown(text.splitlines()[0] if text else type(error).__name__)
        return "cannot be decoded"

    def _kind(self, index: int) -> str | None:
        try:
            with self.open_image(index) as image:
                mode = image.mode.split(";")[0]
        except UNREADABLE:
            return None
        return "grey" if mode == "I" else KINDS.get(mode, mode)

    def decode(self, indices: Indices, side: int) -> tuple[Tensor, list[int]]:
        """Decode in parallel threads; an image that cannot be decoded is black."""
        images = np.zeros((len(indices), self.channels, side, side), np.uint8)
        room = Room()

        def fill(at: int) -> bool:
            try:
                with self.open_image(int(indices[at])) as image, room.taken(image, side):
                    images[at] = square_pixels(image, self.channels, side)
            except UNREADABLE:
                return False
            return True

        with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
            warnings.simplefilter("ignore")  # Pillow's remarks on odd but readable files
            good = list(pool.map(fill, range(len(indices))))
        return torch.from_numpy(images), [at for at, ok in enumerate(good) if not ok]

    def picture(self, index: int) -> Image.Image:
        """Decode one image, the camera's orientation applied."""
        with warnings.catch_warnings(), self.open_image(index) as image:
            warnings.simplefilter("ignore")  # Pillow's remarks on odd but readable files
            return whole(image, self.channels)


class FileItems(PictureItems):
    """Images that are files of their own, below one folder.

    Args:
        names: Paths relative to the root, one per image.
        labels: Class indices, (N,).
        root: Folder that the paths are relative to.
        tell: Told of the progress.
    """

    FORMER_BYTES = 2 << 30
    """Files of more than this together were known by name and size alone before 0.2."""

    def __init__(
        self,
        names: Sequence[str],
        labels: npt.ArrayLike,
        root: Path,
        tell: Tell = lambda _: None,
    ) -> None:
        # As bytes: a million names are one object, and pickle in a moment.
        coded = [os.fsencode(name) for name in names]
        self._names = b"".join(coded)
        self._ends = np.cumsum([0, *map(len, coded)])
        self.root = str(root)
        super().__init__(labels, self._open)
        self._identify(tell)

    def path(self, index: int) -> str:
        """Where an image is."""
        name = self._names[self._ends[index] : self._ends[index + 1]]
        return os.path.join(self.root, os.fsdecode(name))

    def _open(self, index: int) -> Image.Image:
        return open_picture(self.path(index))

    def name(self, index: int) -> str:
        """The path of an image, as it can be printed."""
        return shown(self.path(index))

    def _identify(self, tell: Tell) -> None:
        found, self.sampled = digests([self.path(i) for i in range(len(self))], tell=tell)
        self._fingerprint = together(found, self.labels.tobytes(), self.sampled)

    def fingerprint(self) -> str:
        """A hash of the files' contents and of the labels, computed when the files were listed."""
        return self._fingerprint

    def former_fingerprint(self) -> str:
        """Hash of relative paths, sizes and contents, where the contents were read."""
        paths = [self.path(i) for i in range(len(self))]
        sizes = [os.stat(path).st_size for path in paths]
        if sum(sizes) > self.FORMER_BYTES:
            return self.fingerprint()
        digest = hashlib.sha256()
        for path, size in zip(paths, sizes, strict=True):
            relative = Path(path).relative_to(self.root).as_posix()
            digest.update(os.fsencode(relative) + f"\0{size}\0".encode())
            digest.update(Path(path).read_bytes())
        return digest.hexdigest()


class IndexedItems(PictureItems):
    """Images of a map-style data set that gives ``(image, …)`` by index.

    Args:
        dataset: The data set; an image is a Pillow image or an open file.
        labels: Class indices, (N,).
        title: What to call the data set.
        paths: Files that the images lie in, one per image; default: the data set does not say.
        pieces: Offset and size of each within its file; default the whole files.
        tell: Told of the progress.
    """

    def __init__(
        self,
        dataset: Any,
        labels: npt.ArrayLike,
        title: str,
        paths: Sequence[str] | None = None,
        pieces: Sequence[tuple[int, int]] | None = None,
        tell: Tell = lambda _: None,
    ) -> None:
        self.dataset = dataset
        self.title = title
        super().__init__(labels, self._open)
        if paths is None:
            found = self._pixels(tell)
        else:
            found, self.sampled = digests(paths, pieces, tell)
        self._fingerprint = together(found, self.labels.tobytes(), self.sampled)

    def _pixels(self, tell: Tell) -> list[bytes]:
        """Digests of decoded images, evenly spread where there are many."""
        step = -(-len(self) // PIXELS_SAMPLED) or 1
        self.sampled = step > 1
        tell(f"reading images of {self.title}")
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(self._pixel_digest, range(0, len(self), step)))

    def _pixel_digest(self, index: int) -> bytes:
        digest = hashlib.blake2b(digest_size=16)
        try:
            with self._open(index) as image:
                digest.update(f"{image.mode} {image.size}".encode() + image.tobytes())
        except UNREADABLE:
            digest.update(b"unreadable")
        return digest.digest()

    def _open(self, index: int) -> Image.Image:
        image = self.dataset[index][0]
        return image if isinstance(image, Image.Image) else open_picture(image)

    def name(self, index: int) -> str:
        """The title of the data set and the index of an image."""
        return f"{self.title}, image {index}"

    def fingerprint(self) -> str:
        """A hash of contents and labels, computed when the data set was opened.

        Contents are the bytes of the files, or decoded pixels where the data set does not say where
        its files are.
        """
        return self._fingerprint
