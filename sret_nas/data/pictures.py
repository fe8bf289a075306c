"""One image: opened, decoded at about the size that is asked for, cut to a square.

Shapes: C channels, S the side asked for.
"""

from __future__ import annotations

import os
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile

UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)
"""What Pillow raises for a file that is no image, or half of one."""
MOST_PIXELS = 100_000_000
"""Pixels of the largest image that is decoded, and of all that are decoded at one time.
A JPEG is decoded at down to an eighth of its sides, so it may have 64 times as many."""
MOST_SIDE = 4_096
"""A larger JPEG, whole, is decoded at a fraction of its size: down to this in px."""


def shown(name: object) -> str:
    """A name as it can be printed: bytes that are no UTF-8 and control characters escaped."""
    try:
        raw = os.fsencode(str(name))
    except UnicodeEncodeError:  # what no file can be called
        raw = str(name).encode("utf-8", "backslashreplace")
    text = raw.decode("utf-8", "backslashreplace")
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def open_picture(source: Any) -> Image.Image:
    """An image, not yet decoded; a JPEG of any size, for it is decoded at a fraction of it.

    Raises:
        OSError: it is no image, or larger than is decoded.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(source)
    except Image.DecompressionBombError as error:
        # Pillow refuses by the size in the header, before less of it can be asked for.
        if hasattr(source, "seek"):
            source.seek(0)
        try:
            return JpegImageFile(source)
        except SyntaxError:
            size = re.search(r"\d+", str(error))
            raise _too_large(int(size[0]) if size else 0) from error


def _too_large(pixels: int) -> OSError:
    return OSError(
        f"{pixels / 1e6:,.0f} megapixels; allowed: up to {MOST_PIXELS / 1e6:.0f}, "
        f"as JPEG up to {64 * MOST_PIXELS / 1e6:,.0f}"
    )


class Room:
    """Room for images that are being decoded: bounds their pixels at one time, over all threads.

    So that many threads that meet large images at once do not fill the memory.
    """

    def __init__(self) -> None:
        self.used = 0
        self.changed = threading.Condition()

    @contextmanager
    def taken(self, image: Image.Image, side: int) -> Iterator[None]:
        """Wait until there is room for an image, and hold it within.

        Args:
            image: Opened, and not decoded yet; a JPEG will be decoded at a fraction of its size.
            side: Side that is wanted of it in px.

        Raises:
            OSError: the image is larger than any that is decoded.
        """
        whole = image.width * image.height
        if isinstance(image, JpegImageFile) and image.mode in ("L", "RGB"):
            image.draft(image.mode, (2 * side, 2 * side))  # decodes at a fraction of the size
        pixels = image.width * image.height
        if pixels > MOST_PIXELS:
            raise _too_large(whole)
        with self.changed:
            self.changed.wait_for(lambda: self.used + pixels <= MOST_PIXELS)
            self.used += pixels
        try:
            yield
        finally:
            with self.changed:
                self.used -= pixels
                self.changed.notify_all()


def upright(image: Image.Image, channels: int) -> Image.Image:
    """A whole image as ``L`` (1 channel) or ``RGB`` (3).

    Grey becomes RGB where the set is RGB; transparency lies on black; 16-bit and
    floating-point grey is scaled to 8 bits; the camera's orientation is applied.

    Raises:
        OSError: it is larger than any that is decoded.
    """
    if image.width * image.height > MOST_PIXELS:
        raise _too_large(image.width * image.height)
    image = ImageOps.exif_transpose(image)
    if image.mode[0] in "IF":
        grey = np.asarray(image, np.float64)
        top = 65535.0 if grey.max(initial=0) > 255 else 255.0 if grey.max(initial=0) > 1 else 1.0
        image = Image.fromarray((grey.clip(0, top) * (255.0 / top)).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return image.convert("L" if channels == 1 else "RGB")


def whole(image: Image.Image, channels: int) -> Image.Image:
    """An opened image as of ``upright``; a very large JPEG at a fraction of its size.

    Raises:
        OSError: it is larger than any that is decoded.
    """
    if isinstance(image, JpegImageFile) and image.mode in ("L", "RGB"):
        image.draft(image.mode, (MOST_SIDE, MOST_SIDE))
    return upright(image, channels)


def square_pixels(image: Image.Image, channels: int, side: int) -> npt.NDArray[np.uint8]:
    """The middle square of an image at ``side`` px, uint8 (C, S, S), as of ``upright``."""
    image = upright(image, channels)
    image = ImageOps.fit(image, (side, side), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, np.uint8)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
