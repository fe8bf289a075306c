"""The time estimate: each of its terms changes it by as much as the term says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from sret_nas.cost import cost
from sret_nas.data import DataSet, load_data
from sret_nas.evaluators.proxy import ProxyEvaluator
from sret_nas.runner.estimate import SAMPLE, Estimate, estimate
from sret_nas.units import parse_budgets

Lab = Any
SPEED = 50.0
TRAIN, VAL = 64, 30
PER_EPOCH = TRAIN + VAL / 3
PROXY = {
    "image_size": 8, "subset": TRAIN, "val_images": VAL,
    "epochs": 4, "rungs": [1, 2, 4], "seeds": 3,
}  # fmt: skip


@pytest.fixture(autouse=True)
def known_speed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Nothing is timed: every network has one speed. Which ones were asked for."""
    asked: list[Any] = []

    def images_per_second(self: ProxyEvaluator, arch: Any) -> float:
        asked.append(arch)
        return SPEED

    monkeypatch.setattr(ProxyEvaluator, "images_per_second", images_per_second)
    before = torch.get_num_threads()
    yield asked
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data() -> DataSet:
    found = load_data(image_size=8, subset=TRAIN, val_images=VAL)
    assert (len(found.train), len(found.val)) == (TRAIN, VAL)
    return found


def expected(
    lab: Lab, data: DataSet, trials: int = 16, confirmations: int | None = 0, **changes: Any
) -> Estimate:
    lab.proxy = PROXY | changes.pop("proxy", {})
    return estimate(lab.config(**changes), data, trials, confirmations)


def epochs(found: Estimate) -> float:
    return found.amount / PER_EPOCH


def test_all_try_the_first_rung_and_half_go_on_at_each(lab: Lab, data: DataSet) -> None:
    # 16 do one epoch, 8 a second, 4 two more.
    assert epochs(expected(lab, data)) == pytest.approx(16 + 8 + 4 * 2, abs=0.01)
    assert epochs(expected(lab, data, proxy={"rungs": [4]})) == pytest.approx(16 * 4, abs=0.01)
    assert epochs(expected(lab, data, proxy={"rungs": [3, 4]})) == pytest.approx(56, abs=0.01)


def test_validation_is_work_too(lab: Lab, data: DataSet) -> None:
    """An image that is validated counts as a third of one that is trained on."""
    more = load_data(image_size=8, subset=TRAIN, val_images=10 * VAL)
    found = [expected(lab, some, confirmations=n) for some in (data, more) for n in (0, 7)]
    work = 16 + 8 + 4 * 2
    assert found[2].amount - found[0].amount == work * 9 * VAL / 3
    assert found[3].amount - found[1].amount == (work + 7 * 4) * 9 * VAL / 3


@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_a_front_not_known_yet_is_five_members_with_the_other_seeds(
    lab: Lab, data: DataSet, seeds: int
) -> None:
    usual = expected(lab, data, confirmations=None, proxy={"seeds": seeds})
    none = expected(lab, data, confirmations=0, proxy={"seeds": seeds})
    assert epochs(usual) - epochs(none) == pytest.approx(5 * (seeds - 1) * 4, abs=0.02)


def test_confirmations_that_are_left_are_whole_trainings(lab: Lab, data: DataSet) -> None:
    none, some = (expected(lab, data, confirmations=n) for n in (0, 3))
    assert epochs(some) - epochs(none) == pytest.approx(3 * 4, abs=0.02)
    # However many seeds a member has: those that are left have been counted.
    assert some == expected(lab, data, confirmations=3, proxy={"seeds": 9})


def test_only_what_is_left_of_the_trials(lab: Lab, data: DataSet) -> None:
    assert expected(lab, data, trials=0).amount == 0
    assert expected(lab, data, trials=32).amount == 2 * expected(lab, data, trials=16).amount


@pytest.mark.parametrize("confirmations", [None, 0, 3])
def test_time_is_work_over_speed_and_workers(
    lab: Lab, data: DataSet, confirmations: int | None
) -> None:
    one = expected(lab, data, confirmations=confirmations)
    three = expected(lab, data, confirmations=confirmations, workers=3)
    assert one.work.per_second == three.work.per_second == SPEED
    assert one.amount == three.amount
    assert one.seconds == pytest.approx(one.amount / SPEED)
    assert three.seconds == pytest.approx(one.amount / SPEED / 3)


def test_who_is_timed_has_the_median_macs_of_those_that_will_do(
    lab: Lab, data: DataSet, known_speed: list[Any]
) -> None:
    config = lab.config()
    usual = expected(lab, data)
    limit = cost(usual.arch).macs
    found = expected(lab, data, budget=(f"{limit}MACs",), seed=5)
    assert known_speed == [usual.arch, found.arch]
    assert cost(found.arch).macs < limit
    archs = config.search_space().sample(SAMPLE, 5, parse_budgets([f"{limit}MACs"]))
    macs = [cost(arch).macs for arch in archs]
    mine = cost(found.arch).macs
    assert sum(m < mine for m in macs) <= SAMPLE // 2 <= sum(m <= mine for m in macs)


def test_a_bound_on_latency_needs_no_measurement(lab: Lab, data: DataSet) -> None:
    assert expected(lab, data, budget=("0.000001ms",)) == expected(lab, data)


def test_torch_has_one_thread_as_in_a_worker(lab: Lab, data: DataSet) -> None:
    torch.set_num_threads(2)
    expected(lab, data)
    assert torch.get_num_threads() == 1
