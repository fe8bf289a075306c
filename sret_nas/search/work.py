"""What a worker does: ask, train, compare at rungs, tell; later, confirm.

The study is the only shared state. A worker writes the curve of its trial after
every epoch, so that whoever looks at the study sees it grow.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import TrialState

from sret_nas import zoo
from sret_nas.arch import Architecture
from sret_nas.cost import cost
from sret_nas.errors import ArchitectureError, InfeasibleError, SretNasError, TrainingError
from sret_nas.search import constraints
from sret_nas.search.config import RunConfig
from sret_nas.search.rundir import RunDir, reported, standing
from sret_nas.search.rungs import AtRung, goes_on
from sret_nas.search.samplers import FilteredSampler, SpaceExhausted, interrupted
from sret_nas.space import Clock, SearchSpace, Timing, store
from sret_nas.space.latency import MOST_TRIES

if TYPE_CHECKING:
    from sret_nas.evaluate import Evaluator
    from sret_nas.training import EpochResult

CURVE = ("epoch", "train_loss", "val_loss", "val_accuracy", "seconds", "images")


IMPOSSIBLE = "impossible at the proxy's scale"


class Stopped(Exception):  # noqa: N818
    """The search was asked to stop while a candidate trained."""


def published(space: SearchSpace, config: RunConfig) -> list[Architecture]:
    """The published variants to try first, cheapest first; each function once."""
    if not config.published:
        return []
    distinct = {arch.id: arch for arch in zoo.PUBLISHED.values() if arch in space}
    return sorted(distinct.values(), key=lambda arch: cost(arch).macs)


def _keep(trial: optuna.Trial, metrics: dict[str, float], single: dict[str, float]) -> None:
    """Keep the metrics together, and some one by one: a dashboard sorts by plain numbers."""
    trial.set_user_attr("metrics", metrics)
    for name, value in single.items():
        trial.set_user_attr(name, value)


@dataclass
class Worker:
    """One worker of a run.

    Attributes:
        run: The run directory.
        config: What was asked for.
        study: The study, with the worker's own connection.
        space: The search space.
        evaluator: Trains candidates.
        fits: Whether an architecture exists at the evaluator's scale.
        stop: Whether to come to an end; asked after every epoch.
        clock: Tells latencies; needed where a bound or an objective is one.
    """

    run: RunDir
    config: RunConfig
    study: optuna.Study
    space: SearchSpace
    evaluator: Evaluator
    fits: Callable[[Architecture], object]
    stop: Callable[[], bool]
    clock: Clock | None = None

    def __post_init__(self) -> None:
        self._timings: dict[tuple[str, int], Timing] = {}
        self._latency_s = 0.0
        self._unfit: dict[str, str] = {}
        self._unfit_in_a_row = 0
        self._fastest: Timing | None = None
        self.sampler = FilteredSampler(
            self.space,
            self.config.budgets,
            self.config.sampler,
            self.config.seed,
            accepts=self._turn_down,
            first=published(self.space, self.config),
        )
        self.study.sampler = self.sampler

    # -- searching ---------------------------------------------------------------------------

    def search(self) -> None:
        """Try candidates until the run has enough, or is stopped."""
        with reported(self.run.path):
            while not self.stop():
                trial = self._ask()
                if trial is None:
                    return
                self._try(trial)

    def _ask(self) -> tuple[optuna.Trial, Architecture, dict[str, float]] | None:
        start, self._latency_s, self._unfit_in_a_row = time.perf_counter(), 0.0, 0
        with self.run.asking():
            if self.config.trials and len(standing(self.study)) >= self.config.trials:
                return None
            try:
                trial = self.study.ask(fixed_distributions=self.space.distributions)
            except SpaceExhausted as error:
                self._give_up(str(error))
                return None
            arch = self.space.decode(self.space.from_params(trial.params))
            store(trial, arch)
        metrics = self._known(arch)
        _keep(trial, metrics, metrics | {"depth": arch.depth})
        constraints.record(
            trial,
            self.config.budgets,
            lambda bound: (
                self._tell(arch, bound.batch).most_ms
                if bound.metric == "latency_ms"
                else metrics[bound.metric]
            ),
        )
        trial.set_user_attr("turned_down", dict(self.sampler.turned_down))
        taken = time.perf_counter() - start
        seconds = {"sampling": taken - self._latency_s, "latency": self._latency_s}
        trial.set_user_attr("seconds", seconds)
        return trial, arch, metrics

    def _give_up(self, why: str) -> None:
        """Close the trial that got no architecture; an error where none ever got one."""
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        own = max((t for t in running if "id" not in t.user_attrs), key=lambda t: t.number)
        attributes = {"interrupted": "exhausted", "turned_down": dict(self.sampler.turned_down)}
        for key, value in attributes.items():
            self.study._storage.set_trial_user_attr(own._trial_id, key, value)
        self.study.tell(own.number, state=TrialState.FAIL)
        if not standing(self.study):
            nearest = f"; the nearest: {self._fastest.most_ms:.3g} ms" if self._fastest else ""
            raise InfeasibleError(
                f"no architecture of space '{self.space.name}' can be tried: {why}{nearest}",
                "raise the bound, or choose another space or proxy",
            )
        self.study.set_user_attr("exhausted", True)

    def _try(self, asked: tuple[optuna.Trial, Architecture, dict[str, float]]) -> None:
        trial, arch, metrics = asked
        curve: list[dict[str, Any]] = []

        def after_epoch(result: EpochResult) -> bool:
            curve.append({key: getattr(result, key) for key in CURVE})
            trial.set_user_attr("curve", curve)
            rungs = self.evaluator.rungs
            go_on = True
            if result.epoch in rungs[:-1]:
                go_on = self._promising(trial, metrics | vars(result), result.epoch)
            if go_on and result.epoch < rungs[-1] and self.stop():
                raise Stopped
            return go_on

        try:
            found = self.evaluator.evaluate(arch, seed=self.config.seed, report=after_epoch)
        except Stopped:
            trial.set_user_attr("interrupted", "stopped")
            self.study.tell(trial, state=TrialState.FAIL)
            return
        except (TrainingError, ArchitectureError) as error:
            trial.set_user_attr("reason", getattr(error, "reason", "impossible"))
            trial.set_user_attr("error", str(error))
            self.study.tell(trial, state=TrialState.FAIL)
            return
        reached = {"val_loss": found.val_loss, "val_accuracy": found.val_accuracy}
        metrics |= reached
        _keep(trial, metrics, reached)
        if found.epochs < self.evaluator.rungs[-1]:
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, [metrics[goal.name] for goal in self.config.goals])

    def _promising(self, trial: optuna.Trial, here: dict[str, Any], epoch: int) -> bool:
        others = []
        for other in self.study.get_trials(deepcopy=False):
            curve = other.user_attrs.get("curve", [])
            if other.number != trial.number and len(curve) >= epoch and not interrupted(other):
                others.append(self._at_rung(other.user_attrs["metrics"] | curve[epoch - 1]))
        return goes_on(self._at_rung(here), others)

    def _at_rung(self, metrics: dict[str, Any]) -> AtRung:
        goals = self.config.goals
        (loss,) = [goal.loss(metrics[goal.name]) for goal in goals if goal.trained]
        costs = tuple(goal.loss(metrics[goal.name]) for goal in goals if not goal.trained)
        return AtRung(loss, costs)

    # -- what is known before training -------------------------------------------------------

    def _known(self, arch: Architecture) -> dict[str, float]:
        found = cost(arch)
        metrics: dict[str, float] = {
            "macs": found.macs,
            "params": found.params,
            "peak_bytes": found.peak_bytes,
        }
        for batch in self._batches()[:1]:
            metrics["latency_ms"] = self._tell(arch, batch).ms
        return metrics

    def _batches(self) -> list[int]:
        """Batch sizes whose latency matters; the first is the objective's."""
        bounds = [b.batch for b in self.config.budgets if b.metric == "latency_ms"]
        if any(goal.name == "latency_ms" for goal in self.config.goals):
            bounds = bounds or [1]
        return bounds

    def _turn_down(self, arch: Architecture) -> str | None:
        """Why an architecture cannot be tried, if so.

        Raises:
            SpaceExhausted: so many in a row cannot that looking for more is hopeless.
        """
        if arch.id in self._unfit:
            return self._unfit[arch.id]
        reason = self._why_unfit(arch)
        if reason is None:
            self._unfit_in_a_row = 0
            return None
        self._unfit[arch.id] = reason
        self._unfit_in_a_row += 1
        measured = reason != IMPOSSIBLE and (
            self._fastest is None or self._fastest.source == "measured"
        )
        if self._unfit_in_a_row >= MOST_TRIES["measured" if measured else "predicted"]:
            raise SpaceExhausted(f"{self._unfit_in_a_row:,} in a row are {reason}")
        return reason

    def _why_unfit(self, arch: Architecture) -> str | None:
        try:
            self.fits(arch)
        except ArchitectureError:
            return IMPOSSIBLE
        for bound in self.config.budgets:
            if bound.metric != "latency_ms":
                continue
            try:
                timing = self._tell(arch, bound.batch)
            except SretNasError:
                return "of unknown latency"
            if self._fastest is None or timing.most_ms < self._fastest.most_ms:
                self._fastest = timing
            if timing.most_ms > bound.limit:
                return "too slow"
        return None

    def _tell(self, arch: Architecture, batch: int) -> Timing:
        key = (arch.id, batch)
        if key not in self._timings:
            assert self.clock is not None
            start = time.perf_counter()
            self._timings[key] = self.clock(arch, batch)
            self._latency_s += time.perf_counter() - start
        return self._timings[key]

    # -- confirming --------------------------------------------------------------------------

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
            result: dict[str, Any] = {"reason": error.reason}
        else:
            keys = ("val_loss", "val_accuracy", "test_loss", "test_accuracy", "seconds")
            result = {key: getattr(found, key) for key in keys}
        with reported(self.run.path):
            self.study.set_user_attr(f"confirmed:{number}:{seed}", result)
