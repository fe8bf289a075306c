"""Crops that are drawn once and can be cut again: the same pixels for teacher and student.

Drawn as torchvision's ``RandomResizedCrop`` draws them, in whole pixels of the image, so that
what is stored is exact.

Shapes: R crops of an image, S side.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image

Boxes = npt.NDArray[np.int64]
Box = tuple[int, int, int, int]
"""Top, left, height, width in px of the image."""
TRIES = 10
"""Proposals before the middle of the image is taken, as torchvision has it."""
MOST_SIDE = 2**16 - 1
"""Boxes lie within this many px from the top and left, so that two bytes hold a number."""


def draw(
    size: tuple[int, int],
    count: int,
    generator: np.random.Generator,
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    flip: bool = True,
) -> tuple[Boxes, npt.NDArray[np.bool_]]:
    """Draw crops of one image.

    Args:
        size: Width and height of the image in px.
        count: How many, R.
        generator: Source of the draws.
        scale: Smallest and largest share of the image's area.
        ratio: Smallest and largest width over height; uniform in the logarithm.
        flip: Mirror half of them.

    Returns:
        Boxes (R, 4): top, left, height, width; and which are mirrored (R,).
    """
    width, height = (min(side, MOST_SIDE) for side in size)
    area = width * height * generator.uniform(*scale, (TRIES, count))
    aspect = np.exp(generator.uniform(math.log(ratio[0]), math.log(ratio[1]), (TRIES, count)))
    widths = np.rint(np.sqrt(area * aspect)).astype(np.int64)
    heights = np.rint(np.sqrt(area / aspect)).astype(np.int64)
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first, each = fits.argmax(0), np.arange(count)
    w, h = widths[first, each], heights[first, each]
    places = generator.random((2, count))
    mirrored = (generator.random(count) < 0.5) & flip
    none = ~fits.any(0)
    if none.any():  # the largest middle of an allowed shape
        w[none] = min(width, max(1, round(height * ratio[1])))
        h[none] = min(height, max(1, round(width / ratio[0])))
        places[:, none] = 0.5
    top, left = (places * (np.stack([height - h, width - w]) + 1)).astype(np.int64)
    return np.stack([top, left, h, w], axis=1), mirrored


def cut(picture: Image.Image, box: Box, flip: bool, side: int) -> Image.Image:
    """One crop of a picture, resized (bilinear, antialiased) to S × S px.

    Args:
        picture: The whole image.
        box: Top, left, height, width.
        flip: Whether it is mirrored.
        side: S.
    """
    top, left, height, width = box
    view = picture.crop((left, top, left + width, top + height))
    view = view.resize((side, side), Image.Resampling.BILINEAR)
    return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else view
