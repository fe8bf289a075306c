"""Forks workers on order: real processes that can be killed, without the wait for imports.

A line of JSON on stdin is an order, a line on stdout its process id. The worker is the
real one; its evaluator is a table that takes a while, and notes every training it does.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna.storages._rdb.storage as rdb
import psycopg  # noqa: F401 (so that no worker waits for it)

from sret_nas.arch import Architecture
from sret_nas.cost import cost
from sret_nas.errors import SretNasError, TrainingError
from sret_nas.evaluate import Evaluation, Report
from sret_nas.evaluators.table import TableEvaluator
from sret_nas.noise import quiet_libraries
from sret_nas.runner.executors.base import Stop
from sret_nas.runner.slots import Slot
from sret_nas.runner.worker import Worker
from sret_nas.study import heartbeat as presence
from sret_nas.study.rundir import RunDir, config_of
from sret_nas.training import EpochResult


def chance(*parts: object) -> float:
    """A number in [0, 1) that is always the same for the same parts."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


class Table(TableEvaluator):
    """Looks up, slowly, and notes every training; some architectures fail."""

    def __init__(self, rungs: tuple[int, ...], epoch_s: float, log: Path) -> None:
        super().__init__(rungs, self.epochs)  # type: ignore[arg-type]
        self.epoch_s = epoch_s
        self.log = log

    def note(self, *what: object) -> None:
        """One line, whole even where many write."""
        descriptor = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, (json.dumps(what) + "\n").encode())
        os.close(descriptor)

    def epochs(self, arch: Architecture, seed: int) -> Iterator[EpochResult]:
        """One after the other, each after its time."""
        for epoch in range(1, self.declaration.full + 1):
            time.sleep(self.epoch_s)
            if epoch == 2 and chance(arch.id) < 0.1:
                raise _NotFiniteError("epoch 2: the training loss is nan")
            loss = 3 - 0.1 * cost(arch).macs ** 0.2 + chance(arch.id, seed, epoch) / epoch
            yield EpochResult(epoch, loss, loss, 1 / (1 + loss), self.epoch_s, 64)

    def evaluate(
        self, arch: Architecture, *, seed: int = 0, report: Report | None = None
    ) -> Evaluation:
        """As the table has it, between two notes."""
        self.note("begin", arch.id, seed)
        found = super().evaluate(arch, seed=seed, report=report)
        self.note("end", arch.id, seed)
        return found


class _NotFiniteError(TrainingError):
    reason = "NaN"


def elsewhere(name: str) -> None:
    """Pretend to be on another machine, whose processes nobody here can see."""
    presence._place.cache_clear()
    presence._place = lambda: (name, "there")  # type: ignore[assignment]


def other_clocks(ahead_s: float, rate: float) -> None:
    """Clocks that are ahead and run at another rate, steady and calendar."""
    steady, calendar = time.monotonic, time.time
    time.monotonic = lambda: ahead_s + rate * steady()
    time.time = lambda: ahead_s + rate * calendar()

    class Ahead(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(seconds=ahead_s)

    rdb.datetime = Ahead  # type: ignore[misc]


def work(order: dict[str, Any]) -> int:
    """Be a worker; the exit code."""
    if order.get("machine"):
        elsewhere(order["machine"])
    if order.get("ahead_s"):
        other_clocks(order["ahead_s"], order.get("rate", 1.0))
    stopped = {"yes": False}
    signal.signal(signal.SIGTERM, lambda *_: stopped.update(yes=True))
    try:
        run = RunDir(storage=order["url"], study=order["study"])
        study = run.study()
        config = config_of(study)
        worker = Worker(
            run=run,
            config=config,
            study=study,
            space=config.search_space(),
            evaluator=Table(config.proxy.rungs, order["epoch_s"], Path(order["log"])),
            stop=Stop(SimpleNamespace(is_set=lambda: stopped["yes"]), None),
            slot=Slot("cpu"),
        )
        worker.work()
    except SretNasError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except BaseException:
        traceback.print_exc()
        return 99
    return 0


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    quiet_libraries()  # as in workers' processes
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid:
            print(pid, flush=True)
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        with Path(order["stderr"]).open("ab", buffering=0) as file:
            os.dup2(file.fileno(), 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = work(order)
        Path(order["code"]).write_text(str(code))
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
