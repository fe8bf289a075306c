"""Samples under budgets: feasible, distinct, fairly spread, however rare."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from sret_nas import SearchSpace
from sret_nas.cost import cost
from sret_nas.errors import BudgetError
from sret_nas.space import BudgetInfeasible, sampling

MANY = {
    "image_size": [160, 192, 224],
    "all_stages": {"head_dim": [16, 24, 32], "mlp_ratio": {"from": 2, "to": 4, "step": 0.5}},
    "each_stage": {"recursions": [1, 2, 3], "blocks": [1, 2, 3], "nll_ratio": [0, 1]},
    "stages": [{"heads": 2}, {"heads": [2, 4]}, {"heads": [4, 8], "share": ["all", "none"]}],
}


WIDE = {
    "each_stage": {
        "head_dim": [16, 32],
        "blocks": {"from": 1, "to": 12, "step": 1},
        "mlp_ratio": {"from": 1.0, "to": 4.0, "step": 0.1},
        "nll_ratio": {"from": 0.0, "to": 2.0, "step": 0.1},
    },
    "stages": [{"heads": 2}, {"heads": 4}, {"heads": 8}],
}
"""Hardly two encodings of it are one architecture."""


@pytest.mark.parametrize("share", [0.5, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6])
def test_architectures_are_feasible_and_distinct(share: float) -> None:
    space = SearchSpace.load(WIDE)
    table = space.cost_table(1_000_000, 0, ("macs",))
    limit = int(np.quantile(table["macs"], share))
    archs = space.sample(300, seed=1, budgets=[f"{limit}MACs", "1GB"])
    assert len(archs) == len({arch.id for arch in archs}) == 300
    assert all(cost(arch).macs <= limit for arch in archs)
    assert all(arch in space for arch in archs[:20])


def test_several_bounds_at_once_where_one_in_millions_is_feasible() -> None:
    space = SearchSpace.load("sret")
    low = {metric: extreme.low for metric, extreme in space.extremes.items()}
    budgets = [f"{int(1.03 * low['macs'])}MACs", f"{int(1.2 * low['params'])}params"]
    archs = space.sample(20, seed=0, budgets=budgets)
    assert 0 < len({arch.id for arch in archs}) == len(archs)
    for arch in archs:
        assert cost(arch).macs <= 1.03 * low["macs"] and cost(arch).params <= 1.2 * low["params"]


def test_the_minimum_itself_is_found() -> None:
    space = SearchSpace.load("sret")
    extreme = space.extremes["macs"]
    archs = space.sample(10**6, seed=0, budgets=[f"{extreme.low}MACs"])
    assert extreme.lightest.id in {arch.id for arch in archs}
    assert all(cost(arch).macs == extreme.low for arch in archs)


def test_walks_spread_as_the_feasible_encodings_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the whole feasible set: the same frequency of every choice, within noise."""
    space = SearchSpace.load(MANY)
    codes = space.coding.all_codes(0, space.size)
    macs = space.costs(codes, ("macs",))["macs"]
    limit = int(np.quantile(macs, 3e-3))
    feasible = codes[macs <= limit]
    assert len(feasible) > 500
    draws = sampling.Draws(space.encodings, {"macs": limit}, np.random.default_rng(0))
    walks = draws.frames()
    walks = walks[np.random.default_rng(1).integers(len(walks), size=3000)]
    for _ in range(sampling.SWEEPS):
        walks = draws.sweep(walks)
    assert (space.costs(walks, ("macs",))["macs"] <= limit).all()
    for j, count in enumerate(space.coding.counts):
        expected = np.bincount(feasible[:, j], minlength=count) / len(feasible)
        found = np.bincount(walks[:, j], minlength=count) / len(walks)
        assert abs(found - expected).max() < 0.06, space.coordinates[j].name


def test_a_step_of_many_choices_keeps_the_uniform_distribution() -> None:
    """More choices than a step looks at: all of them come equally often."""
    stage = {"heads": {"from": 1, "to": 40, "step": 1}, "head_dim": 8, "blocks": [1, 2]}
    space = SearchSpace.load({"image_size": 16, "stages": [stage]})
    limit = space.costs(space.coding.array([[29, 0]]), ("params",))["params"][0]
    draws = sampling.Draws(space.encodings, {"params": limit}, np.random.default_rng(0))
    codes = space.coding.all_codes(0, space.size)
    feasible = codes[space.costs(codes, ("params",))["params"] <= limit]
    walks = np.zeros((20_000, 2), dtype=np.int64)
    for _ in range(20):
        walks = draws.sweep(walks)
    counts = Counter(map(tuple, walks.tolist()))
    assert set(counts) == set(map(tuple, feasible.tolist()))
    expected = len(walks) / len(feasible)
    chi2 = sum((n - expected) ** 2 / expected for n in counts.values())
    assert chi2 < len(feasible) + 5 * np.sqrt(2 * len(feasible))


def test_frequent_samples_are_uniform_over_encodings() -> None:
    space = SearchSpace.load(MANY)
    archs = space.sample(3000, seed=0, budgets=["1TMACs"])
    sizes = Counter(arch.image_size for arch in archs)
    assert all(abs(sizes[size] - 1000) < 150 for size in (160, 192, 224))


def test_no_more_than_there_are() -> None:
    space = SearchSpace.load("smoke")
    assert len(space.sample(10**6, 0)) == space.distinct.value


def test_an_impossible_budget_is_known_at_once() -> None:
    space = SearchSpace.load("sret")
    with pytest.raises(BudgetInfeasible) as caught:
        space.sample(1, 0, ["100MMACs", "2Mparams", "1GB"])
    error = caught.value
    assert error.exit_code == 3
    assert error.tightest.budget.text == "100MMACs"
    message = str(error)
    for bound in error.bounds:
        extreme = bound.extreme
        assert extreme.low == getattr(cost(extreme.lightest), bound.budget.metric)
        assert extreme.lightest.to_json() in message
        assert f"{extreme.low:,}" in message
    assert "the tightest" in message.splitlines()[1]
    assert "the tightest" not in message.splitlines()[2]
    assert "macs" in str(error.hint)


def test_bounds_that_can_be_satisfied_alone_but_not_together() -> None:
    # Wide and few, or narrow and many: 3 → 6 heads has fewer MACs, 4 → 4 fewer parameters.
    stages = [{"heads": [3, 4], "head_dim": 32}, {"heads": [4, 6], "head_dim": 32}]
    space = SearchSpace.load({"stages": stages})
    archs = {cost(a).macs: cost(a).params for a in space.sample(10, 0)}
    macs, params = min(archs), min(archs.values())
    assert archs[macs] > params
    with pytest.raises(BudgetInfeasible, match="although each bound alone") as caught:
        space.examine([f"{macs}MACs", f"{params}params"])
    within = {b.budget.metric: b.low_within_rest for b in caught.value.bounds}
    assert within == {"params": archs[macs], "macs": max(archs)}
    assert all(bound.tightness <= 1 for bound in caught.value.bounds)


def test_a_bound_that_excludes_nothing_is_said() -> None:
    space = SearchSpace.load("sret")
    most = space.extremes["params"].high
    macs, params, less = space.examine(["4GMACs", f"{most}params", "100MB"])
    assert params.excludes_nothing and not macs.excludes_nothing and not less.excludes_nothing
    (almost,) = space.examine([f"{most - 1}params"])
    assert not almost.excludes_nothing


def test_wrong_budgets_are_refused() -> None:
    with pytest.raises(BudgetError):
        SearchSpace.load("smoke").sample(1, 0, ["4G"])
