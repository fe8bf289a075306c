"""``KnownCostSampler`` on studies that know nothing of this package."""

from __future__ import annotations

import math
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState, create_trial

from sret_nas import pareto
from sret_nas.samplers import KnownCostSampler, observations
from sret_nas.samplers.candidates import FromDistributions

SPACE: dict[str, BaseDistribution] = {
    "width": IntDistribution(8, 64, step=8),
    "depth": IntDistribution(1, 6),
    "ratio": CategoricalDistribution([1, 2, 4]),
    "kind": CategoricalDistribution(["a", "b"]),
}
Params = dict[str, Any]


def size(params: Params) -> float:
    return float(params["width"] * params["depth"] * params["ratio"])


def log_size(params: Params) -> float:
    return math.log(size(params))


def loss(params: Params) -> float:
    return 10 / math.log(1 + size(params)) + 0.3 * (params["kind"] == "b") + 0.1 * params["depth"]


def feasible(params: Params) -> bool:
    return 16 <= size(params) <= 600


def make(seed: int = 0, **changes: Any) -> KnownCostSampler:
    options: dict[str, Any] = {
        "known": {1: log_size},
        "feasible": feasible,
        "features": lambda params: [params["depth"] ** 2],
        "search_space": SPACE,
    }
    return KnownCostSampler(**options | changes, seed=seed)


def new_study(sampler: Any, directions: tuple[str, ...] = ("minimize", "minimize")) -> optuna.Study:
    return optuna.create_study(directions=list(directions), sampler=sampler)


def go_on(study: optuna.Study, trials: int, quality: Callable[[Params], float] = loss) -> None:
    for _ in range(trials):
        trial = study.ask(SPACE)
        study.tell(trial, [quality(trial.params), math.log(size(trial.params))])


def tried(study: optuna.Study) -> list[tuple[Any, ...]]:
    return [tuple(trial.params[name] for name in SPACE) for trial in study.trials]


def volume(study: optuna.Study) -> float:
    points = [(loss(t.params), math.log(size(t.params))) for t in study.trials if t.params]
    return pareto.hypervolume(points, (6.0, math.log(601)))


def test_only_feasible_ones_and_none_twice() -> None:
    study = new_study(make())
    go_on(study, 40)
    assert all(feasible(trial.params) for trial in study.trials)
    assert len(set(tried(study))) == 40


def test_it_finds_more_than_chance() -> None:
    ours, chance = [], []
    for seed in range(5):
        study = new_study(make(seed))
        go_on(study, 20)
        ours.append(volume(study))
        rows = FromDistributions(SPACE, feasible=feasible)
        everything = rows.everything()
        assert everything is not None
        picks = np.random.default_rng(seed).choice(len(everything), 20, replace=False)
        found = [rows.params(everything[i]) for i in picks]
        points = [(loss(p), math.log(size(p))) for p in found]
        chance.append(pareto.hypervolume(points, (6.0, math.log(601))))
    assert min(ours) > max(chance)


def test_the_seed_and_the_trials_decide() -> None:
    whole = new_study(make(3))
    go_on(whole, 16)
    parts = new_study(make(3))
    for _ in range(16):  # as if every trial were asked for by a process of its own
        parts.sampler = make(3)
        go_on(parts, 1)
    assert tried(parts) == tried(whole)
    other = new_study(make(4))
    go_on(other, 16)
    assert tried(other) != tried(whole)


def test_it_can_be_sent_to_another_process() -> None:
    study = new_study(make(features=None))
    go_on(study, 6)
    copied = new_study(pickle.loads(pickle.dumps(study.sampler)))
    for trial in study.trials:
        copied.add_trial(trial)
    go_on(study, 3)
    go_on(copied, 3)
    assert tried(copied) == tried(study)


@pytest.mark.parametrize("quality", ["minimize", "maximize"])
@pytest.mark.parametrize("cost", ["minimize", "maximize"])
def test_any_mix_of_directions_is_the_same_search(quality: str, cost: str) -> None:
    signs = [1 if d == "minimize" else -1 for d in (quality, cost)]
    sampler = make(known={1: lambda params: signs[1] * math.log(size(params))})
    study = new_study(sampler, (quality, cost))
    reference = new_study(make())
    for _ in range(14):
        trial = study.ask(SPACE)
        found = signs[0] * loss(trial.params), signs[1] * math.log(size(trial.params))
        study.tell(trial, found)
    go_on(reference, 14)
    assert tried(study) == tried(reference)


