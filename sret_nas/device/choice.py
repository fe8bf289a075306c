"""Which device to compute on, and why, in words.

torch is imported on first use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sret_nas import gpus
from sret_nas.errors import UsageError

if TYPE_CHECKING:
    import torch

AUTO = "auto"
"""The first GPU that can be used, else the CPU."""
NEEDED_BYTES = 2**30
"""Free memory below which a GPU counts as full: CUDA's own needs and a small batch, estimated."""


@dataclass(frozen=True)
class Choice:
    """The device that was chosen, and why.

    Attributes:
        name: ``cpu``, ``cuda:N``, or ``cuda`` for all GPUs in turn.
        reason: Why that one; with what to do where a GPU cannot be used.
        gpu: The model of a GPU.
    """

    name: str
    reason: str
    gpu: str | None = None

    def __str__(self) -> str:
        return f"{self.name}{f' ({self.gpu})' if self.gpu else ''}, {self.reason}"


def choose(device: str = AUTO, *, spread: bool = False, needed_bytes: int = NEEDED_BYTES) -> Choice:
    """Choose a device that can be used: the first GPU that can, else the CPU.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` (the first GPU) or ``cuda:N``.
        spread: Whether ``cuda`` means all GPUs in turn.
        needed_bytes: Free memory that the work needs of a GPU.

    Raises:
        UsageError: there is no such device here, or it cannot be used; with the next step.
    """
    if device == "cpu":
        return Choice("cpu", "as asked")
    number, why_none = gpus.seen()
    if device == AUTO:
        passed_over = ""
        for index in range(number):
            gpu = gpus.look(index)
            obstacle = gpu.obstacle(gpus.built_for(), needed_bytes)
            if obstacle is None:
                first = "the first GPU that can be used" if index else "the first GPU"
                return Choice(f"cuda:{index}", first + passed_over, gpu.name)
            passed_over += f"; cuda:{index}: {obstacle[0]} ({obstacle[1]})"
        return Choice("cpu", "no GPU can be used" + passed_over if number else why_none)
    names = _names(number)
    _refuse_unknown(device, names)
    everywhere = device == "cuda" and spread
    asked = range(number) if everywhere else [names.index(_plain(device)) - 1]
    for index in asked:
        gpu = gpus.look(index)
        obstacle = gpu.obstacle(gpus.built_for(), needed_bytes)
        if obstacle is not None:
            raise UsageError(
                f"cuda:{index} ({gpu.name}): {obstacle[0]}",
                f"{obstacle[1]}; or choose another device: {AUTO}, {', '.join(names)}",
            )
    if everywhere:
        which = f"all {number} GPUs in turn" if number > 1 else "the only GPU"
        return Choice("cuda", f"{which}, as asked", gpu.name)
    return Choice(_plain(device), "as asked", gpu.name)


def _names(number: int) -> list[str]:
    return ["cpu", *(f"cuda:{i}" for i in range(number))]


def _plain(device: str) -> str:
    return "cuda:0" if device == "cuda" else device


def _refuse_unknown(device: str, names: list[str]) -> None:
    if _plain(device) not in names:
        raise UsageError(
            f"no such device here: {device}; allowed: {AUTO}, {', '.join(names)}",
            None if len(names) > 1 else "sret-nas doctor says what torch sees of this machine",
        )


def resolve(device: str = AUTO) -> torch.device:
    """The device of that name, whether or not it has room now.

    Args:
        device: ``auto`` (as ``choose`` chooses), ``cpu``, ``cuda`` (the first GPU) or
            ``cuda:N``.

    Raises:
        UsageError: there is no such device here; with those that are.
    """
    import torch

    if device == AUTO:
        return torch.device(choose().name)
    if device != "cpu":
        _refuse_unknown(device, _names(gpus.seen()[0]))
    return torch.device(_plain(device))
