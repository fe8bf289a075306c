"""``--engine``: who starts the workers of a command, and what is said of it."""

from __future__ import annotations

from typing import Annotated

import typer

from .output import note

LOCAL = "local"
EngineOption = Annotated[
    str,
    typer.Option(
        "--engine",
        help="local: processes here; ray: actors on the cluster of RAY_ADDRESS, else on one here.",
    ),
]


def tell_cluster(engine: str) -> None:
    """Say what the cluster has, if it is one.

    Raises:
        UsageError: there is no such engine, or it is not installed.
        SretNasError: its cluster does not answer.
    """
    if engine != LOCAL:
        from sret_nas.runner.executors import engine_of, resources

        found = resources(engine_of(engine))
        note(f"ray     {found.get('CPU', 0):g} cores, {found.get('GPU', 0):g} GPUs")
