"""A whole search: resolve, try, confirm, write it down; or help one.

With one worker everything happens in this process; with more, each is a process of its
own. Ctrl-C once ends the epochs at work and stops cleanly; twice stops at once, as does
SIGTERM, for a machine that goes away does not wait.
"""

from __future__ import annotations

import _thread
import functools
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import optuna
from optuna.trial import TrialState

from sret_nas.arch import Architecture
from sret_nas.device import AUTO, choose, cores
from sret_nas.errors import UsageError
from sret_nas.runner.confirmation import to_confirm
from sret_nas.runner.executors.base import MakeExecutor, MakeWorker, Stop, Watch
from sret_nas.runner.executors.local import InlineExecutor, ProcessExecutor
from sret_nas.runner.making import make_worker, the_data
from sret_nas.runner.remaining import candidates_left
from sret_nas.runner.result import RunResult
from sret_nas.runner.slots import Slot, slots
from sret_nas.runner.stopped import StoppedStates
from sret_nas.study import address, validation
from sret_nas.study.config import RunConfig, refuse_other_versions
from sret_nas.study.heartbeat import HeartbeatMonitor, WorkerId, me
from sret_nas.study.records import record
from sret_nas.study.retrying import say_on_stderr
from sret_nas.study.rundir import CONFIG, RunDir, config_of, limit_of, reported
from sret_nas.study.session import Session, sessions
from sret_nas.study.trials import RUNNING, owner, recover, sweep

if TYPE_CHECKING:
    from sret_nas.data import DataSet

Ending = Literal["done", "interrupted", "timeout"]


@dataclass(frozen=True)
class Ended:
    """How a search ended.

    Attributes:
        outcome: What it found so far.
        ending: ``done``, ``timeout`` or ``interrupted``.
    """

    outcome: RunResult
    ending: Ending


def search(
    run: RunDir,
    config: RunConfig,
    watch: Watch = lambda _: None,
    make: MakeWorker = make_worker,
    executor: MakeExecutor | None = None,
    data: DataSet | None = None,
) -> Ended:
    """Begin a run or go on with it.

    Several searches may share one study in a storage, each with a folder of its own.

    Args:
        run: Where.
        config: What; checked against the run that may be there.
        watch: Told of the study: first as it was found, then while the search goes on.
        make: Makes a worker in its process.
        executor: Who does the work; default this process, or processes of its own.
        data: The data, where they have been loaded: workers need not look for them again.

    Raises:
        UsageError: another search is at work on the folder, or it cannot be written.
        ConfigError: another run is there.
        InfeasibleError: nothing satisfies the budget.
        SretNasError: the disk, the database or all workers failed.
    """
    space = config.search_space()
    space.examine(config.budgets)
    if config.device == AUTO:
        config = config.model_copy(update={"device": choose().name})
    config = config.with_latency()
    with run.only_one(), reported(run.label):
        # What is refused shall leave no folder, and what is killed no study without its folder.
        study = None if run.own_database else run.study(create=config)
        config = run.begin(config)
        study = study or run.study(create=config)
        validation.check(
            run.label, config.declaration, study.user_attrs, study.get_trials(deepcopy=False)
        )
        machines = [one["machine"] for one in sessions(study.user_attrs)]
        work = _Work(run, config, study, watch, _told(make, executor, data), executor=executor)
        if machines and work.session.machine not in machines:
            say_on_stderr(f"note: the run was on {machines[-1]}; now on {work.session.machine}")
        try:
            ending = work.carry_out()
            if ending != "interrupted":
                StoppedStates(run).clear()
        finally:
            work.session.save()
            outcome = RunResult(run, config, study)
            outcome.write()
        watch(study)
        return Ended(outcome, ending)


def join(
    run: RunDir,
    who: WorkerId | None = None,
    device: str = AUTO,
    workers: int | None = None,
    data: str | None = None,
    watch: Watch = lambda _: None,
    make: MakeWorker = make_worker,
    executor: MakeExecutor | None = None,
    allow_code: bool = False,
) -> Ended:
    """Help with a run that a search has begun: candidates, then the front's confirmation.

    Args:
        run: Where; its folder is not needed.
        who: This process, whose name its workers' trials carry.
        device: ``auto``, ``cpu``, ``cuda`` (all GPUs in turn) or ``cuda:N``.
        workers: Processes; default one a core on a CPU, else one.
        data: Where the data are on this machine; default as the run was begun.
        watch: Told of the study while the work goes on.
        make: Makes a worker in its process.
        executor: Who does the work; default this process, or processes of its own.
        allow_code: Whether modules that the study names, for its space or as its evaluator,
            may run here, if their hashes agree with those of the study.

    Raises:
        ConfigError: no such study, its space needs code that may not run here, or
            versions here would give other numbers.
        UsageError: the data here are others, or there is no such device.
        InfeasibleError: nothing satisfies the budget.
        SretNasError: the database or all workers failed.
    """
    study = run.study()
    with reported(run.label):
        refuse_other_versions(study.user_attrs.get(CONFIG) or {}, run.label)
        config = config_of(study).trusting() if allow_code else config_of(study)
    config.search_space()  # one message, rather than one a worker
    config.make_evaluator()
    source, device = data or config.data["source"], choose(device, spread=True).name
    if workers is None:
        workers = cores() if device == "cpu" else 1
    config = config.model_copy(
        update={
            "data": config.data | {"source": source},
            "device": device,
            "workers": workers,
        }
    )
    if make is make_worker and workers > 1:
        make = _told(make, executor, the_data(config))  # one look and one message
    with reported(run.label):
        watch(study)
        work = _Work(run, config, study, watch, make, who, executor)
        try:
            ending = work.carry_out()
        finally:
            work.session.save()
        return Ended(RunResult(run, config, study), ending)


