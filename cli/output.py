"""Results to stdout as a table, JSON or CSV; everything else to stderr."""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from . import table
from .table import Column as Column
from .text import CONTROL, clean


class Format(StrEnum):
    """How a result is printed."""

    table = "table"
    json = "json"
    csv = "csv"


FormatOption = Annotated[Format, typer.Option("--format", help="How to print the result.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Short for --format json.")]


PLAIN = {
    "–": "-",
    "…": "...",
    "×": "x",
    "±": "+/-",
    "τ": "tau",
    "∞": "inf",
    "├": "|",
    "└": "`",
}
"""What stands for our signs where the encoding does not have them."""


def _plain(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    lost = error.object[error.start : error.end]
    return "".join(PLAIN.get(sign, "?") for sign in lost), error.end


LONGEST, MOST_LINES = 400, 3
"""Of what an error says: characters of a line, and lines with the hint."""


def print_in_any_encoding() -> None:
    """Let stdout and stderr replace what their encoding lacks, rather than fail."""
    codecs.register_error("sret_nas.plain", _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="sret_nas.plain")


def stdout() -> Console:
    """The console for results; a pipe has no edge."""
    console = Console(highlight=False, emoji=False)
    if console.is_terminal or os.environ.get("COLUMNS", "").isdigit():
        return console  # a width that was asked for holds in a pipe too
    return Console(highlight=False, emoji=False, width=10_000)


def stderr() -> Console:
    """The console for progress, warnings and notes."""
    return Console(stderr=True, highlight=False, emoji=False)


def error(message: str, hint: str | None = None) -> None:
    """Print an error and its hint to stderr, one line each."""
    console = stderr()
    lines = clean(message).strip().split("\n")
    room = MOST_LINES - bool(hint)
    shown, more = lines[:room], len(lines) - room
    for i, line in enumerate(shown, 1):
        rest = f" (and {more} more)" if more > 0 and i == room else ""
        _say(console, f"error: {_short(line)}{rest}", "bold red")
    if hint:
        _say(console, f"hint: {_short(hint)}", "cyan")


def _short(line: str) -> str:
    half = LONGEST // 2
    return line if len(line) <= LONGEST else f"{line[:half]} … {line[-half:]}"


def _say(console: Console, text: str, style: str | None = None) -> None:
    """A line that wraps between words on a terminal and stays whole in a pipe."""
    console.print(clean(text), style=style, markup=False, soft_wrap=not console.is_terminal)


def note(message: str) -> None:
    """Print a remark to stderr."""
    _say(stderr(), message)


def say(message: str = "") -> None:
    """Print a line of a result to stdout."""
    _say(Console(highlight=False, emoji=False), message)


def count(number: int, thing: str) -> str:
    """A number of things.

    Example:
        >>> count(1, "file"), count(2400, "more candidate")
        ('1 file', '2,400 more candidates')
    """
    return f"{number:,} {thing}{'s' * (number != 1)}"


@contextmanager
def status() -> Iterator[Callable[[str], None]]:
    """Progress of long work on stderr: one line that changes, on a terminal only."""
    console = stderr()
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status("") as shown:
        yield lambda text: shown.update(Text(clean(text)))


def emit(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[Column],
    form: Format,
    document: Any = None,
    title: str | None = None,
) -> list[str]:
    """Print a result, and return the headings that the terminal was too narrow for.

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
        writer.writerows([_plain_cell(row.get(column.key)) for column in columns] for row in rows)
    else:
        return print_table(rows, columns, title)
    return []


def _plain_cell(value: Any) -> Any:
    return clean(value) if isinstance(value, str) else value


def print_json(document: Any) -> None:
    """One JSON document on stdout; not-a-number is refused rather than printed."""
    plain = not stdout().encoding.lower().startswith("utf")
    text = json.dumps(document, indent=2, allow_nan=False, ensure_ascii=plain)
    print(CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def print_table(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], title: str | None = None
) -> list[str]:
    """A table on stdout; on a narrow terminal without the columns that it returns and names."""
    left_out = table.show(stdout(), rows, columns, title)
    if left_out:
        note(
            f"left out for the width of the terminal: {', '.join(left_out)} (--format csv has all)"
        )
    return left_out
