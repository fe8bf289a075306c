"""The acquisition function maximised over candidates, by local search where they are many."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sret_nas import pareto
from sret_nas.samplers.acquisition import KnownCostEHVI
from sret_nas.samplers.candidates import Floats, Rows
from sret_nas.samplers.domain import Domain
from sret_nas.samplers.observations import Observations

if TYPE_CHECKING:
    from sret_nas.samplers.surrogate import Posterior

ROUNDS = 3
"""Rounds in which the neighbours of the best candidates join the pool."""
STARTS = 5
"""The best candidates whose neighbours join, in one round."""
MARGIN = 0.05
"""Of the range, beyond the worst: the reference point."""


def by_improvement(
    domain: Domain,
    posterior: Posterior,
    seen: Observations,
    pool: Rows,
    taken: set[bytes],
    rng: np.random.Generator,
) -> Rows:
    """Candidates by expected hypervolume improvement, the best first, (N, P).

    Args:
        domain: What the candidates are of.
        posterior: What the surrogate says of the uncertain objective, from inputs.
        seen: What was tried: its expected values and its costs are the front.
        pool: Candidates to begin with, (N, P); of a small domain, all there are.
        taken: Keys of candidates that are not proposed again; the search starts from others.
        rng: Source of randomness of the neighbours.
    """
    candidates = domain.candidates
    tried = np.concatenate([seen.rows, seen.running])
    expected, _ = posterior(domain.inputs(tried))
    costs = candidates.costs(tried)
    reach = np.concatenate([costs, candidates.costs(pool)])
    low, high = reach.min(axis=0), reach.max(axis=0)

    def scaled(costs: Floats) -> Floats:
        return np.asarray((costs - low) / np.maximum(high - low, 1e-12))

    worst, best = expected.max(), expected.min()
    acquisition = KnownCostEHVI(
        expected,
        scaled(costs),
        worst + MARGIN * (worst - best),
        np.full(costs.shape[1], 1 + MARGIN),
    )

    def gain(rows: Rows) -> Floats:
        mean, std = posterior(domain.inputs(rows))
        return acquisition.log(mean, std, scaled(candidates.costs(rows)))

    if candidates.everything() is not None:
        return pool[np.argsort(-gain(pool), kind="stable")]
    front = tried[pareto.front(np.column_stack([expected, costs]))]
    pool = np.concatenate([pool, candidates.around(front, rng)])
    gains = gain(pool)
    for _ in range(ROUNDS):
        order = np.argsort(-gains, kind="stable")
        keys = candidates.keys(pool[order[: 10 * STARTS]])
        fresh = [i for i, key in zip(order, keys, strict=False) if key not in taken]
        nearby = candidates.around(pool[fresh[:STARTS]], rng)
        known = set(candidates.keys(pool))
        new = [i for i, key in enumerate(candidates.keys(nearby)) if key not in known]
        if not new:
            break
        pool = np.concatenate([pool, nearby[new]])
        gains = np.concatenate([gains, gain(nearby[new])])
    return pool[np.argsort(-gains, kind="stable")]
