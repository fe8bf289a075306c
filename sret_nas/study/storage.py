"""Opens a study's storage, and waits for a database that is away for a while."""

from __future__ import annotations

import abc
import contextlib
import copy
import itertools
import json
import logging
import os
import random
import sys
import time
import warnings
import weakref
from collections.abc import Callable, Container, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import optuna
import sqlalchemy
import sqlalchemy.exc
from optuna.storages import BaseStorage, GrpcStorageProxy, RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from sret_nas.errors import ConfigError, SretNasError, UsageError
from sret_nas.study.address import Address
from sret_nas.study.foreign import foreign

RETRY_S = 300.0
"""How long a worker waits for a database that does not answer."""
HURRIED_S = 5.0
FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 10.0
BUSY_S = 5.0
"""How long SQLite waits for another program before that is said, and waited for."""
CALL_S = 60.0
"""A call that takes longer is given up, and made again."""
OPENINGS = 10
CONNECT: dict[str, dict[str, Any]] = {
    "sqlite": {"timeout": BUSY_S},
    "postgresql": {
        "connect_timeout": 10,
        "keepalives_idle": 20,
        "keepalives_interval": 5,
        "keepalives_count": 4,
        "tcp_user_timeout": 40_000,
    },
    "mysql": {"connect_timeout": 10, "read_timeout": CALL_S, "write_timeout": CALL_S},
}
CONNECT["mariadb"] = CONNECT["mysql"]
"""What the drivers are told, so that a cut is noticed within a minute."""
LOOKING = 0.02
"""Share of its time that a process may spend on looking at what others do."""
GRPC_PASSING = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "UNKNOWN", "INTERNAL", "RESOURCE_EXHAUSTED")
STORAGE_ERRORS = (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError)
READS = ("get_all_studies", "get_all_trials", "get_study_directions", "get_study_user_attrs")
"""Calls that fail by what they read alone: what Optuna wrote it can read."""
Say = Callable[[str], None]


def say_on_stderr(text: str) -> None:
    """One line."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def open_storage(
    address: Address,
    say: Say = say_on_stderr,
    retry_s: float = RETRY_S,
    create: bool = True,
) -> Any:
    """Connect to a storage.

    Args:
        address: Where.
        say: Told when the database does not answer, and when it does again.
        retry_s: How long to wait for it then.
        create: Whether a database file that is not there is made.

    Raises:
        UsageError: its driver is not installed.
        ConfigError: a file that is no database of studies.
        SretNasError: it does not answer, or does not let us in.
    """
    _look_for_file(address, create)
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # of what is retried, nothing is shown
    for name in ("sqlalchemy.pool", "sqlalchemy.engine"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    start, told = time.monotonic(), False
    for attempt in itertools.count(1):
        try:
            storage = RetryingStorage(_open(address, create), say, retry_s, leave_out=foreign)  # type: ignore[abstract]
            weakref.finalize(storage, _close, storage.inner)
            if told:
                say(f"{address} is free again, after {time.monotonic() - start:.0f} s")
            return storage
        except ImportError as error:
            raise _no_driver(address) from error
        except (RuntimeError, sqlalchemy.exc.SQLAlchemyError, ConnectionError) as error:
            text = address.scrub(said(error))
            busy = address.kind == "sqlite" and transient(error)
            if busy and time.monotonic() - start < retry_s:
                if not told:
                    say(f"{address} is {BUSY}; waiting for it, up to {retry_s:.0f} s")
                told = True
            elif attempt >= OPENINGS or not _opens_later(error, text):
                raise _refusal(address, error, text) from error
            time.sleep(_wait_s(attempt))
    raise AssertionError


BUSY = "in use by another program"
FREE = (
    "end what holds it (a search, a dashboard, a database shell) and give the same command; "
    "nothing is wrong with the file"
)


def _refusal(address: Address, error: Exception, text: str) -> SretNasError:
    """Why a storage cannot be opened; of a file, whether it is busy, the disk's fault, or none."""
    if address.kind != "sqlite":
        return SretNasError(
            f"{address} cannot be opened: {text}", "is it running, and may this user in?"
        )
    if transient(error):
        return SretNasError(f"{address}: {BUSY}: {text}", FREE)
    if isinstance(error, sqlalchemy.exc.OperationalError) and "no such" not in text:
        return SretNasError(
            f"{address}: cannot be read or written: {text}",
            "look at the disk, the room on it and the file's permissions; then the same command",
        )
    return ConfigError(
        f"{address}: not a study of Optuna: {text}", "choose another run, --out or --storage"
    )


def _look_for_file(address: Address, create: bool) -> None:
    """Refuse a database file that is not there, before an empty one is made of it."""
    name = address.url.database
    if address.kind != "sqlite" or not name or name == ":memory:" or name.startswith("file:"):
        return
    if not Path(name).parent.is_dir():
        raise ConfigError(f"{address}: the folder {Path(name).parent} does not exist")
    if not create and not Path(name).exists():
        raise ConfigError(f"{address}: {name} does not exist", "sret-nas search makes runs")


