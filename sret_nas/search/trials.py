"""What becomes of trials: who holds them, whether they stand, how they end.

A trial is thought about (no id yet), proposed (``id``), confirmed (its worker won the
claim) and finished. One that came to nothing through no fault of its architecture is
failed with an attribute ``interrupted`` and does not stand:

- ``lost``: its worker is no more; tried again, ``ATTEMPTS`` times in all;
- ``no room``: it shared a GPU's memory with others; likewise;
- ``stopped``: the search was stopped; tried again;
- ``taken``: another worker has proposed the same; ``surplus``: there were enough;
- ``exhausted``: there was nothing left to propose.
"""

from __future__ import annotations

from collections.abc import Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

from sret_nas.search.presence import Held, Vigil, Who
from sret_nas.search.samplers import counted, interrupted

ATTEMPTS = 3
"""How often the worker of an architecture may die before it counts as failed."""
OWNER, BEAT, CONFIRMED = "owner", "beat", "confirmed"
"""System attributes: who holds a trial, its sign of life, whether its claim has won."""
COUNTED_ATTEMPTS = ("lost", "no room")
RUNNING = (TrialState.RUNNING,)


def standing(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that count, in order."""
    return counted(study.get_trials(deepcopy=False))


def owner(trial: FrozenTrial) -> Who | None:
    """Who holds a trial, or held it."""
    return Who.load(trial.system_attrs.get(OWNER))


def confirmed(trial: FrozenTrial) -> bool:
    """Whether the claim of a trial that stands has won."""
    return trial.state.is_finished() or bool(trial.system_attrs.get(CONFIRMED))


def finish(
    study: optuna.Study,
    number: int,
    state: TrialState,
    values: Sequence[float] | None = None,
) -> bool:
    """Give a trial its end; ``False`` where it has one already."""
    try:
        study.tell(number, values, state)
    except optuna.exceptions.UpdateFinishedTrialError:
        return False
    except ValueError:
        if not study._storage.get_trial(_id(study, number)).state.is_finished():
            raise
        return False
    return True


def _id(study: optuna.Study, number: int) -> int:
    return study._storage.get_trial_id_from_study_id_trial_number(study._study_id, number)


def hand_back(study: optuna.Study, trial: FrozenTrial, why: str) -> bool:
    """End a trial as interrupted; as failed where that has happened too often.

    Returns:
        Whether it was this call that ended it.
    """
    arch_id = trial.user_attrs.get("id")
    attribute, value = "interrupted", why
    if why in COUNTED_ATTEMPTS and arch_id is not None:
        before = sum(
            t.user_attrs.get("interrupted") in COUNTED_ATTEMPTS
            and t.user_attrs.get("id") == arch_id
            and t.number != trial.number
            for t in study.get_trials(deepcopy=False)
        )
        if before + 1 >= ATTEMPTS:
            attribute, value = "reason", f"{why} {ATTEMPTS} times"
    try:
        study._storage.set_trial_user_attr(trial._trial_id, attribute, value)
    except optuna.exceptions.UpdateFinishedTrialError:
        return False
    return finish(study, trial.number, TrialState.FAIL)


def held(trials: Sequence[FrozenTrial]) -> dict[int, Held]:
    """Running trials with their signs of life, by number."""
    return {
        trial.number: Held(owner(trial), int(trial.system_attrs.get(BEAT, 0)))
        for trial in trials
        if trial.state == TrialState.RUNNING
    }


def sweep(study: optuna.Study, vigil: Vigil, found: Sequence[FrozenTrial] | None = None) -> int:
    """Close the trials of workers that are no more.

    Args:
        study: The study.
        vigil: The eye on the others.
        found: All trials as just read; default: they are read here.

    Returns:
        How many it closed.
    """
    if found is None:
        found = study.get_trials(deepcopy=False, states=RUNNING)
    lost = vigil.look(held(found))
    return sum(hand_back(study, trial, "lost") for trial in found if trial.number in lost)


def returned(found: Sequence[FrozenTrial]) -> int:
    """How many trials gave their architecture back, to be tried again."""
    return sum(
        "id" in t.user_attrs and interrupted(t) and t.user_attrs["interrupted"] != "taken"
        for t in found
    )


def recover(study: optuna.Study, only: Sequence[FrozenTrial] | None = None) -> int:
    """Close running trials: all of them, where nobody else works on the study.

    Args:
        study: The study.
        only: These alone.

    Returns:
        How many there were.
    """
    stale = study.get_trials(deepcopy=False, states=RUNNING) if only is None else only
    return sum(hand_back(study, trial, "lost") for trial in stale)
