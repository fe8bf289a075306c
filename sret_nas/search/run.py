"""A whole search: resolve, try, confirm, measure the front, write it down.

With one worker everything happens in this process; with more, each is a process
of its own that shares the study. Ctrl-C once ends the epochs at work and stops
cleanly; twice stops at once.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.trial import TrialState

from sret_nas.arch import Architecture
from sret_nas.errors import InfeasibleError, SretNasError, UsageError
from sret_nas.search.config import RunConfig
from sret_nas.search.outcome import Outcome
from sret_nas.search.rundir import RunDir, recover, reported, standing
from sret_nas.search.work import Worker
from sret_nas.space import clock

POLL_S = 0.25
BEAT_S = 5.0
"""A session that is killed loses at most so much of its wall time from the account."""
Ending = Literal["done", "interrupted", "timeout"]
Watch = Callable[[optuna.Study], None]
"""Told again and again while the search goes on."""


@dataclass(frozen=True)
class Ended:
    """How a search ended.

    Attributes:
        outcome: What it found so far.
        ending: ``done``, ``timeout`` or ``interrupted``.
    """

    outcome: Outcome
    ending: Ending


class Stop:
    """Whether to come to an end: asked for, out of time, or left alone by the parent."""

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
        return self.deadline is not None and time.time() > self.deadline


def search(run: RunDir, config: RunConfig, watch: Watch = lambda _: None) -> Ended:
    """Begin a run or go on with it.

    Args:
        run: Where.
        config: What; checked against the run that may be there.
        watch: Told of the study: first as it was found, then while the search goes on.

    Raises:
        UsageError: another search is at work on it, or it cannot be written.
        ConfigError: another run is there.
        InfeasibleError: nothing satisfies the budget.
        SretNasError: the disk, the database or all workers failed.
    """
    space = config.search_space()
    space.examine(config.budgets)
    with run.only_one(), reported(run.path):
        config = run.begin(config)
        study = run.study(create=config)
        recover(study)
        watch(study)
        spent = Outcome(run, config, study).seconds()["total"]
        session = _Session(study, config.workers)
        deadline = session.start + config.timeout_s - spent if config.timeout_s else None
        event = multiprocessing.get_context("spawn").Event()
        stop = Stop(event, deadline)

        def see(study: optuna.Study) -> None:
            session.beat()
            watch(study)

        late = False
        try:
            with _interruptible(event):
                _crew(run, config, study, stop, lambda worker: worker.search(), [], see)
                while recover(study) and not stop():  # a worker died: its candidate once more
                    _crew(run, config, study, stop, lambda worker: worker.search(), [], see)
                late = stop.timed_out and not _enough(config, study)
                if not stop.asked:
                    tasks = _to_confirm(Outcome(run, config, study))
                    _crew(run, config, study, Stop(event, None), None, tasks, see)
                if not stop.asked:
                    session.latency_s = _measure_front(config, Outcome(run, config, study))
        finally:
            recover(study)
            session.save()
            outcome = Outcome(run, config, study)
            outcome.write()
        watch(study)
        return Ended(outcome, "interrupted" if stop.asked else "timeout" if late else "done")


class _Session:
    """Wall time of one call of ``search``, kept in the study.

    Attributes:
        start: When it began, as ``time.time``.
        latency_s: What of it went into measuring the front.
    """

    def __init__(self, study: optuna.Study, workers: int) -> None:
        self.study = study
        self.workers = workers
        self.key = f"session:{sum(key.startswith('session:') for key in study.user_attrs)}"
        self.start = self.saved = time.time()
        self.latency_s = 0.0

    def beat(self) -> None:
        """Save now and then."""
        if time.time() - self.saved > BEAT_S:
            self.save()

    def save(self) -> None:
        """Write down what has passed."""
        self.saved = time.time()
        seconds = {
            "seconds": self.saved - self.start,
            "workers": self.workers,
            "latency": self.latency_s,
        }
        self.study.set_user_attr(self.key, seconds)


@contextmanager
def _interruptible(event: Any) -> Iterator[None]:
    """The first Ctrl-C sets the event; the second is an ordinary one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def first(*_: object) -> None:
        event.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, first)
    terminate = signal.signal(signal.SIGTERM, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        signal.signal(signal.SIGTERM, terminate)


def make_worker(run: RunDir, config: RunConfig, stop: Callable[[], bool]) -> Worker:
    """A worker with its own connection, data and clock."""
    import torch

    from sret_nas.data import load_data
    from sret_nas.device import resolve
    from sret_nas.evaluate import ProxyEvaluator

    data = load_data(config.data["source"], seed=config.seed, **config.proxy.load_options())
    if data.fingerprint != config.data["fingerprint"]:
        raise UsageError(f"data '{config.data['source']}' changed since the run began")
    needs_clock = any(b.metric == "latency_ms" for b in config.budgets) or any(
        goal.name == "latency_ms" for goal in config.goals
    )
    device = resolve(config.device)
    if device.type == "cpu":
        torch.set_num_threads(1)  # more workers beat more threads on models of this size
    return Worker(
        run=run,
        config=config,
        study=run.study(create=config),
        space=config.search_space(),
        evaluator=ProxyEvaluator(config.proxy, data, device),
        fits=lambda arch: config.proxy.apply(arch, data),
        stop=stop,
        clock=clock(config.device) if needs_clock else None,
    )


def _crew(
    run: RunDir,
    config: RunConfig,
    study: optuna.Study,
    stop: Stop,
    act: Callable[[Worker], None] | None,
    tasks: list[tuple[int, int]],
    watch: Watch,
) -> None:
    """Let the workers search (``act``) or confirm (``tasks``), and watch them."""
    if act is None and not tasks:
        return
    if act is not None and _enough(config, study):
        return
    if config.workers == 1:
        watching = Stop(stop.event, stop.deadline)

        def stop_and_watch() -> bool:
            watch(study)
            return watching()

        worker = make_worker(run, config, stop_and_watch)
        if act is not None:
            act(worker)
        for number, seed in tasks:
            if not stop():
                worker.confirm(number, seed)
                watch(study)
        return
    context = multiprocessing.get_context("spawn")
    count = config.workers
    if act is not None and config.trials:
        count = min(count, config.trials - len(standing(study)))
    shares = [tasks[i::count] for i in range(count)]
    processes = [
        context.Process(
            target=_work,
            args=(run, config, stop.event, stop.deadline, os.getpid(), act is not None, share),
            name=f"sret-nas worker {i}",
        )
        for i, share in enumerate(shares)
        if act is not None or share
    ]
    for process in processes:
        process.start()
    try:
        _watch_over(processes, study, watch)
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
            process.join()


def _watch_over(processes: Sequence[BaseProcess], study: optuna.Study, watch: Watch) -> None:
    while any(process.is_alive() for process in processes):
        time.sleep(POLL_S)
        watch(study)
    bad = [process for process in processes if process.exitcode]
    if bad and all(process.exitcode == InfeasibleError.exit_code for process in processes):
        raise InfeasibleError("nothing satisfies the budget; the workers say more above")
    if bad and len(bad) == len(processes):
        raise SretNasError(
            f"all {len(bad)} workers failed; exit codes {[p.exitcode for p in bad]}",
            "their messages are above; give the same command to go on, with fewer --workers "
            "if memory ran out",
        )


def _work(
    run: RunDir,
    config: RunConfig,
    event: Any,
    deadline: float | None,
    parent: int,
    searching: bool,
    tasks: list[tuple[int, int]],
) -> None:
    """The body of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tells
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    stop = Stop(event, deadline, parent)
    try:
        worker = make_worker(run, config, stop)
        if searching:
            worker.search()
        for number, seed in tasks:
            if not stop():
                worker.confirm(number, seed)
    except SretNasError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(error.exit_code) from None
    except optuna.exceptions.UpdateFinishedTrialError:
        if os.getppid() == parent:
            raise
        raise SystemExit(1) from None  # orphaned, and the next search has closed the trial


def _enough(config: RunConfig, study: optuna.Study) -> bool:
    done = len(standing(study))
    return bool(config.trials and done >= config.trials)


def _to_confirm(outcome: Outcome) -> list[tuple[int, int]]:
    """Members of the front and seeds that are still to be trained."""
    config = outcome.config
    known = outcome.study.user_attrs
    return [
        (member.trial, seed)
        for seed in range(config.seed + 1, config.seed + config.proxy.seeds)
        for member in outcome.front
        if f"confirmed:{member.trial}:{seed}" not in known
    ]


def _measure_front(config: RunConfig, outcome: Outcome) -> float:
    """Measure the latency of the front where latency matters; seconds that it took."""
    bounds = [b.batch for b in config.budgets if b.metric == "latency_ms"]
    if not bounds and not any(goal.name == "latency_ms" for goal in config.goals):
        return 0.0
    from sret_nas.latency import Latency, measure

    start = time.perf_counter()
    todo = {
        str(member.trial): member.architecture
        for member in outcome.front
        if f"latency:{member.trial}" not in outcome.study.user_attrs
    }
    if todo:
        batch = bounds[0] if bounds else 1
        found = measure(todo, batches=(batch,), device=config.device)
        for (number, _), result in found.items():
            if isinstance(result, Latency):
                outcome.study.set_user_attr(f"latency:{number}", result.to_dict())
    return time.perf_counter() - start


def load(path: Path | str, storage: str | None = None) -> Outcome:
    """What a run found, from its directory.

    Raises:
        ConfigError: no run is there.
    """
    run = RunDir(Path(path), storage)
    return Outcome(run, run.config(), run.study())


def architecture(path: Path | str, number: int) -> Architecture:
    """The architecture of trial ``number`` of a run.

    Raises:
        UsageError: the run has no such trial.
    """
    outcome = load(path)
    for trial in outcome.trials:
        if trial.number == number and "architecture" in trial.user_attrs:
            return Architecture.load(trial.user_attrs["architecture"])
    done = [t.number for t in outcome.trials if t.state == TrialState.COMPLETE]
    raise UsageError(
        f"{path}#{number}: the run has no such trial; it has {len(outcome.trials)}",
        f"complete ones: {', '.join(map(str, done[:20]))}",
    )
