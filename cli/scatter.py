"""The front as a picture of characters, for those on a remote shell."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from sret_nas import zoo
from sret_nas.units import format_count

if TYPE_CHECKING:
    from sret_nas.metrics import Metric
    from sret_nas.runner import RunResult

HEIGHT, LEAST_HEIGHT = 14, 6
"""Lines of all pictures together, and of one at least, axes aside."""
FEWEST = 3
"""Candidates below which a picture would say no more than the table."""
AXIS = 13
"""Characters that plotille puts before the picture: the numbers of the axis."""
NARROWEST = 40
BLANK = "\u2800"
"""What plotille leaves where nothing is drawn."""
KEEP = "\u00a0"
"""A blank that lines are not broken at."""


class Marks(NamedTuple):
    """What stands for what; later ones cover earlier ones."""

    other: str
    published: str
    front: str
    both: str


UNICODE = Marks(other="·", published="◇", front="●", both="◆")
ASCII = Marks(other=".", published="p", front="o", both="P")


class _Point(NamedTuple):
    cost: float
    quality: float
    mark: str
    name: str | None


def scatter(outcome: RunResult, width: int = 80, *, ascii_only: bool = False) -> str:
    """Quality against each cost that is sought: candidates, the front, the published ones.

    Every point is what its own training found, with the seed of the search: a mean
    over seeds is known of the front alone. The cost has a logarithmic axis. Few points
    take few lines.

    Args:
        outcome: The run.
        width: Characters of a line; no line is longer.
        ascii_only: For an encoding that is not UTF-8.

    Returns:
        Lines without colour; empty where fewer than ``FEWEST`` went to the end,
        or in less than ``NARROWEST`` characters.
    """
    from sret_nas.study.objectives import costs, quality

    goal, sought = quality(outcome.config.goals), costs(outcome.config.goals)
    marks = ASCII if ascii_only else UNICODE
    pictures = []
    for cost in sought:
        points = list(_points(outcome, cost.name, goal.name, marks))
        if len(points) >= FEWEST and width >= NARROWEST:
            height = max(LEAST_HEIGHT, min(HEIGHT // len(sought), 2 * len(points)))
            pictures.append(_picture(outcome, points, cost, goal, marks, (width, height)))
    return "\n\n".join(pictures)


def _picture(
    outcome: RunResult,
    points: Sequence[_Point],
    cost: Metric,
    quality: Metric,
    marks: Marks,
    size: tuple[int, int],
) -> str:
    """One cost: its title, the points between axes, what the marks mean."""
    from plotille import Figure

    width, height = size
    figure = Figure()
    figure.linesep = "\n"
    figure.with_colors = figure.origin = False
    figure.x_label, figure.y_label = cost.heading, quality.heading
    figure.width = width - AXIS - len(f"|-> ({figure.x_label})")
    figure.height = height
    figure.x_ticks_fkt = lambda value, _: _tick(cost.name, 10**value)
    figure.y_ticks_fkt = lambda value, _: quality.show(value)
    figure.set_x_limits(*_limits([math.log10(point.cost) for point in points]))
    figure.set_y_limits(*_limits([point.quality for point in points]))
    for mark in marks:
        shown = [point for point in points if point.mark == mark]
        figure.scatter(
            [math.log10(point.cost) for point in shown],
            [point.quality for point in shown],
            marker=mark,
        )
    lines = figure.show().replace(BLANK, " ").splitlines()
    better = "lower" if quality.direction == "minimize" else "higher"
    seeded = f" with seed {outcome.config.seed}" if outcome.config.declaration.seeds > 1 else ""
    title = f"{quality.heading}{seeded} ({better} is better) against {cost.heading} (logarithmic)"
    finished = outcome.config.declaration.finished
    legend = _legend(points, marks, lambda value: _tick(cost.name, value), finished)
    below = [line for text in legend for line in textwrap.wrap(text, width)]
    return "\n".join(
        line.replace(KEEP, " ").rstrip() for line in [*textwrap.wrap(title, width), *lines, *below]
    )


def _points(outcome: RunResult, cost: str, quality: str, marks: Marks) -> Iterator[_Point]:
    from sret_nas.study.records import record

    front = {member.trial for member in outcome.front}
    names = {arch.id: name for name, arch in reversed(zoo.PUBLISHED.items())}
    for trial in outcome.complete():
        metrics, name = record(trial).metrics, names.get(record(trial).id)
        if trial.number in front:
            mark = marks.both if name else marks.front
        else:
            mark = marks.published if name else marks.other
        if metrics.get(cost):
            yield _Point(metrics[cost], metrics[quality], mark, name)


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """From the least to the most, with a margin that keeps points off the edges."""
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 0.05
    return low - margin, high + margin


def _tick(metric: str, value: float) -> str:
    """A cost in few characters."""
    if metric == "latency_ms":
        return f"{value:.3g}"
    return format_count(value) + "B" * (metric == "peak_bytes")


def _legend(
    points: Sequence[_Point], marks: Marks, shown: Callable[[float], str], finished: str
) -> Iterator[str]:
    meanings = {
        marks.front: "front",
        marks.other: finished,
        marks.published: "published",
        marks.both: "published and on the front",
    }
    used = {point.mark for point in points}
    yield "   ".join(
        f"{mark}{KEEP}{meaning.replace(' ', KEEP)}"
        for mark, meaning in meanings.items()
        if mark in used
    )
    known = sorted(point for point in points if point.name)
    if known:
        yield ", ".join(
            f"{point.mark}{KEEP}{point.name}{KEEP}{shown(point.cost)}" for point in known
        )
