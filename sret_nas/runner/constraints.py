"""How far a candidate keeps each bound, where Optuna and its dashboard look for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import optuna

from sret_nas.units import Budget

KEY = "constraints"
"""A list under this key is what Optuna 5 and dashboard 0.21 both read.

``Trial.set_constraint`` writes one key a constraint, which that dashboard does not know.
"""


def record(
    trial: optuna.Trial, budgets: Sequence[Budget], value: Callable[[Budget], float]
) -> None:
    """Write a trial's constraints: by bound, how far it is exceeded, as a share of the limit.

    A value of at most 0 is feasible. Every trial of a run has the same bounds in the
    same order, that of their text; a run without a budget has none.

    Args:
        trial: Still running: a finished one takes no more.
        budgets: The bounds of the run.
        value: What the candidate costs, by bound.
    """
    if budgets:
        found = [(value(b) - b.limit) / b.limit for b in sorted(budgets, key=str)]
        trial.storage.set_trial_system_attr(trial._trial_id, KEY, found)
