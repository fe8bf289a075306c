"""Who starts the workers of a run: this machine, or a Ray cluster."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from sret_nas.device import AUTO, Choice, choose, cores
from sret_nas.errors import UsageError

if TYPE_CHECKING:
    from sret_nas.runner.executors.base import MakeExecutor


class Engine(StrEnum):
    """Who starts them."""

    local = "local"
    ray = "ray"


def engine_of(name: str) -> Engine:
    """The engine of a name.

    Raises:
        UsageError: there is none.
    """
    if name not in list(Engine):
        raise UsageError(f"engine: given '{name}'", f"allowed: {', '.join(Engine)}")
    return Engine(name)


def executor_of(engine: Engine) -> MakeExecutor | None:
    """Who does the work; ``None`` for processes of this machine.

    Raises:
        UsageError: the engine is not installed.
        SretNasError: its cluster does not answer.
    """
    if engine is Engine.local:
        return None
    from sret_nas.runner.executors.ray import RayExecutor, connect

    connect()
    return RayExecutor


def resources(engine: Engine) -> dict[str, float]:
    """What an engine's cluster has: ``CPU``, ``GPU``, …; empty for this machine.

    Raises:
        UsageError: the engine is not installed.
        SretNasError: its cluster does not answer.
    """
    if engine is Engine.local:
        return {}
    from sret_nas.runner.executors.ray import connect

    return connect()


def choose_device(engine: Engine, device: str = AUTO) -> Choice:
    """The device that is meant, and why: ``cpu``, ``cuda:N``, or ``cuda`` for all GPUs.

    Raises:
        UsageError: there is no such device, or it cannot be used.
    """
    choice = choose(device, spread=True)
    if engine is Engine.ray and device == AUTO and choice.name != "cpu":
        if resources(engine).get("GPU"):
            return Choice("cuda", "as the cluster has GPUs")
        return Choice("cpu", "as the cluster has no GPU")
    return choice


def room(engine: Engine, device: str) -> int:
    """How many workers there is room for, where it is not said how many."""
    if engine is Engine.ray:
        from sret_nas.runner.executors import ray

        return ray.room(device)
    return cores() if device == "cpu" else 1
