"""Dominance and hypervolume against brute force, another implementation, and chance."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from optuna._hypervolume import compute_hypervolume

from sret_nas.pareto import dominates, front, hypervolume

quick = settings(max_examples=150, deadline=None)
shapes = st.tuples(st.integers(0, 14), st.integers(1, 4))
coarse = hnp.arrays(float, shapes, elements=st.integers(0, 6).map(float))  # with many ties


@quick
@given(coarse)
def test_the_front_is_what_nobody_dominates(points: np.ndarray) -> None:
    expected = [not any(dominates(other, one) for other in points) for one in points]
    assert front(points).tolist() == expected


@quick
@given(coarse)
def test_dominance_is_a_strict_order(points: np.ndarray) -> None:
    for a in points[:6]:
        assert not dominates(a, a)
        for b in points[:6]:
            assert not (dominates(a, b) and dominates(b, a))
            for c in points[:6]:
                assert not (dominates(a, b) and dominates(b, c)) or dominates(a, c)


@quick
@given(coarse)
def test_hypervolume_is_what_another_implementation_says(points: np.ndarray) -> None:
    reference = np.full(points.shape[1], 5.0)
    inside = points[np.all(points <= reference, axis=1)]  # the other one wants no others
    expected = compute_hypervolume(inside, reference) if len(inside) else 0.0
    assert math.isclose(hypervolume(points, reference), expected, abs_tol=1e-9)


@quick
@given(coarse)
def test_hypervolume_counts_unit_cubes(points: np.ndarray) -> None:
    """On a grid of whole numbers the volume is the number of dominated cells."""
    m = points.shape[1]
    cells = np.stack(np.meshgrid(*[np.arange(5)] * m, indexing="ij"), axis=-1).reshape(-1, m)
    covered = [np.any(np.all(points <= cell, axis=1)) for cell in cells]
    assert hypervolume(points, np.full(m, 5.0)) == pytest.approx(sum(covered))


@quick
@given(coarse)
def test_hypervolume_needs_the_front_alone_in_any_order(points: np.ndarray) -> None:
    reference = np.full(points.shape[1], 6.5)
    whole = hypervolume(points, reference)
    order = np.random.default_rng(len(points)).permutation(len(points))
    assert hypervolume(points[order], reference) == pytest.approx(whole)
    assert hypervolume(points[front(points)], reference) == pytest.approx(whole)
    assert hypervolume(points[:-1], reference) <= whole + 1e-9


def test_hypervolume_against_chance() -> None:
    rng = np.random.default_rng(0)
    points = rng.random((40, 3)) ** 0.5
    darts = rng.random((200_000, 3))
    hit = np.zeros(len(darts), dtype=bool)
    for point in points:
        hit |= np.all(darts >= point, axis=1)
    error = math.sqrt(hit.mean() * (1 - hit.mean()) / len(darts))
    assert hypervolume(points, [1, 1, 1]) == pytest.approx(hit.mean(), abs=5 * error)


def test_nothing_below_the_reference_is_no_volume() -> None:
    assert hypervolume([], [1.0, 1.0]) == 0
    assert hypervolume([[2, 0], [0, 1]], [1, 1]) == 0
    assert front([]).tolist() == []
