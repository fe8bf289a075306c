"""Observations: what the trials of a study tell the surrogate, and what was tried already.

Values are to be minimised, whatever the direction of the study.

Shapes: N observations, R running trials, T tried candidates, P parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from sret_nas.samplers.candidates import Floats, Rows
from sret_nas.samplers.extrapolation import Line, fit_line

FAILED = 0.25
"""Doubt about a failed trial's place among the worst, as a share of the variance."""

Curve = Mapping[int, float]
"""The uncertain objective after each step of a trial."""


@dataclass
class Observations:
    """What the trials of a study tell.

    Attributes:
        rows: Candidates with something to learn from, (N, P).
        values: The uncertain objective, or what stands for it, (N,).
        noise: Its extra variance as a share of the variance of all, (N,).
        running: Candidates at work, (R, P).
        tried: All candidates that were tried or will be, (T, P).
        pending: Trials being asked for before this one, of which nothing is known yet.
    """

    rows: Rows
    values: Floats
    noise: Floats
    running: Rows
    tried: Rows
    pending: int

    def add_running(self, row: Rows) -> None:
        """Take a candidate, (P,), as running from here on."""
        first = not len(self.tried)
        self.running = row[None] if first else np.vstack([self.running, row])
        self.tried = row[None] if first else np.vstack([self.tried, row])


def observe(
    trials: Sequence[FrozenTrial],
    number: int,
    value_of: Callable[[FrozenTrial], float],
    curve_of: Callable[[FrozenTrial], Curve],
    row_of: Callable[[FrozenTrial], Rows | None],
    proposed: Mapping[int, Rows],
) -> Observations:
    """Sort what trials tell: what to learn from, what is running, what was tried.

    Args:
        trials: All that count.
        number: Number of the trial that is asked for; it tells nothing.
        value_of: The uncertain objective of a complete trial, to minimise.
        curve_of: The uncertain objective after each step of a trial, to minimise.
        row_of: The candidate of a trial, (P,); ``None`` where it has none of this search space.
        proposed: Candidates, (P,), of trials that may not have them as parameters yet.
    """
    complete: list[tuple[Rows, float, Curve]] = []
    pruned: list[tuple[Rows, Curve]] = []
    failed: list[Rows] = []
    running: list[Rows] = []
    tried: list[Rows] = []
    pending = 0
    for trial in trials:
        if trial.number == number:
            continue
        row = row_of(trial)
        if row is None and trial.state == TrialState.RUNNING:
            row = proposed.get(trial.number)
            if row is None:
                pending += trial.number < number
        if row is None:
            continue
        tried.append(row)
        match trial.state:
            case TrialState.COMPLETE if math.isfinite(value := value_of(trial)):
                complete.append((row, value, _finite(curve_of(trial))))
            case TrialState.PRUNED:
                pruned.append((row, _finite(curve_of(trial))))
            case TrialState.COMPLETE | TrialState.FAIL:
                failed.append(row)
            case TrialState.RUNNING:
                running.append(row)
    rows, values, noise = learned(complete, pruned, failed)
    return Observations(
        _stack(rows, tried), values, noise, _stack(running, tried), _stack(tried), pending
    )


def learned(
    complete: Sequence[tuple[Rows, float, Curve]],
    pruned: Sequence[tuple[Rows, Curve]],
    failed: Sequence[Rows],
) -> tuple[list[Rows], Floats, Floats]:
    """What stands for every trial that there is something to learn from.

    A pruned trial counts with the final value that its last step foretells, with the doubt of
    that, and a failed one as the worst so far. Neither counts before trials are complete.

    Args:
        complete: Row, value and curve of every complete trial.
        pruned: Row and curve of every pruned one.
        failed: Rows of those that failed or returned no number.

    Returns:
        Rows, N of (P,); values, (N,); noise as a share of the variance of the values, (N,).
    """
    rows = [row for row, _, _ in complete]
    values = [value for _, value, _ in complete]
    noise = [0.0] * len(values)
    spread = float(np.var(values)) if len(values) > 1 else 1.0
    lines: dict[int, Line | None] = {}
    for row, curve in pruned:
        if not curve:
            continue
        step = max(curve)
        if step not in lines:
            lines[step] = fit_line([(c[step], v) for _, v, c in complete if step in c])
        line = lines[step]
        if line is None:
            continue
        rows.append(row)
        values.append(line.at(curve[step]))
        noise.append(line.variance / max(spread, 1e-12))
    if complete:
        rows += failed
        values += [max(value for _, value, _ in complete)] * len(failed)
        noise += [FAILED] * len(failed)
    return rows, np.array(values), np.array(noise)


def _finite(curve: Curve) -> Curve:
    return {step: value for step, value in curve.items() if math.isfinite(value)}


def _stack(rows: Sequence[Rows], like: Sequence[Rows] = ()) -> Rows:
    """Rows as an array, of the columns and numbers of others where there are none."""
    some = rows or like
    return np.array(some).reshape(len(some), -1)[: len(rows)] if some else np.empty((0, 0))
