"""``sret-nas report``: the page of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .text import clean
from .where import RunArgument, StorageOption, StudyOption, find


def report(
    run: RunArgument = None,
    storage: StorageOption = None,
    study: StudyOption = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The file; default report.html in the run, or NAME.html of a study."),
    ] = None,
) -> None:
    """Write one self-contained HTML page of a run, finished or not; prints where it is."""
    outcome = find(run, storage, study)
    from sret_nas.files import safe_name
    from sret_nas.report import write

    if out is not None or not outcome.run.has_folder:
        outcome.run.report = out or Path(f"{safe_name(outcome.run.study_name)}.html")
    print(clean(str(write(outcome))))
