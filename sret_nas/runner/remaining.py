"""How long a run still takes: what is left of it, by what it took so far, and what bounds it."""

from __future__ import annotations

import statistics

from optuna.trial import FrozenTrial

from sret_nas.runner.confirmation import confirming_s
from sret_nas.runner.continuing import LAST, near
from sret_nas.runner.result import RunResult
from sret_nas.study.records import record
from sret_nas.study.session import total_s
from sret_nas.study.trials import counted


def candidates_left(outcome: RunResult) -> int | None:
    """How many candidates are still to be tried, or go on after all; ``None`` without a limit."""
    limit, goals = outcome.config.trials, outcome.config.goals
    if outcome.exhausted:
        return len(near(outcome.trials, goals, LAST))
    if limit is None:
        return None
    new = max(0, limit - sum(outcome.counts().values()))
    return new + len(near(outcome.trials, goals))


def work_s(outcome: RunResult) -> float | None:
    """Seconds of work that is left: candidates, then the confirmation of the front.

    Candidates are taken to need what those tried so far did, the front to stay as large
    as it is.

    Returns:
        ``None`` where nothing tells: no candidate has ended yet, or there is no limit.
    """
    left = candidates_left(outcome)
    trials = counted(outcome.trials)
    took = [_seconds(trial) for trial in trials if trial.state.is_finished()]
    if left is None or (left and not took):
        return None
    begun = sum(_seconds(trial) for trial in trials if not trial.state.is_finished())
    work = max(0.0, left * statistics.fmean(took or [0.0]) - begun)
    return work / min(outcome.config.workers, max(left, 1)) + confirming_s(outcome)


def time_left_s(outcome: RunResult, elapsed_s: float = 0.0) -> float | None:
    """Seconds that ``--timeout`` leaves; ``None`` without one.

    Args:
        outcome: The run.
        elapsed_s: Of the search at work, whose account in the study may lag.
    """
    limit = outcome.config.timeout_s
    if limit is None:
        return None
    return max(0.0, limit - max(total_s(outcome.study.user_attrs), elapsed_s))


def remaining_s(outcome: RunResult, elapsed_s: float = 0.0) -> float | None:
    """Seconds until the run ends, by its work or by its time; ``None`` where nothing tells."""
    known = [s for s in (work_s(outcome), time_left_s(outcome, elapsed_s)) if s is not None]
    return min(known, default=None)


def _seconds(trial: FrozenTrial) -> float:
    """What a worker has spent on a candidate."""
    found = record(trial)
    beside = sum(s for name, s in found.seconds.items() if name != "training")
    return found.training_s + beside
