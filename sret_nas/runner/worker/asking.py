"""How a worker gets a candidate that is its own: a proposal is a claim (see ``claims``)."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import optuna
from optuna.trial import FrozenTrial, TrialState

from sret_nas.arch import Architecture
from sret_nas.errors import InfeasibleError
from sret_nas.latency.default import TORCH
from sret_nas.runner import constraints
from sret_nas.runner.feasibility import Feasibility, published
from sret_nas.runner.sampling import UNFIT, FilteredSampler, SpaceExhausted, Surplus
from sret_nas.runner.worker.context import WorkerContext
from sret_nas.runner.worker.limits import Limits
from sret_nas.runner.worker.own_trial import OwnTrial
from sret_nas.space import store
from sret_nas.study import trials
from sret_nas.study.claims import Claim, verdict
from sret_nas.study.heartbeat import pauses
from sret_nas.study.records import (
    CLAIMED,
    record,
    write,
    write_metrics,
    write_system,
    write_to,
)
from sret_nas.study.retrying import say_on_stderr, snapshot
from sret_nas.study.trials import finish, standing
from sret_nas.units import Budget


class Stopped(Exception):  # noqa: N818
    """The search was asked to stop while a candidate was looked for, or evaluated."""


class Unfit(Exception):  # noqa: N818
    """What somebody has enqueued cannot be tried."""


class Candidate(NamedTuple):
    """What a worker tries.

    Attributes:
        trial: Of the study; its claim has won.
        arch: Its architecture.
        metrics: What is known of it, by name.
    """

    trial: optuna.Trial
    arch: Architecture
    metrics: dict[str, float]


class _Sampler(FilteredSampler):
    """Tells its worker of a trial as soon as it is there."""

    began: Callable[[FrozenTrial], None]

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self.began(trial)
        super().before_trial(study, trial)


class Asking:
    """Asks the study for candidates.

    Args:
        context: The worker's; its study gets the sampler.
        own: Its trial.
        limits: Whether more are wanted.

    Attributes:
        known: Costs, latencies, and what cannot be tried.
        sampler: What proposes.
    """

    def __init__(self, context: WorkerContext, own: OwnTrial, limits: Limits) -> None:
        self.config, self.study, self.space = context.config, context.study, context.space
        self.stop, self.own, self.limits = context.stop, own, limits
        self.known = Feasibility(self.config, context.evaluator.fits, context.clock)
        self.sampler = _Sampler(
            self.space,
            self.config.budgets,
            self.config.sampler,
            self.config.seed,
            accepts=self._why_rejected,
            first=published(self.space, self.config),
            objectives=self.config.goals,
        )
        self.sampler.began = own.take
        self.sampler.full = self._are_enough
        self.study.sampler = self.sampler

    def ask(self) -> Candidate | None:
        """A candidate of this worker's own; ``None`` where there is none to be had now.

        Raises:
            InfeasibleError: no architecture of the space can be tried.
        """
        start = time.perf_counter()
        self.known.begin()
        while True:
            try:
                with snapshot(self.study):
                    if not self.limits.want_more():
                        return None
                    trial = self._ask_study()
                arch = self.space.decode(self.space.from_params(trial.params))
                self._check_enqueued(arch)
                store(trial, arch)
                if self._wins(trial, arch):
                    return Candidate(trial, arch, self._describe(trial, arch, start))
                self.own.give_back("taken")
                if self.stop():
                    return None
            except Surplus:
                self.own.give_back("surplus")
                return None
            except Unfit as error:
                self._refuse(str(error))
            except Stopped:
                self.own.give_back("stopped")
                return None
            except SpaceExhausted as error:
                self._give_up(str(error))
                return None
            except optuna.exceptions.UpdateFinishedTrialError:  # given up by the others
                self.own.release()

    def constrain(
        self,
        trial: optuna.Trial,
        arch: Architecture,
        metrics: dict[str, float],
        most_ms: float | None = None,
    ) -> None:
        """Write down how far a candidate keeps the bounds; ``most_ms`` is a measured latency."""

        def value(bound: Budget) -> float:
            if bound.metric != "latency_ms":
                return metrics[bound.metric]
            if most_ms is not None and bound.batch == self.config.latency_batches[0]:
                return most_ms
            return self.known.tell(arch, bound.batch).most_ms

        constraints.record(trial, self.config.budgets, value)

    def _are_enough(self, trial: FrozenTrial) -> bool:
        """Whether workers that asked earlier have had all that are wanted."""
        return self.limits.are_reached_before(trial.number) and not record(trial).enqueued

    def _why_rejected(self, arch: Architecture) -> str | None:
        """Why an architecture cannot be tried, if so; measuring many may take minutes.

        Raises:
            Stopped: the search is to come to an end.
        """
        reason = self.known.reject(arch)
        if reason is not None and (self.stop() or self.limits.late):
            raise Stopped
        return reason

    def _ask_study(self) -> optuna.Trial:
        """The next trial; parameters that somebody has enqueued must be of the space.

        Raises:
            Unfit: they are not.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # said by the error that follows
                return self.study.ask(fixed_distributions=self.space.distributions)
        except (ValueError, TypeError, KeyError) as error:
            if not self.own.is_held or not record(self.own.trial).enqueued:
                raise
            raise Unfit(f"not of the space: {str(error).splitlines()[0]}") from error

    def _check_enqueued(self, arch: Architecture) -> None:
        """What somebody has enqueued obeys the budget, too, and is not tried twice."""
        if record(self.own.trial).enqueued:
            self.sampler.rejected = {}
            if not self.sampler.accept(arch, self.sampler.seen(self.study, self.own.trial)):
                raise Unfit(", ".join(self.sampler.rejected))

    def _refuse(self, why: str) -> None:
        """Close the own trial, which somebody has enqueued and which cannot be tried."""
        trial = self.own.trial
        write_to(self.study._storage, trial._trial_id, interrupted=UNFIT, error=why)
        finish(self.study, trial.number, TrialState.FAIL)
        say_on_stderr(f"note: enqueued trial {trial.number} is not tried: {why}")
        self.own.release()

    def _wins(self, trial: optuna.Trial, arch: Architecture) -> bool:
        """Claim the architecture of a trial; ``False`` where it is another's."""
        pause, own_id = pauses(), arch.id
        while True:
            others = [
                Claim(other.number, trials.confirmed(other))
                for other in standing(self.study)
                if other.number != trial.number and record(other).id == own_id
            ]
            answer = verdict(trial.number, others)
            if answer == "won":
                write_system(trial.storage, trial._trial_id, CLAIMED, True)
            if answer != "wait":
                return answer == "won"
            if self.stop():
                return False
            next(pause)
            self.limits.sweep()

    def _describe(self, trial: optuna.Trial, arch: Architecture, start: float) -> dict[str, float]:
        """Write down what is known before the evaluation."""
        metrics = self.known.metrics(arch)
        write_metrics(trial, metrics, metrics | {"depth": arch.depth})
        timing = self.known.timing(arch)
        if timing is not None:
            runtime = {"runtime": self.config.latency_runtime or TORCH}
            write(trial, latency=timing._asdict() | runtime)
        self.constrain(trial, arch, metrics)
        taken, latency_s = time.perf_counter() - start, self.known.latency_s
        seconds = {"sampling": taken - latency_s, "latency": latency_s}
        write(trial, rejected=dict(self.sampler.rejected), seconds=seconds)
        return metrics

    def _give_up(self, why: str) -> None:
        """Close the trial that got no architecture; an error where none ever got one."""
        rejected = dict(self.sampler.rejected)
        write_to(self.study._storage, self.own.trial._trial_id, rejected=rejected)
        self.own.give_back("exhausted")
        if not any(record(trial).id for trial in standing(self.study)):
            fastest = self.known.fastest
            nearest = f"; the nearest: {fastest.most_ms:.3g} ms" if fastest else ""
            raise InfeasibleError(
                f"no architecture of space '{self.space.name}' can be tried: {why}{nearest}",
                "raise the bound, or choose another space or proxy",
            )
        self.limits.exhausted(why)
