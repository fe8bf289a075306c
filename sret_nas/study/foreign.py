"""Trials that others made in a study of ours: they are left out, and that is said."""

from __future__ import annotations

from optuna.trial import FrozenTrial, TrialState

from sret_nas.study.records import record


def foreign(trial: FrozenTrial) -> bool:
    """Whether somebody else made a trial; one that is enqueued becomes ours.

    A worker of ours writes who it is before anything else, and an architecture's id with it;
    until then its trial has no parameters.
    """
    if trial.state == TrialState.WAITING:
        return False
    found = record(trial)
    if found.owner is not None or found.id or found.interrupted is not None:
        return False
    return trial.state.is_finished() or bool(trial.params)
