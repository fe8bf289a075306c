"""Who does the work of a run: what all executors have in common.

Every worker does the whole of it (see ``worker``) and shares nothing but the study, so that
it makes no difference whether the others are here or on other machines.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import optuna

from sret_nas.errors import InfeasibleError, SretNasError, UsageError
from sret_nas.runner.slots import Slot
from sret_nas.runner.worker import Worker
from sret_nas.study.config import RunConfig
from sret_nas.study.rundir import RunDir

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


class Executor(ABC):
    """Does the work of a run.

    Args:
        run: The run.
        config: What was asked for.
        stop: Whether to come to an end.
        watch: Told of the study, again and again while the work goes on.
        slots: Where its workers work, each in its own.
        make: Makes a worker in its process.
    """

    def __init__(
        self,
        run: RunDir,
        config: RunConfig,
        stop: Stop,
        watch: Watch,
        slots: Sequence[Slot],
        make: MakeWorker,
    ) -> None:
        self.run, self.config, self.stop, self.watch = run, config, stop, watch
        self.slots, self.make = slots, make

    @abstractmethod
    def work(self, study: optuna.Study) -> None:
        """All of it that is to be done here.

        Raises:
            InfeasibleError: all workers ended because nothing satisfies the budget.
            SretNasError: none came to its end.
        """


MakeExecutor: TypeAlias = Callable[
    [RunDir, RunConfig, Stop, Watch, Sequence[Slot], MakeWorker], Executor
]


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
