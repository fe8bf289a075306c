"""A storage that waits for a database that is away, and what is read of it meanwhile."""

from __future__ import annotations

import contextlib
import copy
import itertools
import random
import sys
import time
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any, NamedTuple

import optuna
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState, create_trial

from sret_nas.errors import ConfigError
from sret_nas.study.failures import transient

RETRY_S = 300.0
"""How long a worker waits for a database that does not answer."""
HURRIED_S = 5.0
FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 10.0
LOOKING = 0.02
"""Share of its time that a process may spend on looking at what others do."""
READS = ("get_all_studies", "get_all_trials", "get_study_directions", "get_study_user_attrs")
"""Calls that fail by what they read alone: what Optuna wrote it can read."""
Say = Callable[[str], None]


def say_on_stderr(text: str) -> None:
    """Write a line to stderr, at once: what a worker says while a database is away."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def wait_s(attempt: int) -> float:
    """Seconds to wait before a call is made again: longer from attempt to attempt, with jitter."""
    longest = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**attempt)
    return random.uniform(longest / 2, longest)  # noqa: S311


class _Reading(NamedTuple):
    """Trials as read, when that was, and how long it took."""

    trials: list[FrozenTrial]
    at: float
    took_s: float


def _just_begun(number: int) -> FrozenTrial:
    """A trial of which no more is known than its number."""
    trial = create_trial(state=TrialState.RUNNING)
    trial.number = number
    return trial


class RetryingStorage(BaseStorage):
    """A storage that makes a call again where the database was away.

    Optuna's calls may be repeated: attributes and parameters are written once or twice to
    the same effect; a trial that was created, but whose number never arrived, is a trial
    without a worker, and closed like that of any that is gone; a trial that was finished
    is looked at before its end is believed to be another's.

    Args:
        inner: The storage itself, for calls that may fail.
        say: Told once when the database does not answer, and once when it does again.
        retry_s: Seconds to wait, in all, for one call.
        sleep: Waits for so many seconds.
        clock: A steady clock, in seconds.
        leave_out: Whether a trial is not shown.
    """

    def __init__(
        self,
        inner: BaseStorage,
        say: Say = say_on_stderr,
        retry_s: float = RETRY_S,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        leave_out: Callable[[FrozenTrial], bool] = lambda _: False,
    ) -> None:
        self.inner = inner
        self.say = say
        self.retry_s = retry_s
        self.sleep = sleep
        self.clock = clock
        self.leave_out = leave_out
        self.left_out: dict[int, int] = {}
        self.readings: dict[int, list[FrozenTrial]] | None = None
        self.latest: dict[int, _Reading] = {}

    def create_new_study(
        self, directions: Sequence[StudyDirection], study_name: str | None = None
    ) -> int:
        """Create a study and return its id."""
        found: int = self.call("create_new_study", directions, study_name)
        return found

    def delete_study(self, study_id: int) -> None:
        """Delete a study."""
        self.call("delete_study", study_id)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """Write a user attribute of a study."""
        self.call("set_study_user_attr", study_id, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """Write a system attribute of a study."""
        self.call("set_study_system_attr", study_id, key, value)

    def get_study_id_from_name(self, study_name: str) -> int:
        """Look up the id of a study by its name."""
        found: int = self.call("get_study_id_from_name", study_name)
        return found

    def get_study_name_from_id(self, study_id: int) -> str:
        """Look up the name of a study by its id."""
        found: str = self.call("get_study_name_from_id", study_id)
        return found

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """Read the direction of every objective of a study."""
        found: list[StudyDirection] = self.call("get_study_directions", study_id)
        return found

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """Read the user attributes of a study."""
        found: dict[str, Any] = self.call("get_study_user_attrs", study_id)
        return found

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """Read the system attributes of a study."""
        found: dict[str, Any] = self.call("get_study_system_attrs", study_id)
        return found

    def get_all_studies(self) -> list[FrozenStudy]:
        """Read all studies of the storage."""
        found: list[FrozenStudy] = self.call("get_all_studies")
        return found

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        """Look up the id of a trial by its number; Optuna's base reads all trials for it."""
        found: int = self.call("get_trial_id_from_study_id_trial_number", study_id, trial_number)
        return found

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        """Write an intermediate value of a trial."""
        self.call("set_trial_intermediate_value", trial_id, step, intermediate_value)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Write a user attribute of a trial."""
        self.call("set_trial_user_attr", trial_id, key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Write a system attribute of a trial."""
        self.call("set_trial_system_attr", trial_id, key, value)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Read one trial."""
        found: FrozenTrial = self.call("get_trial", trial_id)
        return found

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """Trials; within ``snapshot`` as last read; never those that are to be left out."""
        found = None if self.readings is None else self.readings.get(study_id)
        if found is None:
            start = self.clock()
            found = self.call("get_all_trials", study_id, deepcopy=False)
            self.latest[study_id] = _Reading(found, self.clock(), self.clock() - start)
            if self.readings is not None:
                self.readings[study_id] = found
        ours = [t for t in found if not self.leave_out(t)]
        self.left_out[study_id] = len(found) - len(ours)
        found = [t for t in ours if states is None or t.state in states]
        return copy.deepcopy(found) if deepcopy else found

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Create a trial; within ``snapshot``, it is there with those that came since."""
        trial_id: int = self.call("create_new_trial", study_id, template_trial)
        if self.readings and study_id in self.readings:
            number = self.call("get_trial_number_from_id", trial_id)
            found = self.readings[study_id]
            missing = sorted(set(range(number + 1)) - {trial.number for trial in found})
            self.readings[study_id] = [*found, *map(_just_begun, missing)]
        return trial_id

    def set_trial_param(self, trial_id: int, *param: Any) -> None:
        """Write a parameter; a proxy that was started anew reads the trial first."""
        try:
            self.call("set_trial_param", trial_id, *param)
        except KeyError:
            for study_id in self.latest:
                self.call("get_all_trials", study_id, deepcopy=False)
            self.call("set_trial_param", trial_id, *param)

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """End or begin a trial; what was read before is of no more use."""
        if self.readings:
            self.readings.clear()
        return bool(self.call("set_trial_state_values", trial_id, state, values))

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Make one call of the storage, again and again where it fails for a passing reason.

        Args:
            name: The method of the storage.
            args: Its arguments.
            kwargs: Its keywords.

        Raises:
            ConfigError: a record of the study is broken.
            Exception: what the call raised, where it does not pass or ``retry_s`` are over.
        """
        start = self.clock()
        for attempt in itertools.count():
            try:
                found = getattr(self.inner, name)(*args, **kwargs)
            except optuna.exceptions.UpdateFinishedTrialError:
                if attempt and name == "set_trial_state_values" and self._is_so(*args, **kwargs):
                    return True
                raise
            except (LookupError, TypeError, AttributeError, ValueError) as error:
                absent = isinstance(error, KeyError) and "exist" in str(error)
                if name in READS and not transient(error) and not absent:
                    raise ConfigError(
                        f"a record of the study is broken: {type(error).__name__}: {error}",
                        "somebody changed it; restore a copy",
                    ) from error
                raise
            except Exception as error:
                waited = self.clock() - start
                if not transient(error) or waited >= self.retry_s:
                    if transient(error):
                        self.retry_s = 0.0  # nor for what is left to be tidied up
                    raise
                if attempt == 1:  # the first is a connection that a restart has cut
                    self.say(
                        f"the database does not answer; waiting for it, up to {self.retry_s:.0f} s"
                    )
                self.sleep(wait_s(attempt))
            else:
                if attempt > 1:
                    self.say(f"the database answers again, after {self.clock() - start:.0f} s")
                return found
        raise AssertionError

    def _is_so(self, trial_id: int, state: TrialState, values: Any = None) -> bool:
        """Whether a trial already has the end that a repeated call wants to give it."""
        trial = self.get_trial(trial_id)
        return trial.state == state and trial.values == (values and [float(v) for v in values])

    def remove_session(self) -> None:
        """Let go of the session of this thread."""
        self.inner.remove_session()


def with_all_trials(storage: BaseStorage) -> BaseStorage:
    """The storage without the filter that leaves trials out, for those who show everything."""
    if not isinstance(storage, RetryingStorage):
        return storage
    return RetryingStorage(storage.inner, storage.say, storage.retry_s)


def left_out(study: optuna.Study) -> int:
    """How many trials of a study others have made, which are not shown, as last read."""
    storage = study._storage
    return storage.left_out.get(study._study_id, 0) if isinstance(storage, RetryingStorage) else 0


def without_retries(study: optuna.Study) -> BaseStorage:
    """The storage itself, for calls that may fail and are not worth waiting for."""
    storage: BaseStorage = study._storage
    return storage.inner if isinstance(storage, RetryingStorage) else storage


@contextlib.contextmanager
def snapshot(study: optuna.Study) -> Iterator[None]:
    """Within, trials are read once, and again only after one was ended here.

    Whoever asks looks at all trials many times, and each look fetches the running ones.
    """
    with _given(study, {}):
        yield


@contextlib.contextmanager
def brief_reading(study: optuna.Study) -> Iterator[None]:
    """Within, trials are those last read, unless time enough has passed to read them again.

    Reading shall take ``LOOKING`` of the time and no more, however many workers crowd
    the database.
    """
    storage, known = study._storage, {}
    if isinstance(storage, RetryingStorage):
        last = storage.latest.get(study._study_id)
        if last and storage.clock() - last.at < last.took_s / LOOKING:
            known = {study._study_id: last.trials}
    with _given(study, known):
        yield


@contextlib.contextmanager
def _given(study: optuna.Study, readings: dict[int, list[FrozenTrial]]) -> Iterator[None]:
    storage = study._storage
    if isinstance(storage, RetryingStorage):
        storage.readings = readings
    try:
        yield
    finally:
        if isinstance(storage, RetryingStorage):
            storage.readings = None


@contextlib.contextmanager
def hurried(study: optuna.Study) -> Iterator[None]:
    """Within, a database that is away is waited for at most ``HURRIED_S`` seconds a call."""
    storage = study._storage
    before = storage.retry_s if isinstance(storage, RetryingStorage) else 0.0
    if isinstance(storage, RetryingStorage):
        storage.retry_s = min(before, HURRIED_S)
    try:
        yield
    finally:
        if isinstance(storage, RetryingStorage):
            storage.retry_s = before
