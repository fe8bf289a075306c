"""A section in a process of its own: what it finds comes as it is found, and its time ends it.

A GPU that was misused takes no more work from the process that did it, and what does not
end cannot be asked to; so no section can spoil another.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection

import torch
from gpu_bench import Bench, Row

DONE = "done"
PRELOADED = ["gpu_bench", "timm", "sret_nas.training"]
"""Imported once, by the process from which those of all sections are forked.

None may ask for a GPU: CUDA cannot be begun in a fork of a process that did.
"""


def run(name: str, bench: Bench, limit_s: float, keep: Callable[[Row], None]) -> str:
    """Run a section; how it ended: ``done``, or why it did not.

    Args:
        name: Of the section.
        bench: What to measure.
        limit_s: Seconds after which the process and all that it started are killed.
        keep: Told every finding.
    """
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(PRELOADED)
    ours, theirs = processes.Pipe(duplex=False)
    deadline = time.monotonic() + limit_s
    process = processes.Process(target=_work, args=(name, bench.until(limit_s), theirs))
    process.start()
    theirs.close()
    ended = f"its {limit_s:.0f} s were over"
    try:
        while ours.poll(max(0.0, deadline - time.monotonic())):
            kind, found = ours.recv()
            if kind == "row":
                keep(found)
            else:
                ended = found
                break
    except EOFError:
        process.join(10)
        ended = f"its process died ({process.exitcode})"
    finally:
        assert process.pid
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()  # where it had no time to become the leader of its group
        process.join()
    return ended


def _work(name: str, bench: Bench, connection: Connection) -> None:
    os.setsid()  # so that what it starts can be killed with it
    try:
        if bench.cuda:
            torch.cuda.set_device(bench.place)
        for row in importlib.import_module(f"gpu_{name}").rows(bench):
            connection.send(("row", row))
        ended = DONE
    except Exception as error:  # whatever a section raises is how it ended
        traceback.print_exc()
        ended = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    connection.send(("ended", ended))
