"""``sret-nas report``: the page of a run, or of a full training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sret_nas.errors import UsageError

from .text import clean
from .where import StorageOption, StudyOption, find


def report(
    run: Annotated[
        Path | None,
        typer.Argument(
            help="Run directory or model folder; default the newest in runs/.", show_default=False
        ),
    ] = None,
    storage: StorageOption = None,
    study: StudyOption = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The file; default report.html in the folder, or NAME.html of a study."),
    ] = None,
) -> None:
    """Write one self-contained HTML page of a run or a full training, finished or not.

    Prints where it is.
    """
    from sret_nas.files import safe_name
    from sret_nas.report import is_training, write, write_training

    if run is not None and is_training(run):
        if study is not None:
            raise UsageError(f"given {run}, a model folder, and --study; allowed: one of the two")
        print(clean(str(write_training(run, out))))
        return
    outcome = find(run, storage, study)
    if out is not None or not outcome.run.has_folder:
        outcome.run.report = out or Path(f"{safe_name(outcome.run.study_name)}.html")
    print(clean(str(write(outcome))))
