"""How well one thing orders another: Kendall's τ-b with a bootstrap interval."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BOOTSTRAPS = 500


@dataclass(frozen=True)
class Order:
    """How well something ordered what the last rung found.

    Attributes:
        by: The first rung's loss, the parameter count or the MACs.
        tau: Kendall's τ-b; 1 is the same order.
        low: Lower end of the 95% bootstrap interval.
        high: Upper end.
        candidates: How many were ordered.
    """

    by: str
    tau: float
    low: float
    high: float
    candidates: int

    @property
    def chance(self) -> float:
        """Share of all orders of so many that agree at least as well: what luck alone would do."""
        ways = [1]  # orders by their number of pairs the wrong way round
        for n in range(2, self.candidates + 1):
            before = np.cumsum([*ways, *[0] * (n - 1)], dtype=object)
            ways = [total - (before[i - n] if i >= n else 0) for i, total in enumerate(before)]
        wrong = round((1 - self.tau) / 2 * (len(ways) - 1))
        return float(sum(ways[: wrong + 1]) / sum(ways))


def kendall(by: str, values: Sequence[float], final: Sequence[float], seed: int) -> Order:
    """How well some values ordered the final losses.

    Args:
        by: What the values are.
        values: Of each candidate.
        final: Loss of each at the end.
        seed: Of the bootstrap.
    """
    from scipy.stats import DegenerateDataWarning, bootstrap, kendalltau

    def tau(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
        return float(kendalltau(x, y).statistic)

    n, whole = len(values), tau(values, final)
    if np.isnan(whole):  # all equal: nothing to order
        return Order(by, 0.0, -1.0, 1.0, n)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateDataWarning)  # samples in which all are equal
        found = bootstrap(
            (values, final),
            tau,
            paired=True,
            vectorized=False,
            n_resamples=BOOTSTRAPS,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).bootstrap_distribution
    found = found[~np.isnan(found)]
    low, high = np.percentile(found, [2.5, 97.5]) if len(found) else (-1.0, 1.0)
    return Order(by, whole, float(low), float(high), n)
