"""The one trial that a worker holds: whose it is, its sign of life, how it is handed back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import optuna
from optuna.trial import FrozenTrial

from sret_nas.runner import crashes
from sret_nas.study.heartbeat import Heartbeat, WorkerId
from sret_nas.study.records import BEAT, OWNER, write_system
from sret_nas.study.retrying import hurried, without_retries
from sret_nas.study.trials import hand_back


class OwnTrial:
    """A place for one trial, empty between two.

    Args:
        study: The study.
        who: The worker.
        heartbeat: Its sign of life.
    """

    def __init__(self, study: optuna.Study, who: WorkerId, heartbeat: Heartbeat) -> None:
        self.study, self.who, self.heartbeat = study, who, heartbeat
        self._trial: FrozenTrial | None = None

    @property
    def is_held(self) -> bool:
        """Whether there is one."""
        return self._trial is not None

    @property
    def trial(self) -> FrozenTrial:
        """The trial as it was when it began; there must be one."""
        assert self._trial is not None
        return self._trial

    @property
    def current(self) -> FrozenTrial:
        """The trial as it is."""
        return self._as_it_is(self.trial)

    def take(self, trial: FrozenTrial) -> None:
        """Say whose a trial is that has just begun."""
        self._trial = trial
        storage, number = self.study._storage, trial._trial_id
        write_system(storage, number, OWNER, self.who.to_dict())
        inner = without_retries(self.study)
        self.heartbeat.hold(lambda beat: write_system(inner, number, BEAT, beat))

    def release(self) -> None:
        """Let go of a trial that has its end."""
        self._trial = None
        self.heartbeat.release()

    def give_back(self, why: str) -> None:
        """Hand it back, to be tried again or not, as ``trials`` says of the reason."""
        hand_back(self.study, self._as_it_is(self.trial), why)
        self.release()

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Hand back what is held when the block ends otherwise than it should."""
        try:
            yield
        except BaseException as error:
            held, self._trial = self._trial, None
            if held is not None:
                why = "stopped" if isinstance(error, KeyboardInterrupt) else "lost"
                cause = crashes.of_error(error)
                with suppress(Exception), hurried(self.study):
                    hand_back(self.study, self._as_it_is(held), "crashed" if cause else why, cause)
            raise

    def _as_it_is(self, trial: FrozenTrial) -> FrozenTrial:
        return self.study._storage.get_trial(trial._trial_id)
