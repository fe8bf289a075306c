"""How much a quality changes with the seed alone, over all that was evaluated more than once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

LEAST = 1e-6
"""Least variance of an architecture over the pooled one: that two seeds agree by luck is no 0."""


@dataclass(frozen=True)
class Noise:
    """The spread between seeds of one architecture.

    Attributes:
        std: Standard deviation of a single evaluation, in the unit of the quality.
        dof: Degrees of freedom of its estimate.
    """

    std: float
    dof: float


def pooled(values: Iterable[Sequence[float]]) -> Noise | None:
    """One for all, as in an analysis of variance.

    Args:
        values: Of each architecture, what each of its seeds found.

    Returns:
        ``None`` where nothing has a second seed: then the noise is not known.

    Example:
        >>> pooled([[1.0, 3.0], [5.0]])
        Noise(std=1.4142135623730951, dof=1)
    """
    groups = [np.asarray(one, dtype=float) for one in values]
    dof = sum(len(one) - 1 for one in groups if len(one))
    if not dof:
        return None
    squares = sum(float(((one - one.mean()) ** 2).sum()) for one in groups if len(one))
    return Noise(math.sqrt(squares / dof), dof)


def moderated(values: Sequence[Sequence[float]]) -> list[Noise]:
    """One for each, between its own few seeds and what all have in common.

    Small or hardly trained networks change more with the seed than good ones. Each variance is
    drawn to the common one by as much as they are alike (G. K. Smyth, Stat. Appl. Genet. Mol.
    Biol. 3, 2004, equations 3 to 5); where they differ no more than chance makes them, all have the
    pooled one.

    Args:
        values: Of each architecture, what each of its seeds found.

    Returns:
        In the order of the values, where one seed has what is common; empty where the noise is
        not known.
    """
    common = pooled(values)
    if common is None:
        return []
    several = [np.asarray(one, dtype=float) for one in values if len(one) > 1]
    prior, strength = _prior(
        np.array([one.var(ddof=1) for one in several]),
        np.array([len(one) - 1.0 for one in several]),
        common,
    )
    if math.isinf(strength):
        return [common] * len(values)
    found = []
    for one in values:
        own = len(one) - 1
        squares = float(np.var(one)) * len(one) if own else 0.0
        variance = (strength * prior + squares) / (strength + own)
        found.append(Noise(math.sqrt(variance), min(strength + own, common.dof)))
    return found


def _prior(
    variances: np.ndarray[tuple[int], np.dtype[np.float64]],
    dofs: np.ndarray[tuple[int], np.dtype[np.float64]],
    common: Noise,
) -> tuple[float, float]:
    """The common variance, and how many degrees of freedom it is worth; infinitely many: all."""
    from scipy.optimize import brentq
    from scipy.special import digamma, polygamma

    if len(variances) < 3 or common.std == 0:
        return common.std**2, math.inf
    logs = np.log(np.maximum(variances, LEAST * common.std**2))
    logs += np.log(dofs / 2) - digamma(dofs / 2)
    more = float(logs.var(ddof=1) - polygamma(1, dofs / 2).mean())
    if more <= float(polygamma(1, common.dof)):  # no less alike than they could be told apart
        return common.std**2, math.inf
    half = math.exp(brentq(lambda log: float(polygamma(1, math.exp(log))) - more, -20, 20))
    return math.exp(float(logs.mean()) + float(digamma(half)) - math.log(half)), 2 * half
