"""Which of several architectures may be the best, when each is a mean over few seeds.

The one that measured best was chosen for that, so comparing the others with it as if it had been
named beforehand finds differences that are none. Here every architecture is compared with all
others at once, by Dunnett's one-sided test with that architecture as the control: it may be the
best unless the test finds another that is better. Whatever the true means are, the truly best
stays in with probability 1 - ``LEVEL``: subset selection (S. S. Gupta, Technometrics 7, 1965), in
other words multiple comparisons with the best (J. C. Hsu, Annals of Statistics 12, 1984).

Both assume normal noise and means that nobody selected by. The first seed of a member of a front
did choose it: docs/decisions/0025 has what that costs, measured.

Lower is better here. Shapes: k architectures.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

LEVEL = 0.05
"""Probability up to which the truly best is taken for worse."""
NODES = 32
"""Of the quadrature over the error of one mean."""
SCALES = 32
"""Of that over the error of the noise itself; with both, probabilities are off by up to .001."""

Floats = npt.NDArray[np.float64]


def p_values(means: Floats, errors: Floats, dof: Floats) -> Floats:
    """How probable it is that the best of them looks so much worse than another by chance alone.

    Args:
        means: Of the losses, shape (k,).
        errors: Standard deviations of the means, shape (k,).
        dof: Degrees of freedom of those, shape (k,).

    Returns:
        Shape (k,), adjusted for all comparisons; 1 for the one that measured best. What is at
        most ``LEVEL`` is significantly worse than the best. Equal to the least p-value of
        ``scipy.stats.dunnett`` with that one as control, where the noise is that of these alone
        and the same for all.
    """
    found = np.ones(len(means))
    for i in range(len(means)):
        others = np.arange(len(means)) != i
        worse = means[i] - means[others]
        if not (worse > 0).any():
            continue
        if not errors.any():
            found[i] = 0.0
            continue
        apart = np.sqrt(errors[i] ** 2 + errors[others] ** 2)
        reach = float((worse / apart).max()) * apart
        found[i] = 1 - _none_beyond(reach, float(errors[i]), errors[others], float(dof[i]))
    return found


def near_best(means: Floats, errors: Floats, dof: Floats, margin: float) -> Floats:
    """How probable it is that nothing among them is truly better by more than a margin.

    The posterior distribution of normal means with a flat prior and a variance that is estimated
    (multivariate t: Box and Tiao, Bayesian Inference in Statistical Analysis, 2.11).

    Args:
        means: Of the losses, shape (k,).
        errors: Standard deviations of the means, shape (k,).
        dof: Degrees of freedom of those, shape (k,).
        margin: In the unit of the losses.

    Returns:
        Shape (k,).
    """
    found = np.ones(len(means))
    for i in range(len(means)):
        others = np.arange(len(means)) != i
        reach = means[others] - means[i] + margin
        if not errors.any():
            found[i] = float((reach >= 0).all())
        elif others.any():
            found[i] = _none_beyond(reach, float(errors[i]), errors[others], float(dof[i]))
    return found


def _none_beyond(reach: Floats, own: float, others: Floats, dof: float) -> float:
    """P(e - e_j <= w reach_j for all j) of independent errors of means, and w of the noise.

    w² is χ² over its degrees of freedom. Given e and w, the e_j are independent (C. W. Dunnett,
    JASA 50, 1955, equation 9).

    Args:
        reach: Shape (k - 1,).
        own: Standard deviation of e.
        others: Of the e_j, shape (k - 1,).
        dof: Degrees of freedom of the noise.
    """
    from scipy.special import ndtr

    z, weight, w = _nodes(dof)
    room = w[:, None, None] * reach - (own * z)[:, None]  # (scales, nodes, k - 1)
    inside = ndtr(room / others).prod(axis=-1)
    return float((inside @ weight).mean() / weight.sum())


@functools.cache
def _nodes(dof: float) -> tuple[Floats, Floats, Floats]:
    """Of the quadrature: normal deviates, their weights, and errors of the noise."""
    from scipy.stats import chi2

    z, weight = np.polynomial.hermite_e.hermegauss(NODES)
    levels = (np.arange(SCALES) + 0.5) / SCALES
    return z, weight, np.sqrt(chi2.ppf(levels, dof) / dof)
