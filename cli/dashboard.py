"""``sret-nas dashboard``: Optuna's dashboard on a run."""

from __future__ import annotations

import os
import sys
import threading
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from sret_nas.errors import UsageError

from .output import note, status

RUNS = Path("runs")


def dashboard(
    run: Annotated[
        Path | None, typer.Argument(help="Run directory; default the newest in runs/.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Interface to listen on; no password protects it.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8080,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open a browser, where there is one.")
    ] = True,
) -> None:
    """Optuna Dashboard on a run, finished or not; prints its address, ends with Ctrl-C."""
    path = run or _newest()
    with status() as progress:
        progress(f"reading {path}")
        from sret_nas.report.dashboard import EVERYWHERE, Dashboard
        from sret_nas.search import load

        outcome = load(path)
        artifacts = outcome.run.path / "artifacts"
        served = Dashboard(
            outcome, artifacts, host, port, warn=lambda text: note(f"warning: {text}")
        )
    with served:
        note(f"run     {path}")
        if host in EVERYWHERE:
            note("note: whoever reaches this machine can read and change the study")
        print(served.url, flush=True)
        if browser and _has_browser():
            threading.Thread(target=webbrowser.open, args=(served.url,), daemon=True).start()
        served.serve()


def _newest() -> Path:
    """The run that was written to last."""
    found = list(RUNS.glob("*/config.yaml"))
    if not found:
        raise UsageError("dashboard: no run given, and none in runs/", "sret-nas dashboard RUN")
    return max(found, key=lambda path: max(p.stat().st_mtime for p in path.parent.iterdir())).parent


def _has_browser() -> bool:
    """Whether a window can open; browsers of a terminal would take it over."""
    if sys.platform in ("darwin", "win32"):
        return True
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))