def _opens_later(error: Exception, text: str) -> bool:
    """Whether a storage that cannot be opened is only crowded, starting or being made."""
    crowded = ("too many", "starting up", "shutting down", "connection slots", "recovery mode")
    made = isinstance(error, sqlalchemy.exc.ProgrammingError | sqlalchemy.exc.IntegrityError)
    return made or any(words in text for words in crowded)


def _open(address: Address, create: bool) -> BaseStorage:
    if address.kind == "grpc":
        return _proxy(address)
    options = {k: v for k, v in CONNECT[address.kind].items() if k not in address.url.query}
    engine: dict[str, Any] = {"connect_args": options}
    if address.kind != "sqlite":  # one connection a worker, and one more while it beats
        engine |= {"pool_size": 1, "max_overflow": 1}
    elif not create:  # nor are tables made in a file that somebody else may have
        _look_for_tables(address)
    storage = RDBStorage(address.secret, engine_kwargs=engine)
    if address.kind == "postgresql":
        _let_go_of_locks(storage)
    return optuna.storages.get_storage(storage)


def _look_for_tables(address: Address) -> None:
    """Refuse a database file without studies, which Optuna would make one with.

    Raises:
        SQLAlchemyError: it has none, or cannot be read.
    """
    name = address.url.database
    if not name or name == ":memory:" or name.startswith("file:"):
        return
    engine = sqlalchemy.create_engine(
        address.secret, connect_args={"timeout": BUSY_S}, poolclass=sqlalchemy.NullPool
    )
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text("SELECT 1 FROM studies LIMIT 1"))
        connection.execute(sqlalchemy.text("SELECT 1 FROM version_info LIMIT 1"))


def _close(storage: BaseStorage) -> None:
    """Close the connections of a storage that nobody has any more."""
    backend = getattr(storage, "_backend", storage)
    with contextlib.suppress(Exception):
        if isinstance(backend, RDBStorage):
            backend.engine.dispose()
        elif isinstance(backend, GrpcStorageProxy):
            backend.close()


def _let_go_of_locks(storage: RDBStorage) -> None:
    """A worker that is cut off within a transaction shall not hold up the others."""
    from sqlalchemy import event

    @event.listens_for(storage.engine, "connect")
    def limit(connection: Any, _: object) -> None:
        with contextlib.suppress(Exception), connection.cursor() as cursor:
            cursor.execute("SET idle_in_transaction_session_timeout = '60s'")
            cursor.execute("SET tcp_user_timeout = '40s'")
        connection.commit()

    storage.engine.dispose()


def _proxy(address: Address) -> BaseStorage:
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    import grpc

    class Bounded(GrpcStorageProxy):
        """Optuna's, whose calls would wait for ever for a proxy that was cut off."""

        def _setup(self) -> None:
            super()._setup()
            for name, method in vars(self._stub).items():
                setattr(self._stub, name, partial(method, timeout=CALL_S))

    url = address.url
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        proxy = Bounded(host=str(url.host), port=int(url.port or 0))
    try:
        proxy.wait_server_ready(timeout=10)
    except (ConnectionError, grpc.RpcError) as error:
        raise ConnectionError("no answer within 10 s") from error
    return proxy


def _no_driver(address: Address) -> UsageError:
    extra = {"mariadb": "mysql"}.get(address.kind, address.kind)
    return UsageError(f"{address}: its driver is not installed", f"pip install 'sret-nas[{extra}]'")


# -- what went wrong -------------------------------------------------------------------------


def said(error: BaseException) -> str:
    """The first line of what the driver or the server said."""
    for link in chain(error):
        original = getattr(link, "orig", None)
        if original is not None:
            error = original
            break
        if callable(getattr(link, "details", None)):
            return str(link.details() or "no answer").splitlines()[0]  # type: ignore[attr-defined]
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def transient(error: BaseException) -> bool:
    """Whether an error may go away by itself: a restart, a cut, a lock, a crowd."""
    return any(_passes(link) for link in chain(error))


def _passes(error: BaseException) -> bool:
    if isinstance(error, sqlalchemy.exc.PendingRollbackError | sqlalchemy.exc.TimeoutError):
        return True
    if isinstance(error, sqlalchemy.exc.DBAPIError):
        if error.connection_invalidated or isinstance(error, sqlalchemy.exc.InterfaceError):
            return True
        if not isinstance(error, sqlalchemy.exc.OperationalError):
            return False
        original = error.orig
        if type(original).__module__.startswith("sqlite3"):
            return "locked" in str(original) or "busy" in str(original)
        state = str(getattr(original, "sqlstate", None) or "")
        return state != "53100" and state[:2] in ("", "08", "40", "53", "55", "57")
    code: Any = getattr(error, "code", None)
    return bool(type(error).__module__.startswith("grpc") and code and code().name in GRPC_PASSING)


