"""A sampler of any strategy under one filter.

The filter lets only architectures into a study that satisfy the budget, exist at
the evaluator's scale and were never tried. What it rejects never becomes a trial's
parameters; it is counted.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from sret_nas.arch import Architecture
from sret_nas.cost import cost
from sret_nas.errors import SretNasError, UsageError
from sret_nas.metrics import MACS, VAL_LOSS, Metric
from sret_nas.runner.continuing import LAST, NEAR, near
from sret_nas.runner.strategies import DEFAULT, SAMPLERS, Filter, check
from sret_nas.samplers.candidates import Params
from sret_nas.space import SearchSpace
from sret_nas.study.records import CONTINUES, record, write_system
from sret_nas.study.trials import counted, interrupted
from sret_nas.units import Budget

UNFIT = "unfit"
"""Why an enqueued trial came to nothing that breaks the budget, or was tried before."""


class SpaceExhausted(SretNasError):  # noqa: N818
    """Every acceptable architecture of the space has been tried."""


def _asking(study: optuna.Study, trial: FrozenTrial) -> int:
    """How many asked before and have no answer yet: they choose from the same list."""
    found = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return sum(t.number < trial.number and not record(t).id for t in found)


class Surplus(Exception):  # noqa: N818
    """As many are at work as are wanted, and none that was stopped goes on."""


class FilteredSampler(BaseSampler):
    """Any of Optuna's samplers, proposing only what is feasible and new.

    A proposal is a function of the seed and of the trials that stand, so a run
    that was interrupted goes on as if it had not been. First come architectures
    whose trial was interrupted, then the seeds, then stopped ones that the front is near (see
    ``continuing``), then the base sampler's.

    Args:
        space: What is proposed.
        budgets: Bounds; those on latency are the caller's, through ``accepts``.
        name: Name of the base sampler.
        seed: Of all proposals.
        accepts: Further conditions; a reason to reject an architecture, or ``None``.
        first: Architectures to try before all others; those not acceptable are skipped.
        objectives: Of the study; without them, validation loss and MACs.

    Attributes:
        full: Whether trials that began before one are all that are wanted.
        rejected: Of the last proposal, how often and for which reason.
    """

    def __init__(
        self,
        space: SearchSpace,
        budgets: Sequence[Budget],
        name: str = DEFAULT,
        seed: int = 0,
        accepts: Callable[[Architecture], str | None] = lambda _: None,
        first: Sequence[Architecture] = (),
        objectives: Sequence[Metric] | None = None,
    ) -> None:
        self.space = space
        self.budgets = [b for b in budgets if b.metric != "latency_ms"]
        self.limits = {b.metric: b.limit for b in self.budgets}
        self.seed = seed
        self.accepts = accepts
        self.first = [arch for arch in first if arch in space]
        self.objectives = tuple(objectives or (VAL_LOSS, MACS))
        self.rejected: dict[str, int] = {}
        self.full: Callable[[FrozenTrial], bool] = lambda _: False
        self.strategy = SAMPLERS[check(name)](
            Filter(space, self.limits, self.objectives, seed, self.seen, self.accept)
        )

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """All coordinates at once: none is sampled alone."""
        return dict(self.space.distributions)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Never needed: every coordinate is sampled together."""
        raise UsageError(f"parameter '{param_name}' is not one of space '{self.space.name}'")

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """The base sampler's preparation, from this proposal's own seed."""
        self._base = self._fresh(study, trial)
        self._base.before_trial(study, trial)

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """The base sampler's bookkeeping, which draws nothing."""
        self.strategy.sampler(self.seed).after_trial(study, trial, state, values)

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: Mapping[str, BaseDistribution],
    ) -> Params:
        """The next architecture, as parameters.

        Raises:
            SpaceExhausted: nothing acceptable is left.
            Surplus: there are enough.
        """
        self.rejected = {}
        seen = self.seen(study, trial)
        full, place = self.full(trial), _asking(study, trial)
        waiting = [] if full else self._waiting(study, seen)
        if (params := self._take(study, trial, waiting, NEAR, place)) is not None:
            return params
        if full:
            raise Surplus
        last: Params = {}
        for _ in range(self.strategy.tries):
            last = self._ask_base(study, trial) or last
            if len(last) < len(self.space.coordinates):
                break  # the base sampler wants a random start
            arch = self._arch(last)
            if self.strategy.filters or self.accept(arch, seen):
                return last
        rng = np.random.default_rng(self._stream(study, trial))
        for arch in itertools.chain(self._around(last), self._draws(rng)):
            if self.accept(arch, seen):
                return self._params(arch)
        if (params := self._take(study, trial, [], LAST, place)) is not None:
            return params
        raise SpaceExhausted(
            f"all acceptable architectures of space '{self.space.name}' have been tried",
            "a larger space or a looser budget has more",
        )

    # -- proposals ---------------------------------------------------------------------------

    def _take(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        waiting: Iterable[Params],
        least: float,
        place: int,
    ) -> Params | None:
        """What waits, or was stopped and goes on: one for each of those that ask at once.

        Args:
            study: The study.
            trial: For which it is; if it goes on with another, that is written on it.
            waiting: What waits.
            least: The chance that it takes to go on.
            place: How many ask at the same time and come first.
        """
        every: Iterable[tuple[Params, int | None]] = ((params, None) for params in waiting)
        if not record(trial).enqueued:  # that has its parameters
            found = study.get_trials(deepcopy=False)
            stopped = near(found, self.objectives, least)
            every = itertools.chain(every, ((dict(t.params), t.number) for t in stopped))
        for params, continues in itertools.islice(every, place, None):
            if continues is not None:
                write_system(study._storage, trial._trial_id, CONTINUES, continues)
            self.strategy.skip(self._base, study, trial, dict(self.space.distributions))
            return params
        return None

    def _waiting(self, study: optuna.Study, seen: set[str]) -> Iterator[Params]:
        """What comes before the base sampler's: what was interrupted, then the seeds."""
        told = set(seen)
        for t in study.get_trials(deepcopy=False):
            again = interrupted(t) and record(t).interrupted != UNFIT
            if again and len(t.params) == len(self.space.coordinates):
                arch_id = record(t).id or self._arch(t.params).id
                if arch_id not in told:
                    told.add(arch_id)
                    yield dict(t.params)
        for arch in self.first:
            if arch.id not in told and self._reason(arch, seen) is None:
                yield self._params(arch)

    def _ask_base(self, study: optuna.Study, trial: FrozenTrial) -> Params:
        distributions = dict(self.space.distributions)
        params = self.strategy.ask(self._base, study, trial, distributions)
        return {name: params[name] for name in distributions if name in params}

    def _around(self, params: Params) -> Iterator[Architecture]:
        """Neighbours of a proposal that was rejected, nearest first."""
        if len(params) < len(self.space.coordinates):
            return
        start = self.space.from_params(params)
        for encoding in self.space.neighbours(start):
            yield self.space.decode(encoding)

    def _draws(self, rng: np.random.Generator) -> Iterator[Architecture]:
        """Feasible architectures at random, until there are no more."""
        yield from self.space.draws(int(rng.integers(2**31)), self.budgets)

    def _fresh(self, study: optuna.Study, trial: FrozenTrial) -> BaseSampler:
        if self.strategy.one_sequence:
            return self.strategy.sampler(self.seed)
        rng = np.random.default_rng(self._stream(study, trial))
        return self.strategy.sampler(int(rng.integers(2**31)))

    def _stream(self, study: optuna.Study, trial: FrozenTrial) -> tuple[int, int]:
        """Seed of one proposal: workers that ask at once draw differently."""
        standing = counted(study.get_trials(deepcopy=False))
        return self.seed, sum(t.number < trial.number for t in standing)

    # -- the filter --------------------------------------------------------------------------

    def seen(self, study: optuna.Study, trial: FrozenTrial) -> set[str]:
        """Ids that were tried or are at work, but for what this very trial has."""
        others = counted(study.get_trials(deepcopy=False))
        return {str(record(t).id) for t in others if t.number != trial.number}

    def accept(self, arch: Architecture, seen: set[str]) -> bool:
        """Whether an architecture may be tried; if not, that is counted."""
        reason = self._reason(arch, seen)
        if reason is not None:
            self.rejected[reason] = self.rejected.get(reason, 0) + 1
        return reason is None

    def _reason(self, arch: Architecture, seen: set[str]) -> str | None:
        found = cost(arch)
        if any(getattr(found, metric) > limit for metric, limit in self.limits.items()):
            return "over budget"
        if arch.id in seen:
            return "tried before"
        return self.accepts(arch)

    def _arch(self, params: Params) -> Architecture:
        return self.space.decode(self.space.from_params(params))

    def _params(self, arch: Architecture) -> Params:
        return self.space.params(self.space.encode(arch))
