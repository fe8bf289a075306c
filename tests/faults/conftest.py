"""A real PostgreSQL, real worker processes, and what must hold whatever happens to them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from sret_nas import pareto
from sret_nas.proxy import Proxy
from sret_nas.runner import RunResult
from sret_nas.runner.confirmation import to_confirm
from sret_nas.space import SearchSpace
from sret_nas.study.config import RunConfig, versions
from sret_nas.study.objectives import losses
from sret_nas.study.records import record
from sret_nas.study.rundir import RunDir, config_of
from sret_nas.study.trials import standing

RETRY_S = 60
PASSWORD = "hidden-word"
OURS = ("the database", "error: ", "note: ")
"""How lines begin that a worker may write."""


def until(condition: Callable[[], object], what: str = "") -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + RETRY_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@pytest.fixture(name="until")
def until_fixture() -> Callable[..., None]:
    return until


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def binaries() -> Path | None:
    """Where PostgreSQL's programs are: Debian keeps them out of the PATH."""
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        if (folder / "initdb").exists():
            return folder
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found else None


@pytest.fixture(name="free_port")
def free_port_fixture() -> int:
    return free_port()


class Postgres:
    """A server on loopback, run by an unprivileged user, in a folder of its own."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.programs = programs
        self.folder = folder
        self.port = free_port()
        self.user = "nobody" if os.geteuid() == 0 else None
        self.process: subprocess.Popen[bytes] | None = None
        if self.user:
            shutil.chown(folder, self.user)
        word = folder / "word"
        word.write_text(PASSWORD)
        if self.user:
            shutil.chown(word, self.user)
        self._run(
            *("initdb", "-D", "data", "-U", "sret", "-E", "UTF8", "--no-sync"),
            *("--auth=scram-sha-256", "--pwfile=word"),
        )
        self.start()

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self.programs / program, *arguments],
            cwd=self.folder,
            user=self.user,
            check=True,
            capture_output=True,
        )

    def start(self) -> None:
        options = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self.folder),
            "fsync": "off",
            "max_connections": "60",
        }
        settings = [f"--{key}={value}" for key, value in options.items()]
        self.process = subprocess.Popen(
            [self.programs / "postgres", "-D", "data", "-p", str(self.port), *settings],
            cwd=self.folder,
            user=self.user,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(self._answers, "PostgreSQL does not start")

    def _answers(self) -> bool:
        import psycopg

        try:
            with psycopg.connect(self.dsn("postgres")):
                return True
        except psycopg.OperationalError:
            return False

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """End the server; by default at once, as a crash would."""
        assert self.process is not None
        self.process.send_signal(how)
        self.process.wait(RETRY_S)

    def dsn(self, database: str, port: int | None = None) -> str:
        return f"postgresql://sret:{PASSWORD}@127.0.0.1:{port or self.port}/{database}"

    def database(self, name: str) -> str:
        import psycopg

        with psycopg.connect(self.dsn("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload]
        return self.dsn(name)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    programs = binaries()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="sret-pg-"))
    server = Postgres(programs, folder)
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def url(postgres: Postgres, request: pytest.FixtureRequest) -> str:
    """The address of an empty database."""
    return postgres.database(f"nas_{abs(hash(request.node.nodeid)):x}")


@pytest.fixture(scope="session")
def zygote() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("zygote.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.communicate()


@dataclass
class Worker:
    """A worker process."""

    pid: int
    code_file: Path
    stderr: Path

    @property
    def alive(self) -> bool:
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    @property
    def code(self) -> int | None:
        return int(self.code_file.read_text()) if self.code_file.exists() else None

    def signal(self, which: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, which)

    def wait(self) -> int | None:
        until(lambda: not self.alive, f"worker {self.pid} goes on: {self.stderr.read_text()}")
        return self.code


@dataclass
class Farm:
    """Workers on one study."""

    url: str
    config: RunConfig
    folder: Path
    zygote: subprocess.Popen[str]
    name: str = "farm"
    epoch_s: float = 0.03
    workers: list[Worker] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.run = RunDir(storage=self.url, study=self.name)
        self.study = self.run.study(create=self.config)

    def start(self, count: int = 1, url: str | None = None, **how: Any) -> list[Worker]:
        """Fork workers, all at once."""
        assert self.zygote.stdin and self.zygote.stdout
        started = []
        for _ in range(count):
            number = len(self.workers)
            stderr, code = self.folder / f"{number}.err", self.folder / f"{number}.code"
            stderr.touch()
            order = {
                "url": url or self.url,
                "study": self.name,
                "epoch_s": self.epoch_s,
                "log": str(self.folder / "log"),
                "stderr": str(stderr),
                "code": str(code),
            }
            self.zygote.stdin.write(json.dumps(order | how) + "\n")
            self.zygote.stdin.flush()
            worker = Worker(int(self.zygote.stdout.readline()), code, stderr)
            self.workers.append(worker)
            started.append(worker)
        return started

    def finished(self) -> int:
        return sum(trial.state.is_finished() for trial in standing(self.study))

    def trainings(self, what: str) -> Counter[tuple[str, int]]:
        """How often each architecture and seed began or ended."""
        path = self.folder / "log"
        lines = path.read_text().splitlines() if path.exists() else []
        found = [json.loads(line) for line in lines]
        return Counter((arch, seed) for kind, arch, seed in found if kind == what)

    def trained_again(self) -> Counter[str]:
        """How often architectures began more than once, beyond the one time they go on.

        Without a folder there is no state: what goes on begins anew.
        """
        config = config_of(self.study)
        found = Counter(
            {
                arch: n - 1
                for (arch, seed), n in self.trainings("begin").items()
                if seed == config.seed
            }
        )
        going_on = [t for t in standing(self.study) if record(t).continues is not None]
        return found - Counter(record(t).id for t in going_on)

    def end(self, killed: int = 0) -> RunResult:
        """Wait for all, and check what must hold after any fault.

        Args:
            killed: Workers that were killed, or cut off: each may have cost one training.
        """
        for worker in self.workers:
            worker.wait()
        codes = [worker.code for worker in self.workers]
        assert codes.count(None) <= killed, codes
        assert set(codes) <= {0, None}, [worker.stderr.read_text() for worker in self.workers]
        self._ours_alone()
        config = config_of(self.study)
        outcome = RunResult(self.run, config, self.study)
        assert not [t for t in outcome.trials if t.state == TrialState.RUNNING]

        good = standing(self.study)
        ids = [trial.user_attrs["id"] for trial in good]
        assert len(ids) == len(set(ids)) == config.trials  # none twice, none missing
        for trial in good:
            if trial.state == TrialState.FAIL:
                assert trial.user_attrs["reason"]
        lost = Counter(
            trial.user_attrs["id"]
            for trial in outcome.trials
            if trial.user_attrs.get("interrupted") == "lost" and "id" in trial.user_attrs
        )
        assert set(lost) <= set(ids)  # nothing lost
        assert {(arch_id, config.seed) for arch_id in ids} <= set(self.trainings("begin"))
        for arch_id, times in self.trained_again().items():
            assert times <= lost[arch_id], (arch_id, times, lost[arch_id])
        assert sum(lost.values()) <= killed
        self._front(outcome)
        assert not to_confirm(outcome)
        repeats = [n for (_, seed), n in self.trainings("begin").items() if seed != config.seed]
        assert sum(repeats) - len(repeats) <= killed
        return outcome

    def _ours_alone(self) -> None:
        for worker in self.workers:
            text = worker.stderr.read_text()
            assert PASSWORD not in text
            for line in text.splitlines():
                assert line.startswith(OURS), text

    def _front(self, outcome: RunResult) -> None:
        """The front is that of the trials, by the definition."""
        goals = outcome.config.goals
        done = [t for t in outcome.trials if t.state == TrialState.COMPLETE]
        points = {t.number: losses(goals, t.user_attrs["metrics"]) for t in done}
        for trial in done:
            assert trial.values == [trial.user_attrs["metrics"][goal.name] for goal in goals]
        best = {
            number
            for number, mine in points.items()
            if not any(pareto.dominates(other, mine) for other in points.values())
        }
        assert {member.trial for member in outcome.front} == best


@pytest.fixture
def make_farm(
    url: str, tmp_path: Path, zygote: subprocess.Popen[str]
) -> Iterator[Callable[..., Farm]]:
    farms = []

    def make(trials: int = 24, address: str = url, epoch_s: float = 0.03, **changes: Any) -> Farm:
        proxy = {"image_size": 28, "epochs": 4, "rungs": [1, 2, 4], "seeds": 2}
        config = RunConfig(
            space=SearchSpace.load("smoke").file.model_dump(
                mode="json", by_alias=True, exclude_unset=True
            ),
            data={"source": "demo", "fingerprint": "0"},
            proxy=Proxy.load(proxy),
            trials=trials,
            versions=versions(),
            **{"heartbeat_s": 10.0, "sampler": "random"} | changes,
        )
        farms.append(Farm(address, config, tmp_path, zygote, epoch_s=epoch_s))
        return farms[-1]

    yield make
    for farm in farms:
        for worker in farm.workers:
            worker.signal(signal.SIGKILL)


@pytest.fixture(autouse=True)
def quiet_optuna() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
