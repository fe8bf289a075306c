"""Where the batches of a training come from.

Shapes: T steps of an epoch, B batch, C channels, S side, K classes.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from sret_nas.data import Augment, DataSet, Resident
from sret_nas.recipe import Recipe


class Feed(ABC):
    """Batches as a step reads them, epoch by epoch.

    Attributes:
        batch: Images of a step, B.
        steps: Steps of an epoch, T.
    """

    batch: int
    steps: int

    @abstractmethod
    def epoch(self, number: int, start: int = 0) -> Iterator[None]:
        """Go through an epoch; each item is a step whose batch lies ready.

        Args:
            number: Of the epoch, from 1.
            start: Steps of it that are done already.
        """

    @abstractmethod
    def read(self, at: Tensor) -> tuple[Tensor, Tensor]:
        """The batch whose turn it is; can be recorded.

        Args:
            at: Number of the step within the epoch, int64 (1,), on the device.

        Returns:
            Normalised images (B, C, S, S), and what log-probabilities (B, K) are summed with to
            the loss: targets over −B.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What the rest of the present epoch and all later ones hang on."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state.

        Args:
            state: As of ``state_dict``.
        """


def smoothed(labels_B: Tensor, classes: int, smoothing: float) -> Tensor:
    """Labels as what log-probabilities are summed with to cross-entropy with label smoothing.

    Args:
        labels_B: int64.
        classes: K.
        smoothing: Probability spread evenly over all classes.

    Returns:
        (B, K): minus the target probability, over B.
    """
    B, K = len(labels_B), classes
    weights_BK = torch.full((B, K), -smoothing / (K * B), device=labels_B.device)
    return weights_BK.scatter_(1, labels_B[:, None], -(1 - smoothing + smoothing / K) / B)


class DeviceFeed(Feed):
    """Images that are cropped, mirrored and blended on the device, a whole batch at once.

    What is random is drawn for a whole epoch beforehand, so that a step waits for nothing.

    Args:
        data: What to train on.
        recipe: ``batch``, ``flip``, ``pad``, ``mixup`` and ``label_smoothing``.
        device: Where the steps are computed.
        seeds: Of the order and of the augmentation.
        share: Which part of each batch is this process's, and of how many.
    """

    def __init__(
        self,
        data: DataSet,
        recipe: Recipe,
        device: torch.device,
        seeds: tuple[int, int],
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self.recipe = recipe
        self.device = device
        self.num_classes = data.num_classes
        self.side = data.image_size
        self.order, self.augmenting = (torch.Generator().manual_seed(seed) for seed in seeds)
        self.part, parts = share
        self.parts = parts
        self.train_split = data.train.to(device)
        self.augment = Augment(
            data.mean,
            data.std,
            flip=recipe.flip and data.mirror,
            pad=recipe.pad,
            mixup=recipe.mixup,
            device=device,
        )
        whole = min(recipe.batch, len(self.train_split)) // parts * parts
        self.whole = whole
        self.batch = whole // parts
        self.steps = len(self.train_split) // whole
        self._make_room(data.in_chans)
        self._keep()

    def _make_room(self, channels: int) -> None:
        """The tensors that steps read."""
        zeros = functools.partial(torch.zeros, device=self.device)
        T, B, S = self.steps, self.batch, self.side
        self.plan_T4B = zeros(T, 4, B, dtype=torch.long)
        self.shares_T = zeros(T)
        self.place: tuple[Tensor, Tensor] | None = None
        if not isinstance(self.train_split, Resident):
            self.place = (
                zeros(B, channels, S, S, dtype=torch.uint8),
                zeros(B, dtype=torch.long),
            )

    def _keep(self) -> None:
        """Remember what the next epoch is drawn with."""
        self.began = {"order": self.order.get_state(), "augmenting": self.augmenting.get_state()}

    def state_dict(self) -> dict[str, Any]:
        """The generators as they were before the present epoch was drawn."""
        return dict(self.began)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Draw the epoch again from there."""
        self.order.set_state(state["order"])
        self.augmenting.set_state(state["augmenting"])
        self._keep()

    def epoch(self, number: int, start: int = 0) -> Iterator[None]:
        """Draw the epoch; the images of a stream come ahead of the steps."""
        self._keep()
        order_TB = self.train_split.shuffled(self.whole, self.order)
        draws_T3B = self.augment.draw(order_TB.shape, self.side, self.augmenting)
        mine = slice(self.part, None, self.parts)
        plan_T4B = torch.cat([order_TB[:, None], draws_T3B], dim=1)[..., mine]
        self.plan_T4B.copy_(plan_T4B)
        self.shares_T.copy_(torch.tensor(self.augment.shares(self.steps, self.augmenting)))
        if self.place is None:
            yield from [None] * (self.steps - start)
        else:
            for batch in self.train_split.take(plan_T4B[start:, 0], self.device):
                fill(self.place, batch)
                yield
        self._keep()

    def read(self, at: Tensor) -> tuple[Tensor, Tensor]:
        """Crop, mirror and blend."""
        order_B, *draws_3B = self.plan_T4B.index_select(0, at)[0]
        if isinstance(self.train_split, Resident):
            images_BCSS = self.train_split.images.index_select(0, order_B)
            labels_B = self.train_split.labels.index_select(0, order_B)
        else:
            assert self.place is not None
            images_BCSS, labels_B = self.place
        x_BCSS = self.augment(images_BCSS, *draws_3B)
        weights_BK = smoothed(labels_B, self.num_classes, self.recipe.label_smoothing)
        if self.recipe.mixup:
            (share,) = self.shares_T.index_select(0, at)
            x_BCSS, weights_BK = self.augment.mix(x_BCSS, weights_BK, share)
        return x_BCSS, weights_BK


NOBODY = -100
"""Label of a place in a batch that no image takes."""


def fill(place: tuple[Tensor, Tensor], batch: tuple[Tensor, Tensor]) -> None:
    """Put a batch, perhaps a smaller one, to where a step reads it.

    Args:
        place: Images (B, C, S, S) and labels (B,); those that no image takes become ``NOBODY``.
        batch: Of at most as many.
    """
    images_BCSS, labels_B = place
    count = len(batch[1])
    images_BCSS[:count].copy_(batch[0], non_blocking=True)
    labels_B[:count].copy_(batch[1], non_blocking=True)
    labels_B[count:] = NOBODY
