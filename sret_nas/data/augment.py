"""Normalisation and augmentation on the device, a whole batch at once.

Shapes: B batch, C channels, S side, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


class Augment:
    """Turns uint8 images into what the network reads.

    Args:
        mean: Mean of the training images per channel, in 0 to 1.
        std: Their standard deviation per channel, on the same scale.
        flip: Mirror half of the images.
        pad: Crop at random after a border of this many px on every side.
        mixup: Alpha of the Beta distribution of mixup (arXiv 1710.09412); 0 is none.
        device: Where the images are.
    """

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        flip: bool = False,
        pad: int = 0,
        mixup: float = 0.0,
        device: torch.device | None = None,
    ) -> None:
        self.scale_C11, self.shift_C11 = affine(mean, std, device)
        self.flip = flip
        self.pad = pad
        self.mixup = mixup

    def normalise(self, images_BCSS: Tensor) -> Tensor:
        """Images uint8 (B, C, S, S) as floats of mean 0 and standard deviation 1 per channel."""
        return torch.addcmul(self.shift_C11, images_BCSS.float(), self.scale_C11)

    def draw(self, shape: tuple[int, ...], side: int, generator: torch.Generator) -> Tensor:
        """Draw how each image is cropped and whether it is mirrored, for a whole epoch at once.

        Args:
            shape: How many images there are: ``(T, B)`` for an epoch of T steps.
            side: Side of the images in px, S.
            generator: Source of the draws, on the CPU, so that every device does the same.

        Returns:
            int64 (T, 3, B): first row, first column, and 1 or −1 for the way from there.
        """
        start_2TB = torch.randint(2 * self.pad + 1, (2, *shape), generator=generator)
        mirrored_TB = (torch.rand(shape, generator=generator) < 0.5) & self.flip
        way_TB = 1 - 2 * mirrored_TB.long()
        return torch.stack([start_2TB[0], start_2TB[1] + mirrored_TB * (side - 1), way_TB], dim=-2)

    def __call__(
        self, images_BCSS: Tensor, row_B: Tensor, column_B: Tensor, way_B: Tensor
    ) -> Tensor:
        """Mirror and crop each image on its own, then normalise; no random numbers in here.

        Args:
            images_BCSS: uint8.
            row_B: First row, as of ``draw``, on the images' device.
            column_B: First column.
            way_B: 1, or −1 for a mirrored image.
        """
        B, _, S, _ = images_BCSS.shape
        if not self.flip and not self.pad:
            return self.normalise(images_BCSS)
        along_S = torch.arange(max(S, B), device=images_BCSS.device)
        rows_BS1 = row_B[:, None, None] + along_S[:S, None]
        columns_B1S = torch.addcmul(column_B[:, None], way_B[:, None], along_S[:S])[:, None]
        if self.pad:
            images_BCSS = F.pad(images_BCSS, (self.pad,) * 4)
        picked_BSSC = images_BCSS[along_S[:B, None, None], :, rows_BS1, columns_B1S]
        return self.normalise(picked_BSSC.permute(0, 3, 1, 2))

    def shares(self, count: int, generator: torch.Generator) -> list[float]:
        """Draw the shares of mixup, from Beta(mixup, mixup), or 1.0 where there is none.

        Args:
            count: How many batches there are; each has one share.
            generator: Source of the draws, on the CPU.
        """
        return [_beta(self.mixup, generator) if self.mixup else 1.0 for _ in range(count)]

    def mix(self, images_BCSS: Tensor, targets_BK: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        """Blend a batch with its reverse (mixup); images and targets alike.

        Args:
            images_BCSS: Normalised images.
            targets_BK: Class probabilities.
            share: Share of the batch itself in the blend, a scalar from ``shares``.
        """
        return (
            torch.lerp(images_BCSS.flip(0), images_BCSS, share),
            torch.lerp(targets_BK.flip(0), targets_BK, share),
        )


def affine(
    mean: Sequence[float], std: Sequence[float], device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """What makes 0 to 255 of mean 0 and standard deviation 1: times the one, plus the other.

    Args:
        mean: Per channel, in 0 to 1.
        std: Per channel, on the same scale.
        device: Where the images are.

    Returns:
        Scale and shift, (C, 1, 1) each.
    """
    scale_C11 = (1 / (255 * torch.tensor(std, device=device))).view(-1, 1, 1)
    return scale_C11, (-torch.tensor(mean, device=device)).view(-1, 1, 1) * 255 * scale_C11


def _beta(alpha: float, generator: torch.Generator) -> float:
    """Beta(a, a) by Jöhnk's method on explicit randomness: torch.distributions takes none."""
    while True:
        x, y = (torch.rand(2, generator=generator, dtype=torch.float64) ** (1 / alpha)).tolist()
        if 0 < x + y <= 1:
            return float(x / (x + y))
