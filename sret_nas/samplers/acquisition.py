"""Expected hypervolume improvement where every objective but one is known.

Everything is minimised. Shapes: N candidates, P points of the front, K known costs.

A candidate of cost ``c`` that turns out to have the value ``f`` adds the volume

    I(f) = ∫_{[c, r]} max(0, m(c') - f) dc',

where ``r`` are the reference costs and ``m(c')`` is the smallest value on the front
among points that cost at most ``c'``, the reference value where there is none. Known
costs make ``m`` a step function of fixed steps: with the levels ``v_j`` and the volume
``A_j(c)`` of the part of ``[c, r]`` where ``m = v_j``, and with ``f`` normal,

    EHVI(c) = Σ_j A_j(c) · EI(v_j),  EI(v) = σ (φ(z) + z Φ(z)),  z = (v - μ) / σ,

which is exact. ``EI`` is the expected improvement of one objective (Jones, Schonlau and
Welch 1998); the sum over cells is the exact EHVI of Emmerich, Deutz and Klinkenberg 2011
with all factors but one free of uncertainty. Logarithms are kept throughout, so that
candidates can be told apart where improvement is unlikely (Ament et al. 2023).
"""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
from scipy.special import erfcx, log_ndtr, logsumexp

Floats = npt.NDArray[np.float64]

MOST_CELLS = 10_000_000
"""Levels times vertices of the grid that are held at once."""


def log_expected_improvement(z: npt.ArrayLike) -> Floats:
    """``log(φ(z) + z Φ(z))``, accurate for any z, of the same shape.

    Source: Ament et al. 2023 (arXiv 2310.20708), equation 9.

    Example:
        >>> float(np.exp(log_expected_improvement(0.0)).round(4))
        0.3989
    """
    z = np.asarray(z, dtype=float)
    log_phi = -0.5 * z**2 - 0.5 * np.log(2 * np.pi)
    near = np.maximum(z, -1.0)
    direct = np.log(np.exp(-0.5 * near**2) / np.sqrt(2 * np.pi) + near * np.exp(log_ndtr(near)))
    far = np.minimum(z, -1.0)
    mills = np.sqrt(np.pi / 2) * erfcx(-far / np.sqrt(2)) * -far  # -> 1 from below
    # 1 - mills loses its digits far out, where it is 1 / z² to within 3 / z⁴.
    rest = np.where(far < -1e4, far**-2.0, 1 - mills)
    return np.asarray(np.where(z > -1, direct, log_phi + np.log(rest)))


class KnownCostEHVI:
    """The exact expected hypervolume improvement over one front.

    Args:
        values: Uncertain objective of the front, (P,).
        costs: Known objectives of the front, (P, K); K may be 0.
        reference_value: Values not below it are worth nothing.
        reference_costs: Costs not below them, (K,), are worth nothing.

    Points beyond the reference and dominated ones do no harm. In many known objectives
    a large front is thinned to as many points, evenly over the values, as ``MOST_CELLS``
    allows: 3,000 of one known objective, 210 of two, 55 of three, 24 of four.
    """

    def __init__(
        self,
        values: npt.ArrayLike,
        costs: npt.ArrayLike,
        reference_value: float,
        reference_costs: npt.ArrayLike,
    ) -> None:
        reference = np.asarray(reference_costs, dtype=float)
        v = np.asarray(values, dtype=float)
        c = np.asarray(costs, dtype=float).reshape(len(v), len(reference))
        self.free = not len(reference)  # then all cost 0 of 1, and this is expected improvement
        self.reference = np.ones(1) if self.free else reference
        c = np.zeros((len(v), 1)) if self.free else c
        k = len(self.reference)
        inside = (v < reference_value) & (c < self.reference).all(axis=1)
        v, c = v[inside], c[inside]
        most = int(MOST_CELLS ** (1 / (k + 1))) - 1
        if len(v) > most:
            order = np.argsort(v, kind="stable")
            kept = order[np.linspace(0, len(v) - 1, most).round().astype(int)]
            v, c = v[kept], c[kept]
        self.edges = [np.append(np.unique(c[:, a]), self.reference[a]) for a in range(k)]
        corners = np.full([len(edge) - 1 for edge in self.edges], np.inf)
        at = tuple(np.searchsorted(self.edges[a], c[:, a]) for a in range(k))
        np.minimum.at(corners, at, v)
        for a in range(k):
            corners = np.minimum.accumulate(corners, axis=a)
        # Values at the steps, the reference last; the volume at or below each step beyond
        # every vertex of the grid. Inside a cell that volume is multilinear.
        steps = np.unique(corners[np.isfinite(corners)])
        volume = np.ones(corners.shape)
        for a, edge in enumerate(self.edges):
            shape = [1] * k
            shape[a] = -1
            volume = volume * np.diff(edge).reshape(shape)
        below = volume * (corners <= steps.reshape(-1, *[1] * k))
        for a in range(1, k + 1):
            below = np.flip(np.cumsum(np.flip(below, a), axis=a), a)
        self.beyond = np.pad(below, [(0, 0), *[(0, 1)] * k])
        self.levels = np.append(steps, reference_value)

    def volumes(self, costs: npt.ArrayLike) -> Floats:
        """Volume of ``[c, r]`` at every level of the front, (N, levels).

        Args:
            costs: Known objectives of every candidate, ``c``, (N, K).
        """
        c = np.asarray(costs, dtype=float)
        c = np.zeros((len(c), 1)) if self.free else c
        n, k = c.shape
        whole = np.maximum(self.reference - c, 0).prod(axis=1)
        below = np.zeros((n, len(self.levels) - 1))
        if len(self.levels) > 1:
            corner, part = np.zeros((k, n), dtype=int), np.zeros((k, n))
            for a, edge in enumerate(self.edges):
                x = np.clip(c[:, a], edge[0], edge[-1])
                corner[a] = np.clip(np.searchsorted(edge, x, side="right") - 1, 0, len(edge) - 2)
                part[a] = (x - edge[corner[a]]) / (edge[corner[a] + 1] - edge[corner[a]])
            for step in itertools.product((0, 1), repeat=k):
                weight = np.ones(n)
                for a, one in enumerate(step):
                    weight = weight * (part[a] if one else 1 - part[a])
                at = tuple(corner[a] + one for a, one in enumerate(step))
                below += weight[:, None] * np.moveaxis(self.beyond, 0, -1)[at]
        return np.maximum(np.diff(below, axis=1, prepend=0, append=whole[:, None]), 0)

    def log(self, mean: npt.ArrayLike, std: npt.ArrayLike, costs: npt.ArrayLike) -> Floats:
        """Logarithm of the expected improvement, (N,); ``-inf`` where there is no room for any.

        Args:
            mean: Expected uncertain objective of every candidate, (N,).
            std: Its standard deviation, more than 0, (N,).
            costs: Known objectives of every candidate, (N, K).
        """
        mu, sigma = np.asarray(mean, dtype=float), np.asarray(std, dtype=float)
        with np.errstate(divide="ignore"):
            log_volumes = np.log(self.volumes(costs))
            gains = log_expected_improvement((self.levels - mu[:, None]) / sigma[:, None])
            found = logsumexp(log_volumes + gains, axis=1)
        return np.asarray(found + np.log(sigma))
