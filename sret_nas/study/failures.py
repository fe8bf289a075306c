"""What a storage raises: whether it passes by itself, and how it is told."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
import sqlalchemy.exc

from sret_nas.errors import ConfigError, SretNasError

GRPC_PASSING = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "UNKNOWN", "INTERNAL", "RESOURCE_EXHAUSTED")
STORAGE_ERRORS = (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError)
BUSY = "in use by another program"
FREE = (
    "end what holds it (a search, a dashboard, a database shell) and give the same command; "
    "nothing is wrong with the file"
)


def said(error: BaseException) -> str:
    """The first line of what the driver or the server said, found at the bottom of an error."""
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
    """An error, then what caused it, and so on to the first."""
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


@contextlib.contextmanager
def reported(where: Path | str) -> Iterator[None]:
    """Within, what a storage or a full disk raises becomes one line with the next step.

    Args:
        where: What the study is called in the message.

    Raises:
        ConfigError: a record of the study is broken.
        SretNasError: the disk or the database failed, or another program holds it.
    """
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
