"""Who does the work of a run: this process alone, or processes that take orders.

An order is ``SEARCH`` (try candidates until there are enough) or a member of the
front and a seed to confirm it with. Every process has a pipe of its own to the
parent, so that one that is killed takes nothing with it but the order in its hand.
"""

from __future__ import annotations

import copy
import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, TypeAlias

import optuna

from sret_nas.errors import InfeasibleError, SretNasError, UsageError
from sret_nas.search.config import RunConfig
from sret_nas.search.rundir import RunDir
from sret_nas.search.work import Worker
from sret_nas.space import clock

POLL_S = 0.25
SEARCH = "search"
Order: TypeAlias = "str | tuple[int, int]"
Watch: TypeAlias = Callable[[optuna.Study], None]
"""Told again and again while the work goes on."""


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


class _Watching(Stop):
    """Looks on whenever the work asks whether to stop."""

    def __init__(self, stop: Stop, look: Callable[[], None]) -> None:
        super().__init__(stop.event, stop.deadline, stop.parent)
        self.look = look

    def __call__(self) -> bool:
        """Look, then say."""
        self.look()
        return super().__call__()


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


def obey(worker: Worker, order: Order, stop: Stop) -> None:
    """Carry out one order; a time limit ends the search, not the confirmation."""
    if isinstance(order, str):
        worker.search()
        return
    patient = copy.copy(stop)
    patient.deadline = None
    worker.stop = patient
    if not patient():
        worker.confirm(*order)


class Alone:
    """This process does everything itself."""

    def __init__(self, run: RunDir, config: RunConfig, stop: Stop, watch: Watch) -> None:
        self.run, self.config, self.stop, self.watch = run, config, stop, watch
        self.worker: Worker | None = None

    def __enter__(self) -> Alone:
        return self

    def __exit__(self, *exc: object) -> None:
        self.worker = None

    def carry_out(self, orders: Sequence[Order], study: optuna.Study) -> None:
        """Carry the orders out, one after the other."""
        for order in orders:
            if self.worker is None:
                self.worker = make_worker(self.run, self.config, self.stop)
            stop = _Watching(self.stop, lambda: self.watch(study))
            self.worker.stop = stop
            obey(self.worker, order, stop)
            self.watch(study)


class Crew:
    """Processes that take orders; started with the first, ended with the ``with`` block."""

    def __init__(self, run: RunDir, config: RunConfig, stop: Stop, watch: Watch) -> None:
        self.run, self.config, self.stop, self.watch = run, config, stop, watch
        self.pipes: dict[Connection, BaseProcess] = {}
        self.exitcodes: list[int | None] = []

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for pipe, process in self.pipes.items():
            pipe.close()  # an idle one ends by itself
            if kind is not None:
                process.terminate()
        for process in self.pipes.values():
            process.join()

    def carry_out(self, orders: Sequence[Order], study: optuna.Study) -> None:
        """Hand the orders out as processes become free; what a killed one held is lost.

        Raises:
            InfeasibleError: all processes ended because nothing satisfies the budget.
            SretNasError: no process is left.
        """
        pending = deque(orders)
        self._start(min(len(pending), self.config.workers))
        busy: set[Connection] = set()
        while pending or busy:
            if self.stop.asked:
                pending.clear()
            if not self.pipes:
                self._give_up()
            for pipe in [pipe for pipe in self.pipes if pipe not in busy][: len(pending)]:
                order = pending.popleft()
                try:
                    pipe.send(order)
                    busy.add(pipe)
                except OSError:
                    pending.appendleft(order)
                    self._lose(pipe)
            ready = wait(list(busy), POLL_S)
            for pipe in [pipe for pipe in busy if pipe in ready]:
                busy.discard(pipe)
                try:
                    pipe.recv()
                except (EOFError, OSError):
                    self._lose(pipe)
            self.watch(study)

    def _start(self, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        while len(self.pipes) < count:
            ours, theirs = context.Pipe()
            arguments = (
                theirs,
                self.run,
                self.config,
                self.stop.event,
                self.stop.deadline,
                os.getpid(),
            )
            process = context.Process(target=_work, args=arguments, name="sret-nas worker")
            process.start()
            theirs.close()
            self.pipes[ours] = process

    def _lose(self, pipe: Connection) -> None:
        process = self.pipes.pop(pipe)
        pipe.close()
        process.join()
        self.exitcodes.append(process.exitcode)

    def _give_up(self) -> None:
        if all(code == InfeasibleError.exit_code for code in self.exitcodes):
            raise InfeasibleError("nothing satisfies the budget; the workers say more above")
        raise SretNasError(
            f"all {len(self.exitcodes)} workers failed; exit codes {self.exitcodes}",
            "their messages are above; give the same command to go on, with fewer --workers "
            "if memory ran out",
        )


def _work(
    pipe: Connection,
    run: RunDir,
    config: RunConfig,
    event: Any,
    deadline: float | None,
    parent: int,
) -> None:
    """The body of a worker process: orders in, a word back after each."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tells
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    stop = Stop(event, deadline, parent)
    try:
        worker = make_worker(run, config, stop)
        while True:
            obey(worker, pipe.recv(), stop)
            pipe.send("done")
    except (EOFError, BrokenPipeError):
        return  # no more orders
    except SretNasError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(error.exit_code) from None
    except optuna.exceptions.UpdateFinishedTrialError:
        if os.getppid() == parent:
            raise
        raise SystemExit(1) from None  # orphaned, and the next search has closed the trial
