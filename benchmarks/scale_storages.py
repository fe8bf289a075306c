"""Real storages for ``scale.py``: a file, a PostgreSQL server, Optuna's proxy before it."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

RETRY_S = 60
TICKS = os.sysconf("SC_CLK_TCK")
PROXY = """
import sys, optuna
optuna.storages.run_grpc_proxy_server(
    optuna.storages.get_storage(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2])
)
"""


@dataclass
class Storage:
    """A place for studies.

    Attributes:
        url: Where workers find it.
        more: Further doors to the same, which workers take in turn.
        behind: The database itself, where this is a proxy.
        servers: Process ids of what serves it, by what they are called.
        database: Where PostgreSQL can be asked for its own account.
    """

    url: str
    servers: dict[str, int] = field(default_factory=dict)
    database: str | None = None
    more: tuple[str, ...] = ()
    behind: str | None = None

    def cpu_s(self) -> dict[str, float]:
        """Processor seconds of the servers so far, with all of their children's."""
        return {name: _cpu_s(pid) for name, pid in self.servers.items()}

    def account(self) -> dict[str, float]:
        """Transactions, and bytes of the write-ahead log, so far."""
        if self.database is None:
            return {}
        with psycopg.connect(self.database) as connection:
            connection.execute("SELECT pg_stat_force_next_flush()")
            done = connection.execute(
                "SELECT xact_commit + xact_rollback FROM pg_stat_database "
                "WHERE datname = current_database()"
            ).fetchone()
            log = connection.execute("SELECT wal_bytes FROM pg_stat_wal").fetchone()
        assert done and log
        return {"transactions": float(done[0]), "wal_bytes": float(log[0])}


def _cpu_s(pid: int) -> float:
    """Of a process and its children, ended ones included."""
    total, todo = 0.0, [pid]
    while todo:
        pid = todo.pop()
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15])) / TICKS
            for task in Path(f"/proc/{pid}/task").iterdir():
                todo += map(int, (task / "children").read_text().split())
    return total


@contextlib.contextmanager
def sqlite(folder: Path) -> Iterator[Storage]:
    """A file."""
    yield Storage(f"sqlite:///{folder / 'study.db'}")


@contextlib.contextmanager
def postgresql(folder: Path) -> Iterator[Storage]:
    """A server with the settings it comes with, but for room for all connections."""
    port = _free_port()
    user = "nobody" if os.geteuid() == 0 else None
    home = folder / "postgresql"
    home.mkdir()
    if user:
        folder.chmod(0o755)
        shutil.chown(home, user)

    def start(program: str, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [programs() / program, *arguments],
            cwd=home,
            user=user,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    code = start("initdb", "-D", "data", "-U", "sret", "-E", "UTF8", "--auth=trust").wait()
    assert code == 0, "initdb failed"
    settings = {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": str(home),
        "max_connections": "200",
    }
    options = [f"--{key}={value}" for key, value in settings.items()]
    server = start("postgres", "-D", "data", "-p", str(port), *options)
    plain = f"postgresql://sret@127.0.0.1:{port}/postgres"
    try:
        _until(lambda: _connects(plain), "PostgreSQL does not start")
        url = plain.replace("postgresql:", "postgresql+psycopg:")
        yield Storage(url, {"postgresql": server.pid}, plain)
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()


@contextlib.contextmanager
def grpc(folder: Path, proxies: int = 1) -> Iterator[Storage]:
    """Optuna's proxies, as they come, before a PostgreSQL server."""
    with postgresql(folder) as behind, contextlib.ExitStack() as stack:
        servers, urls = dict(behind.servers), []
        for number in range(proxies):
            port = _free_port()
            server = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", PROXY, behind.url, str(port)],
                stderr=subprocess.DEVNULL,
            )
            stack.callback(server.wait)
            stack.callback(server.terminate)
            _until(functools.partial(_listens, port), "the proxy does not start")
            servers[f"proxy {number + 1}"] = server.pid
            urls.append(f"grpc://127.0.0.1:{port}")
        yield Storage(urls[0], servers, behind.database, tuple(urls[1:]), behind.url)


STORAGES = {
    "sqlite": sqlite,
    "postgresql": postgresql,
    "grpc": grpc,
    "grpc x2": functools.partial(grpc, proxies=2),
}


def programs() -> Path:
    """Where PostgreSQL's programs are: Debian keeps them out of the PATH."""
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        if (folder / "initdb").exists():
            return folder
    found = shutil.which("initdb")
    if found is None:
        raise SystemExit("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    return Path(found).resolve().parent


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _until(condition, what: str) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + RETRY_S
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(what)
        time.sleep(0.05)


def _connects(url: str) -> bool:
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
