"""What a worker does: ask, train, compare at rungs, tell; later, confirm.

The study is the only shared state, and it has no lock: a proposal is a claim (see
``claims``), and so is the wish to confirm. A worker writes the curve of its trial after
every epoch, so that whoever looks at the study sees it grow.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from sret_nas.arch import Architecture
from sret_nas.errors import ArchitectureError, InfeasibleError, TrainingError
from sret_nas.search import constraints, trials
from sret_nas.search.beforehand import Beforehand, published
from sret_nas.search.claims import Claim, verdict
from sret_nas.search.config import RunConfig
from sret_nas.search.confirm import Confirmations, confirming_s, to_confirm
from sret_nas.search.outcome import Outcome
from sret_nas.search.placement import Seat
from sret_nas.search.presence import Pulse, Vigil, Who, me, pauses
from sret_nas.search.rundir import RunDir, limit_of, reported
from sret_nas.search.rungs import AtRung, goes_on
from sret_nas.search.samplers import FilteredSampler, SpaceExhausted, counted, interrupted
from sret_nas.search.storage import glance, hurried, impatient, one_reading
from sret_nas.search.trials import finish, hand_back, returned, standing, sweep
from sret_nas.space import Clock, SearchSpace, store

if TYPE_CHECKING:
    from sret_nas.evaluate import Evaluator
    from sret_nas.training import EpochResult

CURVE = ("epoch", "train_loss", "val_loss", "val_accuracy", "seconds", "images")
Asked = tuple[optuna.Trial, Architecture, dict[str, float]]


class Stopped(Exception):  # noqa: N818
    """The search was asked to stop while a candidate trained."""


class Surplus(Exception):  # noqa: N818
    """Workers that asked earlier have had all that are wanted."""


def _keep(trial: optuna.Trial, metrics: dict[str, float], single: dict[str, float]) -> None:
    """Keep the metrics together, and some one by one: a dashboard sorts by plain numbers."""
    trial.set_user_attr("metrics", metrics)
    for name, value in single.items():
        trial.set_user_attr(name, value)


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
        evaluator: Trains candidates.
        fits: Whether an architecture exists at the evaluator's scale.
        stop: Whether to come to an end; asked after every epoch.
        clock: Tells latencies; needed where a bound or an objective is one.
        seat: Where it works.
        until: When its time is up, confirming included, as ``time.monotonic``; or never.
    """

    run: RunDir
    config: RunConfig
    study: optuna.Study
    space: SearchSpace
    evaluator: Evaluator
    fits: Callable[[Architecture], object]
    stop: Callable[[], bool]
    clock: Clock | None = None
    seat: Seat = field(default_factory=lambda: Seat("cpu"))
    until: float | None = None

    def __post_init__(self) -> None:
        self.who: Who = me(self.seat.team)
        self.goals = self.config.goals
        self.known = Beforehand(self.config, self.fits, self.clock)
        self.pulse = Pulse(self.config.heartbeat_s)
        one_machine = self.run.address.kind == "sqlite"
        self.vigil = Vigil(self.who.name, self.config.heartbeat_s, one_machine)
        self.confirmations = Confirmations(
            self.study, self.who, self.pulse, Vigil(self.who.name, self.config.heartbeat_s)
        )
        self._own: FrozenTrial | None = None
        self._exhausted_at: int | None = None
        self._limit: int | None = None
        self._limit_until = float("-inf")
        self._left = False
        self._reserve_s = 0.0
        self.sampler = _Sampler(
            self.space,
            self.config.budgets,
            self.config.sampler,
            self.config.seed,
            accepts=self.known.turn_down,
            first=published(self.space, self.config),
            objectives=self.goals,
        )
        self.sampler.began = self._began
        self.study.sampler = self.sampler

    def work(self) -> None:
        """The whole of it: candidates until there are enough, then the front's confirmation."""
        self.search()
        if not self._left and not self.stop():
            self.confirm_front()

    # -- searching ---------------------------------------------------------------------------

    def search(self) -> None:
        """Try candidates until the run has enough and nobody else is at one, or is stopped."""
        with reported(self.run.label), self.pulse, self._holding(), _settled():
            pause = pauses()
            while not (self.stop() or self._late() or self._left):
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
                with suppress(Exception), hurried(self.study):
                    hand_back(self.study, self._again(own), why)
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
            needed_s = confirming_s(Outcome(self.run, self.config, self.study))
            self._reserve_s = min(needed_s, (self.config.timeout_s or 0.0) / 2)
            if self._late():
                return False
        if time.monotonic() >= self._limit_until:  # a search with more --trials may come
            self._limit = limit_of(self.study, self.config)
            self._limit_until = time.monotonic() + self.config.heartbeat_s
        found = self.study.get_trials(deepcopy=False)
        if sweep(self.study, self.vigil, found):
            found = self.study.get_trials(deepcopy=False)
        enough = self._limit is not None and len(counted(found)) >= self._limit
        return not enough and self._exhausted_at != returned(found)

    def _began(self, trial: FrozenTrial) -> None:
        """Say whose trial it is, before anything else."""
        self._own = trial
        storage, number = self.study._storage, trial._trial_id
        storage.set_trial_system_attr(number, trials.OWNER, self.who.to_dict())
        inner = impatient(self.study)
        self.pulse.hold(lambda beat: inner.set_trial_system_attr(number, trials.BEAT, beat))
        before = sum(other.number < trial.number for other in standing(self.study))
        if self._limit is not None and before >= self._limit:
            raise Surplus

    def _release(self) -> None:
        self._own = None
        self.pulse.release()

    def _ask(self) -> Asked | None:
        """A candidate of this worker's own; ``None`` where there is none to be had now."""
        start = time.perf_counter()
        self.known.begin()
        while True:
            try:
                with one_reading(self.study):
                    if not self._wanted():
                        return None
                    trial = self.study.ask(fixed_distributions=self.space.distributions)
                arch = self.space.decode(self.space.from_params(trial.params))
                store(trial, arch)
                if self._wins(trial, arch):
                    return trial, arch, self._describe(trial, arch, start)
                self._give("taken")
                if self.stop():
                    return None
            except Surplus:
                self._give("surplus")
                return None
            except SpaceExhausted as error:
                self._give_up(str(error))
                return None
            except optuna.exceptions.UpdateFinishedTrialError:  # given up by the others
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
                if other.number != trial.number and other.user_attrs.get("id") == own_id
            ]
            answer = verdict(trial.number, others)
            if answer == "won":
                trial.storage.set_trial_system_attr(trial._trial_id, trials.CONFIRMED, True)
            if answer != "wait":
                return answer == "won"
            if self.stop():
                return False
            next(pause)
            sweep(self.study, self.vigil)

    def _describe(self, trial: optuna.Trial, arch: Architecture, start: float) -> dict[str, float]:
        """Write down what is known before training."""
        metrics = self.known.metrics(arch)
        _keep(trial, metrics, metrics | {"depth": arch.depth})
        constraints.record(
            trial,
            self.config.budgets,
            lambda bound: (
                self.known.tell(arch, bound.batch).most_ms
                if bound.metric == "latency_ms"
                else metrics[bound.metric]
            ),
        )
        trial.set_user_attr("turned_down", dict(self.sampler.turned_down))
        taken, latency_s = time.perf_counter() - start, self.known.latency_s
        trial.set_user_attr("seconds", {"sampling": taken - latency_s, "latency": latency_s})
        return metrics

    def _give_up(self, why: str) -> None:
        """Close the trial that got no architecture; an error where none ever got one."""
        assert self._own is not None
        turned_down = dict(self.sampler.turned_down)
        self.study._storage.set_trial_user_attr(self._own._trial_id, "turned_down", turned_down)
        self._give("exhausted")
        if not any("id" in trial.user_attrs for trial in standing(self.study)):
            fastest = self.known.fastest
            nearest = f"; the nearest: {fastest.most_ms:.3g} ms" if fastest else ""
            raise InfeasibleError(
                f"no architecture of space '{self.space.name}' can be tried: {why}{nearest}",
                "raise the bound, or choose another space or proxy",
            )
        self._exhausted_at = returned(self.study.get_trials(deepcopy=False))
        self.study.set_user_attr("exhausted", True)

    def _try(self, asked: Asked) -> None:
        # A finished trial takes no more: the others gave this worker up, and try again.
        with suppress(optuna.exceptions.UpdateFinishedTrialError):
            self._train(*asked)
        self._release()

    def _train(self, trial: optuna.Trial, arch: Architecture, metrics: dict[str, float]) -> None:
        curve: list[dict[str, Any]] = []

        def after_epoch(result: EpochResult) -> bool:
            curve.append({key: getattr(result, key) for key in CURVE})
            trial.set_user_attr("curve", curve)
            rungs = self.evaluator.rungs
            go_on = True
            if result.epoch in rungs[:-1]:
                go_on = self._promising(trial, metrics | vars(result), result.epoch)
            if go_on and result.epoch < rungs[-1] and (self.stop() or self._late()):
                raise Stopped
            return go_on

        try:
            found = self.evaluator.evaluate(arch, seed=self.config.seed, report=after_epoch)
        except Stopped:
            self._give("stopped")
            return
        except (TrainingError, ArchitectureError) as error:
            reason = getattr(error, "reason", "impossible")
            if self.seat.shared and reason == "out of memory":
                self._left = self.seat.guest  # one fewer may leave room for the others
                self._give("no room")
                return
            trial.set_user_attr("reason", reason)
            trial.set_user_attr("error", str(error))
            finish(self.study, trial.number, TrialState.FAIL)
            return
        reached = {"val_loss": found.val_loss, "val_accuracy": found.val_accuracy}
        metrics |= reached
        _keep(trial, metrics, reached)
        if found.epochs < self.evaluator.rungs[-1]:
            finish(self.study, trial.number, TrialState.PRUNED)
        else:
            values = [metrics[goal.name] for goal in self.goals]
            finish(self.study, trial.number, TrialState.COMPLETE, values)

    def _promising(self, trial: optuna.Trial, here: dict[str, Any], epoch: int) -> bool:
        others = []
        with glance(self.study):
            found = self.study.get_trials(deepcopy=False)
        for other in found:
            curve = other.user_attrs.get("curve", [])
            if other.number != trial.number and len(curve) >= epoch and not interrupted(other):
                others.append(self._at_rung(other.user_attrs["metrics"] | curve[epoch - 1]))
        return goes_on(self._at_rung(here), others)

    def _at_rung(self, metrics: dict[str, Any]) -> AtRung:
        goals = self.goals
        (loss,) = [goal.loss(metrics[goal.name]) for goal in goals if goal.trained]
        costs = tuple(goal.loss(metrics[goal.name]) for goal in goals if not goal.trained)
        return AtRung(loss, costs)

    # -- confirming --------------------------------------------------------------------------

    def confirm_front(self) -> None:
        """Train the front with the other seeds, each member and seed by one worker."""
        with reported(self.run.label), self.pulse:
            pause, alone = pauses(), True
            while not (self.stop() or self._left):
                wanted = to_confirm(Outcome(self.run, self.config, self.study))
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
        arch = Architecture.load(trial.user_attrs["architecture"])

        def after_epoch(_: EpochResult) -> bool:
            if self.stop():
                raise Stopped
            return True

        try:
            found = self.evaluator.confirm(arch, seed=seed, report=after_epoch)
        except Stopped:
            return
        except TrainingError as error:
            if self.seat.guest and error.reason == "out of memory":
                self._left = True
                return
            result: dict[str, Any] = {"reason": error.reason}
        else:
            keys = ("val_loss", "val_accuracy", "test_loss", "test_accuracy", "seconds")
            result = {key: getattr(found, key) for key in keys}
        with reported(self.run.label):
            self.study.set_user_attr(f"confirmed:{number}:{seed}", result)
