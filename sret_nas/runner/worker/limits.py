"""Whether a run wants more candidates: how many, in what time, and whether there are any."""

from __future__ import annotations

import time

from optuna.trial import TrialState

from sret_nas.runner.confirmation import confirming_s
from sret_nas.runner.continuing import LAST, NEAR, near
from sret_nas.runner.result import RunResult
from sret_nas.runner.worker.context import WorkerContext
from sret_nas.study.heartbeat import HeartbeatMonitor
from sret_nas.study.rundir import limit_of
from sret_nas.study.trials import counted, returned, standing, sweep


class Limits:
    """What ends the search of one worker.

    Args:
        context: The worker's.
        monitor: Its eye on the others.
    """

    def __init__(self, context: WorkerContext, monitor: HeartbeatMonitor) -> None:
        self.context, self.monitor = context, monitor
        self._trials: int | None = None
        self._trials_until = float("-inf")
        self._reserve_s = 0.0
        self._exhausted_at: int | None = None

    @property
    def late(self) -> bool:
        """Whether what is left of the time is needed to confirm the front."""
        until = self.context.until
        return until is not None and time.monotonic() > until - self._reserve_s

    def want_more(self) -> bool:
        """Whether there is a candidate to try; closes those of workers that are no more."""
        config, study = self.context.config, self.context.study
        if self.context.until is not None:
            needed_s = confirming_s(RunResult(self.context.run, config, study))
            self._reserve_s = min(needed_s, (config.timeout_s or 0.0) / 2)
            if self.late:
                return False
        if time.monotonic() >= self._trials_until:  # a search with more --trials may come
            self._trials = limit_of(study, config)
            self._trials_until = time.monotonic() + config.heartbeat_s
        found = study.get_trials(deepcopy=False)
        if sweep(study, self.monitor, found, self.context.slot.team):
            found = study.get_trials(deepcopy=False)
        waiting = any(trial.state == TrialState.WAITING for trial in found)  # asked for by name
        enough = self._trials is not None and len(counted(found)) >= self._trials and not waiting
        exhausted = self._exhausted_at == returned(found)
        least = LAST if exhausted and not enough else NEAR
        return not (enough or exhausted) or bool(near(found, config.goals, least))

    def sweep(self) -> None:
        """Close the trials of workers that are no more."""
        sweep(self.context.study, self.monitor, but=self.context.slot.team)

    def are_reached_before(self, number: int) -> bool:
        """Whether trials that began earlier are all that are wanted."""
        before = sum(other.number < number for other in standing(self.context.study))
        return self._trials is not None and before >= self._trials

    def others_work(self) -> bool:
        """Whether anybody is at a candidate, which may come back."""
        return bool(self.context.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))

    def exhausted(self, why: str) -> None:
        """Note that nothing is left to propose, until somebody hands something back."""
        study = self.context.study
        self._exhausted_at = returned(study.get_trials(deepcopy=False))
        study.set_user_attr("exhausted", why)
