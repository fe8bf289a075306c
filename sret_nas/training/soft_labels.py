"""A teacher's soft labels, computed once and reused by every further training.

FKD, arXiv 2112.01528: of several crops of each image the k largest probabilities are stored
with the crop's box and whether it is mirrored, and the rest of the probability is spread evenly
over the other classes (its ``marginal_smoothing``). Departs: boxes are whole pixels, so that a
student sees the very pixels that its teacher saw, at the same size; and one file holds all.

Shapes: N images of a split, R crops of each, T labels stored of a crop, B batch, C channels,
S side, K classes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from sret_nas.data import Split, Views
from sret_nas.data.views import Transform
from sret_nas.errors import UsageError
from sret_nas.training.block_file import BlockFile
from sret_nas.training.crops import Box, cut, draw

MOST_CROPS = 10_000


@dataclass(frozen=True)
class LabelRecipe:
    """Which crops are drawn, and what is stored of the teacher's answer.

    Attributes:
        side: Side of a view in px, S.
        crops: Of each image, R.
        k: Classes stored of each; at most all.
        scale: Smallest and largest share of the image's area.
        ratio: Smallest and largest width over height.
        flip: Whether half of them are mirrored.
        temperature: What the teacher's logits are divided by.
        seed: Of the draws.
    """

    side: int
    crops: int
    k: int = 5
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        low, high = self.scale
        narrow, wide = self.ratio
        for wrong, what in (
            (not 1 <= self.crops <= MOST_CROPS, f"crops: given {self.crops}; allowed: 1 to 10,000"),
            (self.k < 1, f"k: given {self.k}; allowed: at least 1"),
            (not 0 < low <= high <= 1, f"scale: given {self.scale}; allowed: above 0, up to 1"),
            (not 0 < narrow <= wide, f"ratio: given {self.ratio}; allowed: above 0, in order"),
            (self.temperature <= 0, f"temperature: given {self.temperature}; allowed: above 0"),
        ):
            if wrong:
                raise UsageError(f"soft labels: {what}")

    def draw(
        self, size: tuple[int, int], index: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Boxes (R, 4) and mirrored (R,) of an image of that width and height, by its index."""
        generator = np.random.default_rng([self.seed, index])
        options = {"scale": self.scale, "ratio": self.ratio, "flip": self.flip}
        return draw(size, self.crops, generator, **options)  # type: ignore[arg-type]


def record_of(k: int, classes: int) -> np.dtype[Any]:
    """What is stored of a crop: 9 bytes, and 4 for each of the ``k`` classes (6 of 65,537 on).

    Args:
        k: Classes stored.
        classes: How many there are, K.
    """
    index = "<u2" if classes <= 2**16 else "<u4"
    return np.dtype(
        [("box", "<u2", 4), ("flip", "u1"), ("classes", index, k), ("probabilities", "<f2", k)]
    )


