"""The surrogate: a Gaussian process over few, noisy observations in many dimensions.

scikit-learn's regressor with Matérn 5/2 and automatic relevance. Its likelihood alone
overfits tens of length scales to tens of points, so the hyperparameters maximise the
posterior, with the priors that made plain Bayesian optimisation work in high dimensions
(Hvarfner, Hellsten and Nardi 2024, arXiv 2402.02229): length scales are expected to grow
with the root of the number of dimensions.

Running candidates are taken to reach what the model expects of them (the Kriging believer
of Ginsbourger, Le Riche and Carraro 2010).

Shapes: N observations, D inputs, M predictions.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Kernel, Matern, WhiteKernel

from sret_nas import pareto
from sret_nas.samplers.candidates import Floats
from sret_nas.samplers.domain import Domain
from sret_nas.samplers.observations import Observations

FIT = 128
"""Observations that hyperparameters are fitted to; more are thinned evenly."""
REFIT = 1.1
"""Hyperparameters are fitted again when there are so many times as many observations."""
MOST = 1_000
"""Observations that a model is conditioned on, beside the front; more are thinned evenly."""
STEPS = 30
"""Most evaluations of the likelihood in one fit of the hyperparameters."""
NOISE = (math.log(1e-2), 1.0)
SIGNAL = (0.0, 0.5)
LENGTH = (math.sqrt(2), math.sqrt(3))
"""Priors as mean and standard deviation of logarithms: shares of the variance of the
observations, and length scales, to whose mean half the log of D is added."""


def kernel(dimensions: int) -> Kernel:
    """The kernel over so many inputs, its hyperparameters at the mode of their priors."""
    length = np.full(dimensions, math.exp(LENGTH[0] + math.log(dimensions) / 2))
    return ConstantKernel(1.0, (1e-2, 1e2)) * Matern(length, (1e-2, 1e4), nu=2.5) + WhiteKernel(
        math.exp(NOISE[0]), (1e-6, 1.0)
    )


def fit(x: Floats, y: Floats, noise: Floats) -> Kernel:
    """The kernel whose hyperparameters are the most probable after some observations.

    Args:
        x: Inputs within the unit cube, (N, D).
        y: Observations of mean 0 and variance 1, (N,).
        noise: Variance of each observation beyond what all have, (N,).
    """
    dimensions = x.shape[1]
    mean = np.r_[SIGNAL[0], np.full(dimensions, LENGTH[0] + math.log(dimensions) / 2), NOISE[0]]
    std = np.r_[SIGNAL[1], np.full(dimensions, LENGTH[1]), NOISE[1]]

    def most_probable(
        negative_likelihood: Callable[[Floats], tuple[float, Floats]],
        start: Floats,
        bounds: Floats,
    ) -> tuple[Floats, float]:
        def negative_posterior(theta: Floats) -> tuple[float, Floats]:
            value, gradient = negative_likelihood(theta)
            off = (theta - mean) / std
            return value + 0.5 * float(off @ off), gradient + off / std

        found = minimize(
            negative_posterior,
            start,
            jac=True,
            bounds=bounds,
            method="L-BFGS-B",
            options={"maxfun": STEPS},
        )
        return found.x, found.fun

    model = GaussianProcessRegressor(
        kernel(dimensions), alpha=noise + 1e-8, optimizer=most_probable
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a bound reached is an answer
        return model.fit(x, y).kernel_


class Posterior:
    """What observations say under a kernel, in the units of the observations.

    Args:
        found: The kernel, from ``fit``.
        x: Inputs within the unit cube, (N, D).
        y: Observations in any units, (N,).
        noise: Variance of each beyond what all have, as a share of that of ``y``, (N,).
        scale: Mean and standard deviation that were taken out of ``y`` before ``fit``.
    """

    def __init__(
        self, found: Kernel, x: Floats, y: Floats, noise: Floats, scale: tuple[float, float]
    ) -> None:
        self.mean, self.std = scale
        self.noise = float(found.k2.noise_level)
        self.model = GaussianProcessRegressor(found, alpha=noise + 1e-8, optimizer=None)
        self.model.fit(x, (y - self.mean) / self.std)

    def __call__(self, x: Floats) -> tuple[Floats, Floats]:
        """Predict the value, without noise, at inputs (M, D).

        Returns:
            Mean and standard deviation, (M,) each.
        """
        mean, std = self.model.predict(x, return_std=True)
        latent = np.sqrt(np.maximum(std**2 - self.noise, 1e-12))
        return mean * self.std + self.mean, latent * self.std


class Surrogate:
    """The model of the uncertain objective in one study, conditioned anew for every proposal.

    The hyperparameters last: they are a function of the first observations alone, so that
    they are the same in every worker, and are fitted again only when ``REFIT`` asks for it.
    """

    def __init__(self) -> None:
        self._fitted: tuple[bytes, Kernel] | None = None

    def posterior(self, domain: Domain, seen: Observations) -> Posterior:
        """What the observations say, running candidates taken to reach what is expected."""
        rows, values, noise = seen.rows, seen.values, seen.noise
        if len(rows) > MOST:
            points = np.column_stack([values, domain.candidates.costs(rows)])
            evenly = np.linspace(0, len(rows) - 1, MOST).astype(int)
            some = np.union1d(np.flatnonzero(pareto.front(points)), evenly)
            rows, values, noise = rows[some], values[some], noise[some]
        x = domain.inputs(rows)
        scale = float(values.mean()), float(values.std()) or 1.0
        found = self._kernel(domain, seen)
        model = Posterior(found, x, values, noise, scale)
        if not len(seen.running):
            return model
        running = domain.inputs(seen.running)
        expected, _ = model(running)
        return Posterior(
            found,
            np.concatenate([x, running]),
            np.concatenate([values, expected]),
            np.concatenate([noise, np.zeros(len(running))]),
            scale,
        )

    def _kernel(self, domain: Domain, seen: Observations) -> Kernel:
        """Hyperparameters from the first so many observations, fitted again now and then."""
        n = len(seen.values)
        used = 2
        while (following := max(used + 1, int(used * REFIT))) <= n:
            used = following
        some = np.arange(used)
        if used > FIT:
            some = np.linspace(0, used - 1, FIT).round().astype(int)
        rows, y, noise = seen.rows[some], seen.values[some], seen.noise[some]
        key = rows.tobytes() + y.tobytes() + noise.tobytes()
        if self._fitted is None or self._fitted[0] != key:
            scaled = (y - y.mean()) / (y.std() or 1.0)
            self._fitted = key, fit(domain.inputs(rows), scaled, noise)
        return self._fitted[1]
