"""Properties of every file that the grammar allows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from sret_nas import SearchSpace, create_model
from sret_nas.arch import Architecture
from sret_nas.cost import cost
from sret_nas.errors import ConfigError, InfeasibleError
from sret_nas.space import sampling
from sret_nas.space.frames import METRICS, extremes, within

FIELDS = ("heads", "head_dim", "blocks", "recursions", "order", "share", "mlp_ratio", "nll_ratio")
GOOD: dict[str, list[Any]] = {
    "image_size": [8, 12, 16, 24, 32],
    "in_chans": [1, 3],
    "num_classes": [0, 2, 5],
    "stem_stride": [1, 2, 4],
    "residual_scale": [True, False],
    "permute": ["fixed", "random", "none"],
    "heads": [1, 2, 3, 4],
    "head_dim": [2, 3, 4, 6],
    "blocks": [1, 2, 3],
    "recursions": [1, 2, 3],
    "order": ["adjacent", "cyclic"],
    "share": ["all", "attention", "mlp", "none"],
    "groups": [1, 1, 1, 2, 4, 9],
    "mlp_ratio": [0.5, 1, 1.5, 2.0, 3.25],
    "nll_ratio": [0, 0.5, 1.0, 2],
}
BAD: list[Any] = [
    *(-1, 0, 7, 1.5, float("nan"), "all", None, True, [], {}, 10**9, [1, 1], "on"),
    *({"from": 3, "to": 1, "step": 1}, {"from": 1, "to": 4, "step": 2}, {"loop9": 1}),
]


def choices(field: str, most: int = 3) -> st.SearchStrategy[Any]:
    """A value, a list or a range for a field, mostly possible ones."""
    values = GOOD[field]
    one = st.sampled_from(values)
    many = st.lists(
        st.sampled_from(list(dict.fromkeys(values))), min_size=1, max_size=most, unique=True
    )
    kinds = [one, many, many]
    if field in ("image_size", "blocks", "recursions", "mlp_ratio", "nll_ratio"):
        steps = st.builds(
            lambda low, step, n: {"from": low, "to": low + step * n, "step": step},
            one,
            st.sampled_from([1, 2]),
            st.integers(0, 2),
        )
        kinds.append(steps)
    return st.one_of(kinds)


@st.composite
def groups(draw: st.DrawFn) -> Any:
    places = ["each_loop", "all_loops", "loop1", "loop2"]
    if draw(st.booleans()):
        return draw(st.sampled_from(GOOD["groups"]))
    keys = [draw(st.sampled_from(places[:2])), *draw(st.sampled_from([[], [], ["loop1"]]))]
    return {key: draw(choices("groups", 2)) for key in keys}


@st.composite
def any_file(draw: st.DrawFn, most: int = 3) -> dict[str, Any]:
    """The data of a search space's file: tiny, and mostly possible."""
    data: dict[str, Any] = {
        name: draw(choices(name, 2))
        for name in list(GOOD)[:6]
        if name == "image_size" or draw(st.booleans())
    }
    data.setdefault("stem_stride", 4)
    stages: list[dict[str, Any]] = [{} for _ in range(draw(st.integers(1, 3)))]
    places: dict[str, dict[str, Any]] = {"all_stages": {}, "each_stage": {}}
    for field in (*FIELDS, "groups"):
        where = draw(st.sampled_from(["all_stages", "each_stage", "stages", "default"]))
        content = groups() if field == "groups" else choices(field, most)
        if where in places:
            places[where][field] = draw(content)
        elif where == "stages" or field in ("heads", "head_dim"):
            for i, stage in enumerate(stages):
                # Widths of later stages are mostly multiples of those before.
                if field == "heads" and i and draw(st.sampled_from([True, True, False])):
                    before = stages[i - 1]["heads"]
                    if isinstance(before, int) and not isinstance(before, bool):
                        before = [before]
                    if isinstance(before, list) and all(type(h) is int for h in before):
                        stage[field] = [2 * h for h in before]
                        continue
                stage[field] = draw(content)
    file = {**data, **{k: v for k, v in places.items() if v}, "stages": stages}
    if draw(st.sampled_from([False] * 6 + [True])):
        spoiled = draw(st.sampled_from([file, *stages, *places.values()]))
        spoiled[draw(st.sampled_from([*GOOD, "colour"]))] = draw(st.sampled_from(BAD))
    return file


def read(data: dict[str, Any], most: int = 20_000) -> SearchSpace:
    """The space of a file, which hypothesis forgets where it is refused or too large."""
    try:
        space = SearchSpace.load(data)
    except ConfigError as error:
        assert all(problem.message for problem in error.problems)
        assume(False)
        raise
    assume(space.size <= most)
    return space


