"""Which member of a front to take, and which of them cannot be told apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sret_nas.metrics import Metric
from sret_nas.runner.best import LEVEL, Floats, near_best, p_values
from sret_nas.runner.member import Member
from sret_nas.runner.noise import Noise

LIKELY = 0.5
"""Probability of being as good as the best, up to the noise, that a recommendation has at least.

Few seeds show little, so that much is not significantly worse: with three seeds, members that are
worse by twice the noise. By significance alone the recommendation would be worse than the best by
1.0 to 1.7 times the noise, with this bound by .3 to .4 (benchmarks/recommendation.py)."""


@dataclass(frozen=True)
class Recommendation:
    """The member to take.

    Attributes:
        member: The cheapest that is not significantly worse than the best (see ``best``), and is
            as good up to the noise with a probability of ``LIKELY`` or more; else the best.
        best: The one that measured best.
        noise: Of a single evaluation of the best; ``None`` where nothing was repeated, so that
            the recommendation is what measured best, and nothing is known of differences.
        probability: That no member is truly better than it by more than the noise's standard
            deviation; ``None`` with the noise.
        groups: By trial number, the group of members that it is in; 1 holds the best.
            From the top: the best, the cheapest that is not significantly worse than it, and all
            that cost more than that; then the same among the cheaper ones. Of a group, no member
            is shown to be worth more than its cheapest. Without members that fell behind.
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


def recommend(
    members: Sequence[Member],
    goal: Metric,
    noises: Mapping[int, Noise],
    likely: float = LIKELY,
) -> Recommendation:
    """Choose a member.

    One that was not repeated is recommended where none was: its one seed chose it for the front.

    Args:
        members: Of the front, cheapest first; at least one that stands.
        goal: The quality.
        noises: Of a single evaluation of each, by trial number; empty where they are not known.
        likely: Least probability of being as good as the best up to the noise; 0 goes by
            significance alone.
    """
    standing = [member for member in members if not member.dethroned]
    able = [member for member in standing if member.seeds > 1]
    if not noises or not able:
        best = min(standing, key=lambda member: _loss(goal, member))
        return Recommendation(best, best)
    best = min(able, key=lambda member: _loss(goal, member))
    noise = noises[best.trial]
    means = measured(members, goal, noises)
    near = near_best(*means, noise.std)
    fine = (p_values(*means) > LEVEL) & (near >= likely)
    at = {member.trial: i for i, member in enumerate(members)}
    chosen = next(member for member in able if member is best or fine[at[member.trial]])
    probability = float(near[at[chosen.trial]])
    return Recommendation(chosen, best, noise, probability, _groups(members, goal, noises))


def _groups(members: Sequence[Member], goal: Metric, noises: Mapping[int, Noise]) -> dict[int, int]:
    """Groups from the top, as ``Recommendation`` says, by trial number."""
    found: dict[int, int] = {}
    left, number = list(members), 0
    while any(not member.dethroned for member in left):
        number += 1
        worse = p_values(*measured(left, goal, noises)) <= LEVEL
        standing = [i for i, one in enumerate(left) if not one.dethroned]
        # None where the best fell behind one that was cut off: then the dearest is by itself.
        first = next((i for i in standing if not worse[i]), standing[-1])
        found |= {one.trial: number for one in left[first:] if not one.dethroned}
        left = left[:first]
    return found


def measured(
    members: Sequence[Member], goal: Metric, noises: Mapping[int, Noise]
) -> tuple[Floats, Floats, Floats]:
    """Mean losses, their standard deviations, and the degrees of freedom of those.

    Args:
        members: Shape (k,).
        goal: The quality.
        noises: Of a single evaluation of each, by trial number.
    """
    rows = [
        (_loss(goal, one), noise.std / math.sqrt(one.seeds), noise.dof)
        for one in members
        for noise in (noises[one.trial],)
    ]
    means, errors, dof = np.array(rows, dtype=float).T
    return means, errors, dof


def _loss(goal: Metric, member: Member) -> float:
    return goal.loss(member.reached(goal.name) or 0.0)
