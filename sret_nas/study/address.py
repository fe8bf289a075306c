"""Addresses of storages, with secrets that do not show.

An address is what ``--storage`` takes: ``sqlite:///FILE``, ``postgresql://USER@HOST/DB``,
``mysql://…``, ``grpc://HOST:PORT`` of an Optuna storage proxy, or ``@FILE`` with one of
these on its first line. Printed, logged or put into a message, it has no password.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy.exc
from sqlalchemy.engine import URL, make_url

from sret_nas import files
from sret_nas.errors import ConfigError, UsageError

ENV = "SRET_NAS_STORAGE"
"""The environment variable that stands for ``--storage``."""
DRIVERS = {"postgresql": "psycopg", "postgres": "psycopg", "mysql": "pymysql"}
"""Where an address names no driver."""
FORMS = (
    "sqlite:///FILE, postgresql://USER@HOST/DATABASE, mysql://USER@HOST/DATABASE, "
    "grpc://HOST:PORT, or @FILE with one of these in it"
)
SECRET_WORDS = ("pass", "secret", "token")


@dataclass(frozen=True)
class Address:
    """Where a storage is; printed, it has no password.

    Attributes:
        secret: The whole URL, password included.
    """

    secret: str = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read an address as a user wrote it; ``@FILE`` has one on its first line.

        Raises:
            UsageError: it is none, or its file cannot be read; the text is not repeated.
        """
        text = text.strip()
        if text.startswith("@"):
            text = _first_line(Path(text[1:]).expanduser())
        try:
            url = make_url(text)
        except (sqlalchemy.exc.ArgumentError, ValueError):
            raise UsageError(f"--storage: not an address; allowed: {FORMS}") from None
        if "@" in (url.host or ""):
            raise UsageError("--storage: more than one @; write one in a password as %40")
        name, _, driver = url.drivername.partition("+")
        if name in DRIVERS and not driver:
            name = "postgresql" if name == "postgres" else name
            url = url.set(drivername=f"{name}+{DRIVERS[name]}")
        if name == "grpc" and not (url.host and url.port):
            raise UsageError("--storage: a proxy is grpc://HOST:PORT")
        if name not in ("sqlite", "grpc", "postgresql", "mysql", "mariadb"):
            raise UsageError(f"--storage: no storage is called '{name}'; allowed: {FORMS}")
        return cls(url.render_as_string(hide_password=False))

    @property
    def url(self) -> URL:
        """The whole URL, password included, as SQLAlchemy takes it."""
        return make_url(self.secret)

    @property
    def kind(self) -> str:
        """The kind of storage: ``sqlite``, ``postgresql``, ``mysql``, ``mariadb`` or ``grpc``."""
        return self.url.drivername.partition("+")[0]

    @property
    def complete(self) -> bool:
        """Whether the address as it is printed, without secrets, is enough to connect."""
        return str(self) == _plain(self.url).render_as_string(hide_password=False)

    def __str__(self) -> str:
        url = self.url
        hidden = [key for key in url.query if any(word in key.lower() for word in SECRET_WORDS)]
        url = _plain(url.difference_update_query(hidden))
        return url.render_as_string(hide_password=True)

    __repr__ = __str__

    def scrub(self, text: str) -> str:
        """The message of a driver, with the passwords of this address as ``***``."""
        url = self.url
        secrets = [url.password, *(v for k, v in url.query.items() if "pass" in k.lower())]
        for secret in secrets:
            if secret:
                text = text.replace(str(secret), "***")
        return text


def _plain(url: URL) -> URL:
    """With the name of the database's kind alone, as people write it."""
    return url.set(drivername=url.drivername.partition("+")[0])


def _first_line(path: Path) -> str:
    try:
        lines = files.read_text(path).splitlines()
    except ConfigError as error:
        raise UsageError(f"--storage: {error}") from None
    return next((line.strip() for line in lines if line.strip()), "")
