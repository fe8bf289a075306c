"""A worker: candidates until there are enough, then the confirmation of the front.

The study is the only shared state, and it has no lock: a proposal is a claim (see
``claims``), and so is the wish to confirm. A worker writes the curve of its trial after
every step, so that whoever looks at the study sees it grow.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sret_nas.runner.confirmation import Confirmations
from sret_nas.runner.sampling import FilteredSampler
from sret_nas.runner.worker.asking import Asking
from sret_nas.runner.worker.confirming import Confirming
from sret_nas.runner.worker.context import WorkerContext
from sret_nas.runner.worker.limits import Limits
from sret_nas.runner.worker.own_trial import OwnTrial
from sret_nas.runner.worker.trying import Trying
from sret_nas.study.heartbeat import Heartbeat, HeartbeatMonitor, WorkerId, me, pauses
from sret_nas.study.rundir import reported


@contextmanager
def _settled() -> Iterator[None]:
    """Within the block, what is there already is not looked through for garbage.

    A reading makes thousands of objects, and each such look at all that torch and Optuna
    have made would cost more than the reading.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@dataclass
class Worker(WorkerContext):
    """One worker of a run; its arguments are those of ``WorkerContext``."""

    def __post_init__(self) -> None:
        self.who: WorkerId = me(self.slot.team)
        beat_s = self.config.heartbeat_s
        one_machine = self.run.address.kind == "sqlite"
        self.heartbeat = Heartbeat(beat_s)
        self.own = OwnTrial(self.study, self.who, self.heartbeat)
        self.limits = Limits(self, HeartbeatMonitor(self.who.name, beat_s, one_machine))
        self.asking = Asking(self, self.own, self.limits)
        self.trying = Trying(self, self.asking, self.own, self.limits)
        monitor = HeartbeatMonitor(self.who.name, beat_s)
        self.confirmations = Confirmations(self.study, self.who, self.heartbeat, monitor)
        self.confirming = Confirming(self, self.confirmations)

    @property
    def sampler(self) -> FilteredSampler:
        """What proposes."""
        return self.asking.sampler

    def work(self) -> None:
        """The whole of it: candidates until there are enough, then the front's confirmation."""
        if self.search() and not self.stop():
            self.confirm_front()

    def search(self) -> bool:
        """Try candidates until the run has enough and nobody else is at one, or is stopped.

        Returns:
            ``False`` where it leaves, so that there is more room for the others.
        """
        with reported(self.run.label), self.heartbeat, self.own.holding(), _settled():
            pause = pauses()
            while True:
                self.watch()
                if self.stop() or self.limits.late:
                    return True
                candidate = self.asking.ask()
                if candidate is not None:
                    if not self.trying.attempt(candidate) and self.slot.guest:
                        return False
                    pause = pauses()
                elif not self.limits.others_work():
                    return True
                else:
                    next(pause)

    def confirm_front(self) -> None:
        """Evaluate the front with the other seeds, as long as there is room for it."""
        with reported(self.run.label), self.heartbeat:
            self.confirming.front()