COMMON = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)


@settings(COMMON, max_examples=120)
@given(any_file(), st.integers(0, 2**32))
def test_is_refused_or_every_encoding_is_an_architecture(data: dict[str, Any], seed: int) -> None:
    space = read(data, most=10**30)
    rng = np.random.default_rng(seed)
    codes = space.coding.random_codes(8, rng)
    costs = space.costs(codes, (*METRICS, "activations", "depth"))
    for row, code in enumerate(codes.tolist()):
        arch = space.decode(code)
        assert {name: getattr(cost(arch), name) for name in costs} == {
            name: column[row] for name, column in costs.items()
        }
        again = space.encode(arch)
        assert space.decode(again).id == arch.id
        assert Architecture.load(arch.to_dict()) == arch
        assert space.from_params(space.params(again)) == again
    around = space.neighbours(codes[0].tolist())
    ids = [space.decode(code).id for code in around] + [space.decode(codes[0].tolist()).id]
    assert len(ids) == len(set(ids))
    assert all(sum(a != b for a, b in zip(codes[0], code, strict=True)) == 1 for code in around)


@settings(COMMON, max_examples=60)
@given(any_file(most=2), st.integers(0, 2**32))
def test_is_refused_or_builds_models_that_run(data: dict[str, Any], seed: int) -> None:
    space = read(data, most=10**30)
    (code,) = space.coding.random_codes(1, np.random.default_rng(seed)).tolist()
    arch = space.decode(code)
    model = create_model(arch).eval()
    with torch.inference_mode():
        out = model(torch.zeros(1, arch.in_chans, arch.image_size, arch.image_size))
    assert out.shape == (1, arch.num_classes or arch.stages[-1].dim)
    assert out.isfinite().all()
    assert sum(p.numel() for p in model.parameters()) == space.costs(np.array([code]))["params"]


@settings(COMMON, max_examples=60)
@given(any_file(), st.lists(st.floats(0, 0.2), min_size=3, max_size=3))
def test_minima_maxima_and_joint_feasibility_are_exact(
    data: dict[str, Any], shares: list[float]
) -> None:
    space = read(data)
    costs = space.costs(space.coding.all_codes(0, space.size))
    for metric, extreme in space.extremes.items():
        assert extreme.exact
        assert extreme.low == costs[metric].min() == getattr(cost(extreme.lightest), metric)
        assert extreme.high == costs[metric].max() == getattr(cost(extreme.heaviest), metric)
    limits = {m: np.quantile(costs[m], q) for m, q in zip(METRICS, shares, strict=True)}
    possible = within(extremes(space.coding).costs, limits).any()
    assert possible == within(costs, limits).any()


@settings(COMMON, max_examples=60)
@given(any_file())
def test_number_of_architectures_is_exact(data: dict[str, Any]) -> None:
    space = read(data)
    archs = space.decode_many(space.coding.all_codes(0, space.size))
    count = space.distinct
    assert count.exact and count.value == len({arch.id for arch in archs})


@settings(COMMON, max_examples=40)
@given(any_file(), st.floats(0, 0.3), st.sampled_from(METRICS), st.sampled_from([0, 1, 4000]))
def test_everything_feasible_is_found_and_nothing_else(
    data: dict[str, Any], share: float, metric: str, pilot: int
) -> None:
    space = read(data, most=4000)
    codes = space.coding.all_codes(0, space.size)
    costs = space.costs(codes)[metric]
    limit = int(np.quantile(costs, share))
    feasible = {arch.id for arch in space.decode_many(codes[costs <= limit])}
    unit = {"macs": "MACs", "params": "params", "peak_bytes": "B"}[metric]
    with pytest.MonkeyPatch.context() as patch:
        # With fewer draws to look at: by rejection, by walks, by enumeration.
        patch.setattr(sampling, "PILOT", pilot)
        try:
            found = [a.id for a in space.sample(10**6, seed=0, budgets=[f"{limit}{unit}"])]
        except InfeasibleError:
            found = []
    assert sorted(found) == sorted(feasible)


def test_the_strategy_covers_the_grammar() -> None:
    """A strategy whose files were all refused would test nothing."""
    accepted, refused = 0, 0

    @settings(COMMON, max_examples=200, database=None, derandomize=True)
    @given(any_file())
    def count(data: dict[str, Any]) -> None:
        nonlocal accepted, refused
        try:
            SearchSpace.load(data)
            accepted += 1
        except ConfigError:
            refused += 1

    count()
    assert accepted > 40 and refused > 40
