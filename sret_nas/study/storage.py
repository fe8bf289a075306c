"""Opens the storage of a study: drivers, time-outs, and why one cannot be opened."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
import warnings
import weakref
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
import sqlalchemy.exc
from optuna.storages import BaseStorage, GrpcStorageProxy, RDBStorage

from sret_nas.errors import ConfigError, SretNasError, UsageError
from sret_nas.study.address import Address
from sret_nas.study.failures import BUSY, FREE, said, transient
from sret_nas.study.foreign import foreign
from sret_nas.study.retrying import RETRY_S, RetryingStorage, Say, say_on_stderr, wait_s

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
    start, told = time.monotonic(), False
    for attempt in itertools.count(1):
        try:
            storage = RetryingStorage(_open(address, create), say, retry_s, leave_out=foreign)
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
            time.sleep(wait_s(attempt))
    raise AssertionError


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
