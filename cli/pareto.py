"""``sret-nas pareto``: the front of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .output import Column, Format, FormatOption, JsonOption, emit, note, say, stdout
from .scatter import FEWEST, scatter
from .where import RunArgument, StorageOption, StudyOption, find

if TYPE_CHECKING:
    from sret_nas.metrics import Metric
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
        note(f"no candidate has been {outcome.config.declaration.finished} yet")


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
            finished = outcome.config.declaration.finished
            note(f"no picture: fewer than {FEWEST} candidates {finished}, or no room")


def columns(outcome: RunResult) -> list[Column]:
    """The run's objectives, which always stay, and what else is known of its front.

    Headings say what was found once and what is a mean over how many seeds.
    """
    from sret_nas.metrics import LATENCY, MACS, MEMORY, PARAMS
    from sret_nas.runner.result import confirmed

    one = f"seed {outcome.config.seed}"
    counts = {m.confirmation.seeds for m in outcome.front if m.confirmation}
    seeds = counts.pop() if len(counts) == 1 else None
    mean, tested = _mean(seeds), _mean(None if seeds is None else seeds - 1)
    sought, declared = outcome.config.goals, outcome.config.declaration
    again = declared.seeds > 1

    def column(key: str, title: str, metric: Metric, rank: int) -> Column:
        return Column(key, title, metric.below_heading, rank=0 if metric in sought else rank)

    take = Column("recommended", "take", lambda v: "*" if v else "", rank=2, left=True)
    found = [Column("trial", "trial"), take, Column("id", "id", rank=6, left=True)]
    for i, metric in enumerate(declared.metrics):
        name = metric.heading
        found.append(column(metric.name, f"{name}, {one}" if again else name, metric, 4))
        if again and (i == 0 or metric in sought):
            rank = 3 if i == 0 else 5
            found.append(column(confirmed(metric), f"{name}, {mean}", metric, rank))
        if again and i == 0:
            title, std = mean.replace("mean", "std"), 2 if metric in sought else 4
            found.append(Column("confirmed_std", title, metric.show, std))
    found += [
        *(Column(m.name, f"{m.heading}, {tested}", m.show, rank=2) for m in declared.tests),
        column("macs", "MACs", MACS, 1),
        column("params", "params", PARAMS, 1),
        column("latency_ms", _ms(outcome), LATENCY, 1),
        column("peak_bytes", "memory", MEMORY, 7),
    ]
    if again:
        found.append(Column("seeds", "seeds", rank=8))
        found.append(Column("group", "group", rank=3))
        shown = Column("dethroned", "confirmed", lambda v: "no" if v else "yes", rank=3, left=True)
        found.append(shown)
    return found


def _ms(outcome: RunResult) -> str:
    """How the milliseconds were measured."""
    how = outcome.config.latency
    return "ms" if how is None else "ms, {runtime} {mode} {dtype} @{batch}".format(**how)


def _mean(seeds: int | None) -> str:
    """What a value is a mean of; ``None`` where members differ."""
    if seeds == 1:
        return "1 seed"
    return "mean of seeds" if seeds is None else f"mean of {seeds} seeds"
