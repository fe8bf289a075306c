"""Who does the work of a run here: this process alone, or processes of its own.

Every worker does the whole of it (see ``work``) and shares nothing but the study, so that
it makes no difference whether the others are here or on other machines.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import optuna

from sret_nas.errors import InfeasibleError, SretNasError, UsageError
from sret_nas.noise import quiet_libraries
from sret_nas.runner import crashes
from sret_nas.runner.comparison import comparer
from sret_nas.runner.lease import Leased, lease
from sret_nas.runner.slots import Slot
from sret_nas.runner.worker import Worker
from sret_nas.space import clock
from sret_nas.study.config import RunConfig
from sret_nas.study.heartbeat import HeartbeatMonitor, me
from sret_nas.study.retrying import LOOKING, say_on_stderr
from sret_nas.study.rundir import RunDir
from sret_nas.study.trials import ATTEMPTS, RUNNING, hand_back, owner, sweep

if TYPE_CHECKING:
    from sret_nas.data import DataSet
    from sret_nas.data.source import Source

POLL_S = 0.25
Watch: TypeAlias = Callable[[optuna.Study], None]
"""Told again and again while the work goes on."""


class Stop:
    """Whether to come to an end: asked for, out of time, or left alone by the parent.

    Args:
        event: Set when the user says so.
        deadline: When the time is up, as ``time.monotonic``, or never.
        parent: Process that must be the parent.
    """

    def __init__(self, event: Any, deadline: float | None, parent: int | None = None) -> None:
        self.event = event
        self.deadline = deadline
        self.parent = parent

    def __call__(self) -> bool:
        """Whether anything says so."""
        return self.asked or self.timed_out

    @property
    def asked(self) -> bool:
        """Whether the user said so, or the parent is gone."""
        orphaned = self.parent is not None and os.getppid() != self.parent
        return bool(self.event.is_set()) or orphaned

    @property
    def timed_out(self) -> bool:
        """Whether the time is up."""
        return self.deadline is not None and time.monotonic() > self.deadline


class MakeWorker(Protocol):
    """Makes a worker in its process."""

    def __call__(
        self, run: RunDir, config: RunConfig, stop: Stop, slot: Slot, quiet: bool
    ) -> Worker:
        """The worker, with its own connection.

        Args:
            run: The run.
            config: What was asked for.
            stop: Whether to come to an end.
            slot: Where it works.
            quiet: Whether somebody else says that the database is away.
        """


class Executor(Protocol):
    """Does the work of a run."""

    def work(self, study: optuna.Study) -> None:
        """All of it that is to be done here."""


MakeExecutor: TypeAlias = Callable[
    [RunDir, RunConfig, Stop, Watch, Sequence[Slot], MakeWorker], Executor
]


def the_data(config: RunConfig, listing: Source | None = None) -> DataSet:
    """The data of a run.

    Args:
        config: What was asked for.
        listing: What another process of this machine found of them.

    Raises:
        UsageError: they are others than those that the run was begun with.
    """
    from sret_nas.data import load_data

    source = config.data["source"]
    data = load_data(listing or source, seed=config.seed, **config.proxy.load_options())
    if data.known_as(config.data["fingerprint"]) != config.data["fingerprint"]:
        raise UsageError(
            f"data '{source}' are not those that the run was begun with: their content "
            f"hash is {data.fingerprint}, not {config.data['fingerprint']}",
            "sret-nas worker --data says where they are on this machine",
        )
    return data


def make_worker(
    run: RunDir,
    config: RunConfig,
    stop: Stop,
    slot: Slot,
    quiet: bool,
    listing: Source | None = None,
) -> Worker:
    """A worker that trains, with its own connection, data and clock.

    Args:
        run: The run.
        config: What was asked for.
        stop: Whether to come to an end.
        slot: Where it works.
        quiet: Whether somebody else says that the database is away.
        listing: What another process of this machine found of the data.

    Raises:
        UsageError: the data are not those that the run was begun with.
    """
    import torch

    from sret_nas.device import resolve

    data = the_data(config, listing)
    device = resolve(slot.device)
    if device.type == "cpu":
        torch.set_num_threads(slot.threads)
    own = lease(device)
    batches, dtype, mode = config.latency_batches, config.latency_dtype, config.latency_mode
    return Worker(
        run=run,
        config=config,
        study=run.study(quiet=quiet),
        space=config.search_space(),
        evaluator=Leased(config.make_evaluator()(config.proxy, data, device), own),
        stop=stop,
        clock=clock(slot.device, dtype, mode, alone=own.measuring) if batches else None,
        comparer=comparer(device, own, batches[0], dtype, mode) if batches else None,
        slot=slot,
        until=stop.deadline,
    )


class InlineExecutor:
    """This process does everything itself."""

    def __init__(
        self,
        run: RunDir,
        config: RunConfig,
        stop: Stop,
        watch: Watch,
        slots: Sequence[Slot],
        make: MakeWorker = make_worker,
    ) -> None:
        self.run, self.config, self.stop, self.watch = run, config, stop, watch
        (self.slot,) = slots
        self.make = make

    def work(self, study: optuna.Study) -> None:
        """Do the work of the run."""
        worker = self.make(self.run, self.config, self.stop, self.slot, quiet=False)
        worker.watch = lambda: self.watch(study)
        worker.work()
        self.watch(study)


class ProcessExecutor:
    """Processes that work side by side; one that dies takes only its own trial with it.

    One that is killed is replaced, as often as an architecture may be tried again; a
    candidate is blamed only where it took its worker down itself (see ``crashes``).
    """

    def __init__(
        self,
        run: RunDir,
        config: RunConfig,
        stop: Stop,
        watch: Watch,
        slots: Sequence[Slot],
        make: MakeWorker = make_worker,
    ) -> None:
        self.run, self.config, self.stop, self.watch = run, config, stop, watch
        self.slots = slots
        self.make = make
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
            if code < 0 and not (complete or self.stop()):
                again = "another takes its place" if lives else "it is not replaced any more"
                why = f" ({cause})" if cause else ""
                say_on_stderr(f"a worker was killed by signal {-code}{why}: {again}")
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


def judge(codes: Sequence[int | None], stop: Stop) -> None:
    """What became of workers that have all ended.

    Raises:
        InfeasibleError: all ended because nothing satisfies the budget.
        UsageError: none could begin.
        SretNasError: none came to its end.
    """
    if 0 in codes or stop.asked:
        return
    if codes and all(code == InfeasibleError.exit_code for code in codes):
        raise InfeasibleError("nothing satisfies the budget; the workers say more above")
    if codes and all(code == UsageError.exit_code for code in codes):
        raise UsageError("no worker could begin; they say why above")
    if codes or not stop.timed_out:
        raise SretNasError(
            f"all {len(codes)} workers failed; exit codes {list(codes)}",
            "their messages are above; give the same command to go on, with fewer --workers "
            "if memory ran out",
        )


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
