"""Which member of a front to take, and which of them cannot be told apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sret_nas.metrics import Metric
from sret_nas.runner.best import LEVEL, near_best, p_values
from sret_nas.runner.member import Member
from sret_nas.runner.noise import Noise

LIKELY = 0.5
"""Probability of being as good as the best, up to the noise, that a recommendation has at least.

Few seeds show little, so that much is not significantly worse: with three seeds, members that are
worse by twice the noise. By significance alone the recommendation would be worse than the best by
1.0 to 1.7 times the noise, with this bound by .3 to .5 (docs/decisions/0025)."""


@dataclass(frozen=True)
class Recommendation:
    """The member to take.

    Attributes:
        member: The cheapest that is not significantly worse than the best (see ``best``), and is
            as good up to the noise with a probability of ``LIKELY`` or more; else the best.
        best: The one that measured best.
        noise: Of a single evaluation; ``None`` where nothing was repeated, so that the
            recommendation is what measured best, and nothing is known of differences.
        probability: That no member is truly better than it by more than the noise's standard
            deviation; ``None`` with the noise.
        groups: By trial number, the group of members that it is in; 1 holds the best.
            From the top: the best, the cheapest that is not significantly worse than it, and all
            that cost more than that; then the same among the cheaper ones. Of a group, no member
            is shown to be worth more than its cheapest. Without members that were not repeated
            or fell behind.
    """

    member: Member
    best: Member
    noise: Noise | None = None
    probability: float | None = None
    groups: dict[int, int] = field(default_factory=dict)

    @property
    def cheaper(self) -> bool:
        """Whether it is not what measured best."""
        return self.member.trial != self.best.trial

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        known = self.noise
        return {
            "trial": self.member.trial,
            "best": self.best.trial,
            "probability": self.probability,
            "margin": known and known.std,
            "level": known and LEVEL,
        }


def recommend(members: Sequence[Member], goal: Metric, noise: Noise | None) -> Recommendation:
    """Choose a member.

    Args:
        members: Of the front, cheapest first; at least one that stands.
        goal: The quality.
        noise: Of a single evaluation, where it is known.
    """
    standing = [member for member in members if not member.dethroned]
    repeated = [member for member in members if member.seeds > 1]
    able = [member for member in repeated if not member.dethroned]
    if noise is None or not able:
        best = min(standing, key=lambda member: _loss(goal, member))
        return Recommendation(best, best)
    best = min(able, key=lambda member: _loss(goal, member))
    means, seeds = _measured(goal, repeated)
    worse = p_values(means, seeds, noise) <= LEVEL
    near = near_best(means, seeds, noise)
    at = {member.trial: i for i, member in enumerate(repeated)}
    chosen = next(
        member
        for member in able
        if member is best or (not worse[at[member.trial]] and near[at[member.trial]] >= LIKELY)
    )
    probability = float(near[at[chosen.trial]])
    return Recommendation(chosen, best, noise, probability, _groups(repeated, goal, noise))


def _groups(members: Sequence[Member], goal: Metric, noise: Noise) -> dict[int, int]:
    """Groups from the top, as ``Recommendation`` says, by trial number."""
    found: dict[int, int] = {}
    left, number = list(members), 0
    while any(not member.dethroned for member in left):
        number += 1
        worse = p_values(*_measured(goal, left), noise) <= LEVEL
        first = next(
            (i for i, one in enumerate(left) if not (worse[i] or one.dethroned)),
            0,  # the best fell behind by another cost
        )
        found |= {one.trial: number for one in left[first:] if not one.dethroned}
        left = left[:first]
    return found


def _measured(goal: Metric, members: Sequence[Member]) -> tuple[Any, Any]:
    """Mean losses and how many seeds are behind each."""
    losses = np.array([_loss(goal, member) for member in members])
    return losses, np.array([member.seeds for member in members])


def _loss(goal: Metric, member: Member) -> float:
    return goal.loss(member.reached(goal.name) or 0.0)