class SoftLabels:
    """Soft labels of the images of one split, in a file that is mapped, not read.

    ``labelling.soft_labels`` finds or makes them.

    Args:
        file: Where they are.
        images: How many images, N.
        num_classes: K.
        recipe: Crops and what is stored of them; its ``k`` is at most K.

    Attributes:
        computed: Crops that were labelled when it was made: 0 where all were there.
        damaged: Blocks that were there, and were not what had been written: computed again.
    """

    def __init__(self, file: BlockFile, images: int, num_classes: int, recipe: LabelRecipe) -> None:
        self.file = file
        self.images = images
        self.num_classes = num_classes
        self.recipe = recipe
        self.computed = self.damaged = 0
        self._mapped: npt.NDArray[Any] | None = None

    @property
    def bytes(self) -> int:
        """What the labels take on disk, in bytes."""
        return self.file.size

    @property
    def records(self) -> npt.NDArray[Any]:
        """Of every crop ``box``, ``flip``, ``classes`` and ``probabilities``, (N, R)."""
        if self._mapped is None:
            self._mapped = self.file.records().reshape(self.images, self.recipe.crops)
        return self._mapped

    def __getstate__(self) -> dict[str, Any]:
        """Workers map the file themselves: it is not sent to them."""
        return {**self.__dict__, "_mapped": None}

    def turn(self, epoch: int) -> int:
        """Which crop of every image an epoch (from 0) takes: one after the other, then again."""
        return epoch % self.recipe.crops

    def crop(self, position: int, epoch: int) -> tuple[Box, bool]:
        """The crop of an image in an epoch: top, left, height, width in px, and whether mirrored.

        Args:
            position: Of the image in the split.
            epoch: From 0.
        """
        found = self.records[position, self.turn(epoch)]
        top, left, height, width = found["box"].tolist()
        return (top, left, height, width), bool(found["flip"])

    def top(self, positions_B: Tensor, crops_B: Tensor) -> tuple[Tensor, Tensor]:
        """What is stored of crops: classes int64 (B, T), likeliest first, and probabilities.

        Args:
            positions_B: Of the images in the split.
            crops_B: Which of their crops each.
        """
        found = self.records[positions_B.numpy(), crops_B.numpy()]
        classes_BT = torch.from_numpy(found["classes"].astype(np.int64))
        return classes_BT, torch.from_numpy(found["probabilities"].astype(np.float32))

    def targets(self, positions_B: Tensor, crops_B: Tensor) -> Tensor:
        """Class probabilities of crops, float32 (B, K), on the CPU.

        Args:
            positions_B: Of the images in the split.
            crops_B: Which of their crops each.
        """
        return spread(*self.top(positions_B, crops_B), self.num_classes)

    def describe(self) -> dict[str, Any]:
        """What a run writes down about its labels, as plain data."""
        return {"folder": str(self.file.folder), "bytes": self.bytes, **asdict(self.recipe)}


def spread(classes_BT: Tensor, probabilities_BT: Tensor, num_classes: int) -> Tensor:
    """Class probabilities (B, K): the stored ones, and the rest evenly over the other classes.

    They sum to 1: what rounding to fp16 makes them exceed it by is scaled away.

    Args:
        classes_BT: int64.
        probabilities_BT: float32.
        num_classes: K.
    """
    known_B1 = probabilities_BT.sum(1, keepdim=True)
    others = num_classes - classes_BT.shape[1]
    rest_B1 = (1 - known_B1).clamp(min=0) / max(1, others)
    targets_BK = rest_B1.repeat(1, num_classes).scatter(1, classes_BT, probabilities_BT)
    return targets_BK / targets_BK.sum(1, keepdim=True)


class StoredViews(Dataset[tuple[Tensor, int, Tensor]]):
    """The crops of a split whose labels are stored, each by a number of its own.

    Number ``position + N · crop``, so that workers that live on need not be told of the epoch:
    ``numbers`` makes them of an order of the images.

    Args:
        split: The images, as the labels were made of them.
        labels: Their labels.
        transform: From the view, a Pillow image of S × S px (``L`` or ``RGB``), to a tensor.
    """

    def __init__(self, split: Split, labels: SoftLabels, transform: Transform) -> None:
        self.views = Views(split, transform)
        self.labels = labels

    def __len__(self) -> int:
        return self.labels.images * self.labels.recipe.crops

    def numbers(self, order: Tensor, epoch: int) -> Tensor:
        """Numbers of the views that an epoch (from 0) takes of images in that order, int64."""
        return order + self.labels.images * self.labels.turn(epoch)

    def view(self, position: int, crop: int) -> Image.Image:
        """The very pixels that the teacher saw."""
        box, flip = self.labels.crop(position, crop)
        return cut(self.views.picture(position), box, flip, self.labels.recipe.side)

    def __getitem__(self, number: int) -> tuple[Tensor, int, Tensor]:
        """A view, the label of its image, and class probabilities float32 (K,).

        Raises:
            DataError: the image cannot be decoded.
        """
        crop, position = divmod(int(number), self.labels.images)
        targets_1K = self.labels.targets(torch.tensor([position]), torch.tensor([crop]))
        view = self.views.transform(self.view(position, crop))
        return view, self.views.label(position), targets_1K[0]
