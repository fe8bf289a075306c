"""Timm's policies of augmentation, as every version of Pillow computes them.

A magnitude of 10 posterises to no bits at all: timm asks for it now and then, also by the
published recipe's ``rand-m9-mstd0.5-inc1``. Pillow before 13 made a black image of that, and
Pillow 13 refuses it, which would end a training after some hundreds of images.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from PIL import Image
from timm.data.auto_augment import AugmentOp, AugMixAugment, AutoAugment, RandAugment, posterize


def posterise(image: Image.Image, bits: int, **options: Any) -> Image.Image:
    """Keep the highest bits of every pixel; of none a black image, as ever.

    Args:
        image: Grey or RGB.
        bits: How many.
        options: Timm's, of no meaning here.
    """
    if bits < 1:
        return Image.new(image.mode, image.size)
    return posterize(image, bits, **options)  # type: ignore[no-any-return]


def for_any_pillow(transform: Any) -> Any:
    """The same transform of timm's, in place, where posterising to no bits is no error.

    Args:
        transform: As ``timm.data.create_transform`` makes it.
    """
    for operation in _operations(transform):
        if operation.aug_fn is posterize:
            operation.aug_fn = posterise
    return transform


def _operations(transform: Any) -> Iterator[AugmentOp]:
    if isinstance(transform, AugmentOp):
        yield transform
        return
    if isinstance(transform, RandAugment | AugMixAugment):
        inner = transform.ops
    elif isinstance(transform, AutoAugment):
        inner = transform.policy
    else:
        inner = getattr(transform, "transforms", transform if isinstance(transform, list) else ())
    for one in inner:
        yield from _operations(one)
