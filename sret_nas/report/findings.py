"""What the members of a front share, tested against what made no choice at all.

That all members have something in common says nothing where most architectures that satisfy the
budget have it too, where the run hardly tried anything else, or where the trainings could not
tell. So a sentence about the front is stated where three things hold:

* random feasible architectures of the members' cost have it so much less often that as many
  members would have it by chance with a probability of at most ``LEVEL``;
* the members are not what any draw from the candidates that were tried would be, likewise;
* what was trained differs by it: a short training sees only what its proxy keeps (``sight``).

Both probabilities are multiplied by the number of values of all choices that were looked at
(Bonferroni), so that of all sentences of a run one or more is chance with at most ``LEVEL``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.trial import TrialState
from scipy.stats import hypergeom

from sret_nas.arch import Architecture
from sret_nas.cost import cost
from sret_nas.errors import ConfigError, InfeasibleError
from sret_nas.evaluators.registry import PROXY
from sret_nas.metrics import MACS
from sret_nas.runner import RunResult
from sret_nas.space import SearchSpace
from sret_nas.space.frames import METRICS
from sret_nas.space.sight import look
from sret_nas.study.config import RunConfig
from sret_nas.study.objectives import costs
from sret_nas.study.records import record

LEVEL = 0.05
"""Probability that a run's findings hold one which is chance."""
SAMPLED = 1_000
"""Random feasible architectures."""
NEAR = 100
"""Those of them that are nearest in cost to a member, and stand for what is feasible there."""

FEWEST = 2
"""Members that a finding is about at least."""

Params = Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """Something that members of the front share, and that chance does not explain.

    Attributes:
        choice: Name of the choice.
        value: What they have.
        members: How many members have it.
        feasible: Share of random feasible architectures of the members' cost that have it.
        tried: Share of the candidates that were tried.
        chance: Probability that so many members have it by chance, after all comparisons.
    """

    choice: str
    value: Any
    members: int
    feasible: float
    tried: float
    chance: float


@dataclass(frozen=True)
class Findings:
    """What can be said of the front as a whole.

    Attributes:
        members: How many there are.
        found: The findings, the surest first.
        spread: By choice, each value and how many members have it, the commonest first.
        unseen: Choices of which the proxy takes values for one.
        problem: Why nothing could be tested, or ``None``.
    """

    members: int
    found: tuple[Finding, ...] = ()
    spread: tuple[tuple[str, tuple[tuple[Any, int], ...]], ...] = ()
    unseen: tuple[str, ...] = ()
    problem: str | None = None


def findings(outcome: RunResult) -> Findings:
    """Test what the standing members of the front share.

    Args:
        outcome: The run.
    """
    members = [member for member in outcome.front if not member.dethroned]
    archs = [member.architecture for member in members]
    config = outcome.config
    try:
        space = config.search_space()
        chosen = _choices(space, archs)
        if len(members) < 2 or len(chosen) < len(members):
            return Findings(len(members), spread=tuple(_spread(chosen)))
        # Latencies are not known of architectures that nobody measured; the costs are.
        counted = [bound for bound in config.budgets if bound.metric in METRICS]
        sampled = space.sample(SAMPLED, seed=config.seed, budgets=counted)
    except (ConfigError, InfeasibleError) as error:
        return Findings(len(members), problem=str(error).splitlines()[0])
    tried = [
        record(trial).architecture
        for trial in outcome.trials
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
    ]
    sought = costs(config.goals)[0].name
    unseen = _unseen(config, space)
    random = Feasible.of(space, sampled, sought if sought in METRICS else MACS.name)
    near = [random.near(arch) for arch in archs]
    found = beyond_chance(chosen, near, _choices(space, tried), unseen)
    return Findings(len(members), tuple(found), tuple(_spread(chosen)), unseen)


def beyond_chance(
    members: Sequence[Params],
    near: Sequence[Sequence[Params]],
    tried: Sequence[Params],
    unseen: Collection[str] = (),
) -> list[Finding]:
    """What members share beyond what chance explains, the surest first.

    Args:
        members: What each has chosen.
        near: For each member, random feasible choices at its cost.
        tried: All candidates, the members among them.
        unseen: Choices that nothing is said about.
    """
    options = [
        (name, value)
        for name in members[0]
        if name not in unseen
        for value in dict.fromkeys(one[name] for some in near for one in some)
    ]
    found = []
    for name, value in options:
        have = sum(one[name] == value for one in members)
        if have < FEWEST or 2 * have <= len(members):
            continue
        # With one more than there are: no share is known to be nothing.
        shares = [(1 + sum(one[name] == value for one in some)) / (1 + len(some)) for some in near]
        before = sum(one[name] == value for one in tried)
        chance = max(
            at_least(have, shares),
            float(hypergeom.sf(have - 1, len(tried), before, len(members))),
        )
        if chance * len(options) <= LEVEL:
            share = float(np.mean(shares))
            finding = Finding(name, value, have, share, before / len(tried), chance * len(options))
            found.append(finding)
    return sorted(found, key=lambda one: one.chance)


def at_least(count: int, shares: Sequence[float]) -> float:
    """Probability that so many of independent events happen (Poisson's binomial distribution).

    Args:
        count: How many, or more.
        shares: Probability of each.

    Example:
        >>> at_least(2, [0.5, 0.5])
        0.25
    """
    density = np.ones(1)
    for share in shares:
        density = np.convolve(density, [1 - share, share])
    return float(density[count:].sum())


@dataclass(frozen=True)
class Feasible:
    """Random architectures that satisfy the budget.

    Attributes:
        choices: Of each.
        by: What they are near each other by: the first cost sought that is counted.
        logs: Logarithm of that cost, shape (n,).
    """

    choices: tuple[Params, ...]
    by: str
    logs: npt.NDArray[np.float64]

    @classmethod
    def of(cls, space: SearchSpace, archs: Sequence[Architecture], by: str) -> Feasible:
        """From architectures of a space."""
        logs = np.log([getattr(cost(arch), by) for arch in archs])
        return cls(tuple(_choices(space, archs)), by, logs)

    def near(self, arch: Architecture) -> list[Params]:
        """The choices of those that are nearest in cost."""
        away = np.abs(self.logs - math.log(getattr(cost(arch), self.by)))
        return [self.choices[i] for i in np.argsort(away, kind="stable")[:NEAR]]


def _choices(space: SearchSpace, archs: Iterable[Architecture]) -> list[Params]:
    """What architectures have chosen, each spelled alike, whoever proposed it.

    Raises:
        ConfigError: the space is changed by code of its own, so that they have no spelling.
    """
    if space.transform is not None:
        raise ConfigError("the space's own code changes architectures: choices do not tell them")
    return [space.params(space.encode(arch)) for arch in archs]


def _unseen(config: RunConfig, space: SearchSpace) -> tuple[str, ...]:
    """Choices of which the proxy takes values for one."""
    if config.evaluator != PROXY:
        return ()
    _, sight = look(space, lambda arch: config.proxy.apply(arch, arch), config.budgets)
    return tuple(dict.fromkeys(one.name for one in sight.alike))


def _spread(chosen: Sequence[Params]) -> Iterator[tuple[str, tuple[tuple[Any, int], ...]]]:
    for name in chosen[0] if chosen else ():
        yield name, tuple(Counter(params[name] for params in chosen).most_common())
