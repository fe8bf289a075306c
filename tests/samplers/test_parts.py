"""The parts of ``KnownCostSampler``, each beside what it says of itself, written out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from sret_nas import pareto
from sret_nas.samplers import candidates as candidates_module
from sret_nas.samplers import domain as domain_module
from sret_nas.samplers import surrogate as surrogate_module
from sret_nas.samplers.axes import Axis
from sret_nas.samplers.candidates import FromDistributions
from sret_nas.samplers.domain import Domain
from sret_nas.samplers.extrapolation import Line, fit_line
from sret_nas.samplers.initial_design import first_value, initial_design
from sret_nas.samplers.local_search import MARGIN, by_improvement
from sret_nas.samplers.observations import FAILED, Observations, learned, observe
from sret_nas.samplers.surrogate import Posterior, Surrogate, fit, kernel
from sret_nas.samplers.user_functions import checked, compare, uncertain

quick = settings(deadline=None, max_examples=50)
GRID = {"a": IntDistribution(0, 9), "b": IntDistribution(0, 9)}


def total(params: dict[str, Any]) -> float:
    return float(params["a"] + params["b"])


def domain(known: Any = (total,), **options: Any) -> Domain:
    return Domain(GRID, FromDistributions(GRID, known, **options), seed=0)


def rows(*pairs: tuple[int, int]) -> np.ndarray:
    return np.array(pairs, dtype=float).reshape(-1, 2)


# -- axes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("distribution", "count", "ordered", "log"),
    [
        (IntDistribution(2, 10, step=2), 5, True, False),
        (IntDistribution(1, 8, log=True), 8, True, True),
        (FloatDistribution(0.0, 1.0, step=0.25), 5, True, False),
        (FloatDistribution(0.5, 2.0), 0, True, False),
        (FloatDistribution(0.5, 2.0, log=True), 0, True, True),
        (CategoricalDistribution([1, 4, 2]), 3, True, True),
        (CategoricalDistribution([1, 3.9]), 2, True, False),
        (CategoricalDistribution([0, 4]), 2, True, False),
        (CategoricalDistribution([True, False]), 2, False, False),
        (CategoricalDistribution(["a", 1]), 2, False, False),
    ],
)
def test_what_an_axis_is(distribution: Any, count: int, ordered: bool, log: bool) -> None:
    axis = Axis("x", distribution)
    assert (axis.name, axis.count, axis.ordered, axis.log) == ("x", count, ordered, log)


@pytest.mark.parametrize(
    ("distribution", "numbers"),
    [
        (IntDistribution(2, 10, step=2), {0: 2, 1: 4, 4: 10}),
        (FloatDistribution(0.0, 1.0, step=0.25), {0: 0.0, 3: 0.75, 4: 1.0}),
        (FloatDistribution(2.0, 6.0), {0.0: 2.0, 0.25: 3.0, 1.0: 6.0}),
        (FloatDistribution(1.0, 16.0, log=True), {0.0: 1.0, 0.25: 2.0, 0.5: 4.0, 1.0: 16.0}),
        (CategoricalDistribution([4, 1, 2]), {0: 1, 1: 2, 2: 4}),
        (CategoricalDistribution(["b", "a"]), {0: "b", 1: "a"}),
    ],
)
def test_numbers_of_values(distribution: Any, numbers: dict[float, Any]) -> None:
    axis = Axis("x", distribution)
    for number, value in numbers.items():
        exact = isinstance(value, str)
        assert axis.decode(number) == (value if exact else pytest.approx(value))
        assert type(axis.decode(number)) is type(value)
        assert axis.encode(value) == pytest.approx(number)
    assert Axis("x", FloatDistribution(3.0, 3.0)).encode(3.0) == 0.0


@pytest.mark.parametrize(
    ("distribution", "values"),
    [
        (IntDistribution(2, 10, step=2), [1, 11]),
        (FloatDistribution(2.0, 6.0), [1.99, 6.01]),
        (CategoricalDistribution([4, 1, 2]), [3]),
    ],
)
def test_values_that_are_not_allowed_have_no_number(distribution: Any, values: list[Any]) -> None:
    assert [Axis("x", distribution).encode(value) for value in values] == [None] * len(values)


@pytest.mark.parametrize(
    ("distribution", "numbers", "columns"),
    [
        (IntDistribution(2, 10, step=2), [0, 1, 4], [[0], [0.25], [1]]),
        (IntDistribution(1, 16, log=True), [0, 1, 3, 15], [[0], [0.25], [0.5], [1]]),
        (FloatDistribution(2.0, 6.0), [0.0, 0.3, 1.0], [[0], [0.3], [1]]),
        (CategoricalDistribution([16, 1, 4]), [0, 1, 2], [[0], [0.5], [1]]),
        (CategoricalDistribution([1, 2, 3]), [0, 1, 2], [[0], [0.5], [1]]),
        (CategoricalDistribution(["a", "b"]), [0, 1, 1], [[1, 0], [0, 1], [0, 1]]),
        (IntDistribution(3, 3), [0, 0, 0], [[], [], []]),
    ],
)
def test_what_the_surrogate_sees(
    distribution: Any, numbers: list[float], columns: list[list[float]]
) -> None:
    found = Axis("x", distribution).inputs(np.array(numbers, dtype=float))
    assert found == pytest.approx(np.array(columns, dtype=float).reshape(len(numbers), -1))


def test_numbers_are_drawn_evenly_and_of_a_log_range_as_its_logarithms() -> None:
    rng = np.random.default_rng(0)
    even = np.bincount(Axis("x", IntDistribution(5, 8)).draw(4000, rng).astype(int), minlength=4)
    assert abs(even - 1000).max() < 120
    logs = np.bincount(
        Axis("x", IntDistribution(1, 7, log=True)).draw(6000, rng).astype(int), minlength=7
    )
    share = np.log(np.arange(2, 9) / np.arange(1, 8)) / math.log(8)
    assert np.abs(logs / 6000 - share).max() < 0.03
    kinds = Axis("x", CategoricalDistribution(["a", "b", "c"])).draw(50, rng)
    assert set(kinds) == {0.0, 1.0, 2.0}
    free = Axis("x", FloatDistribution(0.0, 9.0)).draw(1000, rng)
    assert free.shape == (1000,) and 0 <= free.min() < 0.05 and 0.95 < free.max() < 1


def test_what_lies_around_a_number() -> None:
    rng = np.random.default_rng(0)
    few, many = Axis("x", IntDistribution(0, 5)), Axis("x", IntDistribution(0, 99))
    assert sorted(few.around(2, rng)) == [1, 3]
    assert sorted(few.around(0, rng)) == [1] and sorted(few.around(5, rng)) == [4]
    assert sorted(many.around(50, rng)) == [40, 49, 51, 60]
    assert sorted(many.around(5, rng)) == [4, 6, 15]
    kinds = Axis("x", CategoricalDistribution(["a", "b", "c"]))
    assert kinds.around(1, rng) == [0, 2]
    free = Axis("x", FloatDistribution(0.0, 9.0))
    steps = np.array([free.around(0.5, rng) for _ in range(500)]) - 0.5
    assert steps.std(axis=0) == pytest.approx([0.1, 0.01], rel=0.15)
    edge = [len(free.around(1.0, rng)) for _ in range(100)]
    assert set(edge) == {0, 1, 2}


# -- candidates ----------------------------------------------------------------------------------


def test_a_grid_is_whole_in_its_order_where_it_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    found = FromDistributions(GRID).everything()
    assert found is not None and found.dtype == float
    assert found.tolist() == [[a, b] for a in range(10) for b in range(10)]
    some = FromDistributions(GRID, feasible=lambda p: p["a"] < 2).everything()
    assert some is not None and len(some) == 20
    monkeypatch.setattr(candidates_module, "FEW", 100)
    assert FromDistributions(GRID).everything() is not None
    monkeypatch.setattr(candidates_module, "FEW", 99)
    assert FromDistributions(GRID).everything() is None
    assert FromDistributions(GRID | {"c": FloatDistribution(0, 1)}).everything() is None


def test_draws_are_feasible_and_different_and_end_where_there_are_none() -> None:
    rng = np.random.default_rng(0)
    asked: list[int] = []

    def third(params: dict[str, Any]) -> bool:
        asked.append(params["a"])
        return bool(params["a"] % 3 == 0)

    free = {"a": IntDistribution(0, 9), "c": FloatDistribution(0, 1)}
    found = FromDistributions(free, feasible=third).draw(50, rng)
    assert len(found) == 50 and (found[:, 0] % 3 == 0).all()
    assert len(np.unique(found, axis=0)) == 50
    asked.clear()
    assert FromDistributions(free, feasible=lambda p: asked.append(1)).draw(5, rng).shape == (0, 2)
    assert len(asked) == 5 * candidates_module.DRAWS
    twice = FromDistributions(GRID).draw(1000, rng)
    assert len(np.unique(twice, axis=0)) == len(twice) <= 100


def test_neighbours_differ_in_one_parameter_and_are_feasible() -> None:
    rng = np.random.default_rng(0)
    some = FromDistributions(GRID, feasible=lambda p: p["b"] != 4)
    found = some.around(rows((3, 3), (3, 5)), rng)
    assert found.tolist() == [[2, 3], [2, 5], [3, 2], [3, 6], [4, 3], [4, 5]]
    only = FromDistributions({"a": IntDistribution(3, 3)})
    assert only.around(np.zeros((1, 1)), rng).shape == (0, 1)


def test_functions_are_asked_once_for_each_and_told_in_their_order() -> None:
    asked: list[dict[str, Any]] = []

    def costly(params: dict[str, Any]) -> float:
        asked.append(params)
        return 2.0 * params["a"]

    some = FromDistributions(GRID, [costly, total], features=lambda p: [p["b"], 7])
    table = rows((1, 2), (3, 4), (1, 2))
    for _ in range(2):
        assert some.costs(table).tolist() == [[2, 3], [6, 7], [2, 3]]
        assert some.inputs(table)[:, 2:].tolist() == [[2, 3, 2, 7], [6, 7, 4, 7], [2, 3, 2, 7]]
    assert some.inputs(table)[:, :2] == pytest.approx(table / 9)
    assert asked == [{"a": 1, "b": 2}, {"a": 3, "b": 4}]
    assert some.costs(rows()).shape == (0, 2)
    assert FromDistributions(GRID).costs(table).shape == (3, 0)
    assert some.keys(rows((0, 1))) == some.keys(-rows((0, -1))) != some.keys(rows((1, 0)))


def test_answers_are_forgotten_where_they_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates_module, "REMEMBERED", 1)
    asked: list[Any] = []
    some = FromDistributions(GRID, [lambda p: float(asked.append(p) or 0)])
    for table in (rows((0, 0)), rows((0, 0)), rows((0, 1)), rows((0, 1)), rows((0, 0))):
        some.costs(table)
    assert len(asked) == 4  # two are kept until a third look


# -- domain --------------------------------------------------------------------------------------


def test_inputs_fill_the_unit_cube_and_constant_ones_are_left_out() -> None:
    found = domain(features=lambda p: [5.0, p["a"] * 100 - 50])
    everything = found.pool(np.random.default_rng(0))
    inputs = found.inputs(everything)
    assert len(everything) == 100 and inputs.shape == (100, 4)
    assert inputs.min(axis=0) == pytest.approx(0) and inputs.max(axis=0) == pytest.approx(1)
    assert inputs[:, 3] == pytest.approx(everything[:, 0] / 9)


def test_a_large_domain_has_a_pool_of_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domain_module, "POOL", 30)
    free = {"c": FloatDistribution(0, 1)}
    some = Domain(free, FromDistributions(free), seed=3)
    assert len(some.pool(np.random.default_rng(1))) == 30
    table = np.array([[0.5]])
    again = Domain(free, FromDistributions(free), seed=3)
    assert some.inputs(table) == again.inputs(table)
    assert some.inputs(table) != Domain(free, FromDistributions(free), seed=4).inputs(table)


def test_keys_come_with_their_rows_in_order() -> None:
    some = domain()
    table = np.array([[k % 10, k // 10] for k in range(100)] * 2, dtype=float)
    found = list(some.keyed(table))
    assert [row.tolist() for row, _ in found] == table.tolist()
    assert [key for _, key in found] == some.candidates.keys(table)


def trial(
    number: int, params: dict[str, Any] | None = None, state: Any = TrialState.COMPLETE, **more: Any
) -> FrozenTrial:
    complete = state == TrialState.COMPLETE
    found = create_trial(
        params=params or {},
        distributions={name: GRID[name] for name in params or {}},
        state=state,
        values=more.pop("values", [1.0, 2.0]) if complete else None,
        **more,
    )
    found.number = number
    return found


def test_rows_of_trials_are_those_of_their_parameters_as_they_are_now() -> None:
    some = domain()
    assert some.row(trial(0, {"a": 1, "b": 2})).tolist() == [1, 2]
    assert some.row(trial(0, {"a": 1, "b": 3})).tolist() == [1, 3]
    fixed = {"fixed_params": {"a": 4, "b": 5}}
    assert some.row(trial(1, system_attrs=fixed)).tolist() == [4, 5]
    assert some.row(trial(2)) is None
    assert some.row(trial(3, {"a": 1})) is None


# -- observations --------------------------------------------------------------------------------


@quick
@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=2, max_size=8))
def test_a_line_is_drawn_towards_slope_one_as_by_two_more_trials(
    pairs: list[tuple[float, float]],
) -> None:
    x, y = np.array(pairs).T
    found = fit_line(pairs)
    assert found is not None
    assert (found.step, found.final) == (pytest.approx(x.mean()), pytest.approx(y.mean()))
    spread = ((x - x.mean()) ** 2).sum()
    if spread > 1e-6:
        weight = 2 * spread / len(x)
        slope = (((x - x.mean()) * (y - y.mean())).sum() + weight) / (spread + weight)
        assert found.slope == pytest.approx(slope, rel=1e-5, abs=1e-6)
        errors = [final - found.at(step) for step, final in pairs]
        doubt = (sum(e * e for e in errors) + 0.5 * np.var(y)) / (len(x) + 2)
        assert found.variance == pytest.approx(doubt, rel=1e-5, abs=1e-9)


def test_a_line_needs_two_trials_and_goes_through_their_mean() -> None:
    assert fit_line([]) is None and fit_line([(1.0, 2.0)]) is None
    assert fit_line([(1.0, 2.0), (1.0, 2.0)]) == Line(1.0, 2.0, 1.0, 0.0)
    assert Line(1.0, 2.0, 0.5, 0.0).at(3.0) == 3.0


def test_what_is_learned_of_complete_pruned_and_failed_trials() -> None:
    table = [np.array([k, 0.0]) for k in range(8)]
    complete = [(table[0], 1.0, {1: 2.0, 2: 1.5}), (table[1], 3.0, {1: 4.0, 2: 3.5})]
    pruned = [
        (table[2], {1: 3.0, 2: 2.5}),  # its last step counts
        (table[3], {1: 5.0}),
        (table[4], {}),  # tells nothing
        (table[5], {3: 1.0}),  # nobody else was there
    ]
    found, values, noise = learned(complete, pruned, [table[6], table[7]])
    assert [row[0] for row in found] == [0, 1, 2, 3, 6, 7]
    last, first = fit_line([(1.5, 1.0), (3.5, 3.0)]), fit_line([(2.0, 1.0), (4.0, 3.0)])
    assert last is not None and first is not None
    assert values.tolist() == [1.0, 3.0, last.at(2.5), first.at(5.0), 3.0, 3.0]
    assert values[2] == pytest.approx(2.0) and values[3] == pytest.approx(4.0)
    assert noise.tolist() == [0, 0, last.variance, first.variance, FAILED, FAILED]
    assert learned([], pruned, [table[6]]) == ([], pytest.approx([]), pytest.approx([]))
    (_, _, shares) = learned([(table[0], 1.0, {1: 2.0}), (table[1], 7.0, {1: 8.0})], pruned, [])
    line = fit_line([(2.0, 1.0), (8.0, 7.0)])
    assert line is not None
    assert shares[2:] == pytest.approx([line.variance / 9])


def seen(trials: list[FrozenTrial], number: int = 99, **proposed: Any) -> Observations:
    return observe(
        trials,
        number,
        value_of=lambda t: t.values[0],
        curve_of=lambda t: t.intermediate_values,
        row_of=domain().row,
        proposed=proposed.get("proposed", {}),
    )


def test_trials_are_told_apart_by_what_became_of_them() -> None:
    trials = [
        trial(0, {"a": 0, "b": 0}, values=[1.0, 0.0], intermediate_values={1: 2.0, 2: math.nan}),
        trial(1, {"a": 1, "b": 0}, values=[3.0, 0.0], intermediate_values={1: 4.0}),
        trial(2, {"a": 2, "b": 0}, TrialState.FAIL),
        trial(3, {"a": 3, "b": 0}, values=[math.inf, 0.0]),
        trial(4, {"a": 4, "b": 0}, TrialState.PRUNED, intermediate_values={1: 3.0, 2: math.inf}),
        trial(5, {"a": 5, "b": 0}, TrialState.RUNNING),
        trial(6, {"a": 6}, TrialState.PRUNED),  # of another space
        trial(7, {}, TrialState.RUNNING),  # proposed
        trial(8, {}, TrialState.RUNNING),  # asked for before
        trial(9, {"a": 9, "b": 9}, values=[0.0, 0.0]),  # asks
        trial(10, {}, TrialState.RUNNING),  # asked for later
        trial(11, None, TrialState.WAITING, system_attrs={"fixed_params": {"a": 8, "b": 0}}),
    ]
    found = seen(trials, 9, proposed={7: np.array([7.0, 0.0])})
    assert found.rows[:, 0].tolist() == [0, 1, 4, 2, 3]
    assert found.values == pytest.approx([1.0, 3.0, 2.0, 3.0, 3.0])
    assert found.noise.tolist()[:2] == [0, 0] and found.noise.tolist()[3:] == [FAILED, FAILED]
    assert found.running[:, 0].tolist() == [5, 7]
    assert found.tried[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 7, 8]
    assert found.pending == 1


def test_without_trials_there_is_nothing_and_then_the_first() -> None:
    found = seen([])
    assert (len(found.rows), len(found.running), len(found.tried), found.pending) == (0, 0, 0, 0)
    found.add_running(np.array([1.0, 2.0]))
    assert found.running.tolist() == found.tried.tolist() == [[1, 2]]
    found.add_running(np.array([3.0, 4.0]))
    assert found.running.tolist() == found.tried.tolist() == [[1, 2], [3, 4]]
    later = seen([trial(0, {"a": 0, "b": 0})])
    assert later.running.shape == (0, 2)
    later.add_running(np.array([1.0, 2.0]))
    assert later.running.tolist() == [[1, 2]] and later.tried.tolist() == [[0, 0], [1, 2]]


# -- initial design ------------------------------------------------------------------------------


def test_the_emptiest_range_of_costs_comes_first_and_there_the_farthest() -> None:
    some, rng = domain(), np.random.default_rng(0)
    pool = some.pool(rng)
    bounds = np.sort(some.candidates.costs(pool)[:, 0])[[25, 50, 75]]

    def strata(table: np.ndarray) -> list[int]:
        return np.searchsorted(bounds, some.candidates.costs(table)[:, 0], "right").tolist()

    none = initial_design(some, rows(), pool, 4, rng)
    sizes = [strata(pool).count(k) for k in range(4)]
    assert strata(none) == [0] * sizes[0] + [2] * sizes[2] + [1] * sizes[1] + [3] * sizes[3]
    assert sorted(map(tuple, none)) == sorted(map(tuple, pool))
    placed = rows((0, 0), (9, 9), (5, 4))
    ranked = initial_design(some, placed, pool, 4, rng)
    (empty,) = set(range(4)) - set(strata(placed))
    assert strata(ranked)[: sizes[empty]] == [empty] * sizes[empty]
    inputs, others = some.inputs(ranked[: sizes[empty]]), some.inputs(placed)
    far = ((inputs[:, None] - others) ** 2).sum(axis=2).min(axis=1)
    assert (np.diff(far) <= 1e-12).all()


def test_only_so_many_are_ranked_and_the_rest_follows() -> None:
    free = {"c": FloatDistribution(0, 1)}
    some = Domain(free, FromDistributions(free), seed=0)
    pool, placed = np.linspace(0, 1, 1001)[:, None], np.array([[0.0]])
    ranked = initial_design(some, placed, pool, 2, np.random.default_rng(0))
    assert sorted(ranked[:, 0]) == pytest.approx(pool[:, 0])
    assert (np.diff(ranked[:400, 0]) < 0).all() and not (np.diff(ranked[400:, 0]) < 0).all()
    empty = initial_design(some, placed, np.empty((0, 1)), 2, np.random.default_rng(0))
    assert empty.shape == (0, 1)


def test_a_first_value_is_small_and_later_ones_are_any() -> None:
    def value(number: int, feasible: Callable[[Any], bool] | None = None, seed: int = 0) -> Any:
        some = trial(number, {"a": 4})
        return first_value("b", IntDistribution(0, 99), some, feasible, seed)

    assert all(0 <= value(0, seed=seed)[0] <= 20 and value(0)[1] for seed in range(5))
    assert len({value(n)[0] for n in range(1, 20)}) > 8
    assert value(3) == value(3) and value(3) != value(3, seed=5)
    assert value(0, lambda p: p["b"] > 90)[0] > 90
    assert value(0, lambda p: p["a"] == 4 and p["b"] > 90)[1] is True
    assert value(0, lambda p: p["later"])[1] is True
    assert value(0, lambda p: False)[1] is False


# -- surrogate -----------------------------------------------------------------------------------


def observed(n: int, running: np.ndarray | None = None) -> Observations:
    rng = np.random.default_rng(1)
    table = np.array([[k % 10, k // 10] for k in rng.permutation(100)[:n]], dtype=float)
    values = 20 + np.sin(table[:, 0]) * 5 + table[:, 1]
    running = rows() if running is None else running
    return Observations(
        table, values, np.full(n, 0.01), running, np.concatenate([table, running]), 0
    )


def test_a_posterior_is_in_the_units_of_the_observations() -> None:
    some, told = domain(), observed(12)
    x = some.inputs(told.rows)
    found = kernel(x.shape[1])
    scale = float(told.values.mean()), float(told.values.std())
    plain = Posterior(found, x, (told.values - scale[0]) / scale[1], told.noise, (0.0, 1.0))
    units = Posterior(found, x, told.values, told.noise, scale)
    other = some.inputs(rows((4, 4), (9, 0)))
    assert units(other)[0] == pytest.approx(plain(other)[0] * scale[1] + scale[0])
    assert units(other)[1] == pytest.approx(plain(other)[1] * scale[1])
    K, alone = found.k1(x), found.k1(x, other)
    noisy = K + np.diag(told.noise + 1e-8 + found.k2.noise_level)
    weights = np.linalg.solve(noisy, (told.values - scale[0]) / scale[1])
    assert plain(other)[0] == pytest.approx(alone.T @ weights)
    variance = 1 - np.einsum("ij,ij->j", alone, np.linalg.solve(noisy, alone))
    assert plain(other)[1] == pytest.approx(np.sqrt(variance), rel=1e-4)


def test_running_ones_are_taken_to_reach_what_is_expected() -> None:
    some = domain()
    before = Surrogate().posterior(some, observed(12))
    at = rows((9, 9))
    after = Surrogate().posterior(some, observed(12, running=at))
    x = some.inputs(at)
    assert after(x)[0] == pytest.approx(before(x)[0], rel=1e-3)
    assert after(x)[1] < 0.7 * before(x)[1]


def test_hyperparameters_are_fitted_again_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []

    def counted(x: Any, y: Any, noise: Any) -> Any:
        used.append(len(x))
        assert y.mean() == pytest.approx(0, abs=1e-9) and y.std() == pytest.approx(1)
        assert len(x) == len(y) == len(noise)
        return kernel(x.shape[1])

    monkeypatch.setattr(surrogate_module, "fit", counted)
    monkeypatch.setattr(surrogate_module, "FIT", 30)
    some, surrogate = domain(), Surrogate()
    for n in range(2, 60):
        surrogate.posterior(some, observed(n))
    # Each time for a tenth more, at least one; of more than thirty, thirty.
    sizes = [2]
    while (following := max(sizes[-1] + 1, int(sizes[-1] * 1.1))) < 60:
        sizes.append(following)
    assert used == [min(size, 30) for size in sizes]


def test_many_observations_are_thinned_but_for_the_front(monkeypatch: pytest.MonkeyPatch) -> None:
    given_to: list[int] = []

    class Spy(Posterior):
        def __init__(self, found: Any, x: Any, y: Any, noise: Any, scale: Any) -> None:
            given_to.append(len(x))
            assert len(x) == len(y) == len(noise)
            assert scale == (pytest.approx(y.mean()), pytest.approx(y.std()))
            super().__init__(found, x, y, noise, scale)
            self.y = y

    monkeypatch.setattr(surrogate_module, "Posterior", Spy)
    monkeypatch.setattr(surrogate_module, "MOST", 10)
    monkeypatch.setattr(surrogate_module, "fit", lambda x, y, noise: kernel(x.shape[1]))
    some, told = domain(), observed(40)
    model: Any = Surrogate().posterior(some, told)
    points = np.column_stack([told.values, some.candidates.costs(told.rows)])
    front = set(np.flatnonzero(pareto.front(points)).tolist())
    kept = front | set(np.linspace(0, 39, 10).astype(int).tolist())
    assert given_to == [len(kept)]
    assert model.y.tolist() == told.values[sorted(kept)].tolist()


def test_equal_values_have_a_kernel_too() -> None:
    told = observed(6)
    told.values[:] = 3.0
    mean, std = Surrogate().posterior(domain(), told)(domain().inputs(rows((1, 1))))
    assert mean == pytest.approx([3.0]) and np.isfinite(std).all()
    assert fit(np.array([[0.0], [1.0]]), np.array([-1.0, 1.0]), np.zeros(2)).k1.k2.nu == 2.5


# -- local search --------------------------------------------------------------------------------


def by_hand(mean: Callable[[np.ndarray], np.ndarray], std: float) -> Any:
    return lambda x: (mean(x), np.full(len(x), std))


def test_the_best_improvement_of_a_small_domain_comes_first() -> None:
    """Sure of everything: the improvement is that of the hypervolume, written out."""
    some, told = domain(), observed(5)
    truth = {tuple(row): 3 - row[0] / 9 + 0.3 * np.cos(row[1]) for row in some.pool(None)}  # type: ignore[arg-type]
    table = {some.inputs(np.array([row])).tobytes(): value for row, value in truth.items()}
    posterior = by_hand(lambda x: np.array([table[row[None].tobytes()] for row in x]), 1e-9)
    pool = some.pool(np.random.default_rng(0))
    ranked = by_improvement(some, posterior, told, pool, set(), np.random.default_rng(0))
    values = [truth[tuple(row)] for row in told.rows]
    worst, best = max(values), min(values)

    def point(row: np.ndarray) -> list[float]:
        return [truth[tuple(row)], sum(row) / 18]

    reference = [worst + MARGIN * (worst - best), 1 + MARGIN]
    front = [point(row) for row in told.rows]

    def gain(row: np.ndarray) -> float:
        return pareto.hypervolume([*front, point(row)], reference) - pareto.hypervolume(
            front, reference
        )

    gains = [gain(row) for row in ranked]
    assert sorted(map(tuple, ranked)) == sorted(map(tuple, pool))
    assert gains[0] == pytest.approx(max(gains)) and gains[0] > 0
    first = next(k for k, g in enumerate(gains) if g < 1e-9)
    assert (np.diff(gains[:first]) <= 1e-6).all()


def test_of_a_large_domain_the_best_is_climbed_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates_module, "FEW", 10)
    some = domain(known=())
    monkeypatch.setattr(domain_module, "POOL", 100)
    told = observed(3)
    told.rows = rows((0, 0), (1, 0), (0, 1))
    told.running, told.tried = rows(), told.rows

    def mean(x: np.ndarray) -> np.ndarray:
        return np.asarray(10 - x.sum(axis=1))

    pool = rows((3, 3))
    ranked = by_improvement(some, by_hand(mean, 0.01), told, pool, set(), np.random.default_rng(0))
    # The pool and the front's neighbours; then in each of three rounds one step further.
    assert ranked[0].tolist() in ([6, 3], [5, 4], [4, 5], [3, 6])
    assert len({tuple(row) for row in ranked}) >= len(ranked) - 3
    sums = ranked.sum(axis=1)
    assert (np.diff(sums) <= 0).all()


# -- what a user says ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("known", "objectives", "index"), [([1], 2, 0), ([0], 2, 1), ([], 1, 0), ([0, 2], 3, 1)]
)
def test_the_uncertain_objective(known: list[int], objectives: int, index: int) -> None:
    assert uncertain(known, objectives) == index


@pytest.mark.parametrize(("known", "objectives"), [([], 2), ([0, 1], 2), ([1, 2], 2), ([2], 2)])
def test_all_but_one_objective_are_known(known: list[int], objectives: int) -> None:
    with pytest.raises(ValueError, match="KnownCostSampler: known") as caught:
        uncertain(known, objectives)
    assert str(caught.value) == (
        f"KnownCostSampler: known objectives {known} of a study with {objectives}; "
        "allowed: all but one"
    )


def test_what_is_wrong_with_a_function_is_told_by_its_name() -> None:
    assert checked("known[1]", None) is None
    assert checked("feasible", total)({"a": 1, "b": 2}) == 3
    given_to: dict[str, Any] = {"a": 1}
    checked("feasible", lambda p: p.clear())(given_to)
    assert given_to == {"a": 1}
    with pytest.raises(ValueError, match="needs parameter") as caught:
        checked("known[1]", total)({"a": 1, "c": 2})
    assert str(caught.value) == (
        "KnownCostSampler: known[1] needs parameter 'b'; every trial has a, c"
    )
    with pytest.raises(ValueError, match="every trial has none"):
        checked("known[1]", total)({})
    with pytest.raises(ValueError, match=r"known\[0\] says nan of {'a': 1}"):
        checked("known[0]", lambda p: math.nan)({"a": 1})
    assert math.isnan(checked("features", lambda p: math.nan)({}))


def test_what_is_known_is_what_trials_return() -> None:
    done = trial(7, {"a": 1, "b": 2}, values=[5.0, 3.0])
    compare({1: total}, done)
    compare({1: lambda p: 3.0000001}, done)
    compare({1: lambda p: 1e-10}, trial(7, {"a": 1, "b": 2}, values=[5.0, 0.0]))
    with pytest.raises(ValueError, match="is it another") as caught:
        compare({1: total, 0: total}, done)
    assert str(caught.value) == (
        "KnownCostSampler: known[0] says 3 of trial 7, which returned 5; is it another objective's?"
    )
