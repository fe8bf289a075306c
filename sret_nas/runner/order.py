"""How well one thing orders another: Kendall's τ-b with a bootstrap interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BOOTSTRAPS = 500

Floats = npt.NDArray[np.float64]
Counted = npt.NDArray[np.bool_]


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


def draws(n: int, count: int, seed: int) -> Floats:
    """How often each of n is in a bootstrap draw, shape (1 + count, n); first, each once."""
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=count)
    return np.vstack([np.ones(n), drawn])


def taus(x: Floats, y: Floats, counted: Counted, drawn: Floats) -> Floats:
    """τ-b between two quantities over some of their pairs, in every draw.

    Args:
        x: Shape (n,).
        y: Shape (n,).
        counted: Which pairs count, symmetric, shape (n, n).
        drawn: As of ``draws``, shape (draws, n).

    Returns:
        Shape (draws,); NaN where a draw has no pair that counts and is no tie.
    """
    signs_x, signs_y = (np.sign(one[:, None] - one) * counted for one in (x, y))

    def sums(pairs: Floats) -> Floats:  # over all pairs, one a draw: wᵀ P w
        found: Floats = ((drawn @ pairs) * drawn).sum(axis=1)
        return found

    alike, untied_x, untied_y = (
        sums(pairs) for pairs in (signs_x * signs_y, signs_x**2, signs_y**2)
    )
    with np.errstate(invalid="ignore"):
        found: Floats = alike / np.sqrt(untied_x * untied_y)
    return found


def kendall(
    by: str,
    values: Sequence[float],
    final: Sequence[float],
    seed: int,
    counted: Counted | None = None,
) -> Order:
    """How well some values ordered the final losses.

    Args:
        by: What the values are.
        values: Of each candidate.
        final: Loss of each at the end.
        seed: Of the bootstrap, which draws candidates.
        counted: Which pairs of them count, symmetric, shape (n, n); default all.
    """
    n = len(values)
    counted = np.ones((n, n), dtype=bool) if counted is None else counted
    x, y = np.asarray(values, dtype=float), np.asarray(final, dtype=float)
    ordered = int(counted.any(axis=1).sum())
    found = taus(x, y, counted, draws(n, BOOTSTRAPS, seed))
    whole, found = float(found[0]), found[1:][~np.isnan(found[1:])]
    if np.isnan(whole):  # all equal: nothing to order
        return Order(by, 0.0, -1.0, 1.0, ordered)
    low, high = np.percentile(found, [2.5, 97.5]) if len(found) else (-1.0, 1.0)
    return Order(by, whole, float(low), float(high), ordered)
