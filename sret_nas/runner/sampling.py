"""Samplers by name, each under one filter.

The filter lets only architectures into a study that satisfy the budget, exist at
the proxy's scale and were never tried. What it turns down never becomes a trial's
parameters; it is counted.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseGASampler, BaseSampler
from optuna.trial import FrozenTrial, TrialState

from sret_nas.arch import Architecture
from sret_nas.cost import cost
from sret_nas.errors import SretNasError, UsageError
from sret_nas.files import nearest
from sret_nas.metrics import MACS, VAL_LOSS, Metric
from sret_nas.runner.space_candidates import SpaceCandidates
from sret_nas.samplers.candidates import Params, Rows
from sret_nas.samplers.known_cost import KnownCostSampler
from sret_nas.space import SearchSpace
from sret_nas.study.objectives import quality
from sret_nas.study.records import POINT, record, write_system
from sret_nas.study.trials import counted, interrupted
from sret_nas.units import Budget

TRIES = 8
"""Proposals of the base sampler before the nearest acceptable neighbour is taken."""
ONCE = ("gp", "known-cost")
"""Those that would propose the same again: one try."""
POPULATION = 20
UNFIT = "unfit"
"""Why an enqueued trial came to nothing that breaks the budget, or was tried before."""


class SpaceExhausted(SretNasError):  # noqa: N818
    """Every acceptable architecture of the space has been tried."""


class _KnownCost(KnownCostSampler):
    """Ours, over the encodings of a space and the trials of a search."""

    def __init__(self, owner: FilteredSampler) -> None:
        known = [i for i, goal in enumerate(owner.objectives) if goal.known]
        super().__init__(
            known=dict.fromkeys(known, lambda _: 0.0),  # told by the candidates instead
            seed=owner.seed,
            search_space=owner.space.distributions,
        )
        self.owner = owner
        names = [goal.name for goal in owner.objectives if goal.known]
        self.space_candidates = SpaceCandidates(owner.space, owner.limits, names)
        self.quality = quality(owner.objectives).name

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> Params:
        self.seen = self.owner.seen(study, trial)
        self.space_candidates.learn(counted(study.get_trials(deepcopy=False)))
        return self.propose(study, trial, search_space) or {}

    def _candidates(self, *_: object) -> SpaceCandidates:
        return self.space_candidates

    def _trials(self, study: optuna.Study) -> list[FrozenTrial]:
        return counted(study.get_trials(deepcopy=False))

    def _curve(self, trial: FrozenTrial) -> Mapping[int, float]:
        return {i: step[self.quality] for i, step in enumerate(record(trial).curve, 1)}

    def _acceptable(self, row: Rows) -> bool:
        arch = self.space_candidates.decode(row)
        # Another spelling of what was tried is no proposal, so it is not counted as one.
        return arch.id not in self.seen and self.owner.accept(arch, self.seen)


class _Sequence(optuna.samplers.QMCSampler):
    """Optuna's, with its place in the sequence kept on the trials.

    Optuna counts on the study, where a proposal that was lost leaves a gap.
    """

    last: int | None = None

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> Params:
        params = super().sample_relative(study, trial, search_space)
        write_system(study._storage, trial._trial_id, POINT, self.last)
        return params

    def _find_sample_id(self, study: optuna.Study, search_space: dict[str, Any]) -> int:
        if self.last is None:
            trials = [t for t in study.get_trials(deepcopy=False) if t.params]
            self.last = max((record(t).point for t in trials), default=-1)
        self.last += 1
        return self.last


Make = Callable[["FilteredSampler", int], BaseSampler]
SAMPLERS: dict[str, Make] = {
    "known-cost": lambda owner, _: owner.known_cost or _KnownCost(owner),
    "tpe": lambda _, seed: optuna.samplers.TPESampler(multivariate=True, seed=seed),
    "nsga2": lambda _, seed: optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=seed),
    "nsga3": lambda _, seed: optuna.samplers.NSGAIIISampler(population_size=POPULATION, seed=seed),
    "gp": lambda _, seed: optuna.samplers.GPSampler(seed=seed),
    "qmc": lambda _, seed: _Sequence(
        seed=seed, scramble=True, warn_asynchronous_seeding=False, warn_independent_sampling=False
    ),
    "random": lambda _, seed: optuna.samplers.RandomSampler(seed=seed),
}
"""By name, for a filter and a seed. A new one is covered by the conformance suite at once."""
SEQUENCES = ("qmc",)
"""Those whose proposals are one sequence, which the seed of the run decides."""
DEFAULT = "known-cost"


def check(name: str) -> str:
    """The sampler that a name means; ``auto`` is the default one.

    Raises:
        UsageError: no such sampler.
    """
    if name == "auto":
        return DEFAULT
    if name not in SAMPLERS:
        guess = nearest(name, list(SAMPLERS))
        raise UsageError(
            f"sampler: given '{name}'" + (f"; did you mean '{guess}'?" if guess else ""),
            f"allowed: auto, {', '.join(SAMPLERS)}",
        )
    return name


def _asking(study: optuna.Study, trial: FrozenTrial) -> int:
    """How many asked before and have no answer yet: they choose from the same list."""
    found = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return sum(t.number < trial.number and not record(t).id for t in found)


class FilteredSampler(BaseSampler):
    """Any of Optuna's samplers, proposing only what is feasible and new.

    A proposal is a function of the seed and of the trials that stand, so a run
    that was interrupted goes on as if it had not been. First come architectures
    whose trial was interrupted, then the seeds, then the base sampler's.

    Args:
        space: What is proposed.
        budgets: Bounds; those on latency are the caller's, through ``accepts``.
        name: Name of the base sampler.
        seed: Of all proposals.
        accepts: Further conditions; a reason to turn an architecture down, or ``None``.
        first: Architectures to try before all others; those not acceptable are skipped.
        objectives: Of the study; without them, validation loss and MACs.

    Attributes:
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
        self.name = check(name)
        self.seed = seed
        self.accepts = accepts
        self.first = [arch for arch in first if arch in space]
        self.objectives = tuple(objectives or (VAL_LOSS, MACS))
        self.rejected: dict[str, int] = {}
        # Kept from proposal to proposal for what it has computed; nothing else hangs on that.
        self.known_cost: BaseSampler | None = (
            _KnownCost(self) if self.name == "known-cost" else None
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
        self._make(self.seed).after_trial(study, trial, state, values)

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: Mapping[str, BaseDistribution],
    ) -> Params:
        """The next architecture, as parameters.

        Raises:
            SpaceExhausted: nothing acceptable is left.
        """
        self.rejected = {}
        seen = self.seen(study, trial)
        for params in itertools.islice(self._waiting(study, seen), _asking(study, trial), None):
            self._generation(study, trial)
            return params
        last: Params = {}
        for _ in range(1 if self.name in ONCE else TRIES):
            last = self._ask_base(study, trial) or last
            if len(last) < len(self.space.coordinates):
                break  # the base sampler wants a random start
            arch = self._arch(last)
            if self.name == "known-cost" or self.accept(arch, seen):
                return last
        rng = np.random.default_rng(self._stream(study, trial))
        for arch in itertools.chain(self._around(last), self._draws(rng)):
            if self.accept(arch, seen):
                return self._params(arch)
        raise SpaceExhausted(
            f"all acceptable architectures of space '{self.space.name}' have been tried",
            "a larger space or a looser budget has more",
        )

    # -- proposals ---------------------------------------------------------------------------

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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            distributions = dict(self.space.distributions)
            if isinstance(self._base, BaseGASampler):
                # Optuna gives the parents in another order when they are chosen than later.
                generation = self._base.get_trial_generation(study, trial)
                self._base.get_parent_population(study, generation)
            params = self._base.sample_relative(study, trial, distributions)
        if self.name == "random":
            params = {
                name: self._base.sample_independent(study, trial, name, distribution)
                for name, distribution in distributions.items()
            }
        return {name: params[name] for name in self.space.distributions if name in params}

    def _generation(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Let an evolutionary sampler count a trial that it did not propose."""
        if self.name.startswith("nsga"):
            self._ask_base(study, trial)

    def _around(self, params: Params) -> Iterator[Architecture]:
        """Neighbours of a proposal that was turned down, nearest first."""
        if len(params) < len(self.space.coordinates):
            return
        start = self.space.from_params(params)
        for encoding in self.space.neighbours(start):
            yield self.space.decode(encoding)

    def _draws(self, rng: np.random.Generator) -> Iterator[Architecture]:
        """Feasible architectures at random, until there are no more."""
        yield from self.space.draws(int(rng.integers(2**31)), self.budgets)

    def _fresh(self, study: optuna.Study, trial: FrozenTrial) -> BaseSampler:
        rng = np.random.default_rng(self._stream(study, trial))
        return self._make(self.seed if self.name in SEQUENCES else int(rng.integers(2**31)))

    def _make(self, seed: int) -> BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return SAMPLERS[self.name](self, seed)

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