def _wait_s(attempt: int) -> float:
    """Longer from attempt to attempt, and never the same for two workers."""
    longest = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**attempt)
    return random.uniform(longest / 2, longest)  # noqa: S311


# -- patience --------------------------------------------------------------------------------


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
        retry_s: How long to wait, in all, for one call.
        leave_out: Trials that are not shown.
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

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """See Optuna's; within ``snapshot``, as last read; never what is to be left out."""
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
        """See Optuna's; within ``snapshot``, what came since is there, and not yet more."""
        trial_id: int = self.call("create_new_trial", study_id, template_trial)
        if self.readings and study_id in self.readings:
            number = self.call("get_trial_number_from_id", trial_id)
            found = self.readings[study_id]
            missing = sorted(set(range(number + 1)) - {trial.number for trial in found})
            self.readings[study_id] = [*found, *map(_just_begun, missing)]
        return trial_id

    def set_trial_param(self, trial_id: int, *param: Any) -> None:
        """See Optuna's; a proxy that was started anew must have read the trial before."""
        try:
            self.call("set_trial_param", trial_id, *param)
        except KeyError:
            for study_id in self.latest:
                self.call("get_all_trials", study_id, deepcopy=False)
            self.call("set_trial_param", trial_id, *param)

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """See Optuna's; what was read before is of no more use."""
        if self.readings:
            self.readings.clear()
        return bool(self.call("set_trial_state_values", trial_id, state, values))

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """One call of the storage, repeated where it failed for a passing reason."""
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
                self.sleep(_wait_s(attempt))
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
        """See Optuna's."""
        self.inner.remove_session()


def with_all_trials(storage: BaseStorage) -> BaseStorage:
    """The same storage, with what is left out of it."""
    if not isinstance(storage, RetryingStorage):
        return storage
    return RetryingStorage(storage.inner, storage.say, storage.retry_s)  # type: ignore[abstract]


def _retried(name: str) -> Callable[..., Any]:
    def method(self: RetryingStorage, *args: Any, **kwargs: Any) -> Any:
        return self.call(name, *args, **kwargs)

    return method


_PATIENT = BaseStorage.__abstractmethods__ - vars(RetryingStorage).keys()
# Optuna's base has this one too, but reads all trials for it.
for _name in sorted(_PATIENT | {"get_trial_id_from_study_id_trial_number"}):
    setattr(RetryingStorage, _name, _retried(_name))
abc.update_abstractmethods(RetryingStorage)  # type: ignore[type-abstract]


def left_out(study: optuna.Study) -> int:
    """How many trials of a study others have made, as last read."""
    storage = study._storage
    return storage.left_out.get(study._study_id, 0) if isinstance(storage, RetryingStorage) else 0


def without_retries(study: optuna.Study) -> BaseStorage:
    """The storage of a study for calls that may fail."""
    storage: BaseStorage = study._storage
    return storage.inner if isinstance(storage, RetryingStorage) else storage


@contextlib.contextmanager
def snapshot(study: optuna.Study) -> Iterator[None]:
    """Within the block, trials are read again only after one was ended here.

    Whoever asks looks at all trials many times, and each look fetches the running ones.
    """
    with _given(study, {}):
        yield


@contextlib.contextmanager
def brief_reading(study: optuna.Study) -> Iterator[None]:
    """Within the block, trials as last read, unless time enough has passed to read them again.

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
    """Within the block, a database that is away is not waited for long."""
    storage = study._storage
    before = storage.retry_s if isinstance(storage, RetryingStorage) else 0.0
    if isinstance(storage, RetryingStorage):
        storage.retry_s = min(before, HURRIED_S)
    try:
        yield
    finally:
        if isinstance(storage, RetryingStorage):
            storage.retry_s = before


@contextlib.contextmanager
def reported(where: Path | str) -> Iterator[None]:
    """Turn what a storage or a full disk raises into one line."""
    try:
        yield
    except SretNasError:
        raise
    except OSError as error:
        raise SretNasError(
            f"{error.filename or where}: {error.strerror}",
            "mend it and give the same command: it goes on from there",
        ) from error
    except Exception as error:
        if isinstance(error, json.JSONDecodeError):
            raise ConfigError(
                f"{where}: a record of the study is broken: {error}", "restore a copy of it"
            ) from error
        if not isinstance(error, STORAGE_ERRORS) and not type(error).__module__.startswith("grpc"):
            raise
        if transient(error):
            raise SretNasError(f"{where}: the study is {BUSY}: {said(error)}", FREE) from error
        raise SretNasError(
            f"{where}: the study cannot be read or written: {said(error)}",
            "mend the disk or the database and give the same command: it goes on from there",
        ) from error
