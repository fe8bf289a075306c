"""Tables that hold in the width at hand: whole numbers, wrapped text, least columns first to go."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .text import clean

GAP = 2
HEADING_LINES = 3
ROOM = 32
"""Cells that long text needs; with less it stands below the table."""
SQUEEZED = 16
"""The same where it cannot go."""
NOTHING = "–"


@dataclass(frozen=True)
class Column:
    """One column of a result.

    Attributes:
        key: Key of the row's value, and the name of the CSV column.
        title: Heading of the table; units belong here.
        show: The value as the table prints it; a value of ``None`` prints as ``–``.
        rank: 0 always stays; where the terminal is too narrow, the highest ranks go first.
        left: A name, aligned left; numbers are aligned right. Both are never cut.
        long: Text that wraps, or stands below the table where there is no room for it.
    """

    key: str
    title: str
    show: Callable[[Any], str] = str
    rank: int = 0
    left: bool = False
    long: bool = False


@dataclass(frozen=True)
class _Shown:
    """A column with its cells as they are printed."""

    column: Column
    cells: tuple[str, ...]

    @property
    def whole(self) -> int:
        """Width at which nothing wraps."""
        return max(map(cell_len, (self.column.title, *self.cells)))

    def least(self, room: int) -> int:
        """The narrowest width: headings and long text wrap, numbers and names do not."""
        if self.column.long:
            return min(self.whole, room)
        return max(_heading(self.column.title), *map(cell_len, self.cells), 0)


def show(
    console: Console,
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[Column],
    title: str | None = None,
) -> list[str]:
    """Print a table, and return the headings that had no room.

    Columns that are empty in every row are left out without a word.
    """
    shown = [_Shown(column, tuple(_cell(column, row) for row in rows)) for column in columns]
    if rows:
        shown = [one for one in shown if set(one.cells) != {NOTHING}]
    else:
        shown = [one for one in shown if one.column.rank == 0]
    inside, below, left_out = _fit(shown, console.width)
    if title:
        console.print(Text(title, style="italic"))
    for room in (ROOM, SQUEEZED):
        if _least(inside, room) <= console.width:
            _print_table(console, inside, room)
            for one in below:
                _print_below(console, shown[0], one)
            return left_out
    _print_upright(console, shown)
    return []


def _heading(title: str) -> int:
    """The narrowest width at which a heading wraps between words into few lines."""
    widths = range(max(map(len, title.split()), default=0), len(title))
    return next((w for w in widths if len(textwrap.wrap(title, w)) <= HEADING_LINES), len(title))


def _cell(column: Column, row: Mapping[str, Any]) -> str:
    value = row.get(column.key)
    return NOTHING if value is None else clean(column.show(value))


def _least(shown: Sequence[_Shown], room: int) -> int:
    return sum(one.least(room) for one in shown) + GAP * (len(shown) - 1)


def _fit(shown: Sequence[_Shown], width: int) -> tuple[list[_Shown], list[_Shown], list[str]]:
    """What stays in the table, what goes below it, and the headings of what goes."""
    inside, below, left_out = list(shown), list[_Shown](), list[str]()
    while _least(inside, ROOM) > width:
        # Of equal ranks the rightmost goes.
        one = max(reversed(inside), key=lambda one: one.column.rank)
        if one.column.rank == 0:
            break
        inside.remove(one)
        if one.column.long:
            below.insert(0, one)
        else:
            left_out.insert(0, one.column.title)
    return inside, below, left_out


def _widths(shown: Sequence[_Shown], width: int, room: int) -> list[int]:
    """Space for whole headings first, if it is enough for all, then for long text."""
    widths = [one.least(room) for one in shown]
    spare = width - _least(shown, room)
    headings = sum(one.whole - one.least(room) for one in shown if not one.column.long)
    whole = headings <= spare
    for long in (False, True):
        for i, one in enumerate(shown):
            if one.column.long is long and (long or whole):
                more = min(spare, one.whole - widths[i])
                widths[i] += more
                spare -= more
    return widths


def _print_table(console: Console, shown: Sequence[_Shown], room: int) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    for one, width in zip(shown, _widths(shown, console.width, room), strict=True):
        text = one.column.left or one.column.long
        table.add_column(
            Text(one.column.title),
            justify="left" if text else "right",
            vertical="top",
            overflow="fold",
            width=width,
        )
    for cells in zip(*(one.cells for one in shown), strict=True):
        table.add_row(*map(Text, cells))
    _print(console, table)


def _print_below(console: Console, names: _Shown, text: _Shown) -> None:
    """Long text by row, beside the name of the row."""
    pairs = zip(names.cells, text.cells, strict=True)
    said = [(name, cell) for name, cell in pairs if cell not in ("", NOTHING)]
    if said:
        console.print()
        console.print(Text(text.column.title, style="bold"))
        _print_pairs(console, said, SQUEEZED)


def _print_upright(console: Console, shown: Sequence[_Shown]) -> None:
    """A block of lines for every row, where not even the columns that matter fit."""
    figures = [cell_len(cell) for one in shown if not one.column.long for cell in one.cells]
    for i, cells in enumerate(zip(*(one.cells for one in shown), strict=True)):
        if i:
            console.print()
        pairs = zip((one.column.title for one in shown), cells, strict=True)
        _print_pairs(
            console, [(title, cell) for title, cell in pairs if cell], max(figures, default=1)
        )


def _print_pairs(console: Console, pairs: Sequence[tuple[str, str]], least: int = 1) -> None:
    """A name and a text, which gets at least so many cells, on each line."""
    most = max(1, console.width - GAP - least)
    grid = Table.grid(padding=(0, GAP, 0, 0))
    grid.add_column(overflow="fold", width=min(most, max(cell_len(name) for name, _ in pairs)))
    grid.add_column(overflow="fold")
    for name, text in pairs:
        grid.add_row(Text(name), Text(text))
    _print(console, grid)


def _print(console: Console, table: Table) -> None:
    """Without the blanks that fill the last column."""
    for line in console.render_lines(table, pad=False):
        text = Text.assemble(*((part.text, part.style or "") for part in line if not part.control))
        text.rstrip()
        console.print(text, soft_wrap=True)
