"""``sret-nas pareto``: the front of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sret_nas.units import format_count

from .output import Column, Format, FormatOption, JsonOption, emit, note, say, stdout
from .scatter import FEWEST, scatter
from .where import RunArgument, StorageOption, StudyOption, find

if TYPE_CHECKING:
    from sret_nas.runner import RunResult


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


def show_front(outcome: RunResult, form: Format, plot: bool | None = None) -> None:
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
        elif plot:
            note(f"no picture: fewer than {FEWEST} candidates trained to the end, or no room")


def columns(outcome: RunResult) -> list[Column]:
    """The run's objectives, which always stay, and what else is known of its front.

    Headings say what was trained once and what is a mean over how many seeds.
    """
    one = f"seed {outcome.config.seed}"
    counts = {m.confirmation.seeds for m in outcome.front if m.confirmation}
    seeds = counts.pop() if len(counts) == 1 else None
    mean, tested = _mean(seeds), _mean(None if seeds is None else seeds - 1)
    sought = {goal.name for goal in outcome.config.goals}
    std = 2 if "val_loss" in sought else 4

    def column(key: str, title: str, metric: str, rank: int) -> Column:
        return Column(key, title, lambda v: _shown(metric, v), rank=0 if metric in sought else rank)

    found = [
        Column("trial", "trial"),
        Column("id", "id", rank=6, left=True),
        column("val_loss", f"val loss, {one}", "val_loss", 4),
        column("confirmed_loss", f"val loss, {mean}", "val_loss", 3),
        Column("confirmed_std", mean.replace("mean", "std"), lambda v: f"{v:.4f}", std),
        column("val_accuracy", f"val acc, {one}", "val_accuracy", 4),
        column("confirmed_accuracy", f"val acc, {mean}", "val_accuracy", 5),
        Column("test_accuracy", f"test acc, {tested}", lambda v: f"{v:.2%}", rank=2),
        column("macs", "MACs", "macs", 1),
        column("params", "params", "params", 1),
        column("latency_ms", _ms(outcome), "latency_ms", 1),
        column("peak_bytes", "memory", "peak_bytes", 7),
        Column("seeds", "seeds", rank=8),
        Column("dethroned", "confirmed", lambda v: "no" if v else "yes", rank=3, left=True),
    ]
    return [one for one in found if "val_accuracy" in sought or one.key != "confirmed_accuracy"]


def _ms(outcome: RunResult) -> str:
    """How the milliseconds were measured."""
    how = outcome.config.latency
    return "ms" if how is None else "ms, {mode} {dtype} @{batch}".format(**how)


def _mean(seeds: int | None) -> str:
    """What a value is a mean of; ``None`` where members differ."""
    if seeds == 1:
        return "1 seed"
    return "mean of seeds" if seeds is None else f"mean of {seeds} seeds"


def _shown(metric: str, value: float) -> str:
    """A value below a heading that says its unit."""
    from sret_nas.study.objectives import format_metric

    if metric in ("macs", "params"):
        return format_count(value)
    return f"{value:.3g}" if metric == "latency_ms" else format_metric(metric, value)
