"""Images of a split one by one, as a transform of timm's or torchvision's makes them.

Shapes: C channels, S side.
"""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.functional import pil_to_tensor

from sret_nas.data.errors import DataError
from sret_nas.data.pictures import UNREADABLE
from sret_nas.data.splits import Split

Transform = Callable[[Image.Image], Tensor]


class Views(Dataset[tuple[Tensor, int]]):
    """What a transform makes of the whole images of a split, whatever their sizes.

    Args:
        split: As ``load_data`` makes them.
        transform: From a Pillow image (``L`` or ``RGB``) to a tensor (C, S, S); default its
            pixels, uint8.
    """

    def __init__(self, split: Split, transform: Transform = pil_to_tensor) -> None:
        if split.items is None:
            raise DataError("these images have no source to be read from again")
        self.items = split.items
        self.indices = split.indices
        self.transform = transform

    def __len__(self) -> int:
        return len(self.indices)

    def picture(self, at: int) -> Image.Image:
        """The whole image, untransformed.

        Raises:
            DataError: it cannot be decoded.
        """
        index = int(self.indices[at])
        try:
            return self.items.picture(index)
        except UNREADABLE as error:
            raise DataError(
                f"{self.items.name(index)}: {self.items.why(index)}",
                "remove or replace the file, then start again",
            ) from error

    def label(self, at: int) -> int:
        """The class of an image."""
        return int(self.items.labels[self.indices[at]])

    def __getitem__(self, at: int) -> tuple[Tensor, int]:
        """The view of an image and its label.

        Raises:
            DataError: it cannot be decoded.
        """
        return self.transform(self.picture(at)), self.label(at)
