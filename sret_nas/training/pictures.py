"""Batches of whole images through timm's transforms, decoded by worker processes.

Every view draws from a seed of its own, made of the training's seed, the epoch and the
view's place in it: the same whatever the number of workers, and after a resumption.

Shapes: T steps of an epoch, B batch, C channels, S side, K classes.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from timm.data import Mixup, create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import Compose, Normalize, ToTensor

from sret_nas.data import DataError, DataSet, Views
from sret_nas.recipe import FullRecipe
from sret_nas.training.feeding import Feed, smoothed
from sret_nas.training.policies import for_any_pillow
from sret_nas.training.soft_labels import SoftLabels, StoredViews
from sret_nas.training.teachers import blend

Place = tuple[int, int, int]
"""Position in the split, number of the epoch, place within the epoch."""


@contextlib.contextmanager
def drawing_from(*seed: int) -> Iterator[None]:
    """Within, the global generators that timm's transforms draw from start from a seed.

    Args:
        seed: Whole numbers, at least 0.
    """
    sequence = np.random.SeedSequence(seed)
    first, second, third = (int(s) for s in sequence.generate_state(3))
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    random.seed(first)
    np.random.seed(second)  # noqa: NPY002
    torch.default_generator.manual_seed(third)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])


class Drawn(Dataset[tuple[Tensor, int]]):
    """Views whose random transform depends on their place in the training alone.

    Args:
        views: The images and their transform.
        seed: Of all draws.
    """

    def __init__(self, views: Views, seed: int) -> None:
        self.views = views
        self.seed = seed

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, place: Place) -> tuple[Tensor, int]:
        """The view and its label."""
        at, epoch, number = place
        with drawing_from(self.seed, epoch, number):
            return self.views[at]


class Answered(Dataset[tuple[Tensor, int, Tensor]]):
    """Views whose labels by a teacher are stored, one crop after the other.

    Args:
        views: The stored views.
    """

    def __init__(self, views: StoredViews) -> None:
        self.views = views

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, place: Place) -> tuple[Tensor, int, Tensor]:
        """The view, its label and the teacher's probabilities, (K,)."""
        at, epoch, _ = place
        return self.views[int(self.views.numbers(torch.tensor(at), epoch - 1))]


