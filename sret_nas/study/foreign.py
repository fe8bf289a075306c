"""Trials that others made in a study of ours: they are left out, and that is said."""

from __future__ import annotations

from optuna.trial import FrozenTrial, TrialState

OWNER = "owner"
"""System attribute: who holds a trial."""


def foreign(trial: FrozenTrial) -> bool:
    """Whether somebody else made a trial; one that is enqueued becomes ours.

    A worker of ours writes who it is before anything else, and an architecture's id with it;
    until then its trial has no parameters.
    """
    if trial.state == TrialState.WAITING:
        return False
    if OWNER in trial.system_attrs:
        return False
    if "id" in trial.user_attrs or "interrupted" in trial.user_attrs:
        return False
    return trial.state.is_finished() or bool(trial.params)
