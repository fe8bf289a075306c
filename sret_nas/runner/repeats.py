"""Which members of a front are worth another evaluation: those that noise may have ordered.

A repeat tells nothing where no decision can change. Two decisions hang on a front, each made
between two members: which to take, between the best and another; and whether the dearer of two
stands beside the cheaper one. While the difference of the two is within the noise of an
evaluation, both are repeated, the one with the fewest evaluations first; what is farther from
all others than that keeps the one it came with. To take the wrong one costs more than to show
one too many, so the first decision wants more confidence than the second.

The noise is what the evaluations of one architecture with different seeds differ by, pooled
over all that were repeated; while few were, Student's t makes the interval of a difference
wide. The best is repeated whatever stands near it: it tells the noise where nothing else does,
and the answer of a search is not to hang on one seed.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial

from sret_nas.runner.noise import Noise, pooled
from sret_nas.study.config import RunConfig
from sret_nas.study.objectives import quality
from sret_nas.study.records import confirmation_key, confirmations, record

Job = tuple[int, int]
"""Number of the member's trial, and the seed."""
TAKE, STAND = 0.95, 0.5
"""Confidence of a difference from the best, and of one between two others: of the interval
that has to leave out zero."""


def margin(noise: Noise | None, first: int, second: int, confidence: float) -> float:
    """Half the interval of the difference between means of so many evaluations each.

    Args:
        noise: Of a single evaluation; infinite is the margin where it is not known.
        first: Evaluations behind one mean.
        second: Behind the other.
        confidence: Of the interval.
    """
    if noise is None:
        return math.inf
    from scipy.special import stdtrit

    quantile = float(stdtrit(noise.dof, (1 + confidence) / 2))
    return quantile * noise.std * math.sqrt(1 / first + 1 / second)


@dataclass(frozen=True)
class Evaluated:
    """A member of a front and what its evaluations found.

    Attributes:
        costs: Its known objectives, to minimise.
        losses: The uncertain one, to minimise, of every evaluation; its own first.
    """

    costs: Sequence[float]
    losses: Sequence[float]

    @property
    def mean(self) -> float:
        """Over its evaluations."""
        return statistics.fmean(self.losses)


def undecided(members: Sequence[Evaluated], noise: Noise | None) -> list[int]:
    """The members that another evaluation may tell something of, by place, most urgent first.

    Args:
        members: The front.
        noise: Of a single evaluation; ``None`` where nothing was repeated.
    """
    if not members:
        return []
    best = min(range(len(members)), key=lambda i: members[i].mean)
    found = set() if len(members[best].losses) > 1 else {best}
    for i, one in enumerate(members):
        for j, other in enumerate(members[:i]):
            confidence = TAKE if best in (i, j) else STAND
            within = margin(noise, len(one.losses), len(other.losses), confidence)
            matters = best in (i, j) or _one_is_cheaper(one, other)
            if matters and abs(one.mean - other.mean) <= within:
                found |= {i, j}
    return sorted(found, key=lambda i: (len(members[i].losses), members[i].mean, i))


def _one_is_cheaper(one: Evaluated, other: Evaluated) -> bool:
    """Whether one of two costs no more than the other in anything."""
    pairs = list(zip(one.costs, other.costs, strict=True))
    return all(a <= b for a, b in pairs) or all(a >= b for a, b in pairs)


def repeats_left(
    config: RunConfig,
    front: Sequence[FrozenTrial],
    complete: Sequence[FrozenTrial],
    attributes: Mapping[str, Any],
) -> list[Job]:
    """What is still to be evaluated again, the most urgent first; the most, as far as is known.

    Whoever takes the first, and then looks again, repeats no more than the decisions need;
    the later ones are for those who find the first ones taken.

    Args:
        config: The run; no member has more evaluations than its evaluator's ``seeds``.
        front: Trials of the members.
        complete: All trials that went to the end, the front's among them.
        attributes: The study's, which hold the repeats.
    """
    goal = quality(config.goals)
    own = {t.number: [goal.loss(record(t).metrics[goal.name])] for t in complete}
    for number, _, result in confirmations(attributes):
        if number in own and "reason" not in result:
            own[number].append(goal.loss(result[goal.name]))
    members = [
        Evaluated(
            [one.loss(record(t).metrics[one.name]) for one in config.goals if one.known],
            own[t.number],
        )
        for t in front
    ]
    jobs: list[tuple[int, int, Job]] = []
    for place, i in enumerate(undecided(members, pooled(own.values()))):
        number, done = front[i].number, len(members[i].losses)
        for seed in range(config.seed + 1, config.seed + config.declaration.seeds):
            if confirmation_key(number, seed) not in attributes:
                jobs.append((done, place, (number, seed)))
                done += 1
    return [job for *_, job in sorted(jobs)]
