"""The initial design: where to look before there is a surrogate.

Stratified over the first known cost and space-filling in the inputs, by Mitchell's best
candidate (Mitchell 1991, "Spectrally optimal sampling for distribution ray tracing").
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from sret_nas.samplers.candidates import FromDistributions, Params, Rows
from sret_nas.samplers.domain import Domain

BEST_OF = 200
"""Random candidates among which one is chosen."""


def initial_design(
    domain: Domain, tried: Rows, pool: Rows, strata: int, rng: np.random.Generator
) -> Rows:
    """A pool in the order in which it should be tried, (N, P).

    First come ``BEST_OF`` times ``strata`` random ones: those of the stratum of costs with the
    fewest tried candidates before others, and within a stratum those whose inputs are farthest
    from any tried. The rest follow at random.

    Args:
        domain: What the pool is of.
        tried: Candidates that are placed already, (T, P).
        pool: Candidates, (N, P).
        strata: Ranges of the first known cost with equally many of the pool, at least 1.
        rng: Source of randomness that shuffles the pool.
    """
    candidates = domain.candidates
    pool = pool[rng.permutation(len(pool))]
    some, rest = pool[: BEST_OF * strata], pool[BEST_OF * strata :]
    if not len(some):
        return some
    x, far = domain.inputs(some), np.full(len(some), np.inf)
    for other in domain.inputs(tried) if len(tried) else ():
        far = np.minimum(far, ((x - other) ** 2).sum(axis=1))
    costs = candidates.costs(pool)
    crowd = np.zeros(len(some))
    if costs.shape[1]:
        first = np.sort(costs[:, 0])
        bounds = first[(np.arange(1, strata) * len(pool)) // strata]
        old = candidates.costs(tried)[:, 0] if len(tried) else np.empty(0)
        filled = np.bincount(np.searchsorted(bounds, old, side="right"), minlength=strata)
        order = np.array([_van_der_corput(i) for i in range(strata)])  # low, middle, low again, …
        stratum = np.searchsorted(bounds, costs[: len(some), 0], side="right")
        crowd = (filled + order / 2)[stratum]
    return np.concatenate([some[np.lexsort((-far, crowd))], rest])


def first_value(
    name: str,
    distribution: BaseDistribution,
    trial: FrozenTrial,
    feasible: Callable[[Params], bool] | None,
    seed: int,
) -> tuple[Any, bool]:
    """A value for one parameter of a trial whose later ones are not known yet.

    The first trial takes small numbers, which are cheap where costs rise with them; others
    take random ones.

    Args:
        name: Name of the parameter.
        distribution: Its distribution.
        trial: Its number, and the parameters it has so far.
        feasible: Whether parameters may be tried; it tells once it has all that it needs.
        seed: Seed of the sampler; the value hangs on it, the name and the trial's number.

    Returns:
        The value, and whether the trial may still be feasible.
    """
    rng = np.random.default_rng((seed, trial.number, *name.encode()))
    one = FromDistributions({name: distribution})
    rows = one.draw(100, rng)
    rows = rng.permutation(rows) if trial.number else np.roll(rows, -(len(rows) // 10), axis=0)
    for row in rows:
        value = one.params(row)
        try:
            if not feasible or feasible({**trial.params, **value}):
                return value[name], True
        except KeyError:  # it needs parameters that are still to come
            return value[name], True
    return one.params(rows[0])[name], False


def _van_der_corput(i: int) -> float:
    """The i-th point of the sequence in base 2."""
    x, unit = 0.0, 0.5
    while i:
        x += unit * (i & 1)
        i, unit = i >> 1, unit / 2
    return x
