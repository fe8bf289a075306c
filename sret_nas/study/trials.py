"""What becomes of trials: who holds them, whether they stand, how they end.

A trial is thought about (no id yet), proposed (``id``), confirmed (its worker won the
claim) and finished. One that came to nothing through no fault of its architecture is
failed with an attribute ``interrupted`` and does not stand:

- ``lost``: its worker is no more, killed from outside or for a reason that nobody knows;
  tried again, however often that happens;
- ``crashed``: it took its worker down itself (see ``crashes``); tried again, but
  ``ATTEMPTS`` times in all that ended with the same ``cause``;
- ``no room``: it shared a GPU's memory with others; likewise;
- ``stopped``: the search was stopped; tried again;
- ``taken``: another worker has proposed the same; ``surplus``: there were enough;
- ``unfit``: somebody enqueued it, and it breaks the budget or was tried before;
- ``exhausted``: there was nothing left to propose.
"""

from __future__ import annotations

from collections.abc import Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

from sret_nas.study.heartbeat import HeartbeatMonitor, Held, WorkerId
from sret_nas.study.records import Fields, record, write_to

ATTEMPTS = 3
"""How often an architecture may take its worker down before it counts as failed."""
COUNTED_ATTEMPTS = ("crashed", "no room")
RUNNING = (TrialState.RUNNING,)


def interrupted(trial: FrozenTrial) -> bool:
    """Whether a trial came to nothing through no fault of its architecture."""
    return trial.state == TrialState.FAIL and bool(record(trial).interrupted)


def counted(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Trials that stand: all but interrupted ones, and stopped ones that another continues."""
    some = [trial for trial in trials if not interrupted(trial)]
    continued = {record(trial).continues for trial in some}
    return [trial for trial in some if trial.number not in continued]


def standing(study: optuna.Study) -> list[FrozenTrial]:
    """The trials of a study that stand, by number."""
    return counted(study.get_trials(deepcopy=False))


def owner(trial: FrozenTrial) -> WorkerId | None:
    """Who holds a running trial, or held an ended one; ``None`` where nobody has said so."""
    return WorkerId.load(record(trial).owner)


def confirmed(trial: FrozenTrial) -> bool:
    """Whether the claim of a trial that stands has won."""
    return trial.state.is_finished() or record(trial).claimed


def finish(
    study: optuna.Study,
    number: int,
    state: TrialState,
    values: Sequence[float] | None = None,
) -> bool:
    """Give a trial its end.

    Args:
        study: The study.
        number: The trial.
        state: How it ended.
        values: Of its objectives, where it is complete.

    Returns:
        Whether it was this call that ended it; ``False`` where it had an end already.
    """
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


def hand_back(study: optuna.Study, trial: FrozenTrial, why: str, cause: str = "") -> bool:
    """End a trial as interrupted; as failed where that is its own doing too often.

    Args:
        study: The study.
        trial: The trial.
        why: Why, in one of the words that are listed at the top of this file.
        cause: What caused a crash; crashes for other causes are not counted with it.

    Returns:
        Whether it was this call that ended it.
    """
    arch_id = record(trial).id
    fields: Fields = {"interrupted": why}
    if cause:
        fields["cause"] = cause
    if why in COUNTED_ATTEMPTS and arch_id:
        before = sum(
            (one.interrupted, one.cause, one.id) == (why, cause, arch_id)
            for one in map(record, study.get_trials(deepcopy=False))
            if one.trial.number != trial.number
        )
        if before + 1 >= ATTEMPTS:
            fields = {"reason": f"{why} {ATTEMPTS} times"}
            if cause:
                fields["error"] = cause
    try:
        write_to(study._storage, trial._trial_id, **fields)
    except optuna.exceptions.UpdateFinishedTrialError:
        return False
    return finish(study, trial.number, TrialState.FAIL)


def held(trials: Sequence[FrozenTrial]) -> dict[int, Held]:
    """Running trials by number, with who holds them and the last beat of each."""
    return {
        trial.number: Held(owner(trial), record(trial).beat)
        for trial in trials
        if trial.state == TrialState.RUNNING
    }


def sweep(
    study: optuna.Study,
    monitor: HeartbeatMonitor,
    found: Sequence[FrozenTrial] | None = None,
    but: str = "",
) -> int:
    """Close the trials of workers that are no more.

    Args:
        study: The study.
        monitor: Judges which of the others are no more.
        found: All trials as just read; default: they are read here.
        but: A team that somebody else looks after: who knows how its processes ended.

    Returns:
        How many it closed.
    """
    if found is None:
        found = study.get_trials(deepcopy=False, states=RUNNING)
    if but:
        found = [t for t in found if (who := owner(t)) is None or who.team != but]
    lost = monitor.look(held(found))
    return sum(hand_back(study, trial, "lost") for trial in found if trial.number in lost)


def returned(found: Sequence[FrozenTrial]) -> int:
    """How many of the trials gave their architecture back, to be tried again."""
    return sum(
        bool(record(t).id) and interrupted(t) and record(t).interrupted != "taken" for t in found
    )


def recover(study: optuna.Study, only: Sequence[FrozenTrial] | None = None) -> int:
    """Close running trials: all of them, where nobody else works on the study.

    Args:
        study: The study.
        only: Close these alone; default: all that run.

    Returns:
        How many there were.
    """
    stale = study.get_trials(deepcopy=False, states=RUNNING) if only is None else only
    return sum(hand_back(study, trial, "lost") for trial in stale)
