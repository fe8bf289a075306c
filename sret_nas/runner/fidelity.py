"""How far a run can rank designs of one size: within narrow bands of cost, beside the noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sret_nas.runner.noise import Noise
from sret_nas.runner.order import Counted, Order, kendall

BANDS = ((1.07, 1.1), (1.15, 1.22))
"""Largest factors between the MACs and between the parameters of two designs of one size: the
narrowest that holds enough pairs is taken. The second is a band of ±7% and ±10% around a centre."""
FEWEST_PAIRS = 20
"""Pairs of one size below which no order is judged: with fewer, τ's interval is wider than ±.4."""
LEVEL = 0.05
"""Probability up to which the spread between designs is taken to be above the noise."""


@dataclass(frozen=True)
class OneSize:
    """What a run shows of designs of one size.

    Attributes:
        macs: Largest factor between the MACs of two of them.
        params: The same of the parameters.
        pairs: How many pairs of candidates there are of one size.
        orders: How the first rung and the bare counts order those pairs; empty with too few.
        spread: Standard deviation of what one evaluation finds between designs of one size, the
            noise included; ``None`` without pairs.
        noise: The same between seeds of one design; ``None`` where it is not known.
        chance: How probable such a spread is where designs of one size do not differ at all
            (F test; pairs overlap, so about); ``None`` where either is not known.
    """

    macs: float
    params: float
    pairs: int
    orders: tuple[Order, ...]
    spread: float | None
    noise: float | None
    chance: float | None

    @property
    def doubts(self) -> list[str]:
        """Why the run cannot rank designs of one size, in words; empty where it can."""
        if self.pairs < FEWEST_PAIRS:
            return [f"only {self.pairs} pairs are, and an order needs {FEWEST_PAIRS}"]
        found = []
        if self.chance is not None and self.chance > LEVEL:
            found.append("they differ no more than seeds of one design do")
        first = self.orders[0]
        if first.low <= 0:
            found.append("the first rung does not order them better than chance does")
        return found


def one_size(
    macs: Sequence[int],
    params: Sequence[int],
    by: Mapping[str, Sequence[float]],
    final: Sequence[float],
    noise: Noise | None,
    seed: int,
) -> OneSize:
    """Judge the order within narrow bands of cost.

    Args:
        macs: Of each candidate that went to the end.
        params: Likewise.
        by: What is to order them, by name; the first rung's loss first.
        final: Loss of each at the end.
        noise: Of a single evaluation, where it is known.
        seed: Of the bootstrap.
    """
    for factors in BANDS:
        counted = _near(macs, factors[0]) & _near(params, factors[1])
        pairs = int(counted.sum()) // 2
        if pairs >= FEWEST_PAIRS:
            break
    enough = pairs >= FEWEST_PAIRS
    orders = [kendall(name, values, final, seed, counted) for name, values in by.items()]
    spread, chance = _spread(np.asarray(final, dtype=float), counted, noise)
    known = None if noise is None else noise.std
    return OneSize(*factors, pairs, tuple(orders if enough else ()), spread, known, chance)


def _near(costs: Sequence[int], factor: float) -> Counted:
    """Pairs of different candidates whose costs differ by at most a factor."""
    logs = np.log(np.asarray(costs, dtype=float))
    near: Counted = np.abs(logs[:, None] - logs) <= math.log(factor) + 1e-9
    return near & ~np.eye(len(logs), dtype=bool)


def _spread(
    final: npt.NDArray[np.float64], counted: Counted, noise: Noise | None
) -> tuple[float | None, float | None]:
    """Standard deviation within the bands, and how probable it is by the noise alone."""
    from scipy.sparse.csgraph import connected_components
    from scipy.stats import f

    pairs = int(counted.sum()) // 2
    if not pairs:
        return None, None
    # Half the mean square of a difference is the variance, of whatever stands behind it.
    variance = float((((final[:, None] - final) ** 2) * counted).sum() / 2 / counted.sum())
    spread = math.sqrt(variance)
    if noise is None:
        return spread, None
    bands, _ = connected_components(counted)
    if noise.std == 0:
        return spread, float(spread == 0)
    return spread, float(f.sf(variance / noise.std**2, len(final) - bands, noise.dof))
