"""The goals of a GPU beside what was measured; what was not is never called reached.

Goals are for one H100 or H200, and only what was measured whole is compared: a figure from
a part of the rows, or of the reduced form, is none.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gpu_bench import Row
from gpu_memory import BATCHES as MEMORY_BATCHES
from gpu_memory import KINDS
from gpu_predictor import BATCHES, HELD_OUT
from gpu_search import TRIALS

from sret_nas import zoo

Rows = list[Row]
Sections = Mapping[str, Mapping[str, Any]]
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Goal:
    """What is to be reached.

    Attributes:
        section: Which measures it.
        what: In words.
        bound: The figure to reach.
        show: Format of figures.
        figure: From the section's rows; ``None`` where they do not tell it.
        least: Whether more is better.
        whole: Whether only a section that has ended tells it.
    """

    section: str
    what: str
    bound: float
    show: str
    figure: Callable[[Rows], float | None]
    least: bool = False
    whole: bool = False

    def judge(self, section: Mapping[str, Any] | None, reduced: bool) -> Row:
        """The figure and the verdict."""
        figure = None
        if section and not reduced and (not self.whole or section["ended"] == "done"):
            figure = self.figure(section["rows"])
        verdict = NOT_MEASURED
        if figure is not None:
            reached = (operator.ge if self.least else operator.le)(figure, self.bound)
            verdict = "reached" if reached else "missed"
        sign = "≥" if self.least else "≤"
        return {
            "section": self.section,
            "what": self.what,
            "goal": f"{sign} {self.show.format(self.bound)}",
            "bound": self.bound,
            "figure": figure,
            "shown": "–" if figure is None else self.show.format(figure),
            "verdict": verdict,
        }


def judge(sections: Sections, reduced: bool) -> list[Row]:
    """All goals."""
    return [goal.judge(sections.get(goal.section), reduced) for goal in GOALS]


def table(goals: list[Row]) -> str:
    """One line a goal."""
    lines = [["section", "what", "goal", "measured", "verdict"]]
    lines += [[g["section"], g["what"], g["goal"], g["shown"], g["verdict"]] for g in goals]
    widths = [max(len(line[i]) for line in lines) for i in range(5)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def throughput(rows: Rows) -> float | None:
    """The best of ours, whatever the batch."""
    trained = [row for row in rows if row["what"] == "ours" and "failed" not in row]
    return max((row["images_per_s"]["median"] for row in trained), default=None)


def forward(batch: int) -> Callable[[Rows], float | None]:
    """Milliseconds of SReT-T as a CUDA graph."""

    def figure(rows: Rows) -> float | None:
        asked = {"what": "sret_t", "mode": "graph", "dtype": "bf16", "batch": batch}
        return only(row["median_ms"] for row in rows if asked.items() <= row.items())

    return figure


def memory_error(rows: Rows) -> float | None:
    """The largest error over all published variants, if all were measured."""
    errors = {
        (row["what"], row["batch"], row["kind"]): abs(row["error"])
        for row in rows
        if row["published"] and "failed" not in row
    }
    wanted = len(zoo.PUBLISHED) * len(MEMORY_BATCHES) * len(KINDS)
    return max(errors.values()) if len(errors) == wanted else None


def predictor(batch: int) -> Callable[[Rows], float | None]:
    """Share of the held-out architectures within 10%."""

    def figure(rows: Rows) -> float | None:
        asked = {"batch": batch, "mode": "graph", "held_out": HELD_OUT}
        return only(row["within_10"]["predictor"] for row in rows if asked.items() <= row.items())

    return figure


def search(key: str) -> Callable[[Rows], float | None]:
    """Of a search that tried all its candidates and confirmed its whole front."""

    def figure(rows: Rows) -> float | None:
        return only(
            row[key]
            for row in rows
            if "failed" not in row
            and sum(row["counts"].values()) == TRIALS
            and row["front"] == row["confirmed"] > 0
        )

    return figure


def wrong(rows: Rows) -> float | None:
    """Settings whose output is not that of eager fp32, or that fail."""
    return sum(row["failed"] is not None for row in rows) if rows else None


def tests(key: str) -> Callable[[Rows], float | None]:
    """Of a run of the tests that came to its end and did run some."""

    def figure(rows: Rows) -> float | None:
        return only(
            row[key]
            for row in rows
            if row["what"] == "all" and row["exit"] in (0, 1) and row["passed"] + row["failed"]
        )

    return figure


def only(found: Any) -> float | None:
    return next(iter(found), None)


GOALS = [
    Goal("training", "SReT-T at standard scale, images/s", 40_000, "{:,.0f}", throughput, True),
    Goal("forward", "SReT-T, bf16, graph, batch 128, ms", 4, "{:.3g}", forward(128)),
    Goal("forward", "SReT-T, bf16, graph, batch 1, ms", 1, "{:.3g}", forward(1)),
    Goal("memory", "published variants, largest error", 0.1, "{:.1%}", memory_error),
    *(
        Goal(
            "predictor",
            f"batch {batch}, graph: {HELD_OUT} held-out within ±10%",
            0.95,
            "{:.1%}",
            predictor(batch),
            True,
        )
        for batch in BATCHES
    ),
    Goal("search", f"{TRIALS} candidates and confirmation, s", 120, "{:.0f}", search("seconds")),
    Goal("search", "card busy", 0.9, "{:.0%}", search("busy"), True),
    Goal("modes", "wrong or failed settings", 0, "{:.0f}", wrong, whole=True),
    Goal("tests", "pytest -m cuda: failures", 0, "{:.0f}", tests("failed")),
    Goal("tests", "pytest -m cuda: s", 180, "{:.0f}", tests("seconds")),
]
