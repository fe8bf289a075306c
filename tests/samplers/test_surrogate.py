"""The surrogate's hyperparameters are the most probable under its priors, of Hvarfner et al."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor

from sret_nas.samplers.surrogate import fit, kernel


def observed(dimensions: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.random((14, dimensions))
    y = np.sin(9 * x[:, 0]) + 0.2 * rng.normal(size=14)
    return x, (y - y.mean()) / y.std(), np.zeros(14)


@pytest.mark.parametrize(("dimensions", "seed"), [(1, 0), (2, 1), (3, 2)])
def test_the_most_probable_is_found(dimensions: int, seed: int) -> None:
    """Likelihood times priors, written out: no step away from it is more probable."""
    x, y, noise = observed(dimensions, seed)
    model = GaussianProcessRegressor(kernel(dimensions), alpha=noise + 1e-8, optimizer=None)
    model.fit(x, y)
    length = math.sqrt(2) + math.log(dimensions) / 2
    mean = np.array([0.0, *[length] * dimensions, math.log(1e-2)])
    std = np.array([0.5, *[math.sqrt(3)] * dimensions, 1.0])

    def probability(theta: np.ndarray) -> float:
        return float(
            model.log_marginal_likelihood(theta) - 0.5 * (((theta - mean) / std) ** 2).sum()
        )

    found = fit(x, y, noise).theta
    for j in range(len(found)):
        for step in (-0.4, 0.4):
            other = found.copy()
            other[j] += step
            assert probability(other) < probability(found)
    assert probability(found) > probability(mean)


def test_length_scales_are_expected_to_grow_with_the_dimensions() -> None:
    rng = np.random.default_rng(0)
    lengths = []
    for dimensions in (2, 32):
        x = rng.random((3, dimensions))
        found = fit(x, np.array([-1.0, 0.0, 1.0]), np.zeros(3))
        lengths.append(np.exp(np.mean(np.log(found.k1.k2.length_scale))))
    assert lengths[1] > 3 * lengths[0]  # by the priors alone, the root of 16