def test_the_uncertain_objective_may_stand_anywhere() -> None:
    study = new_study(make(known={0: lambda params: math.log(size(params))}))
    for _ in range(14):
        trial = study.ask(SPACE)
        study.tell(trial, [math.log(size(trial.params)), loss(trial.params)])
    reference = new_study(make())
    go_on(reference, 14)
    assert tried(study) == tried(reference)


def test_no_known_objective_is_ordinary_optimisation() -> None:
    study = optuna.create_study(sampler=make(known={}))
    for _ in range(25):
        trial = study.ask(SPACE)
        study.tell(trial, loss(trial.params))
    rows = FromDistributions(SPACE, feasible=feasible)
    everything = rows.everything()
    assert everything is not None
    assert study.best_value == min(loss(rows.params(row)) for row in everything)


def test_three_objectives() -> None:
    known = {1: lambda p: math.log(size(p)), 2: lambda p: float(p["depth"])}
    study = new_study(make(known=known), ("minimize",) * 3)
    for _ in range(20):
        trial = study.ask(SPACE)
        study.tell(trial, [loss(trial.params), *(f(trial.params) for f in known.values())])
    assert len(set(tried(study))) == 20


def test_continuous_parameters_and_optimize() -> None:
    """As a user writes it: nothing known of the space, no ask and tell."""

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        x = trial.suggest_float("x", 0.0, 1.0)
        rate = trial.suggest_float("rate", 1e-4, 1e-1, log=True)
        n = trial.suggest_int("n", 1, 1_000_000, log=True)
        miss = abs(math.log10(rate) + 2) + abs(x - 0.3)
        return miss, math.log(n) * (1 + x)

    sampler = KnownCostSampler(
        known={1: lambda p: math.log(p["n"]) * (1 + p["x"])},
        feasible=lambda p: p["n"] * p["x"] > 0.5,
        seed=0,
    )
    study = new_study(sampler)
    study.optimize(objective, n_trials=40)
    assert all(t.params["n"] * t.params["x"] > 0.5 for t in study.trials)
    assert min(trial.values[0] for trial in study.trials) < 0.1


def test_a_first_trial_that_cannot_be_feasible_is_told() -> None:
    sampler = KnownCostSampler({1: lambda p: p["x"]}, lambda p: p["x"] > 5, seed=0)
    study = new_study(sampler)
    with pytest.warns(UserWarning, match="trial 0 is infeasible: .* give search_space"):
        study.ask({"x": IntDistribution(1, 5)})


@pytest.mark.parametrize("seed", range(5))
def test_an_upper_bound_holds_from_the_first_trial_on(seed: int) -> None:
    sampler = KnownCostSampler({1: log_size}, lambda p: size(p) <= 60, seed=seed)
    study = new_study(sampler)
    go_on(study, 8)
    assert all(size(trial.params) <= 60 for trial in study.trials)


