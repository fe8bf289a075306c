"""Who starts the workers of a command: this machine, or a Ray cluster."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from .output import note

if TYPE_CHECKING:
    from sret_nas.runner.executors.local import MakeExecutor


class Engine(StrEnum):
    """Who starts them."""

    local = "local"
    ray = "ray"


EngineOption = Annotated[
    Engine,
    typer.Option(
        "--engine",
        help="local: processes here; ray: actors on the cluster of RAY_ADDRESS, else on one here.",
    ),
]


def executor_of(engine: Engine) -> MakeExecutor | None:
    """Who does the work; ``None`` for processes of this machine.

    Raises:
        UsageError: the engine is not installed.
        SretNasError: its cluster does not answer.
    """
    if engine is Engine.local:
        return None
    from sret_nas.runner.executors.ray import RayExecutor, connect

    found = connect()
    note(f"ray     {found.get('CPU', 0):g} cores, {found.get('GPU', 0):g} GPUs")
    return RayExecutor


def device_of(engine: Engine, device: str) -> str:
    """The device that was chosen, which is said: ``cpu``, ``cuda:N``, or ``cuda`` for all GPUs.

    Raises:
        UsageError: there is no such device, or it cannot be used.
    """
    from sret_nas.device import AUTO, Choice, choose

    choice = choose(device, spread=True)
    if engine is Engine.ray and device == AUTO and choice.name != "cpu":
        from sret_nas.runner.executors.ray import connect

        if connect().get("GPU"):
            choice = Choice("cuda", "as the cluster has GPUs")
        else:
            choice = Choice("cpu", "as the cluster has no GPU")
    note(f"device  {choice}")
    return choice.name


def room(engine: Engine, device: str) -> int:
    """How many workers there is room for, where it does not say how many."""
    if engine is Engine.ray:
        from sret_nas.runner.executors import ray as ray_engine

        return ray_engine.room(device)
    from sret_nas.device import cores

    return cores() if device == "cpu" else 1
