"""``sret-nas dashboard``: Optuna's dashboard on a run."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .output import note, status
from .where import RunArgument, StorageOption, StudyOption, find

if TYPE_CHECKING:
    from sret_nas.search import RunDir


def dashboard(
    run: RunArgument = None,
    storage: StorageOption = None,
    study: StudyOption = None,
    host: Annotated[
        str, typer.Option(help="Interface to listen on; no password protects it.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8080,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open a browser, where there is one.")
    ] = True,
) -> None:
    """Optuna Dashboard on a run, finished or not; prints its address, ends with Ctrl-C."""
    with status() as progress:
        progress("reading the run")
        outcome = find(run, storage, study)
        from sret_nas.report.dashboard import EVERYWHERE, Dashboard

        folder = _artifacts(outcome.run)
        served = Dashboard(outcome, folder, host, port, warn=lambda text: note(f"warning: {text}"))
    with served:
        if run or storage or study:
            note(f"run     {outcome.run.label}")
        if host in EVERYWHERE:
            note("note: whoever reaches this machine can read and change the study")
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
