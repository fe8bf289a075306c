"""What is left of a run, in candidates and in seconds: arithmetic on studies made by hand."""

from __future__ import annotations

import io
from typing import Any

import pytest
from optuna.trial import TrialState
from rich.console import Console
from rich.live import Live
from sret_nas.cli.view import View

from sret_nas.runner import RunResult
from sret_nas.runner.remaining import candidates_left, remaining_s, work_s

from .test_result import Made

Lab = Any
EACH_S = 4.75
"""Two epochs of 2 s, with what ``Made`` has for sampling and latency."""


def run(lab: Lab, number: int, **changes: Any) -> RunResult:
    made = Made(lab, **changes)
    for k in range(number):
        made.add(k, [2.0, 2.0 - k / 10])
    return made.outcome


def test_what_is_left_needs_what_the_others_did(lab: Lab) -> None:
    lab.proxy["seeds"] = 1
    outcome = run(lab, 4, trials=10, workers=1)
    assert candidates_left(outcome) == 6
    assert work_s(outcome) == pytest.approx(6 * EACH_S)


def test_workers_share_it_and_the_front_is_confirmed_after(lab: Lab) -> None:
    lab.proxy["seeds"] = 2
    outcome = run(lab, 4, trials=10, workers=2)
    assert len(outcome.front) == 4
    assert work_s(outcome) == pytest.approx(3 * EACH_S + 4 * 4.0 / 2)


@pytest.mark.parametrize(
    ("number", "changes", "expected"),
    [
        (0, {"trials": 10}, None),
        (0, {"trials": 10, "timeout_s": 60.0}, 40.0),
        (4, {"trials": None, "timeout_s": 60.0}, 40.0),
        (4, {"trials": 1_000, "timeout_s": 60.0}, 40.0),
        (4, {"trials": 5, "timeout_s": 60.0}, EACH_S),
        (4, {"trials": 4}, 0.0),
    ],
)
def test_the_nearer_of_work_and_time_bounds_it(
    lab: Lab, number: int, changes: dict[str, Any], expected: float | None
) -> None:
    lab.proxy["seeds"] = 1
    found = remaining_s(run(lab, number, workers=1, **changes), elapsed_s=20)
    assert found == (None if expected is None else pytest.approx(expected))


def test_a_live_view_shows_it(lab: Lab) -> None:
    lab.proxy["seeds"] = 1
    made = Made(lab, trials=1_000, workers=1)
    made.add(0, [2.0, 1.0])
    made.add(1, [1.0], TrialState.PRUNED)
    screen = io.StringIO()
    with Live(console=Console(file=screen, force_terminal=True, width=100)) as live:
        View(made.run, made.config, live)(made.study)
        shown = screen.getvalue()
    assert "about 62 minutes left" in shown  # 998 × (4.75 + 2.75) / 2 s
