"""Encodings of a search space as candidates of a sampler."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sret_nas.cost import cost
from sret_nas.runner.space_candidates import SpaceCandidates
from sret_nas.space import SearchSpace

METRICS = ("macs", "params", "peak_bytes")
LIMITS = {
    "none": {},
    "usual": {"macs": 4e9},
    "rare": {"macs": 3e8, "params": 2e6},
}


@pytest.fixture(scope="module")
def sret() -> SearchSpace:
    return SearchSpace.load("sret")


@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
def test_everything_that_is_drawn_is_feasible_and_different(
    sret: SearchSpace, limits: dict[str, float]
) -> None:
    candidates = SpaceCandidates(sret, limits, ["macs"])
    rng = np.random.default_rng(0)
    assert candidates.everything() is None
    rows = candidates.draw(2_000, rng)
    assert len(rows) >= 100
    near = candidates.around(rows[:5], rng)
    for some in (rows, near):
        assert len(set(candidates.keys(some))) == len(some)
        for arch in sret.decode_many(some[:50]):
            assert all(getattr(cost(arch), name) <= most for name, most in limits.items())
    assert all((np.abs(rows[:5] - row) > 0).sum(axis=1).min() == 1 for row in near)
    assert not set(candidates.keys(near)) & set(candidates.keys(rows[:5]))


def test_where_hardly_anything_is_feasible_it_is_found(sret: SearchSpace) -> None:
    least = sret.extremes["params"].low
    candidates = SpaceCandidates(sret, {"params": least * 1.02}, ["params"])
    rows = candidates.draw(100, np.random.default_rng(0))
    assert len(rows) >= 2
    assert (sret.costs(rows, ("params",))["params"] <= least * 1.02).all()


def test_a_small_space_is_known_whole(few: dict[str, Any]) -> None:
    space = SearchSpace.load(few)
    rows = SpaceCandidates(space, {"macs": 6e5}, ["macs"]).everything()
    assert rows is not None
    ids = {arch.id for arch in space.decode_many(rows)}
    assert ids == {arch.id for arch in space.sample(10_000, 0, ["600K MACs"])}


def test_costs_are_the_logarithms_of_the_exact_ones(sret: SearchSpace) -> None:
    candidates = SpaceCandidates(sret, {}, METRICS)
    rows = candidates.draw(20, np.random.default_rng(0))
    for arch, told in zip(sret.decode_many(rows), candidates.costs(rows), strict=True):
        assert np.exp(told) == pytest.approx([getattr(cost(arch), name) for name in METRICS])
    assert SpaceCandidates(sret, {}, []).costs(rows).shape == (20, 0)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31))
def test_a_row_is_its_parameters(seed: int) -> None:
    space = SearchSpace.load("sret")
    candidates = SpaceCandidates(space, {}, ["macs"])
    row = candidates.draw(1, np.random.default_rng(seed))[0]
    again = candidates.encode(candidates.params(row))
    assert again is not None
    assert again.tolist() == row.tolist()
    assert candidates.encode({"x": 1}) is None
    assert candidates.decode(row).id == space.decode(row.tolist()).id


def test_the_same_architecture_looks_the_same_however_it_is_written(sret: SearchSpace) -> None:
    """Group counts of loops that are not there change the encoding, not the candidate."""
    candidates = SpaceCandidates(sret, {}, ["macs"])
    rows = sret.coding.random_codes(3_000, np.random.default_rng(0))
    archs = sret.decode_many(rows)
    inputs = candidates.inputs(rows)
    words = [j for j, d in enumerate(sret.coordinates) if d.name.endswith((".order", "permute"))]
    pairs = 0
    for i in range(0, 600):
        other = rows[i].copy()
        other[(i + np.arange(3)) % len(other)] = 0
        if sret.decode(other.tolist()).id == archs[i].id and (other == rows[i])[words].all():
            pairs += not (other == rows[i]).all()
            assert candidates.inputs(other[None])[0] == pytest.approx(inputs[i])
    assert pairs > 5


def test_a_latency_is_estimated_from_those_that_are_known(sret: SearchSpace) -> None:
    candidates = SpaceCandidates(sret, {}, ["latency_ms", "params"])
    rows = candidates.draw(60, np.random.default_rng(0))

    def ms(row: Any) -> float:
        found = cost(sret.decode(row.tolist()))
        return float(found.macs / 1e8 + found.depth / 10)

    before = candidates.costs(rows)
    assert before[:, 0] == pytest.approx(np.log(sret.costs(rows, ("macs",))["macs"].astype(float)))
    trials = [
        SimpleNamespace(
            params=candidates.params(row), user_attrs={"metrics": {"latency_ms": ms(row)}}
        )
        for row in rows[:40]
    ]
    candidates.learn([*trials, SimpleNamespace(params={}, user_attrs={})])  # type: ignore[list-item]
    told, true = candidates.costs(rows[40:])[:, 0], np.log([ms(row) for row in rows[40:]])
    assert np.abs(told - true).mean() < 0.5 * np.abs(before[40:, 0] - np.log(1e8) - true).mean()
    assert candidates.costs(rows)[:, 1] == pytest.approx(before[:, 1])


def test_a_space_with_a_callable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "halved.py").write_text(
        "def change(data):\n"
        "    for stage in data['stages']:\n"
        "        stage['nll_ratio'] = 0.0\n"
        "    return data\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    file = SearchSpace.load("sret").file.model_dump(
        mode="json", by_alias=True, exclude_unset=True
    ) | {"callable": "halved:change"}
    space = SearchSpace.load(file, allow_code=True)
    candidates = SpaceCandidates(space, {"macs": 4e9}, ["macs"])
    rows = candidates.draw(50, np.random.default_rng(0))
    assert len(rows) == 50
    archs = space.decode_many(rows)
    assert all(stage.nll_ratio == 0 for arch in archs for stage in arch.stages)
    assert np.exp(candidates.costs(rows))[:, 0] == pytest.approx([cost(a).macs for a in archs])
    assert candidates.inputs(rows).shape[0] == 50
