"""The training loop.

Shapes: T steps of an epoch, B batch, C channels, S side, K classes.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sret_nas.arch import Architecture
from sret_nas.data import Augment, DataSet, Resident, Split
from sret_nas.device import exact_fp32, has_dtype, resolve
from sret_nas.graphs import CudaRecorder, Recorder, Repeated
from sret_nas.model import create_model
from sret_nas.proxy import Recipe
from sret_nas.training.cpu import suit_to_cpu
from sret_nas.training.failures import (
    NotFiniteError,
    checked,
    is_out_of_memory,
    needing_room,
)
from sret_nas.training.optimiser import ClippingAdamW, schedule
from sret_nas.training.randomness import Random

VALIDATED = 256
"""Images that are validated at once, unless the recipe's batch is larger: without gradients
there is room for more, and fewer operations do for all."""
NOBODY = -100
"""Label of a place in a batch that no image takes."""


@dataclass(frozen=True)
class EpochResult:
    """What one epoch came to.

    Attributes:
        epoch: Epochs done, from 1.
        train_loss: Mean over the epoch's steps, with label smoothing and augmentation.
        val_loss: Cross-entropy on the validation images, without either.
        val_accuracy: Share of them classified right, 0 to 1.
        seconds: Wall time of the epoch, validation included.
        images: Training images seen in this epoch.
    """

    epoch: int
    train_loss: float
    val_loss: float
    val_accuracy: float
    seconds: float
    images: int


class Trainer:
    """A network in training.

    A step reads and writes tensors that stay where they are, waits for nothing and
    draws from the device's generator alone; what else is random is drawn for a whole
    epoch beforehand. So it can be recorded after a few runs, and repeated.

    Args:
        arch: What to train, at the scale of the data (``Proxy.apply``).
        data: What to train and validate on.
        recipe: How to train: epochs, batch, learning rate and its schedule, regularisation.
        seed: Seed of initial weights, order, augmentation and drop-path.
        device: Where to train; default the first GPU that can be used, else the CPU.
        graphs: Whether whole steps become CUDA graphs where there are any; or who
            records them instead.

    Attributes:
        model: The network.
        epoch: Epochs done.
        step: Steps done.
    """

    def __init__(
        self,
        arch: Architecture,
        data: DataSet,
        recipe: Recipe,
        *,
        seed: int = 0,
        device: torch.device | None = None,
        graphs: bool | Recorder = True,
    ) -> None:
        self.recipe = recipe
        self.device = device or resolve()
        self.bf16 = has_dtype("bf16", self.device)
        self.num_classes = data.num_classes
        self.side = data.image_size
        self.epoch = 0
        self.step = 0
        self.parts = 1
        weights, order, augment = (int(s) for s in np.random.SeedSequence(seed).generate_state(3))
        self.random = Random(weights, self.device)
        self.order = torch.Generator().manual_seed(order)
        self.augmenting = torch.Generator().manual_seed(augment)
        with self.random:
            model = create_model(arch, drop_path_rate=recipe.drop_path)
        with needing_room("the network and its data", self.device):
            self.model = model.to(self.device)
            if self.bf16 and self.device.type == "cpu":
                suit_to_cpu(self.model)
            self.optimizer = ClippingAdamW(self.model, recipe)
            self.train_split = data.train.to(self.device)
            self.val_split = data.val.to(self.device)
            self.augment = Augment(
                data.mean,
                data.std,
                flip=recipe.flip and data.mirror,
                pad=recipe.pad,
                mixup=recipe.mixup,
                device=self.device,
            )
            self.batch = min(recipe.batch, len(self.train_split))
            self.steps_per_epoch = len(self.train_split) // self.batch
            self.scored = min(max(self.batch, VALIDATED), len(self.val_split))
            self.recorder, self._not_recorded = _recorder(arch, self.device, graphs)
            self.training = Repeated(self.recorder)
            self.scoring = Repeated(self.recorder)
            self._make_room(data.in_chans)

    def _make_room(self, channels: int) -> None:
        """The tensors that steps read and write."""

        def batch(size: int) -> tuple[Tensor, Tensor]:
            images_BCSS = zeros(size, channels, self.side, self.side, dtype=torch.uint8)
            return images_BCSS, zeros(size, dtype=torch.long)

        zeros = functools.partial(torch.zeros, device=self.device)
        T, B = self.steps_per_epoch, self.batch
        self.plan_T4B = zeros(T, 4, B, dtype=torch.long)
        self.rates_T = zeros(T)
        self.shares_T = zeros(T)
        self.at = zeros(1, dtype=torch.long)
        self.loss = zeros((), dtype=torch.float64)
        self.right = zeros((), dtype=torch.long)
        self.train_batch = None if isinstance(self.train_split, Resident) else batch(B)
        self.val_batch = batch(self.scored) if self.recorder else None

    @property
    def graphed(self) -> bool:
        """Whether training steps are repeated from a recording by now."""
        return self.training.recorded

    @property
    def why_eager(self) -> str | None:
        """Why steps that could be recorded run one operation at a time; else ``None``."""
        if self._not_recorded or self.training.failure:
            return self._not_recorded or self.training.failure
        return self.scoring.failure and f"validation: {self.scoring.failure}"

    @property
    def settled(self) -> bool:
        """Whether the next step costs what all later ones cost: warm, and recorded if at all."""
        return self.training.settled

    def epochs(self) -> Iterator[EpochResult]:
        """Train to the end of the recipe; yields after each epoch.

        To stop early, stop iterating; to go on, iterate again.

        Raises:
            TrainingError: the loss is not finite, diverged, or memory ran out.
        """
        while self.epoch < self.recipe.epochs:
            start = time.perf_counter()
            train_loss, images = self.train_epoch()
            val_loss, val_accuracy = self.validate(self.val_split)
            yield EpochResult(
                epoch=self.epoch,
                train_loss=train_loss,
                val_loss=val_loss,
                val_accuracy=val_accuracy,
                seconds=time.perf_counter() - start,
                images=images,
            )

    def train_epoch(self) -> tuple[float, int]:
        """Run once through the training images.

        Returns:
            The mean loss of the epoch's steps, and the number of images.

        Raises:
            TrainingError: the loss is not finite, diverged, or memory ran out.
        """
        self.model.train()
        self.epoch += 1
        with self._running():
            for batch in self._batches():
                if self.train_batch is not None and batch is not None:
                    _fill(self.train_batch, batch)
                self.training(self._train_step, self._train_step_as_memory_allows)
                self.step += 1
            # Only here is the loss read: reading it waits for the device.
            loss = self.loss.item() / self.steps_per_epoch
        return checked(loss, self.epoch, self.num_classes), self.steps_per_epoch * self.batch

    def _batches(self) -> Iterator[tuple[Tensor, Tensor] | None]:
        """Draw the epoch; then one item a step: its batch, where the images are no tensor."""
        steps, recipe = self.steps_per_epoch, self.recipe
        order_TB = self.train_split.shuffled(self.batch, self.order)
        draws_T3B = self.augment.draw(order_TB.shape, self.side, self.augmenting)
        self.plan_T4B.copy_(torch.cat([order_TB[:, None], draws_T3B], dim=1))
        rates = [
            recipe.lr * schedule(recipe, step, steps * recipe.epochs)
            for step in range(self.step, self.step + steps)
        ]
        self.rates_T.copy_(torch.tensor(rates))
        self.shares_T.copy_(torch.tensor(self.augment.shares(steps, self.augmenting)))
        self.at.zero_()
        self.loss.zero_()
        if self.train_batch is None:
            yield from [None] * steps
        else:
            yield from self.train_split.take(order_TB, self.device)

    def _train_step(self) -> None:
        """One step of the optimiser; can be recorded."""
        self._update(self._gradients())

    def _train_step_as_memory_allows(self) -> None:
        """One step of the optimiser, the batch in parts where memory is too small for all of it."""
        while True:
            try:
                loss = self._gradients()
                break
            except (RuntimeError, MemoryError) as error:
                self._after_out_of_memory(error, self.parts >= self.batch)
                self.parts = min(2 * self.parts, self.batch)
        with needing_room(f"epoch {self.epoch}, in the optimiser", self.device):
            self._update(loss)

    def _gradients(self) -> Tensor:
        """Loss and gradients of the batch whose turn it is."""
        order_B, *draws_3B = self.plan_T4B.index_select(0, self.at)[0]
        if isinstance(self.train_split, Resident):
            images_BCSS = self.train_split.images.index_select(0, order_B)
            labels_B = self.train_split.labels.index_select(0, order_B)
        else:
            assert self.train_batch is not None
            images_BCSS, labels_B = self.train_batch
        x_BCSS = self.augment(images_BCSS, *draws_3B)
        weights_BK = self._weights(labels_B)
        if self.recipe.mixup:
            (share,) = self.shares_T.index_select(0, self.at)
            x_BCSS, weights_BK = self.augment.mix(x_BCSS, weights_BK, share)
        self.optimizer.clear()
        losses = []
        for x, weights in zip(
            x_BCSS.tensor_split(self.parts), weights_BK.tensor_split(self.parts), strict=True
        ):
            with self._autocast():
                logits_BK = self.model(x).float()
            loss = torch.dot(F.log_softmax(logits_BK, dim=1).flatten(), weights.flatten())
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        return losses[0] if self.parts == 1 else torch.stack(losses).sum()

    def _weights(self, labels_B: Tensor) -> Tensor:
        """What log-probabilities are summed with to cross-entropy with label smoothing."""
        B, K = len(labels_B), self.num_classes
        smoothing = self.recipe.label_smoothing
        weights_BK = torch.full((B, K), -smoothing / (K * B), device=self.device)
        return weights_BK.scatter_(1, labels_B[:, None], -(1 - smoothing + smoothing / K) / B)

    def _update(self, loss: Tensor) -> None:
        """Let the optimiser step, and count."""
        (rate,) = self.rates_T.index_select(0, self.at)
        self.optimizer.update(rate)
        self.loss.add_(loss)
        self.at.add_(1)

    def validate(self, split: Split) -> tuple[float, float]:
        """Cross-entropy and accuracy (0 to 1) on a split, in as large batches as memory allows.

        Raises:
            NotFiniteError: the network's output is not finite.
            OutOfMemoryError: not even one image fits.
        """
        self.model.eval()
        size = self.scored
        while True:
            try:
                return self._validate(split, size)
            except (RuntimeError, MemoryError) as error:
                self._after_out_of_memory(error, size == 1)
                size = max(1, size // 2)

    @torch.inference_mode()
    def _validate(self, split: Split, size: int) -> tuple[float, float]:
        with self._running():
            self.loss.zero_()
            self.right.zero_()
            for batch in split.to(self.device).batches(size, self.device):
                if self.val_batch is not None and size == self.scored:
                    _fill(self.val_batch, batch)
                    self.scoring(self._score_whole)
                else:
                    self._score(*batch)
            val_loss = self.loss.item() / len(split)
            val_accuracy = self.right.item() / len(split)
        if not math.isfinite(val_loss):
            raise NotFiniteError(f"epoch {self.epoch}: the validation loss is {val_loss}")
        return val_loss, val_accuracy

    def _score_whole(self) -> None:
        """Score the batch that lies ready; can be recorded."""
        assert self.val_batch is not None
        self._score(*self.val_batch)

    def _score(self, images_BCSS: Tensor, labels_B: Tensor) -> None:
        with self._autocast():
            logits_BK = self.model(self.augment.normalise(images_BCSS)).float()
        losses = F.cross_entropy(logits_BK, labels_B, reduction="sum", ignore_index=NOBODY)
        self.loss.add_(losses)
        self.right.add_((logits_BK.argmax(1) == labels_B).sum())

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        on = self.recorder.running() if self.recorder else contextlib.nullcontext()
        with self.random, exact_fp32(), on:
            yield

    def _after_out_of_memory(self, error: Exception, smallest: bool) -> None:
        """Raise what is not a lack of memory, or cannot be helped; else free what can be."""
        if smallest or not is_out_of_memory(error):
            with needing_room(f"epoch {self.epoch}, with one image at a time", self.device):
                raise error
        self.optimizer.clear()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)


def _recorder(
    arch: Architecture, device: torch.device, graphs: bool | Recorder
) -> tuple[Recorder | None, str | None]:
    """Who records steps; or nobody, and where somebody could, why not."""
    if graphs is False or (graphs is True and device.type != "cuda"):
        return None, None
    permuted = any(use.permuted for stage in arch.schedules for use in stage)
    if permuted and arch.permute == "random":
        return None, "permute: random draws on the CPU at every call"
    return (CudaRecorder(device) if graphs is True else graphs), None


def _fill(place: tuple[Tensor, Tensor], batch: tuple[Tensor, Tensor]) -> None:
    """Put a batch, perhaps a smaller one, to where a step reads it."""
    images_BCSS, labels_B = place
    count = len(batch[1])
    images_BCSS[:count].copy_(batch[0], non_blocking=True)
    labels_B[:count].copy_(batch[1], non_blocking=True)
    labels_B[count:] = NOBODY
