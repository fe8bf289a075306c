"""Which run a command is about: a directory, or a study in a storage."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sret_nas.errors import UsageError

from .output import note

if TYPE_CHECKING:
    from sret_nas.search import Outcome

RUNS = Path("runs")
RunArgument = Annotated[
    Path | None,
    typer.Argument(help="Run directory; default the newest in runs/.", show_default=False),
]
StorageOption = Annotated[
    str | None,
    typer.Option(
        "--storage",
        envvar="SRET_NAS_STORAGE",
        help="Address of a storage: postgresql://…, mysql://…, sqlite:///FILE, grpc://HOST:PORT, "
        "or @FILE with it.",
        show_default=False,
    ),
]
StudyOption = Annotated[
    str | None,
    typer.Option("--study", help="Name of the study in the storage.", show_default=False),
]


def find(run: Path | None, storage: str | None, study: str | None) -> Outcome:
    """The run that is meant: its directory, or ``--storage`` and ``--study``, or the newest.

    Raises:
        UsageError: none is given and there is none in runs/, or the storage has several studies.
        ConfigError: no run is there.
    """
    from sret_nas.search import load

    if run is None and storage is None and study is None:
        run = _newest()
        note(f"run     {run}")
    if run is not None:
        if study is not None:
            raise UsageError("given a run directory and --study; allowed: one of the two")
        return load(run, storage)
    return load(storage=storage, study=the_study(storage, study))


def _newest() -> Path:
    """The run in runs/ that was written to last."""
    found = list(RUNS.glob("*/config.yaml"))
    if not found:
        raise UsageError(
            "which run? there is none in runs/",
            "give its directory, or --storage and --study; sret-nas search makes runs",
        )
    return max(found, key=lambda path: max(p.stat().st_mtime for p in path.parent.iterdir())).parent


def the_study(storage: str | None, study: str | None) -> str:
    """The name of the study that is meant; the only one needs no name.

    Raises:
        UsageError: there is no storage, or it has none or several.
    """
    if storage is None:
        raise UsageError(
            "which run? give its directory, or --storage and --study",
            "sret-nas runs lists runs; SRET_NAS_STORAGE stands for --storage",
        )
    if study is not None:
        return study
    from sret_nas.search.listing import names

    found = names(storage)
    if len(found) == 1:
        return found[0]
    raise UsageError(
        f"--study: the storage has {len(found)} studies of sret-nas",
        f"--study with one of: {', '.join(found[:10])}" if found else "sret-nas search makes one",
    )
