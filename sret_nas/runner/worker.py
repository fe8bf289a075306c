"""What a worker does: ask, train, compare at rungs, tell; later, confirm.

The study is the only shared state, and it has no lock: a proposal is a claim (see
``claims``), and so is the wish to confirm. A worker writes the curve of its trial after
every epoch, so that whoever looks at the study sees it grow.
"""

from __future__ import annotations

import gc
import random
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from sret_nas.arch import Architecture
from sret_nas.errors import ArchitectureError, EvaluationError, InfeasibleError, SretNasError
from sret_nas.runner import constraints, crashes
from sret_nas.runner.comparison import Comparer, Rival
from sret_nas.runner.confirmation import Confirmations, confirming_s, to_confirm
from sret_nas.runner.feasibility import Feasibility, published
from sret_nas.runner.pruning import RungResult, should_continue
from sret_nas.runner.result import RunResult
from sret_nas.runner.sampling import UNFIT, FilteredSampler, SpaceExhausted
from sret_nas.runner.slots import Slot
from sret_nas.space import Clock, SearchSpace, store
from sret_nas.study import trials
from sret_nas.study.claims import Claim, verdict
from sret_nas.study.config import RunConfig
from sret_nas.study.heartbeat import Heartbeat, HeartbeatMonitor, WorkerId, me, pauses
from sret_nas.study.records import (
    BEAT,
    CLAIMED,
    OWNER,
    confirmation_key,
    record,
    result_of,
    step_of,
    write,
    write_metrics,
    write_system,
    write_to,
)
from sret_nas.study.retrying import brief_reading, hurried, say_on_stderr, snapshot, without_retries
from sret_nas.study.rundir import RunDir, limit_of, reported
from sret_nas.study.trials import counted, finish, hand_back, interrupted, returned, standing, sweep
from sret_nas.units import Budget

if TYPE_CHECKING:
    from sret_nas.evaluate import Evaluator, Progress
    from sret_nas.metrics import Declaration

MEASURED = (TrialState.RUNNING, TrialState.COMPLETE)
"""States of trials that others are compared with: one that is given back is tried again."""
Asked = tuple[optuna.Trial, Architecture, dict[str, float]]


class Stopped(Exception):  # noqa: N818
    """The search was asked to stop while a candidate was looked for, or trained."""


class Unfit(Exception):  # noqa: N818
    """What somebody has enqueued cannot be tried."""


class Surplus(Exception):  # noqa: N818
    """Workers that asked earlier have had all that are wanted."""


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


class _Sampler(FilteredSampler):
    """Tells its worker of a trial as soon as it is there."""

    began: Callable[[FrozenTrial], None]

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self.began(trial)
        super().before_trial(study, trial)


