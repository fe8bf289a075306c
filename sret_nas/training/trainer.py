"""The training loop.

Shapes: T steps of an epoch, B batch, C channels, S side, K classes.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sret_nas.arch import Architecture
from sret_nas.data import DataSet, Split, affine
from sret_nas.device import exact_fp32, has_dtype, resolve
from sret_nas.graphs import CudaRecorder, Recorder, Repeated
from sret_nas.model import SReT, create_model
from sret_nas.recipe import Recipe
from sret_nas.training.cpu import suit_to_cpu
from sret_nas.training.failures import (
    NotFiniteError,
    checked,
    is_out_of_memory,
    needing_room,
)
from sret_nas.training.feeding import NOBODY, DeviceFeed, Feed, fill
from sret_nas.training.optimiser import ClippingAdamW, schedule
from sret_nas.training.randomness import Random

VALIDATED = 256
"""Images that are validated at once, unless the recipe's batch is larger: without gradients
there is room for more, and fewer operations do for all."""
AfterStep = Callable[[], None]


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
        network: What to train: an architecture at the scale of the data (``Proxy.apply``),
            or what makes the network.
        data: What to train and validate on.
        recipe: How to train: epochs, batch, learning rate and its schedule, regularisation.
        seed: Seed of initial weights, order, augmentation and drop-path.
        device: Where to train; default the first GPU that can be used, else the CPU.
        graphs: Whether whole steps become CUDA graphs where there are any; or who
            records them instead.
        feed: Where batches come from; default: from the data as they are, on the device.

    Attributes:
        model: The network.
        epoch: Epochs begun.
        step: Steps done.
        done: Steps done of the present epoch; 0 when it is over.
    """

    def __init__(
        self,
        network: Architecture | Callable[[], nn.Module],
        data: DataSet,
        recipe: Recipe,
        *,
        seed: int = 0,
        device: torch.device | None = None,
        graphs: bool | Recorder = True,
        feed: Feed | None = None,
    ) -> None:
        self.recipe = recipe
        self.device = device or resolve()
        self.bf16 = self._computes_in_bf16()
        self.num_classes = data.num_classes
        self.epoch = 0
        self.step = 0
        self.done = 0
        self.parts = 1
        weights, order, augment = (int(s) for s in np.random.SeedSequence(seed).generate_state(3))
        self.random = Random(weights, self.device)
        with self.random:
            if isinstance(network, Architecture):
                model: nn.Module = create_model(network, drop_path_rate=recipe.drop_path)
            else:
                model = network()
        with needing_room("the network and its data", self.device):
            self.model = model.to(self.device)
            if self.bf16 and self.device.type == "cpu":
                suit_to_cpu(self.model)
            self.forward: Callable[[Tensor], Tensor] = self.model
            self.optimizer = ClippingAdamW(self.model, recipe)
            self.feed = feed or DeviceFeed(data, recipe, self.device, (order, augment))
            self.val_split = data.val.to(self.device)
            self.scored = min(max(self.feed.batch, VALIDATED), len(self.val_split))
            self.recorder, self._not_recorded = _recorder(self.model, self.device, graphs)
            self.training = Repeated(self.recorder)
            self.scoring = Repeated(self.recorder)
            self._make_room(data)

    def _make_room(self, data: DataSet) -> None:
        """The tensors that steps read and write."""
        zeros, here = torch.zeros, self.device
        self.scale_C11, self.shift_C11 = affine(data.mean, data.std, here)
        self.rates_T = zeros(self.feed.steps, device=here)
        self.at = zeros(1, dtype=torch.long, device=here)
        self.loss = zeros((), dtype=torch.float64, device=here)
        self.right = zeros((), dtype=torch.long, device=here)
        self.val_batch: tuple[Tensor, Tensor] | None = None
        if self.recorder:
            shape = (self.scored, data.in_chans, data.image_size, data.image_size)
            self.val_batch = (
                zeros(shape, dtype=torch.uint8, device=here),
                zeros(self.scored, dtype=torch.long, device=here),
            )

    def _computes_in_bf16(self) -> bool:
        """Whether steps run under autocast to bf16."""
        return has_dtype("bf16", self.device)

    @property
    def judged(self) -> nn.Module:
        """The network that is validated."""
        return self.model

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

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the training hangs on; also amid an epoch."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": self.random.state_dict(),
            "feed": self.feed.state_dict(),
            "loss": self.loss,
            "epoch": self.epoch,
            "step": self.step,
            "done": self.done,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state, before the first step.

        Args:
            state: As of ``state_dict``, of a training with the same recipe and data.
        """
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.random.load_state_dict(state["random"])
        self.feed.load_state_dict(state["feed"])
        self.loss.copy_(state["loss"])
        self.epoch, self.step, self.done = (state[key] for key in ("epoch", "step", "done"))

    def train_epoch(self, after: AfterStep = lambda: None) -> tuple[float, int]:
        """Run once through the training images, or through what is left of them.

        Args:
            after: Called after each step.

        Returns:
            The mean loss of the epoch's steps, and the number of images.

        Raises:
            TrainingError: the loss is not finite, diverged, or memory ran out.
        """
        self.model.train()
        steps = self.feed.steps
        if self.done == 0:
            self.epoch += 1
            self.loss.zero_()
        with self._running():
            self.rates_T.copy_(torch.tensor(self._rates()))
            self.at.fill_(self.done)
            for _ in self.feed.epoch(self.epoch, self.done):
                self.training(self._train_step, self._train_step_as_memory_allows)
                self.step += 1
                self.done += 1
                self._after_step()
                after()
            # Only here is the loss read: reading it waits for the device.
            loss = self.loss.item() / steps
        self.done = 0
        begun = self.epoch <= self.recipe.warmup * self.recipe.epochs
        return checked(loss, self.epoch, self.num_classes, begun), steps * self.feed.batch

    def _rates(self) -> list[float]:
        """Learning rates of the epoch's steps."""
        steps, recipe = self.feed.steps, self.recipe
        first = (self.epoch - 1) * steps
        return [
            recipe.rate * schedule(recipe, step, steps * recipe.epochs)
            for step in range(first, first + steps)
        ]

    def _after_step(self) -> None:
        """What follows a step and is never recorded."""

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
                self._after_out_of_memory(error, self.parts >= self.feed.batch)
                self.parts = min(2 * self.parts, self.feed.batch)
        with needing_room(f"epoch {self.epoch}, in the optimiser", self.device):
            self._update(loss)

    def _gradients(self) -> Tensor:
        """Loss and gradients of the batch whose turn it is."""
        x_BCSS, weights_BK = self.feed.read(self.at)
        self.optimizer.clear()
        losses: list[Tensor] = []
        for x, weights in zip(
            x_BCSS.tensor_split(self.parts), weights_BK.tensor_split(self.parts), strict=True
        ):
            losses.append(self._backward(x, weights, last=len(losses) == self.parts - 1))
        return losses[0] if self.parts == 1 else torch.stack(losses).sum()

    def _backward(self, x_BCSS: Tensor, weights_BK: Tensor, last: bool) -> Tensor:
        """Add the gradients of a part of the batch, and return its share of the loss."""
        with self._autocast():
            logits_BK = self.forward(x_BCSS).float()
        loss = torch.dot(F.log_softmax(logits_BK, dim=1).flatten(), weights_BK.flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

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
        self.judged.eval()
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
            for batch in self._batches(split.to(self.device), size):
                if self.val_batch is not None and size == self.scored:
                    fill(self.val_batch, batch)
                    self.scoring(self._score_whole)
                else:
                    self._score(*batch)
            self._gather()
            val_loss = self.loss.item() / len(split)
            val_accuracy = self.right.item() / len(split)
        if not math.isfinite(val_loss):
            raise NotFiniteError(f"epoch {self.epoch}: the validation loss is {val_loss}")
        return val_loss, val_accuracy

    def _batches(self, split: Split, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of a split that are scored in this process."""
        return split.batches(size, self.device)

    def _gather(self) -> None:
        """Add up what processes have scored."""

    def _score_whole(self) -> None:
        """Score the batch that lies ready; can be recorded."""
        assert self.val_batch is not None
        self._score(*self.val_batch)

    def _score(self, images_BCSS: Tensor, labels_B: Tensor) -> None:
        with self._autocast():
            x_BCSS = torch.addcmul(self.shift_C11, images_BCSS.float(), self.scale_C11)
            logits_BK = self.judged(x_BCSS).float()
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
    model: nn.Module, device: torch.device, graphs: bool | Recorder
) -> tuple[Recorder | None, str | None]:
    """Who records steps; or nobody, and where somebody could, why not."""
    if graphs is False or (graphs is True and device.type != "cuda"):
        return None, None
    if isinstance(model, SReT):
        permuted = any(use.permuted for stage in model.arch.schedules for use in stage)
        if permuted and model.arch.permute == "random":
            return None, "permute: random draws on the CPU at every call"
    return (CudaRecorder(device) if graphs is True else graphs), None
