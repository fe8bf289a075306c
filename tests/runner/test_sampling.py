"""What every sampler owes a study: conformance over all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optuna
import pytest

from sret_nas import zoo
from sret_nas.arch import Architecture
from sret_nas.cost import cost
from sret_nas.errors import ArchitectureError, InfeasibleError, UsageError
from sret_nas.runner.strategies import SAMPLERS, check
from sret_nas.space import SearchSpace, Timing
from sret_nas.study.rundir import recover, standing
from sret_nas.units import parse_budgets

Lab = Any
every = pytest.mark.parametrize("name", [*SAMPLERS, "auto"])


def trials(name: str) -> int:
    """Enough to go past every sampler's random start; the Gaussian process takes its time."""
    return {"gp": 13}.get(name, 26)


def without_rungs(lab: Lab, name: str) -> None:
    """These learn from complete trials alone: let all be complete, to leave the start behind."""
    if name in ("gp", "nsga2", "nsga3"):
        lab.proxy["rungs"] = [4]


def ids(study: optuna.Study) -> list[str]:
    return [trial.user_attrs["id"] for trial in standing(study)]


@every
def test_only_feasible_and_new_architectures_are_tried(name: str, lab: Lab) -> None:
    without_rungs(lab, name)
    budgets = ["400K MACs", "12K params", "100KB"]
    study = lab.search(sampler=name, budget=tuple(budgets), trials=trials(name))
    found = standing(study)
    assert len(found) == trials(name)
    assert len({trial.user_attrs["id"] for trial in found}) == trials(name)
    space = SearchSpace.load("smoke")
    for trial in found:
        arch = Architecture.load(trial.user_attrs["architecture"])
        assert arch.id == trial.user_attrs["id"]
        assert space.decode(space.from_params(trial.params)).id == arch.id
        for bound in parse_budgets(budgets):
            assert getattr(cost(arch), bound.metric) <= bound.limit
        assert trial.user_attrs["metrics"]["macs"] == cost(arch).macs


@every
def test_a_small_space_is_tried_to_the_last(name: str, lab: Lab, few: dict[str, Any]) -> None:
    space = SearchSpace.load(few)
    budget = ("600K MACs",)
    feasible = {arch.id for arch in space.sample(10_000, 0, budget)}
    assert 5 < len(feasible) < int(space.distinct.value)
    config = lab.config(few, sampler=name, budget=budget, trials=10_000)
    worker = lab.worker(config)
    worker.search()
    tried = ids(worker.study)
    assert len(tried) == len(feasible)
    assert set(tried) == feasible
    assert worker.study.user_attrs["exhausted"]
    lab.worker(config, worker.study).search()  # and again: nothing more, no error
    assert ids(worker.study) == tried


class Killed(BaseException):
    """What a kill is to a worker in this process: it ends without a word."""


@every
def test_interrupted_anywhere_a_search_goes_on_as_if_it_had_not_been(
    name: str, lab: Lab, table: Any
) -> None:
    """Killed in every proposal, and in every training that goes beyond its first epoch."""
    without_rungs(lab, name)
    wanted = {"sampler": name, "budget": ("2M MACs",), "trials": trials(name)}
    whole = lab.search(**wanted)
    asked, trained = set(), set()

    def fits(arch: Architecture) -> None:
        if (number := len(standing(study))) not in asked:
            asked.add(number)
            raise Killed

    def dying(arch: Architecture, seed: int) -> Any:
        for result in table(arch, seed):
            yield result
            if arch.id not in trained:
                trained.add(arch.id)
                raise Killed

    config = lab.config(**wanted)
    study = lab.study(config)
    kills = 0
    while True:
        try:
            lab.worker(config, study, dying, fits).search()
            break
        except Killed:
            kills += 1
            recover(study)
    assert kills > 1.3 * trials(name)
    assert ids(study) == ids(whole)
    assert [t.values for t in standing(study)] == [t.values for t in standing(whole)]
    assert [t.state for t in standing(study)] == [t.state for t in standing(whole)]
    assert [t.user_attrs["curve"] for t in standing(study)] == [
        t.user_attrs["curve"] for t in standing(whole)
    ]