class Places:
    """The batches of the epoch that is being gone through, for a ``DataLoader``."""

    def __init__(self) -> None:
        self.batches: list[list[Place]] = []

    def __iter__(self) -> Iterator[list[Place]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class PictureFeed(Feed):
    """Random crops, RandAugment, jitter and erasing by timm; mixup and cutmix by timm.

    Args:
        data: What to train on.
        recipe: The augmentation.
        device: Where the steps are computed.
        seed: Of order, views and blends.
        workers: Processes that decode; 0 decodes in this one.
        share: Which part of each batch is this process's, and of how many.
        answers: A teacher's stored answers: then views are the crops that it saw, and of the
            recipe's augmentation only ``mixup`` and ``cutmix`` are left.
    """

    def __init__(
        self,
        data: DataSet,
        recipe: FullRecipe,
        device: torch.device,
        seed: int,
        *,
        workers: int = 0,
        share: tuple[int, int] = (0, 1),
        answers: SoftLabels | None = None,
    ) -> None:
        self.recipe = recipe
        self.device = device
        self.seed = seed
        self.num_classes = data.num_classes
        self.part, self.parts = share
        views: Dataset[Any]
        if answers is None:
            views = Drawn(Views(data.train, transform(data, recipe)), seed)
        else:
            views = Answered(StoredViews(data.train, answers, plain(data)))
        self.blend = mixing(recipe, data.num_classes)
        self.count = count = len(data.train)
        unit = self.parts * (2 if self.blend else 1)  # timm blends pairs
        self.whole = max(unit, min(recipe.batch, count) // unit * unit)
        self.batch = self.whole // self.parts
        self.steps = max(1, count // self.whole)
        self.places = Places()
        self.loader: DataLoader[Any] = DataLoader(
            views,
            batch_sampler=self.places,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # else each epoch would draw from the training's own
        )
        shape = (self.batch, data.in_chans, data.image_size, data.image_size)
        self.x_BCSS = torch.zeros(shape, device=device)
        self.weights_BK = torch.zeros(self.batch, data.num_classes, device=device)

    def order(self, number: int) -> Tensor:
        """Positions in the split of an epoch's images, int64 (T, B of all processes).

        Args:
            number: Of the epoch, from 1.
        """
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        order = torch.randperm(self.count, generator=generator)
        repeats = self.recipe.repeats
        # As DeiT repeats: as many images as ever, fewer different ones.
        order = order.repeat_interleave(repeats)
        needed = self.steps * self.whole
        order = order.repeat(-(-needed // len(order)))[:needed]
        return order.view(self.steps, self.whole)

    def epoch(self, number: int, start: int = 0) -> Iterator[None]:
        """Decode ahead of the steps; blend here."""
        order_TB = self.order(number).tolist()
        self.places.batches = [
            [
                (at, number, step * self.whole + i)
                for i, at in enumerate(row)
                if i % self.parts == self.part
            ]
            for step, row in enumerate(order_TB)
        ][start:]
        for step, (images_BCSS, labels_B, *answers) in enumerate(in_one_line(self.loader), start):
            x_BCSS, *rest = (
                one.to(self.device, non_blocking=True) for one in (images_BCSS, labels_B, *answers)
            )
            with drawing_from(self.seed, number, step, self.part):
                x_BCSS, targets_BK = self.targets(x_BCSS, *rest)
            self.x_BCSS.copy_(x_BCSS)
            self.weights_BK.copy_(targets_BK / -self.batch)
            yield

    def targets(
        self, x_BCSS: Tensor, labels_B: Tensor, answers_BK: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Blend a batch where the recipe says so, and make its targets.

        Args:
            x_BCSS: Normalised images.
            labels_B: Their classes, int64.
            answers_BK: Probabilities by a teacher, where they are stored.

        Returns:
            Images, and probabilities (B, K).
        """
        if answers_BK is None and self.blend is not None:
            return self.blend(x_BCSS, labels_B)  # type: ignore[no-any-return]
        smoothing = self.recipe.label_smoothing
        targets_BK = -len(labels_B) * smoothed(labels_B, self.num_classes, smoothing)
        if answers_BK is None:
            return x_BCSS, targets_BK
        targets_BK = blend(answers_BK, targets_BK, self.recipe.distill)
        if self.blend is not None:
            share = self.blend._mix_batch(x_BCSS)  # in place; timm blends labels alone
            targets_BK = torch.lerp(targets_BK.flip(0), targets_BK, share)
        return x_BCSS, targets_BK

    def read(self, at: Tensor) -> tuple[Tensor, Tensor]:
        """The batch that lies ready."""
        return self.x_BCSS, self.weights_BK

    def state_dict(self) -> dict[str, Any]:
        """Nothing: all draws follow from the seed and the place."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to do."""


def in_one_line(batches: Iterable[Any]) -> Iterator[Any]:
    """The batches; what a worker process raises is what it says, without its traceback.

    Args:
        batches: A ``DataLoader``, which raises an error of the same kind with all of it as text.

    Raises:
        DataError: an image cannot be read any more.
    """
    try:
        yield from batches
    except DataError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        if "Caught DataError" not in lines[0]:
            raise
        raise DataError(
            lines[-1].partition("DataError: ")[2],
            "put the image back, or another in its place: the same command goes on",
        ) from error


def transform(data: DataSet, recipe: FullRecipe) -> Any:
    """Timm's transform for training, from a Pillow image to a normalised tensor.

    Args:
        data: Size, mean and deviation of the images, and whether they may be mirrored.
        recipe: ``scale``, ``flip``, ``auto_augment``, ``jitter`` and ``erasing``.
    """
    made = create_transform(
        (data.in_chans, data.image_size, data.image_size),
        is_training=True,
        scale=recipe.scale or (1.0, 1.0),
        ratio=(3 / 4, 4 / 3) if recipe.scale else (1.0, 1.0),
        hflip=0.5 if recipe.flip and data.mirror else 0.0,
        color_jitter=recipe.jitter,
        auto_augment=recipe.auto_augment,
        interpolation="bilinear" if recipe.scale is None else "random",
        mean=data.mean,
        std=data.std,
        re_prob=recipe.erasing,
        re_mode="pixel",
    )
    return for_any_pillow(made)


def plain(data: DataSet) -> Any:
    """From a Pillow image of the data's size to a normalised tensor.

    Args:
        data: Mean and deviation of the images.
    """
    return Compose([ToTensor(), Normalize(data.mean, data.std)])


def mixing(recipe: FullRecipe, classes: int) -> Mixup | None:
    """Timm's mixup and cutmix, or ``None`` where the recipe has neither.

    Args:
        recipe: ``mixup``, ``cutmix``, ``mix_prob``, ``switch_prob`` and ``label_smoothing``.
        classes: K.
    """
    if not recipe.mixup and not recipe.cutmix:
        return None
    return Mixup(
        mixup_alpha=recipe.mixup,
        cutmix_alpha=recipe.cutmix,
        prob=recipe.mix_prob,
        switch_prob=recipe.switch_prob,
        label_smoothing=recipe.label_smoothing,
        num_classes=classes,
    )
