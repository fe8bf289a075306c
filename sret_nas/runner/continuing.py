"""Which stopped candidates go on after all: those that the front is near.

A candidate is stopped by what is known at that moment, and by its rank alone. What it would have
reached is foretold from its last step by a line through those that went to the end, with the
doubt of that line. Where that leaves a fair chance that it is better than everything that costs
no more, it goes on from where it was stopped. When nothing new is left to try, a small chance
will do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from sret_nas.metrics import Metric
from sret_nas.samplers.extrapolation import Line, fit_line
from sret_nas.study.objectives import quality
from sret_nas.study.records import record
from sret_nas.study.trials import counted

NEAR, LAST = 0.2, 0.01
"""Chance of a place on the front from which on a stopped candidate goes on: before anything new
is tried, and when nothing new is left."""


def chances(trials: Sequence[FrozenTrial], goals: Sequence[Metric]) -> dict[int, float]:
    """How likely each stopped candidate would have a place on the front, by its number.

    Args:
        trials: All of a study.
        goals: Its objectives.
    """
    goal, known = quality(goals), [one for one in goals if one.known]
    standing = counted(trials)
    complete = [t for t in standing if t.state == TrialState.COMPLETE]
    final = np.array([goal.loss(record(t).metrics[goal.name]) for t in complete])
    costs_NK = np.array([[k.loss(record(t).metrics[k.name]) for k in known] for t in complete])
    lines: dict[int, Line | None] = {}
    found = {}
    for trial in standing:
        curve = record(trial).curve
        if trial.state != TrialState.PRUNED or not curve:
            continue
        step, here = len(curve), goal.loss(curve[-1][goal.name])
        if step not in lines:
            pairs = [
                (goal.loss(record(t).curve[step - 1][goal.name]), float(value))
                for t, value in zip(complete, final, strict=True)
                if len(record(t).curve) >= step
            ]
            lines[step] = fit_line(pairs)
        line = lines[step]
        if line is None or not math.isfinite(here):
            continue
        mine_K = np.array([k.loss(record(trial).metrics[k.name]) for k in known])
        rivals = final[(costs_NK <= mine_K).all(axis=1)]
        best = float(rivals.min()) if len(rivals) else math.inf
        doubt = math.sqrt(line.variance) or 1e-12
        found[trial.number] = NormalDist(line.at(here), doubt).cdf(best)
    return found


def near(
    trials: Sequence[FrozenTrial], goals: Sequence[Metric], least: float = NEAR
) -> list[FrozenTrial]:
    """Stopped candidates that go on, those with the best chances first.

    Args:
        trials: All of a study.
        goals: Its objectives.
        least: The chance that it takes.
    """
    found = chances(trials, goals)
    some = [t for t in trials if found.get(t.number, 0.0) >= least]
    return sorted(some, key=lambda t: (-found[t.number], t.number))
