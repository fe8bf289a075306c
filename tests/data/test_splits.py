"""Stratified choices."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sret_nas.data.splits import stratified


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.floats(0, 1), st.integers(0, 2**32))
def test_stratified_keeps_shares(sizes: list[int], share: float, seed: int):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    count = max(1, round(share * len(labels)))
    chosen = stratified(labels, count, seed)
    assert len(chosen) == count == len(set(chosen.tolist()))
    assert np.array_equal(chosen, np.sort(chosen))
    assert np.array_equal(chosen, stratified(labels, count, seed))
    taken = np.bincount(labels[chosen], minlength=len(sizes))
    assert (taken <= sizes).all()
    if count >= len(sizes):
        assert (taken >= 1).all()
        fair = np.array(sizes) * count / len(labels)
        # Where no class is pushed up to its one image, shares are right within one.
        if (fair >= 1).all():
            assert (abs(taken - fair) < 1).all()
