"""Kendall's τ-b between quantities of the same architectures, with bootstrap intervals.

All quantities see the same draws, so that differences between them are paired.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sret_nas.runner.order import Counted, Floats, draws, taus

SIMILAR = 1.5
"""Largest factor between the MACs of two architectures of similar cost."""
BOOTSTRAPS = 2_000


@dataclass(frozen=True)
class Estimate:
    """A number, and the same number of every bootstrap draw.

    Attributes:
        value: Of all architectures.
        drawn: Of the draws, shape (draws,).
    """

    value: float
    drawn: Floats

    def __sub__(self, other: Estimate) -> Estimate:
        """The difference, draw by draw."""
        return Estimate(self.value - other.value, self.drawn - other.drawn)

    def to_dict(self) -> dict[str, float]:
        """The value and the central 95% of the draws; all NaN where nothing is ordered."""
        if math.isnan(self.value):
            return dict.fromkeys(("tau", "low", "high"), math.nan)
        low, high = np.nanpercentile(self.drawn, [2.5, 97.5])
        return {"tau": self.value, "low": float(low), "high": float(high)}


def mean(estimates: Sequence[Estimate]) -> Estimate:
    """Draw by draw."""
    return Estimate(
        float(np.mean([estimate.value for estimate in estimates])),
        np.mean([estimate.drawn for estimate in estimates], axis=0),
    )


def by_cost(macs: Sequence[int]) -> dict[str, Counted]:
    """Which pairs count over ``all`` of some architectures, and of ``similar_cost``, (n, n)."""
    logs = np.log(macs)
    others = ~np.eye(len(macs), dtype=bool)
    near = np.abs(logs[:, None] - logs) <= math.log(SIMILAR) + 1e-9
    return {"all": others, "similar_cost": others & near}


def by_band(bands: Sequence[str]) -> dict[str, Counted]:
    """Which pairs count within each of some bands, and within any, (n, n)."""
    names = np.array(bands)
    alike = (names[:, None] == names) & ~np.eye(len(names), dtype=bool)
    found = {str(band): alike & (names == band) for band in dict.fromkeys(bands)}
    return found | {"within": alike}


class Pairs:
    """Pairs of some architectures.

    Args:
        counted: By name, which pairs count, shape (n, n), symmetric.
    """

    def __init__(self, counted: dict[str, Counted]) -> None:
        self.counted = counted
        self._drawn = draws(len(next(iter(counted.values()))), BOOTSTRAPS, seed=0)

    def tau(self, x: npt.ArrayLike, y: npt.ArrayLike) -> dict[str, Estimate]:
        """τ-b between two quantities, both better when small, by the pairs that count.

        Architectures of which one quantity is unknown (NaN) are left out.
        """
        a, b = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
        unknown = np.isnan(a) | np.isnan(b)
        a, b = np.where(unknown, 0, a), np.where(unknown, 0, b)
        known = ~(unknown[:, None] | unknown)
        found = {
            name: taus(a, b, counted & known, self._drawn) for name, counted in self.counted.items()
        }
        return {name: Estimate(float(one[0]), one[1:]) for name, one in found.items()}
