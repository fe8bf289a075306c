"""The training of a network that is to be used: the same loop, and what only a long one needs.

A moving average of the weights, mixed precision of choice, a teacher, several processes,
and a state to go on from.

Shapes: B batch, C channels, S side, K classes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sret_nas.data import DataSet, Split
from sret_nas.device import has_dtype, torch_dtype
from sret_nas.recipe import FullRecipe
from sret_nas.training.feeding import Feed
from sret_nas.training.processes import Processes
from sret_nas.training.teachers import Teacher
from sret_nas.training.trainer import Trainer


class FullTrainer(Trainer):
    """A network in full training.

    Args:
        network: Makes the network.
        data: What to train and validate on.
        recipe: How to train.
        feed: Where batches come from.
        seed: Seed of initial weights and drop-path.
        device: Where to train.
        teacher: Whom to ask about every batch.
        temperature: What the network's logits are divided by, as the teacher's were.
        processes: Those that train this network together.

    Attributes:
        ema: The moving average of the weights, or ``None``.
    """

    recipe: FullRecipe

    def __init__(
        self,
        network: Callable[[], nn.Module],
        data: DataSet,
        recipe: FullRecipe,
        feed: Feed,
        *,
        seed: int = 0,
        device: torch.device | None = None,
        teacher: Teacher | None = None,
        temperature: float = 1.0,
        processes: Processes | None = None,
    ) -> None:
        self.recipe = recipe
        self.processes = processes or Processes()
        alone = not self.processes.several
        super().__init__(
            network,
            data,
            recipe,
            seed=seed,
            device=device,
            graphs=recipe.graphs and alone and recipe.dtype != "fp16",
            feed=feed,
        )
        self.parts = min(recipe.accumulate, feed.batch)
        self.teacher = teacher
        self.temperature = temperature
        self.scaler = torch.amp.GradScaler(self.device.type) if recipe.dtype == "fp16" else None
        if recipe.compile:
            self.forward = torch.compile(self.model)
        if self.processes.several:
            self.forward = DistributedDataParallel(
                self.model, find_unused_parameters=False, broadcast_buffers=True
            )
            self.random = type(self.random)(seed + 7919 * self.processes.rank, self.device)
        self.ema = ModelEmaV3(self.model, decay=recipe.ema, use_warmup=True) if recipe.ema else None

    @property
    def judged(self) -> nn.Module:
        """The moving average where there is one, else the network itself."""
        module: nn.Module = self.model if self.ema is None else self.ema.module
        return module

    def _computes_in_bf16(self) -> bool:
        if self.recipe.dtype == "auto":
            return has_dtype("bf16", self.device)
        torch_dtype(self.recipe.dtype, self.device)  # refuses what the device has not
        return self.recipe.dtype == "bf16"

    def _autocast(self) -> torch.autocast:
        if self.recipe.dtype == "fp16":
            return torch.autocast(self.device.type, torch.float16)
        return super()._autocast()

    def _backward(self, x_BCSS: Tensor, weights_BK: Tensor, last: bool) -> Tensor:
        if self.teacher is not None:
            scale_B1 = -weights_BK.sum(dim=1, keepdim=True)  # of each image in the batch's loss
            targets_BK = self.teacher.targets(
                x_BCSS, weights_BK / -scale_B1, self.recipe.distill, self.temperature
            )
            weights_BK = -targets_BK * scale_B1
        quiet: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        if isinstance(self.forward, DistributedDataParallel) and not last:
            quiet = self.forward.no_sync()
        with quiet:
            with self._autocast():
                logits_BK = self.forward(x_BCSS).float()
            logs_BK = F.log_softmax(logits_BK / self.temperature, dim=1)
            loss = torch.dot(logs_BK.flatten(), weights_BK.flatten())
            (loss if self.scaler is None else self.scaler.scale(loss)).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _update(self, loss: Tensor) -> None:
        (rate,) = self.rates_T.index_select(0, self.at)
        self.optimizer.update(rate, self.scaler)
        self.loss.add_(loss)
        self.at.add_(1)

    def _after_step(self) -> None:
        if self.ema is not None:
            self.ema.update(self.model, step=self.step)

    def _batches(self, split: Split, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        if not self.processes.several:
            return super()._batches(split, size)
        mine = torch.split(torch.arange(len(split)), size)
        return split.take(mine[self.processes.rank :: self.processes.count], self.device)

    def _gather(self) -> None:
        if self.processes.several:
            dist.all_reduce(self.loss)
            dist.all_reduce(self.right)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the training hangs on; also amid an epoch."""
        return super().state_dict() | {
            "ema": None if self.ema is None else self.ema.module.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state, before the first step.

        Args:
            state: As of ``state_dict``, of a training with the same recipe and data.
        """
        if not self.processes.first:  # it is the first one's; the others draw their own numbers
            state = {**state, "random": self.random.state_dict()}
        super().load_state_dict(state)
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])
