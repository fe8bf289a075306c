"""The exact expected improvement, against Monte Carlo and against simpler cases."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from sret_nas.pareto import hypervolume
from sret_nas.samplers.acquisition import KnownCostEHVI, log_expected_improvement

SAMPLES = 1_000


def drawn(values: np.ndarray, costs: np.ndarray, reference: np.ndarray, new: np.ndarray) -> float:
    """What one more point adds."""
    points = np.column_stack([values, costs])
    return hypervolume(np.vstack([points, new]), reference) - hypervolume(points, reference)


@pytest.mark.parametrize("known", [0, 1, 2, 3])
def test_it_is_what_draws_say(known: int) -> None:
    rng = np.random.default_rng(known)
    for _ in range(4):
        p = int(rng.integers(1, 8))
        values, costs = rng.random(p), rng.random((p, known))
        reference = np.array([0.9, *np.full(known, 0.95)])
        mean, std, cost = rng.random(), 0.05 + 0.3 * rng.random(), rng.random(known)
        found = KnownCostEHVI(values, costs, reference[0], reference[1:])
        told = np.exp(found.log([mean], [std], cost[None]))[0]
        gains = [
            drawn(values, costs, reference, np.array([f, *cost]))
            for f in rng.normal(mean, std, SAMPLES)
        ]
        error = np.std(gains) / np.sqrt(SAMPLES)
        unseen = 5 * std / SAMPLES  # what a thousand draws can miss of a gain that is too rare
        assert abs(told - np.mean(gains)) <= 4 * error + unseen


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 3), st.integers(0, 6), st.integers(0, 2**31))
def test_without_doubt_it_is_the_hypervolume(known: int, p: int, seed: int) -> None:
    """Points anywhere, also beyond the reference, equal, dominated, or none at all."""
    rng = np.random.default_rng(seed)
    values, costs = rng.integers(0, 5, p) / 4, rng.integers(0, 5, (p, known)) / 4
    reference = np.full(known + 1, 0.9)
    found = KnownCostEHVI(values, costs, 0.9, reference[1:])
    for new in itertools.islice(itertools.product((0.0, 0.25, 0.6, 1.0), repeat=known + 1), 20):
        told = np.exp(found.log([new[0]], [1e-9], np.array(new[1:])[None]))[0]
        assert told == pytest.approx(drawn(values, costs, reference, np.array(new)), abs=1e-8)


def test_with_no_known_objective_it_is_expected_improvement() -> None:
    found = KnownCostEHVI([0.5, 0.3], np.empty((2, 0)), 1.0, [])
    mean, std = np.array([0.2, 0.6]), np.array([0.1, 0.2])
    z = (0.3 - mean) / std
    expected = std * (norm.pdf(z) + z * norm.cdf(z))
    assert np.exp(found.log(mean, std, np.empty((2, 0)))) == pytest.approx(expected)


def test_candidates_without_hope_can_be_told_apart() -> None:
    found = KnownCostEHVI([0.0], [[0.0]], 1.0, [1.0])
    told = found.log([50.0, 40.0, 40.0], [0.1, 0.1, 0.1], [[0.5], [0.5], [0.2]])
    assert np.isfinite(told).all()
    assert told[0] < told[1] < told[2]
    assert found.log([0.0], [1.0], [[1.0]])[0] == -np.inf


@given(st.floats(-1e8, 30))
def test_its_logarithm_is_accurate_and_rises(z: float) -> None:
    told = float(log_expected_improvement(z))
    if z > -5:
        assert np.exp(told) == pytest.approx(norm.pdf(z) + z * norm.cdf(z), rel=1e-6, abs=1e-12)
    assert np.isfinite(told)
    assert float(log_expected_improvement(z + 1e-3 * max(1, abs(z)))) > told


def test_a_front_too_large_is_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sret_nas.samplers.acquisition.MOST_CELLS", 1_000)
    rng = np.random.default_rng(0)
    costs = rng.random((50, 2))
    found = KnownCostEHVI(1 - costs.mean(axis=1), costs, 1.0, [1.0, 1.0])
    assert found.beyond.size <= 1_000
    assert np.isfinite(found.log([0.1], [0.1], [[0.5, 0.5]])).all()
