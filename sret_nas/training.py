"""One training loop, for proxies and for real.

AdamW, linear warm-up and cosine, gradient clipping, label smoothing, bf16
autocast where the device computes in bf16. Everything random comes from the
seed: on a CPU with one thread, two runs of a seed are equal bit by bit, and the
global generators are left as they were.

Shapes: B batch, C channels, S side, K classes.
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
from torch import Tensor, nn

from sret_nas.arch import Architecture
from sret_nas.data import Augment, DataSet, Split
from sret_nas.device import has_dtype
from sret_nas.errors import TrainingError
from sret_nas.model import SReT, create_model
from sret_nas.proxy import Recipe

DIVERGED = 3.0
"""A training loss of more than this times that of guessing has diverged."""


class NotFiniteError(TrainingError):
    """The loss became NaN or infinite."""

    reason = "NaN"


class DivergedError(TrainingError):
    """The loss grew far above that of guessing."""

    reason = "diverged"


class OutOfMemoryError(TrainingError):
    """Not even one image at a time fits into memory."""

    reason = "out of memory"


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

    Args:
        arch: What to train, at the scale of the data (``Proxy.apply``).
        data: What to train and validate on.
        recipe: How.
        seed: Of initial weights, order, augmentation and drop-path.
        device: Where.

    Attributes:
        model: The network.
        epoch: Epochs done.
    """

    def __init__(
        self,
        arch: Architecture,
        data: DataSet,
        recipe: Recipe,
        *,
        seed: int = 0,
        device: torch.device | None = None,
    ) -> None:
        self.recipe = recipe
        self.device = device or torch.device("cpu")
        self.bf16 = has_dtype("bf16", self.device)
        self.num_classes = data.num_classes
        self.epoch = 0
        self.parts = 1
        weights, order, augment = (int(s) for s in np.random.SeedSequence(seed).generate_state(3))
        self.random = _Random(weights, self.device)
        self.order = torch.Generator().manual_seed(order)
        self.augmenting = torch.Generator(self.device).manual_seed(augment)
        with self.random:
            model = create_model(arch, drop_path_rate=recipe.drop_path)
        self.model = model.to(self.device)
        if self.bf16 and self.device.type == "cpu":
            _suit_to_cpu(self.model)
        self.optimizer = torch.optim.AdamW(
            _groups(self.model, recipe.weight_decay), lr=recipe.lr, fused=True
        )
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
        self.steps_per_epoch = max(1, len(self.train_split) // recipe.batch)
        self.step = 0

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
        """Run once through the training images; the mean loss and their number."""
        self.model.train()
        self.epoch += 1
        total = torch.zeros((), device=self.device, dtype=torch.float64)
        images = 0
        with self.random:
            for images_BCSS, labels_B in self.train_split.batches(
                self.recipe.batch, self.device, self.order
            ):
                # The loss stays on the device: reading it would wait for every step.
                total += self._train_step(images_BCSS, labels_B) * len(labels_B)
                images += len(labels_B)
        return self._checked(total.item() / images), images

    def validate(self, split: Split) -> tuple[float, float]:
        """Cross-entropy and accuracy on a split.

        Raises:
            NotFiniteError: the network's output is not finite.
            OutOfMemoryError: not even one image fits.
        """
        self.model.eval()
        size = self.recipe.batch
        while True:
            try:
                return self._validate(split.to(self.device), size)
            except (RuntimeError, MemoryError) as error:
                self._after_out_of_memory(error, size == 1)
                size = max(1, size // 2)

    @torch.inference_mode()
    def _validate(self, split: Split, size: int) -> tuple[float, float]:
        loss = torch.zeros((), device=self.device, dtype=torch.float64)
        right = torch.zeros((), device=self.device, dtype=torch.int64)
        with self.random:
            for images_BCSS, labels_B in split.batches(size, self.device):
                with self._autocast():
                    logits_BK = self.model(self.augment.normalise(images_BCSS)).float()
                loss += F.cross_entropy(logits_BK, labels_B, reduction="sum")
                right += (logits_BK.argmax(1) == labels_B).sum()
        val_loss = loss.item() / len(split)
        if not math.isfinite(val_loss):
            raise NotFiniteError(f"epoch {self.epoch}: the validation loss is {val_loss}")
        return val_loss, right.item() / len(split)

    def _train_step(self, images_BCSS: Tensor, labels_B: Tensor) -> Tensor:
        """One step of the optimiser; the loss, on the device."""
        x_BCSS = self.augment(images_BCSS, self.augmenting)
        targets = labels_B
        if self.recipe.mixup:
            one_hot_BK = F.one_hot(labels_B, self.num_classes).float()
            x_BCSS, targets = self.augment.mix(x_BCSS, one_hot_BK, self.order)
        rate = self.recipe.lr * self._rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self._backward(x_BCSS, targets)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip, foreach=True)
        self.optimizer.step()
        self.step += 1
        return loss

    def _backward(self, x_BCSS: Tensor, targets: Tensor) -> Tensor:
        """Gradients of one batch; in parts, where it does not fit into memory whole."""
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            try:
                return self._accumulate(x_BCSS, targets)
            except (RuntimeError, MemoryError) as error:
                self._after_out_of_memory(error, self.parts >= len(targets))
                self.parts = min(2 * self.parts, len(targets))

    def _accumulate(self, x_BCSS: Tensor, targets: Tensor) -> Tensor:
        total = torch.zeros((), device=self.device)
        for x, target in zip(
            x_BCSS.tensor_split(self.parts), targets.tensor_split(self.parts), strict=True
        ):
            with self._autocast():
                logits_BK = self.model(x).float()
            loss = F.cross_entropy(
                logits_BK, target, label_smoothing=self.recipe.label_smoothing
            ) * (len(target) / len(targets))
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    def _after_out_of_memory(self, error: Exception, smallest: bool) -> None:
        """Raise what is not a lack of memory, or cannot be helped; else free what can be."""
        if not _is_out_of_memory(error):
            raise error
        if smallest:
            raise OutOfMemoryError(
                f"epoch {self.epoch}: out of memory on {self.device} with one image at a time",
                "a smaller image size or width in the proxy, or fewer workers",
            ) from error
        self.optimizer.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _rate(self) -> float:
        """Factor on the peak learning rate: linear warm-up, then cosine."""
        steps = self.steps_per_epoch * self.recipe.epochs
        warmup = round(self.recipe.warmup * steps)
        if self.step < warmup:
            return (self.step + 1) / warmup
        done = min(1.0, (self.step - warmup) / max(1, steps - warmup))
        cosine = (1 + math.cos(math.pi * done)) / 2
        return self.recipe.final_lr + (1 - self.recipe.final_lr) * cosine

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def _checked(self, loss: float) -> float:
        if not math.isfinite(loss):
            raise NotFiniteError(
                f"epoch {self.epoch}: the training loss is {loss}", "a lower lr in the proxy"
            )
        if loss > DIVERGED * math.log(self.num_classes):
            raise DivergedError(
                f"epoch {self.epoch}: the training loss is {loss:.3g}, that of guessing "
                f"{math.log(self.num_classes):.3g}",
                "a lower lr in the proxy",
            )
        return loss


class _Random(contextlib.AbstractContextManager[None]):
    """Global generators of torch that belong to one training while it runs.

    Layers draw from the global generators (initial weights, drop-path,
    permutations). Inside, these continue where this training left them; outside,
    nobody notices.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self.device = device
        self.cpu = torch.Generator().manual_seed(seed).get_state()
        self.cuda = (
            torch.Generator(device).manual_seed(seed).get_state() if device.type == "cuda" else None
        )

    def __enter__(self) -> None:
        self._swap()

    def __exit__(self, *exc: object) -> None:
        self._swap()

    def _swap(self) -> None:
        outside = torch.get_rng_state()
        torch.set_rng_state(self.cpu)
        self.cpu = outside
        if self.cuda is not None:
            outside = torch.cuda.get_rng_state(self.device)
            torch.cuda.set_rng_state(self.cuda, self.device)
            self.cuda = outside


def _suit_to_cpu(model: SReT) -> None:
    """Go around what CPU kernels are slow at in bf16; the function computed stays the same.

    A depthwise convolution takes seven times as long as in fp32, and both kinds of
    convolution are faster with channels last in memory.
    """
    model.to(memory_format=torch.channels_last)
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            module.forward = functools.partial(_in_fp32, module)  # type: ignore[method-assign]


def _in_fp32(conv: nn.Conv2d, x: Tensor) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        return nn.Conv2d.forward(conv, x.float())


def _groups(model: SReT, weight_decay: float) -> list[dict[str, object]]:
    """Parameters with weight decay, and those without: vectors and what the model names."""
    spared = model.no_weight_decay()
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        groups[parameter.ndim > 1 and name not in spared].append(parameter)
    return [
        {"params": groups[True], "weight_decay": weight_decay},
        {"params": groups[False], "weight_decay": 0.0},
    ]


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError)
        and ("can't allocate memory" in str(error) or "not enough memory" in str(error))
    )