@every
def test_the_seed_decides(name: str, lab: Lab) -> None:
    first = ids(lab.search(sampler=name, seed=1, trials=6))
    assert ids(lab.search(sampler=name, seed=1, trials=6)) == first
    assert ids(lab.search(sampler=name, seed=2, trials=6)) != first


@every
def test_published_variants_come_first(name: str, lab: Lab) -> None:
    space = SearchSpace.load("sret")
    inside = {a.id: cost(a).macs for a in zoo.PUBLISHED.values() if a in space}
    expected = [i for i, macs in sorted(inside.items(), key=lambda one: one[1]) if macs <= 1.3e9]
    assert len(expected) >= 2
    assert len(expected) < len(inside)
    wanted = {"space": "sret", "budget": ("1.3GFLOPs",), "sampler": name}
    study = lab.search(**wanted, trials=len(expected) + 2)
    assert ids(study)[: len(expected)] == expected
    without = ids(lab.search(**wanted, published=False, trials=2))
    assert not set(without) & set(inside)


def by_macs(source: str = "predicted", margin_ms: float = 0.1) -> Callable[..., Timing]:
    asked: list[str] = []

    def tell(arch: Architecture, batch: int) -> Timing:
        asked.append(arch.id)
        return Timing(batch * cost(arch).macs / 1e6, margin_ms, source)  # type: ignore[arg-type]

    tell.asked = asked  # type: ignore[attr-defined]
    return tell


@every
def test_too_slow_is_turned_down_untrained_and_counted(name: str, lab: Lab) -> None:
    clock = by_macs()
    config = lab.config(sampler=name, budget=("0.8ms",), trials=12)
    worker = lab.worker(config, clock=clock)
    worker.search()
    found = standing(worker.study)
    assert len(found) == 12
    assert all(t.user_attrs["metrics"]["macs"] / 1e6 + 0.1 <= 0.8 for t in found)
    assert all(t.user_attrs["metrics"]["latency_ms"] < 0.8 for t in found)
    refused = sum(t.user_attrs["rejected"].get("too slow", 0) for t in found)
    assert refused > 0
    assert len(clock.asked) == len(set(clock.asked))  # type: ignore[attr-defined]


@every
def test_what_does_not_exist_at_the_proxys_scale_is_never_trained(name: str, lab: Lab) -> None:
    def fits(arch: Architecture) -> None:
        if arch.stages[1].heads == 3:
            raise ArchitectureError("too wide")

    worker = lab.worker(lab.config(sampler=name, trials=12), fits=fits)
    worker.search()
    found = worker.study.trials
    assert {t.user_attrs["architecture"]["stages"][1]["heads"] for t in found} == {2}
    assert sum(sum(t.user_attrs["rejected"].values()) for t in found) > 0


@pytest.mark.parametrize(("source", "most"), [("measured", 50), ("predicted", 1728)])
def test_a_bound_on_latency_that_nothing_satisfies(source: str, most: int, lab: Lab) -> None:
    """Measurements are dear: so many in a row, and the search says that it found none."""
    clock = by_macs(source)
    worker = lab.worker(lab.config(budget=("0.01ms",)), clock=clock)
    with pytest.raises(InfeasibleError, match=r"nearest: 0\.\d+ ms|have been tried"):
        worker.search()
    assert len(clock.asked) == most  # type: ignore[attr-defined]
    assert not standing(worker.study)


def test_a_search_ends_after_the_last_fast_one(lab: Lab) -> None:
    macs = {arch.id: cost(arch).macs for arch in SearchSpace.load("smoke").sample(10_000, 0)}
    limit = sorted(macs.values())[9]
    worker = lab.worker(lab.config(budget=(f"{limit / 1e6}ms",)), clock=by_macs(margin_ms=0))
    worker.search()
    assert set(ids(worker.study)) == {i for i, m in macs.items() if m <= limit}
    assert worker.study.user_attrs["exhausted"]


def test_names_of_samplers() -> None:
    assert check("auto") in SAMPLERS
    with pytest.raises(UsageError, match="did you mean 'nsga2'"):
        check("nsga-2")
