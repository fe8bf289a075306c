"""Several processes that train one network together, as ``torchrun`` starts them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist

from sret_nas.errors import UsageError


@dataclass(frozen=True)
class Processes:
    """Which of how many processes this is.

    Attributes:
        rank: Number of this process over all machines, from 0.
        count: Processes in all.
        local: Number of this process on its machine, which is that of its GPU.
    """

    rank: int = 0
    count: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.count > 1

    def wait(self) -> None:
        """Go on when all have come here."""
        if self.several:
            dist.barrier()


@contextlib.contextmanager
def joined(device: str) -> Iterator[Processes]:
    """Join the processes that ``torchrun`` has started; alone, where it has not.

    Args:
        device: ``auto``, ``cpu``, ``cuda``, …: by it, gradients go over NCCL or gloo.

    Raises:
        UsageError: several processes, and one device by number.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if any(name not in os.environ for name in names) or os.environ["WORLD_SIZE"] == "1":
        yield Processes()
        return
    rank, count, local = (int(os.environ[name]) for name in names)
    if ":" in device:
        raise UsageError(
            f"--device {device}: {count} processes cannot share it", "--device cuda: a GPU each"
        )
    on_gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if on_gpu:
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield Processes(rank, count, local)
    finally:
        dist.destroy_process_group()
