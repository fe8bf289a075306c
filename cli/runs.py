"""``sret-nas runs``: which runs there are, and how far they have come."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sret_nas.errors import UsageError

from .output import Column, Format, FormatOption, JsonOption, emit, note
from .where import StorageOption

COLUMNS = [
    Column("run", "run", left=True),
    Column("space", "space", rank=3, left=True),
    Column("budget", "budget", rank=2, left=True),
    Column("finished", "finished"),
    Column("wanted", "of", lambda v: f"{v:,}"),
    Column("running", "running"),
    Column("workers", "workers", rank=1),
    Column("confirmed", "confirmations", rank=2),
    Column("seconds", "time", lambda v: f"{v / 60:,.1f} min", rank=1),
]


def runs(
    folder: Annotated[Path, typer.Argument(help="Folder of run directories.")] = Path("runs"),
    storage: StorageOption = None,
    form: FormatOption = Format.table,
    as_json: JsonOption = False,
) -> None:
    """List runs with their progress: those in a folder, or the studies in a storage."""
    from sret_nas.runner.listing import below, in_storage

    if storage is None and folder != Path("runs") and not folder.is_dir():
        raise UsageError(f"{folder}: no such folder", "sret-nas runs FOLDER, or --storage ADDRESS")
    found = below(folder) if storage is None else in_storage(storage)
    rows = [progress.to_dict() for progress in found]
    emit(rows, COLUMNS, Format.json if as_json else form)
    for progress in found:
        if progress.problem:
            note(f"note: {progress.run}: {progress.problem}")
    if not found:
        note("no runs here; sret-nas search makes them")
