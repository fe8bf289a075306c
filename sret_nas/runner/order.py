"""How well one thing orders another: Kendall's τ-b with a bootstrap interval."""

from __future__ import annotations

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


def kendall(by: str, values: Sequence[float], final: Sequence[float], seed: int) -> Order:
    """How well some values ordered the final losses.

    Args:
        by: What the values are.
        values: Of each candidate.
        final: Loss of each at the end.
        seed: Of the bootstrap.
    """
    n = len(values)
    x, y = (np.sign(np.subtract.outer(v, v)) for v in (values, final))
    # A bootstrap sample is how often each candidate is in it; the first row is all of them once.
    rng = np.random.default_rng(seed)
    times = np.vstack([np.ones(n), rng.multinomial(n, np.full(n, 1 / n), size=BOOTSTRAPS)])

    def pairs(of: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        total: npt.NDArray[np.float64] = np.sum(times @ of * times, axis=1)
        return total

    ordered = np.sqrt(pairs(np.abs(x)) * pairs(np.abs(y)))
    taus = pairs(x * y)[ordered > 0] / ordered[ordered > 0]
    if not ordered[0]:  # all equal: nothing to order
        return Order(by, 0.0, -1.0, 1.0, n)
    low, high = np.percentile(taus[1:], [2.5, 97.5]) if len(taus) > 1 else (-1.0, 1.0)
    return Order(by, float(taus[0]), float(low), float(high), n)
