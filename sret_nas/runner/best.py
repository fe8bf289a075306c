"""Which of several architectures may be the best, when each is a mean over few seeds.

The one that measured best was chosen for that, so comparing the others with it as if it had been
named beforehand finds differences that are none. Here every architecture is compared with all
others at once, by Dunnett's one-sided test with that architecture as the control: it may be the
best unless the test finds another that is better. Whatever the true means are, the truly best
stays in with probability 1 - ``LEVEL``: subset selection (S. S. Gupta, Technometrics 7, 1965), in
other words multiple comparisons with the best (J. C. Hsu, Annals of Statistics 12, 1984).

Both assume normal noise of one spread and means that nobody selected by. The first seed of a
member of a front did choose it: docs/decisions/0025 has what that costs, measured.

Lower is better here. Shapes: k architectures.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from sret_nas.runner.noise import Noise

LEVEL = 0.05
"""Probability up to which the truly best is taken for worse."""
NODES = 32
"""Of the quadrature over the error of one mean."""
SCALES = 32
"""Of that over the error of the noise itself; with both, probabilities are off by up to .001."""

Floats = npt.NDArray[np.float64]


def p_values(means: Floats, seeds: npt.NDArray[np.int_], noise: Noise) -> Floats:
    """How probable it is that the best of them looks so much worse than another by chance alone.

    Args:
        means: Of the losses, shape (k,).
        seeds: Evaluations behind each mean, shape (k,).
        noise: Of a single evaluation.

    Returns:
        Shape (k,), adjusted for all comparisons; 1 for the one that measured best. What is at
        most ``LEVEL`` is significantly worse than the best. Equal to the least p-value of
        ``scipy.stats.dunnett`` with that one as control, where the noise is of these alone.
    """
    found = np.ones(len(means))
    for i in range(len(means)):
        others = np.arange(len(means)) != i
        worse = means[i] - means[others]
        if not (worse > 0).any():
            continue
        apart = np.sqrt(1 / seeds[i] + 1 / seeds[others])
        if noise.std == 0:
            found[i] = 0.0
            continue
        most = float((worse / (noise.std * apart)).max())
        found[i] = 1 - _none_beyond(most * apart, int(seeds[i]), seeds[others], noise.dof)
    return found


def near_best(
    means: Floats, seeds: npt.NDArray[np.int_], noise: Noise, margin: float | None = None
) -> Floats:
    """How probable it is that nothing among them is truly better by more than a margin.

    The posterior distribution of normal means with a flat prior and a common variance that is
    estimated (multivariate t: Box and Tiao, Bayesian Inference in Statistical Analysis, 2.11).

    Args:
        means: Of the losses, shape (k,).
        seeds: Evaluations behind each mean, shape (k,).
        noise: Of a single evaluation.
        margin: Default the noise's standard deviation, which is what another seed changes.

    Returns:
        Shape (k,).
    """
    margin = noise.std if margin is None else margin
    found = np.ones(len(means))
    for i in range(len(means)):
        others = np.arange(len(means)) != i
        lead = means[others] - means[i] + margin
        if noise.std == 0:
            found[i] = float((lead >= 0).all())
        elif others.any():
            reach = lead / noise.std
            found[i] = _none_beyond(reach, int(seeds[i]), seeds[others], noise.dof)
    return found


def _none_beyond(reach: Floats, own: int, others: npt.NDArray[np.int_], dof: int) -> float:
    """P(e - e_j <= w reach_j for all j) of independent errors of means, and w of the noise.

    e has the variance 1/own, e_j 1/others_j, w² is χ² over its degrees of freedom. Given e and w
    the e_j are independent (C. W. Dunnett, JASA 50, 1955, equation 9).

    Args:
        reach: In standard deviations of a single evaluation as estimated, shape (k - 1,).
        own: Evaluations behind the one that is compared.
        others: Behind those that it is compared with, shape (k - 1,).
        dof: Degrees of freedom of the noise.
    """
    from scipy.special import ndtr

    z, weight, w = _nodes(dof)
    room = w[:, None, None] * reach - (z / np.sqrt(own))[:, None]  # (scales, nodes, k - 1)
    inside = ndtr(np.sqrt(others) * room).prod(axis=-1)
    return float((inside @ weight).mean() / weight.sum())


@functools.cache
def _nodes(dof: int) -> tuple[Floats, Floats, Floats]:
    """Of the quadrature: normal deviates, their weights, and errors of the noise."""
    from scipy.stats import chi2

    z, weight = np.polynomial.hermite_e.hermegauss(NODES)
    levels = (np.arange(SCALES) + 0.5) / SCALES
    return z, weight, np.sqrt(chi2.ppf(levels, dof) / dof)
