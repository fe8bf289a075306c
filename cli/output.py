"""Results to stdout as a table, JSON or CSV; everything else to stderr."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table


class Format(StrEnum):
    """How a result is printed."""

    table = "table"
    json = "json"
    csv = "csv"


FormatOption = Annotated[Format, typer.Option("--format", help="How to print the result.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Short for --format json.")]


@dataclass(frozen=True)
class Column:
    """One column of a result.

    Attributes:
        key: Key of the row's value, and the name of the CSV column.
        title: Heading of the table; units belong here.
        show: The value as the table prints it; a value of ``None`` prints as ``–``.
        rank: 0 always stays; where the terminal is too narrow, the highest ranks go first.
        left: Text, aligned left; numbers are aligned right.
    """

    key: str
    title: str
    show: Callable[[Any], str] = str
    rank: int = 0
    left: bool = False


def stderr() -> Console:
    """The console for progress, warnings and notes."""
    return Console(stderr=True, highlight=False)


def error(message: str, hint: str | None = None) -> None:
    """Print an error and its hint to stderr, one line each."""
    console = stderr()
    for line in message.splitlines() or [""]:
        _say(console, f"error: {line}", "bold red")
    if hint:
        _say(console, f"hint: {hint}", "cyan")


def _say(console: Console, text: str, style: str | None = None) -> None:
    """A line that wraps between words on a terminal and stays whole in a pipe."""
    console.print(text, style=style, markup=False, soft_wrap=not console.is_terminal)


def note(message: str) -> None:
    """Print a remark to stderr."""
    _say(stderr(), message)


@contextmanager
def status() -> Iterator[Callable[[str], None]]:
    """Progress of long work on stderr: one line that changes, on a terminal only."""
    console = stderr()
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status("") as shown:
        yield lambda text: shown.update(text)


def emit(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[Column],
    form: Format,
    document: Any = None,
    title: str | None = None,
) -> None:
    """Print a result.

    Args:
        rows: Raw values by column key.
        columns: What the table and the CSV show, in order.
        form: Table, JSON or CSV.
        document: What JSON prints; default the rows as they are.
        title: Heading of the table.
    """
    if form is Format.json:
        print_json(list(rows) if document is None else document)
    elif form is Format.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(column.key for column in columns)
        writer.writerows([row.get(column.key) for column in columns] for row in rows)
    else:
        print_table(rows, columns, title)


def print_json(document: Any) -> None:
    """One JSON document on stdout; not-a-number is refused rather than printed."""
    print(json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False))


def print_table(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], title: str | None = None
) -> None:
    """A table that leaves out its least important columns where the terminal is narrow."""
    console = Console(highlight=False)
    terminal = console.is_terminal
    if not terminal:
        console = Console(highlight=False, width=10_000)  # a pipe has no edge
    shown = list(columns)
    while True:
        table = _table(rows, shown, title)
        unbound = console.options.update(max_width=10_000)
        if console.measure(table, options=unbound).maximum <= console.width or all(
            c.rank == 0 for c in shown
        ):
            break
        shown.remove(max(reversed(shown), key=lambda column: column.rank))
    console.width = max(console.width, console.measure(table, options=unbound).minimum)
    if terminal:
        console.print(table)
    else:
        with console.capture() as captured:
            console.print(table)
        print("\n".join(line.rstrip() for line in captured.get().splitlines()))
    if len(shown) < len(columns):
        left_out = ", ".join(column.title for column in columns if column not in shown)
        note(f"left out for the width of the terminal: {left_out} (--format csv has all)")


def _table(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], title: str | None
) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    cells = [
        ["–" if row.get(c.key) is None else c.show(row[c.key]) for row in rows] for c in columns
    ]
    for column, texts in zip(columns, cells, strict=True):
        if column.left:  # text may wrap, numbers may not
            table.add_column(column.title, overflow="fold")
        else:
            width = max(map(len, [column.title, *texts]))
            table.add_column(column.title, justify="right", no_wrap=True, min_width=width)
    for line in zip(*cells, strict=True):
        table.add_row(*line)
    return table
