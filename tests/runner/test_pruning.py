"""Which candidates go on: laws over random rungs."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from sret_nas.pareto import dominates
from sret_nas.runner.pruning import FEWEST, PEERS, RungResult, should_continue

number = st.floats(0.1, 10)
candidate = st.builds(
    lambda loss, macs, params: RungResult(loss, (macs * 1e9, params * 1e6)), number, number, number
)
many = st.lists(candidate, max_size=30)
quick = settings(max_examples=200, deadline=None)


def point(one: RungResult) -> tuple[float, ...]:
    return (one.loss, *one.costs)


@quick
@given(candidate, many)
def test_what_nobody_dominates_goes_on(one: RungResult, others: list[RungResult]) -> None:
    if not any(dominates(point(other), point(one)) for other in others):
        assert should_continue(one, others)


@quick
@given(candidate, st.lists(candidate, max_size=FEWEST - 1))
def test_with_few_peers_everything_goes_on(one: RungResult, others: list[RungResult]) -> None:
    assert should_continue(one, others)


@quick
@given(candidate, many, st.randoms())
def test_the_order_of_arrival_does_not_matter(
    one: RungResult, others: list[RungResult], rng: Any
) -> None:
    macs = [other.costs[0] for other in others]
    if len(set(macs)) == len(macs):  # of equal distance, either is a peer
        shuffled = list(others)
        rng.shuffle(shuffled)
        distances = [abs(math.log(m / one.costs[0])) for m in macs]
        if len(set(distances)) == len(distances):
            assert should_continue(one, others) == should_continue(one, shuffled)


@quick
@given(candidate, many, st.floats(0.01, 1))
def test_to_be_better_never_harms(one: RungResult, others: list[RungResult], factor: float) -> None:
    if should_continue(one, others):
        assert should_continue(RungResult(one.loss * factor, one.costs), others)


@given(st.integers(FEWEST + 1, PEERS + 1))
def test_the_worst_quarter_of_equal_cost_stops(n: int) -> None:
    """Each is asked when all others are there."""
    all_of_them = [RungResult(1 + k, (1e9,)) for k in range(n)]
    gone_on = [
        should_continue(one, [other for other in all_of_them if other is not one])
        for one in all_of_them
    ]
    assert gone_on == [4 * k < 3 * (n - 1) for k in range(n)]


def test_dear_candidates_are_not_judged_by_cheap_ones() -> None:
    """Dominated by a cheap one by luck, but among the better of its like: it goes on."""
    cheap = [RungResult(0.9, (1e8,))] * PEERS
    dear = [RungResult(1.5 + k, (1e9 + k,)) for k in range(PEERS)]
    assert should_continue(RungResult(1.4, (1.001e9,)), cheap + dear)
    assert not should_continue(RungResult(99.0, (1.001e9,)), cheap + dear)


def test_not_finite_stops_and_no_costs_will_do() -> None:
    assert not should_continue(RungResult(math.nan, (1.0,)), [])
    assert not should_continue(RungResult(math.inf, (1.0,)), [])
    others = [RungResult(float(k), ()) for k in range(8)]
    assert should_continue(RungResult(4.5, ()), others)
    assert not should_continue(RungResult(5.5, ()), others)
    assert should_continue(RungResult(2.5, ()), others)


@quick
@given(candidate, many, st.integers(-60, 10))
def test_the_unit_of_a_cost_does_not_matter(
    one: RungResult, others: list[RungResult], power: int
) -> None:
    """MACs or milliseconds, which may be far less than 1."""

    def scaled(result: RungResult) -> RungResult:
        return RungResult(result.loss, (math.ldexp(result.costs[0], power), *result.costs[1:]))

    assert should_continue(one, others) == should_continue(scaled(one), list(map(scaled, others)))


def test_who_is_as_good_as_its_peers_goes_on() -> None:
    cheaper = [RungResult(1.0, (1e9,))] * PEERS
    assert should_continue(RungResult(1.0, (1.1e9,)), cheaper)


def test_a_cost_of_nothing_has_peers() -> None:
    """Nothing has no logarithm."""
    others = [RungResult(1.0 + k, (0.0,)) for k in range(PEERS)]
    assert should_continue(RungResult(2.5, (0.0,)), others)
    assert not should_continue(RungResult(99.0, (0.0,)), others)
