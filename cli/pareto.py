"""``sret-nas pareto``: the front of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .output import Format, FormatOption, JsonOption, note
from .search import show_front


def pareto(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    form: FormatOption = Format.table,
    as_json: JsonOption = False,
) -> None:
    """The Pareto front of a run, finished or not."""
    from sret_nas.search import load

    outcome = load(run)
    show_front(outcome, Format.json if as_json else form)
    if not outcome.front:
        note("no candidate has been trained to the end yet")
