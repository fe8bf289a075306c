"""Which candidates go on after a rung.

Asynchronous successive halving (ASHA, arXiv 1810.05934) asks whether a candidate
is in the better part of all that reached its rung. Departs: it is compared with
those of *similar cost*, because a front needs good candidates at every cost; what
no other dominates at its rung always goes on; and only the worst quarter stops,
because a sampler with a model proposes few that are bad.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import optuna

from sret_nas.metrics import Metric
from sret_nas.pareto import dominates
from sret_nas.study.objectives import quality
from sret_nas.study.records import record
from sret_nas.study.retrying import brief_reading
from sret_nas.study.trials import counted

PEERS = 8
"""Candidates of similar cost that one is compared with."""
FEWEST = 4
"""With fewer peers than this, everything goes on."""
KEPT = 0.75
"""Share of its peers that a candidate must be among: the worst quarter stops."""


@dataclass(frozen=True)
class RungResult:
    """A candidate at a rung.

    Attributes:
        loss: The trained objective there, to minimise.
        costs: The known objectives, to minimise; the first orders by similarity.
    """

    loss: float
    costs: tuple[float, ...]


def should_continue(candidate: RungResult, others: Sequence[RungResult]) -> bool:
    """Whether a candidate is worth more epochs.

    Args:
        candidate: The one that asks.
        others: All others that reached this rung, stopped ones included.
    """
    if not math.isfinite(candidate.loss):
        return False
    mine = (candidate.loss, *candidate.costs)
    if not any(dominates((other.loss, *other.costs), mine) for other in others):
        return True
    peers = others
    if candidate.costs:
        here = math.log(max(candidate.costs[0], 1e-12))
        peers = sorted(others, key=lambda o: abs(math.log(max(o.costs[0], 1e-12)) - here))[:PEERS]
    if len(peers) < FEWEST:
        return True
    better = sum(other.loss < candidate.loss for other in peers)
    return better < KEPT * len(peers)


class Pruner:
    """Compares a candidate with the others of its study, at each rung.

    Args:
        study: The study.
        goals: Its objectives.
    """

    def __init__(self, study: optuna.Study, goals: Sequence[Metric]) -> None:
        self.study, self.goals = study, goals

    def keeps(self, number: int, here: Mapping[str, float], step: int) -> bool:
        """Whether a trial is worth more steps.

        Args:
            number: Of the trial.
            here: Its costs, and what it has reached at this step.
            step: The rung.
        """
        others = []
        with brief_reading(self.study):
            found = self.study.get_trials(deepcopy=False)
        for other in counted(found):
            curve = record(other).curve
            if other.number != number and len(curve) >= step:
                others.append(self._result(record(other).metrics | curve[step - 1]))
        return should_continue(self._result(here), others)

    def _result(self, metrics: Mapping[str, float]) -> RungResult:
        costs = tuple(goal.loss(metrics[goal.name]) for goal in self.goals if goal.known)
        goal = quality(self.goals)
        return RungResult(goal.loss(metrics[goal.name]), costs)
