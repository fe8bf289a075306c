"""A whole search: resolve, try, confirm, measure the front, write it down.

With one worker everything happens in this process; with more, each is a process
of its own that shares the study. Ctrl-C once ends the epochs at work and stops
cleanly; twice stops at once.
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.trial import TrialState

from sret_nas.arch import Architecture
from sret_nas.device import fingerprint, resolve
from sret_nas.errors import UsageError
from sret_nas.search.config import RunConfig
from sret_nas.search.crew import SEARCH, Alone, Crew, Stop, Watch
from sret_nas.search.outcome import Outcome
from sret_nas.search.rundir import RunDir, recover, reported, standing

BEAT_S = 5.0
"""A session that is killed loses at most so much of its wall time from the account."""
Ending = Literal["done", "interrupted", "timeout"]


@dataclass(frozen=True)
class Ended:
    """How a search ended.

    Attributes:
        outcome: What it found so far.
        ending: ``done``, ``timeout`` or ``interrupted``.
    """

    outcome: Outcome
    ending: Ending


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
        session = _Session(study, config)
        deadline = session.start + config.timeout_s - spent if config.timeout_s else None
        event = multiprocessing.get_context("spawn").Event()
        stop = Stop(event, deadline)

        def see(study: optuna.Study) -> None:
            session.beat()
            watch(study)

        late = False
        crew: Crew | Alone = (
            Alone(run, config, stop, see) if config.workers == 1 else Crew(run, config, stop, see)
        )
        try:
            with _interruptible(event), crew:
                crew.carry_out([SEARCH] * _wanted(config, study), study)
                while recover(study) and not stop():  # a worker died: its candidate once more
                    crew.carry_out([SEARCH] * _wanted(config, study), study)
                late = stop.timed_out and not _enough(config, study)
                if not stop.asked:
                    crew.carry_out(_to_confirm(Outcome(run, config, study)), study)
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
    """Wall time and machine of one call of ``search``, kept in the study.

    Attributes:
        start: When it began, as ``time.time``.
        latency_s: What of it went into measuring the front.
    """

    def __init__(self, study: optuna.Study, config: RunConfig) -> None:
        self.study = study
        self.workers = config.workers
        machine = fingerprint(resolve(config.device), threads=1)
        self.machine = str(replace(machine, clock_mhz=None))
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
            "machine": self.machine,
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


def _enough(config: RunConfig, study: optuna.Study) -> bool:
    return _wanted(config, study) == 0


def _wanted(config: RunConfig, study: optuna.Study) -> int:
    """Workers that still have a candidate to try."""
    if config.trials is None:
        return config.workers
    return max(0, min(config.workers, config.trials - len(standing(study))))


def _to_confirm(outcome: Outcome) -> list[tuple[int, int]]:
    """Members of the front and seeds that are still to be trained."""
    config = outcome.config
    known = outcome.study.user_attrs
    return [
        (member.trial, seed)
        for seed in range(config.seed + 1, config.seed + config.proxy.seeds)
        for member in reversed(outcome.front)  # the longest first, so that all end together
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
