"""The benchmark of samplers: its problems are what it says, and what it kept is recent."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
RESULTS = BENCHMARKS / "results" / "samplers.json"


@pytest.fixture(scope="module")
def samplers() -> Any:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module("samplers")
    finally:
        sys.path.remove(str(BENCHMARKS))


def test_the_grid_is_that_of_the_trained_ones(samplers: Any) -> None:
    grid = samplers.pit_grid()
    assert len(grid) == 4_320
    known = {tuple(arch.values()) for arch in grid}
    assert len(known) == 4_320
    trained = json.loads((BENCHMARKS / "tables" / "pit-cifar100.json").read_text())
    assert len(trained) == 100
    for row in trained:
        assert (row["base_dim"], row["mlp_ratio"], *row["depth"], *row["num_heads"]) in known


def test_parameters_of_a_pit_are_timms(samplers: Any) -> None:
    import timm

    model = timm.create_model("pit_ti_224", num_classes=100)
    own = {"base_dim": 32, "mlp_ratio": 4, "heads0": 2, "heads1": 4, "heads2": 8}
    own |= {"depth0": 2, "depth1": 6, "depth2": 4}
    _, params = samplers.pit_cost(own)
    assert params == pytest.approx(sum(p.numel() for p in model.parameters()), rel=1e-3)


def test_a_search_keeps_to_the_filter_and_is_scored_without_noise(samplers: Any) -> None:
    problem = samplers.own()
    assert problem.share(problem.inside) == pytest.approx(1)
    assert problem.share(problem.inside, strict=True) == pytest.approx(1)
    assert all(problem.macs[i] <= problem.limit for i in problem.inside)
    for name in ("known-cost", "random", "nsga2"):
        found = samplers.search(problem, name, seed=0, most=15)
        assert 0 < found["scores"][0] <= found["scores"][1] <= 1
        assert 0 < found["strict"][0] <= found["strict"][1] <= 1
        assert samplers.search(problem, name, seed=0, most=15)["scores"] == found["scores"]


def test_the_kept_results_have_every_contender_and_enough_seeds(samplers: Any) -> None:
    kept = json.loads(RESULTS.read_text())
    assert set(kept["problems"]) == set(samplers.PROBLEMS)
    for problem in kept["problems"].values():
        assert set(problem["runs"]) == set(samplers.CONTENDERS)
        assert all(len(runs) >= 20 for runs in problem["runs"].values())
        runs = {
            name: {int(seed): run for seed, run in some.items()}
            for name, some in problem["runs"].items()
        }
        again = json.loads(json.dumps(samplers.summary(runs)))
        assert again == problem["summary"]


def test_the_default_is_never_significantly_below_another(samplers: Any) -> None:
    """On the kept results; here a change of the default would show."""
    kept = json.loads(RESULTS.read_text())
    for problem in kept["problems"].values():
        for row in problem["summary"].values():
            for difference in row["mine_minus_this"] or ():
                assert difference["interval"][1] >= 0
