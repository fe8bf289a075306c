"""``sret-nas dashboard``: Optuna's dashboard on a run."""

from __future__ import annotations

import hashlib
import os
import socket
import sys
import threading
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .output import note, status
from .where import RunArgument, StorageOption, StudyOption, find

if TYPE_CHECKING:
    from sret_nas.study.rundir import RunDir


def dashboard(
    run: RunArgument = None,
    storage: StorageOption = None,
    study: StudyOption = None,
    host: Annotated[
        str, typer.Option(help="Interface to listen on; others need the token in the address.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8080,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open a browser, where there is one.")
    ] = True,
    allow_writes: Annotated[
        bool, typer.Option("--allow-writes", help="Let whoever has the token change the study.")
    ] = False,
    all_studies: Annotated[
        bool, typer.Option("--all-studies", help="Show the storage's other studies too.")
    ] = False,
) -> None:
    """Optuna Dashboard on a run, finished or not; prints its address, ends with Ctrl-C."""
    with status() as progress:
        progress("reading the run")
        outcome = find(run, storage, study)
        from sret_nas.report.dashboard import Dashboard

        folder = _artifacts(outcome.run)
        served = Dashboard(
            outcome,
            folder,
            host,
            port,
            warn=lambda text: note(f"warning: {text}"),
            writes=True if allow_writes else None,
            all_studies=all_studies,
        )
    with served:
        if run or storage or study:
            note(f"run     {outcome.run.label}")
        if not served.bound.loopback:
            may = "read and change" if served.writes else "read"
            note(f"warning: other machines reach it; whoever has the address can {may} the study")
            if served.bound.everywhere:
                note(f"from elsewhere: {served.url.replace('localhost', socket.gethostname(), 1)}")
        print(served.url, flush=True)
        if browser and _has_browser():
            threading.Thread(target=webbrowser.open, args=(served.url,), daemon=True).start()
        served.serve()


def _artifacts(run: RunDir) -> Path:
    """The run's own folder; of a study without one, a cache that can be made again."""
    if run.has_folder:
        return run.path / "artifacts"
    from sret_nas.device import cache_folder

    key = hashlib.sha256(f"{run.address} {run.study_name}".encode()).hexdigest()[:16]
    return cache_folder() / "artifacts" / key


def _has_browser() -> bool:
    """Whether a window can open; browsers of a terminal would take it over."""
    if sys.platform in ("darwin", "win32"):
        return True
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))