def _told(make: MakeWorker, executor: MakeExecutor | None, data: DataSet | None) -> MakeWorker:
    """The maker of workers of this machine, told what was found of the data."""
    if make is make_worker and executor is None and data is not None and data.listing is not None:
        return functools.partial(make_worker, listing=data.listing)
    return make


class _Work:
    """What search and join have in common: workers of this machine, and their time."""

    def __init__(
        self,
        run: RunDir,
        config: RunConfig,
        study: optuna.Study,
        watch: Watch,
        make: MakeWorker,
        who: WorkerId | None = None,
        executor: MakeExecutor | None = None,
    ) -> None:
        self.run, self.config, self.study, self.make = run, config, study, make
        self.executor = executor or (InlineExecutor if config.workers == 1 else ProcessExecutor)
        self.who = who = who or me()
        # Those whose worker died before it said who it is; one alive would begin anew.
        unowned = [t for t in study.get_trials(states=RUNNING) if owner(t) is None]
        recover(study, unowned)
        sweep(study, HeartbeatMonitor(who.name, config.heartbeat_s, run.address.kind == "sqlite"))
        watch(study)
        self.session = Session(study, who, config.workers, config.device)
        left = config.timeout_s - self.session.spent_s if config.timeout_s else None
        self.deadline = None if left is None else self.session.start + left

        def see(study: optuna.Study) -> None:
            self.session.beat()
            watch(study)

        self.watch = see

    def carry_out(self) -> Ending:
        """Work until the run has all it was asked for, or time or the user ends it."""
        event = multiprocessing.get_context("spawn").Event()
        stop = Stop(event, self.deadline)
        places = _seats(self.config, self.who.name)
        with _interruptible(event):
            self.executor(self.run, self.config, stop, self.watch, places, self.make).work(
                self.study
            )
        if stop.asked:
            return "interrupted"
        return "done" if self._complete() else "timeout"

    def _complete(self) -> bool:
        limit = limit_of(self.study, self.config)
        outcome = RunResult(self.run, self.config.model_copy(update={"trials": limit}), self.study)
        return self.deadline is None or (candidates_left(outcome) == 0 and not to_confirm(outcome))


def _seats(config: RunConfig, team: str) -> list[Slot]:
    gpus = 0
    if config.device.startswith("cuda"):
        import torch

        gpus = torch.cuda.device_count()
    return slots(config.device, config.workers, gpus, team)


STOPPING = "stopping when the epochs at work have ended; Ctrl-C again stops at once"


@contextmanager
def _interruptible(event: Any) -> Iterator[None]:
    """The first Ctrl-C sets the event; the second is an ordinary one, and so is SIGTERM."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def first(*_: object) -> None:
        event.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with suppress(RuntimeError):  # in the middle of another line
            say_on_stderr(STOPPING)

    def at_once(*_: object) -> None:
        event.set()
        raise KeyboardInterrupt

    def ignored(what: Any) -> None:
        # Python drops what is raised while it collects garbage; the user has not asked for that.
        if what.exc_type is KeyboardInterrupt:
            threading.Timer(0.1, _thread.interrupt_main).start()
        else:
            hook(what)

    before = signal.signal(signal.SIGINT, first)
    terminate = signal.signal(signal.SIGTERM, at_once)
    hook, sys.unraisablehook = sys.unraisablehook, ignored
    try:
        yield
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGINT, before)
        signal.signal(signal.SIGTERM, terminate)


def load(
    path: Path | str | None = None, storage: str | None = None, study: str | None = None
) -> RunResult:
    """What a run found, from its directory, or from a storage and the study's name.

    Raises:
        ConfigError: no run is there.
    """
    run = RunDir(None if path is None else Path(path), storage, study)
    with reported(run.label):
        found = run.study() if not run.has_folder else None
        config = run.config() if found is None else config_of(found)
        outcome = RunResult(run, config, run.study() if found is None else found)
        validation.check(run.label, config.declaration, outcome.study.user_attrs, outcome.trials)
        return outcome


def architecture(path: Path | str, number: int) -> Architecture:
    """The architecture of trial ``number`` of a run.

    Args:
        path: The run's directory, or the name of a study in ``$SRET_NAS_STORAGE``.
        number: Of the trial.

    Raises:
        UsageError: the run has no such trial.
    """
    elsewhere = os.environ.get(address.ENV)
    known = RunDir(Path(path)).exists or not elsewhere
    outcome = load(path) if known else load(storage=elsewhere, study=str(path))
    found = next((trial for trial in outcome.trials if trial.number == number), None)
    if found is not None and record(found).has_architecture:
        return record(found).architecture
    done = [t.number for t in outcome.trials if t.state == TrialState.COMPLETE]
    if found is not None:
        why = f"trial {number} has no architecture yet: it is {found.state.name.lower()}"
    elif number < len(outcome.trials) + outcome.foreign:
        why = f"trial {number} was not made by sret-nas search"
    else:
        why = f"the run has no such trial; it has {len(outcome.trials)}"
    raise UsageError(f"{path}#{number}: {why}", f"complete ones: {', '.join(map(str, done[:20]))}")
