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
        mean: Per channel, in 0 to 1.
        std: Per channel.
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
        self.scale_C11 = (1 / (255 * torch.tensor(std, device=device))).view(-1, 1, 1)
        self.shift_C11 = (-torch.tensor(mean, device=device)).view(-1, 1, 1) * 255 * self.scale_C11
        self.flip = flip
        self.pad = pad
        self.mixup = mixup

    def normalise(self, images_BCSS: Tensor) -> Tensor:
        """uint8 to float of mean 0 and deviation 1."""
        return torch.addcmul(self.shift_C11, images_BCSS.float(), self.scale_C11)

    def __call__(self, images_BCSS: Tensor, generator: torch.Generator) -> Tensor:
        """Mirror and crop each image on its own, then normalise.

        Args:
            images_BCSS: uint8.
            generator: On the images' device.
        """
        B, _, S, _ = images_BCSS.shape
        device = images_BCSS.device
        if not self.flip and not self.pad:
            return self.normalise(images_BCSS)
        rows_BS = columns_BS = torch.arange(S, device=device).expand(B, S)
        if self.flip:
            mirrored_B1 = torch.rand(B, 1, generator=generator, device=device) < 0.5
            columns_BS = torch.where(mirrored_B1, columns_BS.flip(1), columns_BS)
        if self.pad:
            images_BCSS = F.pad(images_BCSS, (self.pad,) * 4)
            offsets_2B1 = torch.randint(
                2 * self.pad + 1, (2, B, 1), generator=generator, device=device
            )
            rows_BS, columns_BS = rows_BS + offsets_2B1[0], columns_BS + offsets_2B1[1]
        batch_B11 = torch.arange(B, device=device)[:, None, None]
        picked_BSSC = images_BCSS[batch_B11, :, rows_BS[:, :, None], columns_BS[:, None, :]]
        return self.normalise(picked_BSSC.permute(0, 3, 1, 2))

    def mix(
        self, images_BCSS: Tensor, targets_BK: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Blend the batch with its reverse; images and targets alike.

        Args:
            images_BCSS: Normalised images.
            targets_BK: Class probabilities.
            generator: On the CPU.
        """
        # Beta(a, a) by Jöhnk's method on explicit randomness: torch.distributions takes none.
        while True:
            x, y = (
                torch.rand(2, generator=generator, dtype=torch.float64) ** (1 / self.mixup)
            ).tolist()
            if 0 < x + y <= 1:
                break
        share = x / (x + y)
        return (
            images_BCSS * share + images_BCSS.flip(0) * (1 - share),
            targets_BK * share + targets_BK.flip(0) * (1 - share),
        )
