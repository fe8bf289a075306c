"""The work of a run on this machine: by this process alone, or by processes of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Any

import optuna

from sret_nas.errors import SretNasError
from sret_nas.noise import quiet_libraries
from sret_nas.runner import crashes
from sret_nas.runner.executors.base import POLL_S, Executor, MakeWorker, Stop, judge
from sret_nas.runner.slots import Slot
from sret_nas.study.config import RunConfig
from sret_nas.study.heartbeat import HeartbeatMonitor, me
from sret_nas.study.retrying import LOOKING, say_on_stderr
from sret_nas.study.rundir import RunDir
from sret_nas.study.trials import ATTEMPTS, RUNNING, hand_back, owner, sweep


class InlineExecutor(Executor):
    """This process does everything itself."""

    def work(self, study: optuna.Study) -> None:
        """Do the work of the run."""
        worker = self.make(self.run, self.config, self.stop, self.slots[0], quiet=False)
        worker.watch = lambda: self.watch(study)
        worker.work()
        self.watch(study)


class ProcessExecutor(Executor):
    """Processes that work side by side; one that dies takes only its own trial with it.

    One that is killed is replaced, as often as an architecture may be tried again; a
    candidate is blamed only where it took its worker down itself (see ``crashes``).
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.processes: list[BaseProcess] = []
        self.at_work: dict[BaseProcess, tuple[Slot, int]] = {}
        self.oom_kills = crashes.oom_kills()

    def work(self, study: optuna.Study) -> None:
        """Start the processes, and look on until all have ended.

        Raises:
            InfeasibleError: all ended because nothing satisfies the budget.
            SretNasError: none came to its end.
        """
        one_machine = self.run.address.kind == "sqlite"
        monitor = HeartbeatMonitor(me().name, self.config.heartbeat_s, one_machine)
        try:
            for slot in self.slots:
                self._start(slot, ATTEMPTS - 1)
            while self.at_work:
                start = time.monotonic()
                sweep(study, monitor, but=self.slots[0].team)  # its own are heeded as they end
                self.watch(study)
                pause = max(POLL_S, (time.monotonic() - start) / LOOKING)
                _wait(self.processes, pause)
                self._heed(study)
        except BaseException as error:
            self._end(study, error)
            raise
        sweep(study, monitor)
        self.watch(study)
        judge([process.exitcode for process in self.processes], self.stop)

    def _heed(self, study: optuna.Study) -> None:
        """Replace those that were killed; one that ends by itself has said why."""
        for process in [one for one in self.at_work if not one.is_alive()]:
            slot, lives = self.at_work.pop(process)
            code = process.exitcode or 0
            cause = self._blame(study, process.pid, code)
            complete = any(one.exitcode == 0 for one in self.processes)
            if (code < 0 or cause) and not (complete or self.stop()):
                again = "another takes its place" if lives else "it is not replaced any more"
                why = f" ({cause})" if cause else ""
                how = f"was killed by signal {-code}{why}" if code < 0 else f"ended with {cause}"
                say_on_stderr(f"a worker {how}: {again}")
                if lives:
                    self._start(slot, lives - 1)

    def _blame(self, study: optuna.Study, pid: int | None, code: int) -> str:
        """Close what a process held that has ended; what it came down by."""
        kills = crashes.oom_kills()
        cause = crashes.of_process(code, kills > self.oom_kills)
        self.oom_kills = kills
        for trial in study.get_trials(deepcopy=False, states=RUNNING):
            who = owner(trial)
            if who is not None and (who.pid, who.boot) == (pid, me().boot):
                hand_back(study, trial, "crashed" if cause else "lost", cause)
        return cause

    def _start(self, slot: Slot, lives: int) -> None:
        context = multiprocessing.get_context("spawn")
        stop = (self.stop.event, self.stop.deadline, os.getpid())
        arguments = (self.run, self.config, stop, slot, self.make)
        process = context.Process(target=_work, args=arguments, name="sret-nas worker")
        with _no_main(self.make):
            process.start()
        self.processes.append(process)
        self.at_work[process] = slot, lives

    def _end(self, study: optuna.Study, error: BaseException) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.join()
        pids = {process.pid for process in self.processes}
        why = "stopped" if isinstance(error, KeyboardInterrupt) else "lost"
        for trial in study.get_trials(deepcopy=False, states=RUNNING):
            who = owner(trial)
            if who is not None and who.pid in pids and who.boot == me().boot:
                hand_back(study, trial, why)


@contextmanager
def _no_main(make: MakeWorker) -> Iterator[None]:
    """Within the block, processes begin without the user's script.

    A spawned process imports the main module anew, so that a script without a main guard
    would begin its search again in every worker. Ours need nothing of it.
    """
    main = sys.modules["__main__"]
    if getattr(make, "func", make).__module__ != "__main__":
        sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _wait(processes: Sequence[BaseProcess], seconds: float) -> None:
    """Until one of those at work has ended, or the time has passed."""
    sentinels = {one.sentinel: one for one in processes if one.is_alive()}
    for ended in wait(list(sentinels), seconds):
        sentinels[ended].join()  # type: ignore[index]  # it says so a moment before it is gone


def _work(
    run: RunDir,
    config: RunConfig,
    stop: tuple[Any, float | None, int],
    slot: Slot,
    make: MakeWorker,
) -> None:
    """The body of a worker process."""
    quiet_libraries()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tells
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        make(run, config, Stop(*stop), slot, quiet=True).work()
    except SretNasError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(error.exit_code) from None
