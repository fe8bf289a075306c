"""What proposes under the filter, by name: Optuna's samplers and ours, each as it wants it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseGASampler, BaseSampler
from optuna.trial import FrozenTrial

from sret_nas.arch import Architecture
from sret_nas.errors import UsageError
from sret_nas.files import nearest
from sret_nas.metrics import Metric
from sret_nas.runner.space_candidates import SpaceCandidates
from sret_nas.samplers.candidates import Params, Rows
from sret_nas.samplers.known_cost import KnownCostSampler
from sret_nas.space import SearchSpace
from sret_nas.study.objectives import quality
from sret_nas.study.records import POINT, record, write_system
from sret_nas.study.trials import counted

POPULATION = 20
TRIES = 8
"""Proposals of a sampler before the nearest acceptable neighbour is taken."""
Distributions = dict[str, BaseDistribution]


@dataclass(frozen=True)
class Filter:
    """What a strategy may know of the filter that it proposes to.

    Attributes:
        space: What is proposed.
        limits: Bounds on costs, by metric.
        objectives: Of the study.
        seed: Of all proposals.
        seen: Ids that were tried or are at work, for a study and a trial.
        accept: Whether an architecture may be tried, for it and those ids; a no is counted.
    """

    space: SearchSpace
    limits: Mapping[str, float]
    objectives: Sequence[Metric]
    seed: int
    seen: Callable[[optuna.Study, FrozenTrial], set[str]]
    accept: Callable[[Architecture, set[str]], bool]


class Strategy:
    """A base sampler, made anew for every proposal so that proposals depend on nothing else.

    Args:
        make: Makes it for a seed.

    Attributes:
        tries: Proposals before the nearest acceptable neighbour is taken.
        one_sequence: Whether the proposals are one sequence, which the seed of the run decides;
            else each has a seed of its own.
        filters: Whether what it proposes has been accepted already.
    """

    tries: ClassVar[int] = TRIES
    one_sequence: ClassVar[bool] = False
    filters: ClassVar[bool] = False

    def __init__(self, make: Callable[[int], BaseSampler]) -> None:
        self._make = make

    def sampler(self, seed: int) -> BaseSampler:
        """The base sampler for a seed."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return self._make(seed)

    def ask(
        self, base: BaseSampler, study: optuna.Study, trial: FrozenTrial, space: Distributions
    ) -> Params:
        """A proposal; not of every coordinate where a random start is wanted."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return base.sample_relative(study, trial, space)

    def skip(
        self, base: BaseSampler, study: optuna.Study, trial: FrozenTrial, space: Distributions
    ) -> None:
        """Take note of a trial that something else has proposed."""


class Once(Strategy):
    """One that would propose the same again."""

    tries = 1


class OneSequence(Strategy):
    """Quasi-random: its proposals are the points of one sequence."""

    one_sequence = True


class Independent(Strategy):
    """One that samples each coordinate alone."""

    def ask(
        self, base: BaseSampler, study: optuna.Study, trial: FrozenTrial, space: Distributions
    ) -> Params:
        """A draw for each coordinate."""
        return {
            name: base.sample_independent(study, trial, name, distribution)
            for name, distribution in space.items()
        }


class Evolution(Strategy):
    """An evolutionary one, which counts every trial into a generation."""

    def ask(
        self, base: BaseSampler, study: optuna.Study, trial: FrozenTrial, space: Distributions
    ) -> Params:
        """A child of the trial's generation."""
        assert isinstance(base, BaseGASampler)
        # Optuna gives the parents in another order when they are chosen than later.
        base.get_parent_population(study, base.get_trial_generation(study, trial))
        return super().ask(base, study, trial, space)

    def skip(
        self, base: BaseSampler, study: optuna.Study, trial: FrozenTrial, space: Distributions
    ) -> None:
        """Count it."""
        self.ask(base, study, trial, space)


class KnownCost(Once):
    """Ours: one sampler for all proposals, for what it has computed; nothing else hangs on that."""

    filters = True

    def __init__(self, of: Filter) -> None:
        sampler = _KnownCost(of)
        super().__init__(lambda _: sampler)


class _KnownCost(KnownCostSampler):
    """Over the encodings of a space and the trials of a search."""

    def __init__(self, of: Filter) -> None:
        known = [i for i, goal in enumerate(of.objectives) if goal.known]
        super().__init__(
            known=dict.fromkeys(known, lambda _: 0.0),  # told by the candidates instead
            seed=of.seed,
            search_space=of.space.distributions,
        )
        self.filter = of
        names = [goal.name for goal in of.objectives if goal.known]
        self.space_candidates = SpaceCandidates(of.space, of.limits, names)
        self.quality = quality(of.objectives).name

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: Distributions
    ) -> Params:
        self.seen = self.filter.seen(study, trial)
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
        return arch.id not in self.seen and self.filter.accept(arch, self.seen)


class _QMC(optuna.samplers.QMCSampler):
    """Optuna's, with its place in the sequence kept on the trials.

    Optuna counts on the study, where a proposal that was lost leaves a gap.
    """

    last: int | None = None

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: Distributions
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


def _qmc(seed: int) -> BaseSampler:
    return _QMC(
        seed=seed, scramble=True, warn_asynchronous_seeding=False, warn_independent_sampling=False
    )


SAMPLERS: dict[str, Callable[[Filter], Strategy]] = {
    "known-cost": KnownCost,
    "tpe": lambda _: Strategy(
        lambda seed: optuna.samplers.TPESampler(multivariate=True, seed=seed)
    ),
    "nsga2": lambda _: Evolution(
        lambda seed: optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=seed)
    ),
    "nsga3": lambda _: Evolution(
        lambda seed: optuna.samplers.NSGAIIISampler(population_size=POPULATION, seed=seed)
    ),
    "gp": lambda _: Once(lambda seed: optuna.samplers.GPSampler(seed=seed)),
    "qmc": lambda _: OneSequence(_qmc),
    "random": lambda _: Independent(lambda seed: optuna.samplers.RandomSampler(seed=seed)),
}
"""By name, for a filter. A new one is covered by the conformance suite at once."""
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
