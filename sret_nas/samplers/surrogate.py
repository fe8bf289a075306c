"""A Gaussian process over few, noisy observations in many dimensions.

scikit-learn's regressor with Matérn 5/2 and automatic relevance. Its likelihood alone
overfits tens of length scales to tens of points, so the hyperparameters maximise the
posterior, with the priors that made plain Bayesian optimisation work in high dimensions
(Hvarfner, Hellsten and Nardi 2024, arXiv 2402.02229): length scales are expected to grow
with the root of the number of dimensions.

Shapes: N observations, D inputs, M predictions.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Kernel, Matern, WhiteKernel

Floats = npt.NDArray[np.float64]

STEPS = 30
"""Most evaluations of the likelihood in one fit of the hyperparameters."""
NOISE = (math.log(1e-2), 1.0)
SIGNAL = (0.0, 0.5)
LENGTH = (math.sqrt(2), math.sqrt(3))
"""Priors as mean and standard deviation of logarithms: shares of the variance of the
observations, and length scales, to whose mean half the log of D is added."""


def kernel(dimensions: int) -> Kernel:
    """The kernel at the mode of its priors."""
    length = np.full(dimensions, math.exp(LENGTH[0] + math.log(dimensions) / 2))
    return ConstantKernel(1.0, (1e-2, 1e2)) * Matern(length, (1e-2, 1e4), nu=2.5) + WhiteKernel(
        math.exp(NOISE[0]), (1e-6, 1.0)
    )


def fit(x: Floats, y: Floats, noise: Floats) -> Kernel:
    """The most probable kernel.

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
        found: From ``fit``.
        x: (N, D).
        y: In any units, (N,).
        noise: As in ``fit``, as a share of the variance of ``y``, (N,).
        scale: Mean and standard deviation of ``y`` that ``fit`` was given it without.
    """

    def __init__(
        self, found: Kernel, x: Floats, y: Floats, noise: Floats, scale: tuple[float, float]
    ) -> None:
        self.mean, self.std = scale
        self.noise = float(found.k2.noise_level)
        self.model = GaussianProcessRegressor(found, alpha=noise + 1e-8, optimizer=None)
        self.model.fit(x, (y - self.mean) / self.std)

    def __call__(self, x: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation without noise, (M,) each."""
        mean, std = self.model.predict(x, return_std=True)
        latent = np.sqrt(np.maximum(std**2 - self.noise, 1e-12))
        return mean * self.std + self.mean, latent * self.std
