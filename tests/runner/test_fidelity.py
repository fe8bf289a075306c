"""Order within bands of cost, beside the noise: on candidates whose truth is known."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from scipy.stats import kendalltau

from sret_nas.runner.fidelity import BANDS, FEWEST_PAIRS, OneSize, one_size
from sret_nas.runner.noise import Noise
from sret_nas.runner.order import draws, taus


def judged(
    seed: int,
    between: float,
    rung: float = 0.1,
    noise: float = 1.0,
    known: bool = True,
    n: int = 60,
) -> OneSize:
    """Designs in three bands of cost, far from each other; dearer bands are better."""
    rng = np.random.default_rng(seed)
    band = np.repeat([1.0, 3.0, 9.0], n // 3)
    macs = (1e9 * band * rng.uniform(0.97, 1.03, n)).astype(int)
    params = (1e6 * band * rng.uniform(0.98, 1.02, n)).astype(int)
    final = -band + between * rng.normal(size=n) + noise * rng.normal(size=n)
    by = {"loss at epoch 1": final + rung * rng.normal(size=n), "macs": -macs}
    return one_size(
        macs.tolist(), params.tolist(), by, final.tolist(), Noise(noise, 24) if known else None, 0
    )


def test_tau_over_all_pairs_is_scipys_in_every_draw() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 6, (2, 20)).astype(float)
    drawn = draws(20, 30, seed=1)
    found = taus(x, y, np.ones((20, 20), dtype=bool), drawn)
    for tau, counts in zip(found, drawn.astype(int), strict=True):
        at = np.repeat(np.arange(20), counts)
        assert tau == pytest.approx(kendalltau(x[at], y[at]).statistic)


def test_tau_within_bands_counts_pairs_of_one_size_alone() -> None:
    macs = [100, 105, 109, 200, 206, 400]
    params = [10, 10, 10, 20, 20, 40]
    near = [(0, 1), (1, 2), (3, 4)]  # 100 and 109 are further apart than 1.07
    final, first = [1.0, 2.0, 3.0, 9.0, 8.0, 0.0], [1.0, 3.0, 2.0, 5.0, 4.0, 9.0]
    counted = np.zeros((6, 6), dtype=bool)
    for i, j in near:
        counted[i, j] = counted[j, i] = True
    tau = taus(np.array(first), np.array(final), counted, np.ones((1, 6)))
    assert tau == pytest.approx((1 - 1 + 1) / 3)
    found = one_size(macs, params, {"first": first}, final, None, 0)
    assert (found.macs, found.params) == BANDS[-1]  # the narrowest held too few
    wide = [(i, j) for i, j in itertools.combinations(range(6), 2) if macs[j] / macs[i] <= 1.15]
    assert found.pairs == len(wide)
    assert found.orders == ()
    assert found.doubts == [f"only {len(wide)} pairs are, and an order needs {FEWEST_PAIRS}"]


def test_the_narrowest_band_with_enough_pairs_is_taken() -> None:
    assert (judged(0, 3.0).macs, judged(0, 3.0).params) == BANDS[0]


def test_designs_that_differ_are_ranked() -> None:
    found = [judged(seed, between=3.0) for seed in range(20)]
    assert sum(not one.doubts for one in found) >= 19
    first, macs = found[0].orders
    assert first.tau > 0.8
    assert macs.low < 0 < macs.high  # of one size, the size says nothing
    assert found[0].spread == pytest.approx(np.sqrt(10), rel=0.25)


def test_noise_is_not_taken_for_designs() -> None:
    """Even where the first rung foretells the same training's end: that is the seed's luck."""
    found = [judged(seed, between=0.0) for seed in range(60)]
    assert all(one.orders[0].tau > 0.8 for one in found)
    said = sum("they differ no more than seeds of one design do" in one.doubts for one in found)
    assert said >= 52  # 95% of 60, less what luck explains


def test_a_rung_that_tells_nothing_is_said_to() -> None:
    found = [judged(seed, between=3.0, rung=1e3) for seed in range(20)]
    told = "the first rung does not order them better than chance does"
    assert sum(told in one.doubts for one in found) >= 17


@pytest.mark.parametrize("known", [True, False])
def test_what_is_not_known_is_none(known: bool) -> None:
    found = judged(0, 3.0, known=known)
    assert (found.noise is None) == (found.chance is None) == (not known)
    alone: Any = one_size([1, 100], [1, 100], {"first": [1.0, 2.0]}, [1.0, 2.0], None, 0)
    assert (alone.pairs, alone.spread, alone.chance) == (0, None, None)