@dataclass
class Worker:
    """One worker of a run.

    Attributes:
        run: The run.
        config: What was asked for.
        study: The study, with the worker's own connection.
        space: The search space.
        evaluator: Judges candidates.
        stop: Whether to come to an end; asked after every epoch and before every proposal.
        clock: Tells latencies; needed where a bound or an objective is one.
        comparer: Measures the latency of what was trained to the end; else it stays as
            ``clock`` told it.
        slot: Where it works.
        until: When its time is up, confirming included, as ``time.monotonic``; or never.
        watch: Called before every candidate and after every epoch.
    """

    run: RunDir
    config: RunConfig
    study: optuna.Study
    space: SearchSpace
    evaluator: Evaluator
    stop: Callable[[], bool]
    clock: Clock | None = None
    comparer: Comparer | None = None
    slot: Slot = field(default_factory=lambda: Slot("cpu"))
    until: float | None = None
    watch: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.who: WorkerId = me(self.slot.team)
        self.goals = self.config.goals
        self.known = Feasibility(self.config, self.evaluator.fits, self.clock)
        self.heartbeat = Heartbeat(self.config.heartbeat_s)
        one_machine = self.run.address.kind == "sqlite"
        self.monitor = HeartbeatMonitor(self.who.name, self.config.heartbeat_s, one_machine)
        self.confirmations = Confirmations(
            self.study,
            self.who,
            self.heartbeat,
            HeartbeatMonitor(self.who.name, self.config.heartbeat_s),
        )
        self._own: FrozenTrial | None = None
        self._exhausted_at: int | None = None
        self._limit: int | None = None
        self._limit_until = float("-inf")
        self._left = False
        self._reserve_s = 0.0
        self._said: set[str] = set()
        self.sampler = _Sampler(
            self.space,
            self.config.budgets,
            self.config.sampler,
            self.config.seed,
            accepts=self._why_rejected,
            first=published(self.space, self.config),
            objectives=self.goals,
        )
        self.sampler.began = self._began
        self.study.sampler = self.sampler

    @property
    def declared(self) -> Declaration:
        """What its evaluator declares."""
        return self.evaluator.declaration

    def work(self) -> None:
        """The whole of it: candidates until there are enough, then the front's confirmation."""
        self.search()
        if not self._left and not self.stop():
            self.confirm_front()

    # -- searching ---------------------------------------------------------------------------

    def search(self) -> None:
        """Try candidates until the run has enough and nobody else is at one, or is stopped."""
        with reported(self.run.label), self.heartbeat, self._holding(), _settled():
            pause = pauses()
            while True:
                self.watch()
                if self.stop() or self._late() or self._left:
                    return
                asked = self._ask()
                if asked is not None:
                    self._try(asked)
                    pause = pauses()
                elif not self._others_work():
                    return
                else:
                    next(pause)

    @contextmanager
    def _holding(self) -> Iterator[None]:
        """Hand back what is held when it ends otherwise than it should."""
        try:
            yield
        except BaseException as error:
            own, self._own = self._own, None
            if own is not None:
                why = "stopped" if isinstance(error, KeyboardInterrupt) else "lost"
                cause = crashes.of_error(error)
                with suppress(Exception), hurried(self.study):
                    hand_back(self.study, self._again(own), "crashed" if cause else why, cause)
            raise

    def _again(self, trial: FrozenTrial) -> FrozenTrial:
        return self.study._storage.get_trial(trial._trial_id)

    def _late(self) -> bool:
        """Whether what is left of the time is needed to confirm the front."""
        return self.until is not None and time.monotonic() > self.until - self._reserve_s

    def _others_work(self) -> bool:
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return bool(running)

    def _wanted(self) -> bool:
        """Whether there is a candidate to try; closes those of workers that are no more."""
        if self.until is not None:
            needed_s = confirming_s(RunResult(self.run, self.config, self.study))
            self._reserve_s = min(needed_s, (self.config.timeout_s or 0.0) / 2)
            if self._late():
                return False
        if time.monotonic() >= self._limit_until:  # a search with more --trials may come
            self._limit = limit_of(self.study, self.config)
            self._limit_until = time.monotonic() + self.config.heartbeat_s
        found = self.study.get_trials(deepcopy=False)
        if sweep(self.study, self.monitor, found, self.slot.team):
            found = self.study.get_trials(deepcopy=False)
        waiting = any(trial.state == TrialState.WAITING for trial in found)  # asked for by name
        enough = self._limit is not None and len(counted(found)) >= self._limit and not waiting
        return not enough and self._exhausted_at != returned(found)

    def _began(self, trial: FrozenTrial) -> None:
        """Say whose trial it is, before anything else."""
        self._own = trial
        storage, number = self.study._storage, trial._trial_id
        write_system(storage, number, OWNER, self.who.to_dict())
        inner = without_retries(self.study)
        self.heartbeat.hold(lambda beat: write_system(inner, number, BEAT, beat))
        before = sum(other.number < trial.number for other in standing(self.study))
        enqueued = record(trial).enqueued
        if self._limit is not None and before >= self._limit and not enqueued:
            raise Surplus

    def _release(self) -> None:
        self._own = None
        self.heartbeat.release()

    def _ask(self) -> Asked | None:
        """A candidate of this worker's own; ``None`` where there is none to be had now."""
        start = time.perf_counter()
        self.known.begin()
        while True:
            try:
                with snapshot(self.study):
                    if not self._wanted():
                        return None
                    trial = self._ask_study()
                arch = self.space.decode(self.space.from_params(trial.params))
                self._check_enqueued(arch)
                store(trial, arch)
                if self._wins(trial, arch):
                    return trial, arch, self._describe(trial, arch, start)
                self._give("taken")
                if self.stop():
                    return None
            except Surplus:
                self._give("surplus")
                return None
            except Unfit as error:
                self._refuse(str(error))
            except Stopped:
                self._give("stopped")
                return None
            except SpaceExhausted as error:
                self._give_up(str(error))
                return None
            except optuna.exceptions.UpdateFinishedTrialError:  # given up by the others
                self._release()

    def _why_rejected(self, arch: Architecture) -> str | None:
        """Why an architecture cannot be tried, if so; measuring many may take minutes.

        Raises:
            Stopped: the search is to come to an end.
        """
        reason = self.known.reject(arch)
        if reason is not None and (self.stop() or self._late()):
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
            if self._own is None or not record(self._own).enqueued:
                raise
            raise Unfit(f"not of the space: {str(error).splitlines()[0]}") from error

    def _check_enqueued(self, arch: Architecture) -> None:
        """What somebody has enqueued obeys the budget, too, and is not tried twice."""
        assert self._own is not None
        if record(self._own).enqueued:
            self.sampler.rejected = {}
            if not self.sampler.accept(arch, self.sampler.seen(self.study, self._own)):
                raise Unfit(", ".join(self.sampler.rejected))

    def _refuse(self, why: str) -> None:
        """Close the own trial, which somebody has enqueued and which cannot be tried."""
        assert self._own is not None
        storage, number = self.study._storage, self._own._trial_id
        write_to(storage, number, interrupted=UNFIT, error=why)
        finish(self.study, self._own.number, TrialState.FAIL)
        say_on_stderr(f"note: enqueued trial {self._own.number} is not tried: {why}")
        self._release()

    def _give(self, why: str) -> None:
        """Hand the own trial back."""
        assert self._own is not None
        hand_back(self.study, self._again(self._own), why)
        self._release()

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
            sweep(self.study, self.monitor, but=self.slot.team)

    def _describe(self, trial: optuna.Trial, arch: Architecture, start: float) -> dict[str, float]:
        """Write down what is known before training."""
        metrics = self.known.metrics(arch)
        write_metrics(trial, metrics, metrics | {"depth": arch.depth})
        timing = self.known.timing(arch)
        if timing is not None:
            write(trial, latency=timing._asdict())
        self._constrain(trial, arch, metrics)
        taken, latency_s = time.perf_counter() - start, self.known.latency_s
        seconds = {"sampling": taken - latency_s, "latency": latency_s}
        write(trial, rejected=dict(self.sampler.rejected), seconds=seconds)
        return metrics

    def _constrain(
        self,
        trial: optuna.Trial,
        arch: Architecture,
        metrics: dict[str, float],
        most_ms: float | None = None,
    ) -> None:
        """Write down how far it keeps the bounds; ``most_ms`` is a measured latency."""

        def value(bound: Budget) -> float:
            if bound.metric != "latency_ms":
                return metrics[bound.metric]
            if most_ms is not None and bound.batch == self.config.latency_batches[0]:
                return most_ms
            return self.known.tell(arch, bound.batch).most_ms

        constraints.record(trial, self.config.budgets, value)

    def _give_up(self, why: str) -> None:
        """Close the trial that got no architecture; an error where none ever got one."""
        assert self._own is not None
        rejected = dict(self.sampler.rejected)
        write_to(self.study._storage, self._own._trial_id, rejected=rejected)
        self._give("exhausted")
        if not any(record(trial).id for trial in standing(self.study)):
            fastest = self.known.fastest
            nearest = f"; the nearest: {fastest.most_ms:.3g} ms" if fastest else ""
            raise InfeasibleError(
                f"no architecture of space '{self.space.name}' can be tried: {why}{nearest}",
                "raise the bound, or choose another space or proxy",
            )
        self._exhausted_at = returned(self.study.get_trials(deepcopy=False))
        self.study.set_user_attr("exhausted", why)

    def _try(self, asked: Asked) -> None:
        # A finished trial takes no more: the others gave this worker up, and try again.
        with suppress(optuna.exceptions.UpdateFinishedTrialError):
            self._train(*asked)
        self._release()

    def _train(self, trial: optuna.Trial, arch: Architecture, metrics: dict[str, float]) -> None:
        curve: list[dict[str, Any]] = []

        def after_step(progress: Progress) -> bool:
            curve.append(step_of(self.declared, progress))
            write(trial, curve=curve)
            self.watch()
            go_on = True
            if progress.step in self.declared.fidelities[:-1]:
                go_on = self._promising(trial, metrics | curve[-1], progress.step)
            if go_on and progress.step < self.declared.full and (self.stop() or self._late()):
                raise Stopped
            return go_on

        try:
            found = self.evaluator.evaluate(arch, seed=self.config.seed, report=after_step)
        except Stopped:
            self._give("stopped")
            return
        except (EvaluationError, ArchitectureError) as error:
            reason = getattr(error, "reason", "impossible")
            if self.slot.shared and reason == "out of memory":
                self._left = self.slot.guest  # one fewer may leave room for the others
                self._give("no room")
                return
            write(trial, reason=reason, error=str(error))
            finish(self.study, trial.number, TrialState.FAIL)
            return
        if found.why_eager:
            write(trial, eager=found.why_eager)
            self._say_why_eager(found.why_eager)
        if not found.curve:
            spent = record(trial).seconds
            write(trial, seconds=spent | {"training": found.seconds})
        reached = {one.name: found.metrics[one.name] for one in self.declared.metrics}
        to_the_end = found.step == self.declared.full
        if to_the_end:
            reached |= self._measured(trial, arch, metrics)
        metrics |= reached
        write_metrics(trial, metrics, reached)
        if not to_the_end:
            finish(self.study, trial.number, TrialState.PRUNED)
        else:
            values = [metrics[goal.name] for goal in self.goals]
            finish(self.study, trial.number, TrialState.COMPLETE, values)

    def _measured(
        self, trial: optuna.Trial, arch: Architecture, metrics: dict[str, float]
    ) -> dict[str, float]:
        """The latency of a trained candidate, before it is told: a trial has one value."""
        expected = self.known.timing(arch) if self.comparer else None
        if self.comparer is None or expected is None:
            return {}
        start = time.perf_counter()

        def keep(latency: dict[str, Any]) -> None:
            write(trial, latency=latency)

        try:
            found = self.comparer.measure(arch, expected.ms, self._measured_before, keep)
        except SretNasError as error:
            say_on_stderr(
                f"trial {trial.number}: its latency stays as it was {expected.source}: {error}"
            )
            return {}
        self._constrain(trial, arch, metrics, found.ms + found.margin_ms)
        more = time.perf_counter() - start
        spent = record(trial).seconds
        write(trial, seconds=spent | {"latency": spent["latency"] + more})
        if found.warning:
            say_on_stderr(f"trial {trial.number}: latency: {found.warning}")
        return {"latency_ms": found.ms}

    def _measured_before(self) -> list[Rival]:
        assert self.comparer is not None
        found = []
        for trial in self.study.get_trials(deepcopy=False, states=MEASURED):
            known = record(trial).latency or {}
            if known.get("on") == self.comparer.on:
                arch = record(trial).architecture
                found.append(Rival(trial.number, arch, known["ms"]))
        return found

    def _say_why_eager(self, why: str) -> None:
        if why not in self._said:
            self._said.add(why)
            say_on_stderr(f"note: trained without CUDA graphs, slower: {why}")

    def _promising(self, trial: optuna.Trial, here: dict[str, Any], epoch: int) -> bool:
        others = []
        with brief_reading(self.study):
            found = self.study.get_trials(deepcopy=False)
        for other in found:
            curve = record(other).curve
            if other.number != trial.number and len(curve) >= epoch and not interrupted(other):
                others.append(self._at_rung(record(other).metrics | curve[epoch - 1]))
        return should_continue(self._at_rung(here), others)

    def _at_rung(self, metrics: dict[str, Any]) -> RungResult:
        goals = self.goals
        (loss,) = [goal.loss(metrics[goal.name]) for goal in goals if not goal.known]
        costs = tuple(goal.loss(metrics[goal.name]) for goal in goals if goal.known)
        return RungResult(loss, costs)

    # -- confirming --------------------------------------------------------------------------

    def confirm_front(self) -> None:
        """Train the front with the other seeds, each member and seed by one worker."""
        with reported(self.run.label), self.heartbeat:
            pause, alone = pauses(), True
            while not (self.stop() or self._left):
                wanted = to_confirm(RunResult(self.run, self.config, self.study))
                if not wanted:
                    return
                free = self.confirmations.free(wanted)
                if not free:
                    next(pause)
                    continue
                # Where several choose at once, they had better not choose the same again.
                job = free[0] if alone else random.choice(free)  # noqa: S311
                with self.confirmations.claimed(*job, self.stop) as mine:
                    if mine:
                        self.confirm(*job)
                        pause = pauses()
                alone = mine

    def confirm(self, number: int, seed: int) -> None:
        """Train a member of the front again with another seed, and read the test images."""
        (trial,) = [t for t in self.study.get_trials(deepcopy=False) if t.number == number]
        arch = record(trial).architecture

        def after_step(_: Progress) -> bool:
            self.watch()
            if self.stop():
                raise Stopped
            return True

        try:
            found = self.evaluator.confirm(arch, seed=seed, report=after_step)
        except Stopped:
            return
        except EvaluationError as error:
            if self.slot.guest and error.reason == "out of memory":
                self._left = True
                return
            result: dict[str, Any] = {"reason": error.reason}
        else:
            if found.why_eager:
                self._say_why_eager(found.why_eager)
            result = result_of(self.declared, found)
        with reported(self.run.label):
            self.study.set_user_attr(confirmation_key(number, seed), result)
