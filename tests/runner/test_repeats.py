"""Which members are evaluated again: laws over random fronts, and cases counted by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sret_nas.arch import Architecture
from sret_nas.runner import RunResult
from sret_nas.runner.confirmation import to_confirm
from sret_nas.runner.noise import Noise
from sret_nas.runner.repeats import STAND, TAKE, Evaluated, margin, undecided
from sret_nas.study.records import confirmation_key, record
from sret_nas.training import EpochResult

Lab = Any
SEEDS = 4
quick = settings(max_examples=200, deadline=None)
loss = st.floats(0.1, 10)
members = st.lists(
    st.builds(
        lambda macs, params, losses: Evaluated((macs, params), losses),
        *(loss, loss, st.lists(loss, min_size=1, max_size=3)),
    ),
    max_size=8,
)


def of(*means: float, seeds: int = 1) -> list[Evaluated]:
    """Members by ascending cost, each so often evaluated and always alike."""
    return [Evaluated((float(i),), [mean] * seeds) for i, mean in enumerate(means)]


def test_the_margin_is_students() -> None:
    # 2.262 is the 97.5% quantile of t with 9 degrees of freedom.
    assert margin(Noise(2.0, 9), 1, 1, 0.95) == pytest.approx(2.262 * 2 * 2**0.5, rel=1e-3)
    assert margin(Noise(2.0, 9), 4, 4, 0.95) == pytest.approx(2.262 * 2 * 0.5**0.5, rel=1e-3)


@quick
@given(members, st.floats(1e-3, 3))
def test_what_is_far_from_all_others_is_left_alone(front: list[Evaluated], sd: float) -> None:
    of_one = Noise(sd, 10)
    found = undecided(front, of_one)
    assert len(set(found)) == len(found)
    best = min((m.mean for m in front), default=0.0)
    for i, one in enumerate(front):
        near = [
            other
            for j, other in enumerate(front)
            if i != j
            and abs(one.mean - other.mean)
            <= margin(of_one, len(one.losses), len(other.losses), TAKE)
        ]
        if not near and one.mean > best:
            assert i not in found
        if one.mean == best and len(one.losses) == 1:
            assert i in found


@quick
@given(members, st.floats(1e-3, 3), st.floats(1.01, 100))
def test_more_noise_leaves_more_open(front: list[Evaluated], sd: float, factor: float) -> None:
    less, more = Noise(sd, 10), Noise(factor * sd, 10)
    assert set(undecided(front, less)) <= set(undecided(front, more))


@quick
@given(members, st.floats(1e-3, 3), st.integers(-20, 20))
def test_the_unit_does_not_matter(front: list[Evaluated], sd: float, power: int) -> None:
    scale = 2.0**power
    scaled = [Evaluated(m.costs, [scale * v for v in m.losses]) for m in front]
    assert undecided(front, Noise(sd, 5)) == undecided(scaled, Noise(scale * sd, 5))


def test_nothing_known_of_the_noise_leaves_all_open_the_best_first() -> None:
    assert undecided(of(3.0, 1.0, 2.0), None) == [1, 2, 0]


def test_a_difference_from_the_best_wants_more_confidence() -> None:
    of_one = Noise(1.0, 100)
    apart = (margin(of_one, 2, 2, TAKE) + margin(of_one, 2, 2, STAND)) / 2
    assert undecided(of(20 + apart, 20.0, 0.0, seeds=2), of_one) == []
    assert undecided(of(apart, 0.0, seeds=2), of_one) == [1, 0]


def test_two_of_which_neither_is_cheaper_are_compared_only_with_the_best() -> None:
    either = [Evaluated((1.0, 2.0), [5.0, 5.0]), Evaluated((2.0, 1.0), [5.0, 5.0])]
    best = Evaluated((3.0, 3.0), [1.0, 1.0])
    assert undecided([*either, best], Noise(1e-2, 9)) == []
    cheaper = Evaluated((1.0, 1.0), [5.0, 5.0])
    assert undecided([*either, cheaper, best], Noise(1e-2, 9)) == [0, 1, 2]


@pytest.fixture
def searched(lab: Lab) -> Any:
    """A study whose front is not confirmed yet, whose members may have four seeds each."""
    lab.proxy = lab.proxy | {"seeds": SEEDS}
    worker = lab.worker(lab.config(trials=12))
    worker.search()
    return worker


def repeats(worker: Any) -> list[str]:
    return [key for key in worker.study.user_attrs if key.startswith("confirmed:")]


def outcome(worker: Any) -> RunResult:
    return RunResult(worker.run, worker.config, worker.study)


def add(worker: Any, number: int, seed: int, value: float) -> None:
    found = {"val_loss": value, "val_accuracy": 0.5, "test_accuracy": 0.5, "seconds": 1.0}
    worker.study.set_user_attr(confirmation_key(number, seed), found)


def test_without_noise_the_best_is_repeated_once_and_the_others_never(searched: Any) -> None:
    found = outcome(searched)
    best = min(found.front, key=lambda member: member.metrics["val_loss"])
    (job, *_) = most = to_confirm(found)
    assert job == (best.trial, 1)
    assert len(most) == (SEEDS - 1) * len(found.front)  # as far as is known
    add(searched, *job, best.metrics["val_loss"])
    found = outcome(searched)
    assert to_confirm(found) == []
    assert [m.trial for m in found.front if m.confirmation] == [best.trial]
    assert not any(member.dethroned for member in found.front)


def test_all_are_repeated_as_often_as_they_may_be_where_noise_is_all_there_is(
    searched: Any,
) -> None:
    order = []
    while jobs := to_confirm(outcome(searched)):
        add(searched, *jobs[0], 3.0 + 40.0 * (jobs[0][1] % 2))
        order.append(jobs[0])
        assert len(order) < 99
    front = outcome(searched).front
    assert len(order) == len(set(order)) == (SEEDS - 1) * len(front)
    # The fewest evaluations first: nobody is two ahead of another.
    for k in range(len(order)):
        counts = [sum(n == member.trial for n, _ in order[:k]) for member in front]
        assert max(counts) - min(counts) <= 1


def test_a_member_that_is_overtaken_by_its_repeats_is_dethroned_at_the_end(
    searched: Any,
) -> None:
    best = outcome(searched).front[-1].trial
    while jobs := to_confirm(outcome(searched)):
        number, seed = jobs[0]
        assert not any(member.dethroned for member in outcome(searched).front)
        own = record(searched.study.trials[number]).metrics["val_loss"]
        add(searched, number, seed, own + (10.0 if number == best else 0.0))
    assert [m.trial for m in outcome(searched).front if m.dethroned] == [best]


def test_repeats_that_fail_are_not_tried_again(searched: Any) -> None:
    for job in to_confirm(outcome(searched)):
        searched.study.set_user_attr(confirmation_key(*job), {"reason": "NaN"})
    assert to_confirm(outcome(searched)) == []


def test_an_interrupted_confirmation_goes_on_as_if_it_had_not_been(lab: Lab, table: Any) -> None:
    lab.proxy = lab.proxy | {"seeds": SEEDS}

    def luck(arch: Architecture, seed: int) -> Iterator[EpochResult]:
        for one in table(arch, seed):
            yield replace(one, val_loss=one.val_loss + seed % 3)

    found = []
    for interrupted in (False, True):
        worker = lab.worker(lab.config(trials=12), table=luck)
        worker.search()

        def stop(of: Any = worker) -> bool:
            return bool(repeats(of))

        if interrupted:
            lab.worker(worker.config, worker.study, luck, stop=stop).confirm_front()
            assert len(repeats(worker)) == 1
        lab.worker(worker.config, worker.study, luck).confirm_front()
        found.append({key: worker.study.user_attrs[key] for key in repeats(worker)})
    assert found[0] == found[1]
    assert len(found[0]) > 1