def test_the_first_trials_are_spread_over_the_cost() -> None:
    study = new_study(make(n_startup_trials=6))
    go_on(study, 6)
    rows = FromDistributions(SPACE, feasible=feasible)
    everything = rows.everything()
    assert everything is not None
    costs = np.sort([size(rows.params(row)) for row in everything])
    edges = costs[[len(costs) * k // 6 for k in range(1, 6)]]
    found = [int(np.searchsorted(edges, size(t.params), side="right")) for t in study.trials]
    assert sorted(found) == list(range(6))


def test_enqueued_trials_are_counted_among_the_first() -> None:
    study = new_study(make(n_startup_trials=3))
    for params in ({"width": 8, "depth": 2, "ratio": 1, "kind": "a"},) * 1:
        study.enqueue_trial(params)
    for width in (32, 64):
        study.enqueue_trial({"width": width, "depth": 4, "ratio": 2, "kind": "b"})
    go_on(study, 3)
    expected = new_study(make(n_startup_trials=3))
    for trial in study.trials:
        expected.add_trial(trial)
    go_on(expected, 1)
    go_on(study, 1)
    assert tried(study)[:3] == [(8, 2, 1, "a"), (32, 4, 2, "b"), (64, 4, 2, "b")]
    assert tried(study) == tried(expected)
    waiting = new_study(make(n_startup_trials=2))
    for trial in study.trials[:2]:
        waiting.enqueue_trial(trial.params)
    go_on(waiting, 12)
    assert len(set(tried(waiting))) == 12


def test_eight_at_once_are_different_and_good() -> None:
    study = new_study(make())
    go_on(study, 12)
    best = volume(study)
    # Each in a process of its own: none sees what another is about to propose.
    trials = [study._storage.create_new_trial(study._study_id) for _ in range(8)]
    frozen = [study._storage.get_trial(number) for number in trials]
    asked = [make().sample_relative(study, trial, SPACE) for trial in frozen]
    assert len({tuple(params.values()) for params in asked}) == 8
    assert all(feasible(params) for params in asked)
    points = [(loss(p), math.log(size(p))) for p in asked]
    points += [(loss(t.params), math.log(size(t.params))) for t in study.trials if t.values]
    together = pareto.hypervolume(points, (6.0, math.log(601)))
    go_on(one := new_study(make()), 20)
    assert together - best > 0.5 * (volume(one) - best)


def test_threads_get_different_ones() -> None:
    study = new_study(make())
    study.optimize(
        lambda trial: (
            loss({n: trial._suggest(n, d) for n, d in SPACE.items()}),
            math.log(size(trial.params)),
        ),
        n_trials=24,
        n_jobs=4,
    )
    assert len(set(tried(study))) == 24


def proposals(study: optuna.Study, count: int = 5) -> list[Params]:
    asked = []
    for _ in range(count):
        trial = study.ask(SPACE)
        asked.append(trial.params)
    return asked


def test_what_a_rung_showed_informs_the_model() -> None:
    """Trials of kind b were all pruned, and had looked far better than any of kind a."""

    def told(good: str) -> optuna.Study:
        study = optuna.create_study(sampler=make(known={}))
        rows = FromDistributions(SPACE, feasible=feasible)
        for i, row in enumerate(rows.draw(30, np.random.default_rng(0))):
            params = rows.params(row)
            done = params["kind"] == "a" or i < 3
            value = 1.0 if params["kind"] == good else 2.0
            study.add_trial(
                create_trial(
                    state=TrialState.COMPLETE if done else TrialState.PRUNED,
                    value=value + 0.01 * i if done else None,
                    params=params,
                    distributions=SPACE,
                    intermediate_values={1: value + 1 + 0.01 * i},
                )
            )
        return study

    for good in ("a", "b"):
        kinds = [params["kind"] for params in proposals(told(good))]
        assert kinds.count(good) >= 4


def test_many_stopped_trials_cost_no_more_than_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the complete ones say of a rung is worked out once, not for every stopped trial."""
    asked: list[int] = []
    line = observations.fit_line

    def counting(pairs: Any) -> Any:
        asked.append(len(pairs))
        return line(pairs)

    monkeypatch.setattr(observations, "fit_line", counting)
    complete = [(np.zeros(1), float(k), {1: k + 1.0, 3: k / 2}) for k in range(5)]
    pruned = [(np.ones(1), {1: here, step: here}) for step in (1, 3) for here in (0.0, 1.0, 2.0)]
    rows, values, noise = observations.learned(complete, pruned, [])
    assert asked == [5, 5] and len(rows) == 11
    # At step 1 complete trials had 1 more than in the end, at step 3 half of it.
    assert values[5:8] == pytest.approx([-1, 0, 1])
    assert values[8:] == pytest.approx([0, 2, 4], abs=0.7)  # drawn towards a slope of 1
    assert noise[5:8].max() < noise[8:].min()


def test_where_trials_fail_is_avoided() -> None:
    study = new_study(make())
    for _ in range(30):
        trial = study.ask(SPACE)
        if trial.params["kind"] == "a":
            study.tell(trial, state=TrialState.FAIL)
        else:
            study.tell(trial, [loss(trial.params), math.log(size(trial.params))])
    kinds = [trial.params["kind"] for trial in study.trials]
    assert kinds[:8].count("a") >= 2
    assert kinds[-15:].count("a") <= 3
    assert len(set(tried(study))) == 30


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_values_that_are_no_numbers_do_no_harm() -> None:
    study = new_study(make())
    for i in range(12):
        trial = study.ask(SPACE)
        value = math.inf if i % 3 == 0 else loss(trial.params)
        study.tell(trial, [value, math.log(size(trial.params))])
    assert len(set(tried(study))) == 12


def test_all_values_equal() -> None:
    study = new_study(make())
    go_on(study, 10, lambda _: 1.0)
    assert len(set(tried(study))) == 10


def test_nothing_left_is_said() -> None:
    few = {"x": IntDistribution(1, 5)}
    sampler = KnownCostSampler(
        {1: lambda p: p["x"]}, lambda p: p["x"] > 2, seed=0, search_space=few
    )
    study = new_study(sampler)
    for _ in range(3):
        trial = study.ask(few)
        study.tell(trial, [1.0, trial.params["x"]])
    assert {trial.params["x"] for trial in study.trials} == {3, 4, 5}
    with pytest.raises(ValueError, match="every feasible candidate has been tried"):
        study.ask(few)


def test_a_conditional_parameter_is_refused() -> None:
    def objective(trial: optuna.Trial) -> tuple[float, float]:
        depth = trial.suggest_int("depth", 1, 3)
        extra = [trial.suggest_int(f"width{i}", 1, 9) for i in range(depth)]
        return 1 / depth, float(depth + sum(extra))

    study = new_study(KnownCostSampler({1: lambda p: float(sum(p.values()))}, seed=0))
    with pytest.raises(ValueError, match=r"parameter 'width\d' is not one that every trial has"):
        study.optimize(objective, n_trials=30)


@pytest.mark.parametrize("known", [{}, {0: size, 1: size}, {2: size}, {1: size, 2: size}])
def test_all_but_one_objective_must_be_known(known: dict[int, Any]) -> None:
    study = new_study(make(known=known))
    with pytest.raises(ValueError, match=r"allowed: all but one"):
        go_on(study, 1)


@pytest.mark.parametrize(
    ("known", "says"),
    [
        ({0: log_size}, r"known\[0\] says .* of trial 0, which returned .*; is it another"),
        ({1: lambda p: log_size(p) + 1}, r"known\[1\] says .* of trial 0, which returned"),
        ({1: lambda p: math.nan}, r"known\[1\] says nan of"),
        ({1: lambda p: p["wdith"]}, r"known\[1\] needs parameter 'wdith'; every trial has width"),
    ],
)
def test_what_is_not_so_is_told_at_once(known: dict[int, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        go_on(new_study(make(known=known)), 2)


def test_nothing_feasible_is_told() -> None:
    with pytest.raises(ValueError, match="no candidate is feasible"):
        go_on(new_study(make(feasible=lambda _: False)), 1)


def test_a_distribution_of_another_kind_is_refused() -> None:
    class Odd(BaseDistribution):
        def to_internal_repr(self, param_value_in_external_repr: Any) -> float:
            return 0.0

        def single(self) -> bool:
            return False

        def _contains(self, param_value_in_internal_repr: float) -> bool:
            return True

    with pytest.raises(ValueError, match="'x': Odd is not supported; allowed: float, int"):
        FromDistributions({"x": Odd()})


# -- candidates ----------------------------------------------------------------------------------

axes = st.one_of(
    st.tuples(st.integers(-5, 5), st.integers(0, 300), st.integers(1, 4)).map(
        lambda t: IntDistribution(t[0], t[0] + t[1] * t[2], step=t[2])
    ),
    st.integers(1, 1000).map(lambda high: IntDistribution(1, high, log=True)),
    st.tuples(st.floats(-5, 5), st.floats(0.01, 9)).map(
        lambda t: FloatDistribution(t[0], t[0] + t[1])
    ),
    st.floats(1e-6, 0.5).map(lambda low: FloatDistribution(low, 1.0, log=True)),
    st.integers(1, 8).map(lambda n: FloatDistribution(0.0, n / 4, step=0.25)),
    st.sampled_from([(1, 2, 4), (0.5, 0.25), ("a", "b", "c"), (True, False), (None, 1)]).map(
        CategoricalDistribution
    ),
)


@settings(deadline=None, max_examples=60)
@given(st.lists(axes, min_size=1, max_size=4), st.integers(0, 2**31))
def test_rows_and_parameters_are_the_same(some: list[BaseDistribution], seed: int) -> None:
    space = {f"p{i}": d for i, d in enumerate(some)}
    candidates = FromDistributions(space)
    rng = np.random.default_rng(seed)
    rows = candidates.draw(20, rng)
    near = candidates.around(rows[:3], rng)
    for row in [*rows, *near]:
        params = candidates.params(row)
        for name, value in params.items():
            assert space[name]._contains(space[name].to_internal_repr(value))
        again = candidates.encode(params)
        assert again is not None
        assert again == pytest.approx(row, abs=1e-9)
    inputs = candidates.inputs(rows)
    assert ((inputs >= -1e-9) & (inputs <= 1 + 1e-9)).all()
    everything = candidates.everything()
    if everything is not None:
        assert len({tuple(candidates.params(r).values()) for r in everything}) == len(everything)


def test_parameters_that_are_not_of_the_space_have_no_row() -> None:
    candidates = FromDistributions(SPACE)
    good = {"width": 8, "depth": 1, "ratio": 1, "kind": "a"}
    assert candidates.encode(good) is not None
    assert candidates.encode(good | {"kind": "c"}) is None
    assert candidates.encode(good | {"width": 72}) is None
    assert candidates.encode({"width": 8}) is None


def test_no_warning_reaches_the_user() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        go_on(new_study(make()), 8)
