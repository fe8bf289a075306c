"""The real optuna-dashboard on the study of a run, kept up to date while one looks."""

from __future__ import annotations

import contextlib
import errno
import logging
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import optuna_dashboard
import waitress.server
from optuna.artifacts import FileSystemArtifactStore

from sret_nas.errors import ConfigError, SretNasError, UsageError
from sret_nas.report.guard import Bound, Guard, OneStudy
from sret_nas.report.looks import Styled
from sret_nas.report.publish import Publisher
from sret_nas.runner import RunResult
from sret_nas.study.records import record
from sret_nas.study.retrying import with_all_trials

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

EVERY_S = 4.0
"""Between two looks at the study for what is new."""
FIRST_S = 3.0
"""The longest that the first page waits for notes and artifacts; the rest follows."""
THREADS = 6


def refuse_other(outcome: RunResult) -> None:
    """Check that the study is one of ours.

    Raises:
        ConfigError: it has other objectives, or trials without an architecture.
    """
    study, label = outcome.study, outcome.run.label
    hint = "optuna-dashboard itself shows any study"
    if len(study.directions) != len(outcome.config.goals):
        raise ConfigError(
            f"{label}: study '{study.study_name}' has {len(study.directions)} objectives, "
            f"the run {len(outcome.config.goals)}; it was not made by sret-nas search",
            hint,
        )
    for trial in outcome.complete():
        if not record(trial).has_architecture:
            raise ConfigError(
                f"{label}: trial {trial.number} of study '{study.study_name}' has no "
                "architecture; it was not made by sret-nas search",
                hint,
            )


class Dashboard:
    """The dashboard of one run; use it as a context.

    Args:
        outcome: The run.
        artifacts: Folder of its artifacts.
        host: Interface to listen on.
        port: Port to listen on; 0 takes a free one.
        warn: Told in one line what cannot be written; the dashboard goes on without it.
        writes: Whether it may change the study; default where this machine alone reaches it.
        all_studies: Show what else is in the storage.

    Attributes:
        url: Of the study's page; with a token where others can reach it.
        bound: Where it listens.

    Raises:
        ConfigError: the study is not one of ours.
        UsageError: the port is in use, or there is no such interface.
    """

    def __init__(
        self,
        outcome: RunResult,
        artifacts: Path,
        host: str = "127.0.0.1",
        port: int = 8080,
        warn: Callable[[str], None] = lambda _: None,
        writes: bool | None = None,
        all_studies: bool = False,
    ) -> None:
        refuse_other(outcome)
        self.outcome, self.warn = outcome, warn
        self.publisher = Publisher(artifacts)
        self.stop = threading.Event()
        self.warned = False
        self.socket = _listen(host, port)
        store = FileSystemArtifactStore(str(artifacts))
        storage = outcome.study._storage
        if all_studies:
            storage = with_all_trials(storage)
        app: WSGIApplication = optuna_dashboard.wsgi(storage, artifact_store=store)
        app = Styled(app)
        if not all_studies:
            app = OneStudy(app, outcome.study._study_id, self._owns)
        address, port = self.socket.getsockname()[:2]
        self.bound = Bound(host, address)
        self.token = None if self.bound.loopback else secrets.token_urlsafe(24)
        self.writes = self.bound.loopback if writes is None else writes
        self.app = Guard(app, self.bound, self.token, self.writes)
        logging.getLogger("waitress").setLevel(logging.ERROR)
        self.server = waitress.server.create_server(
            self.app, sockets=[self.socket], threads=THREADS, clear_untrusted_proxy_headers=True
        )
        shown = "localhost" if self.bound.everywhere else f"[{host}]" if ":" in host else host
        query = "" if self.token is None else f"?token={self.token}"
        self.url = f"http://{shown}:{port}/dashboard/studies/{outcome.study._study_id}{query}"
        self.thread = threading.Thread(target=self._keep_up, name="publish", daemon=True)

    def __enter__(self) -> Dashboard:
        self._publish(self.outcome, FIRST_S)
        self.thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop.set()
        self.server.close()
        self.socket.close()
        self.thread.join(timeout=5)

    def serve(self) -> None:
        """Answer until Ctrl-C or SIGTERM."""
        with _interruptible():
            self.server.run()  # returns on KeyboardInterrupt

    def _owns(self, trial_id: int) -> bool:
        trials = self.outcome.study.get_trials(deepcopy=False)
        return any(trial._trial_id == trial_id for trial in trials)

    def _keep_up(self) -> None:
        while not self.stop.wait(EVERY_S):
            with contextlib.suppress(SretNasError):  # the next look may be luckier
                found = RunResult(self.outcome.run, self.outcome.config, self.outcome.study)
                self._publish(found, EVERY_S)

    def _publish(self, outcome: RunResult, within_s: float) -> None:
        try:
            self.publisher(outcome, within_s=within_s)
        except SretNasError as error:
            if not self.warned:
                self.warn(f"notes and artifacts are not complete: {error}")
            self.warned = True


def _listen(host: str, port: int) -> socket.socket:
    if "\0" in host or not _is_name(host):
        raise UsageError(f"--host: given '{host}': not a name of a machine", "e.g. 127.0.0.1")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except socket.gaierror as error:
        raise UsageError(f"--host: given '{host}': {error.strerror}", "e.g. 127.0.0.1") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            with socket.create_server((host, 0), family=family) as other:
                free = other.getsockname()[1]
            raise UsageError(f"port {port} is in use", f"free now: --port {free}") from error
        raise UsageError(
            f"cannot listen on {host} port {port}: {error.strerror}", "choose --host and --port"
        ) from error


def _is_name(host: str) -> bool:
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return True


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C ends the server, and SIGTERM like it; also where a script began it with ``&``."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {sign: signal.signal(sign, interrupt) for sign in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)
