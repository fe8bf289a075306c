"""``sret-nas report``: the page of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(run: Annotated[Path, typer.Argument(help="Run directory.")]) -> None:
    """Write one self-contained HTML page of a run, finished or not; prints where it is."""
    from sret_nas.report import write
    from sret_nas.search import load

    print(write(load(run)))
