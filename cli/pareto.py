"""``sret-nas pareto``: the front of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sret_nas.units import format_count, format_quantity

from .output import Column, Format, FormatOption, JsonOption, emit, note, say, stdout
from .scatter import scatter
from .where import RunArgument, StorageOption, StudyOption, find

if TYPE_CHECKING:
    from sret_nas.search import Outcome


def pareto(
    run: RunArgument = None,
    plot: Annotated[
        bool | None,
        typer.Option(
            "--plot/--no-plot", help="With a picture of the front; on a terminal by itself."
        ),
    ] = None,
    storage: StorageOption = None,
    study: StudyOption = None,
    form: FormatOption = Format.table,
    as_json: JsonOption = False,
) -> None:
    """The Pareto front of a run, finished or not."""
    outcome = find(run, storage, study)
    show_front(outcome, Format.json if as_json else form, plot)
    if not outcome.front:
        note("no candidate has been trained to the end yet")


def show_front(outcome: Outcome, form: Format, plot: bool | None = None) -> None:
    """Print the front of a run.

    Args:
        outcome: The run.
        form: Table, JSON or CSV.
        plot: A picture below the table; ``None``: on a terminal.
    """
    emit(outcome.rows(), columns(outcome), form, outcome.to_dict())
    console = stdout()
    if form is Format.table and (console.is_terminal if plot is None else plot):
        picture = scatter(
            outcome,
            width=console.width if console.is_terminal else 80,
            ascii_only=not console.encoding.lower().startswith("utf"),
        )
        if picture:
            say()
            print(picture)


def columns(outcome: Outcome) -> list[Column]:
    """Headings that say what was trained once and what is a mean over how many seeds."""
    one = f"seed {outcome.config.seed}"
    counts = {m.confirmation.seeds for m in outcome.front if m.confirmation}
    all_, others = "", ""
    if len(counts) == 1:
        (seeds,) = counts
        all_, others = f" of {seeds}", f" of {seeds - 1}"

    def loss(value: float) -> str:
        return f"{value:.4f}"

    return [
        Column("trial", "trial"),
        Column("id", "id", rank=6, left=True),
        Column("val_loss", f"val loss, {one}", loss, rank=1),
        Column("confirmed_loss", f"val loss, mean{all_} seeds", loss),
        Column("confirmed_std", f"std{all_} seeds", loss, rank=2),
        Column("val_accuracy", f"val acc, {one}", lambda v: f"{v:.2%}", rank=4),
        Column("test_accuracy", f"test acc, mean{others} seeds", lambda v: f"{v:.2%}", rank=2),
        Column("macs", "MACs", format_count),
        Column("params", "params", format_count, rank=1),
        Column("latency_ms", "ms", lambda v: f"{v:.3g}", rank=1),
        Column("peak_bytes", "memory", lambda v: format_quantity("peak_bytes", v), rank=7),
        Column("seeds", "seeds", rank=8),
        Column("dethroned", "confirmed", lambda v: "no" if v else "yes", rank=3, left=True),
    ]
