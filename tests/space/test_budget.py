"""What a budget means for a space, and every word of why nothing satisfies it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sret_nas.arch import Architecture, Stage
from sret_nas.cost import cost
from sret_nas.space import SearchSpace, budget, transform
from sret_nas.space.budget import Bound, BudgetInfeasible, Extreme, examine, find_extremes
from sret_nas.space.encodings import Encodings
from sret_nas.space.frames import METRICS, Frames
from sret_nas.units import Budget

quick = settings(max_examples=100, deadline=None)


def arch(heads: int) -> Architecture:
    return Architecture(stages=(Stage(heads=heads, head_dim=8, mlp_ratio=1.0),))


LIGHT, HEAVY = arch(1), arch(4)


def extreme(metric: str, low: int, high: int = 10**9, exact: bool = True) -> Extreme:
    return Extreme(metric, low, LIGHT, high, HEAVY, exact)


def frames(**columns: list[int]) -> Frames:
    return Frames(
        np.zeros((len(columns["macs"]), 1), dtype=np.int64),
        {name: np.array(column) for name, column in columns.items()},
    )


# -- one bound ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "exact", "tightness", "nothing"),
    [
        (50, 100, True, 0.5, True),
        (50, 101, True, 0.5, False),
        (50, 100, False, 0.5, False),  # of a sample: nobody knows
        (150, 200, True, 1.5, False),
    ],
)
def test_a_bound(low: int, high: int, exact: bool, tightness: float, nothing: bool) -> None:
    bound = Bound(Budget("macs", 100), extreme("macs", low, high, exact), None)
    assert bound.tightness == tightness
    assert bound.excludes_nothing is nothing


# -- all bounds --------------------------------------------------------------------------------

RANGES = {metric: extreme(metric, 1) for metric in METRICS}
COUNT = st.integers(1, 20)


@quick
@given(
    rows=st.lists(st.tuples(COUNT, COUNT, COUNT), min_size=1, max_size=12),
    limits=st.dictionaries(st.sampled_from([*METRICS, "latency_ms"]), COUNT, max_size=4),
)
def test_every_bound_is_seen_beside_the_others(
    rows: list[tuple[int, ...]], limits: dict[str, int]
) -> None:
    """Beside the same by hand: a row after the other."""
    table = [dict(zip(METRICS, row, strict=True)) for row in rows]
    computed = {metric: limit for metric, limit in limits.items() if metric in METRICS}

    def satisfied(row: dict[str, int], but: str = "") -> bool:
        return all(row[m] <= limit for m, limit in computed.items() if m != but)

    budgets = [Budget(metric, limit) for metric, limit in limits.items()]
    expected = tuple(
        Bound(
            Budget(metric, limit),
            RANGES[metric],
            min((row[metric] for row in table if satisfied(row, metric)), default=None),
        )
        for metric, limit in computed.items()
    )
    columns = frames(**{metric: [row[metric] for row in table] for metric in METRICS})
    if not computed or any(satisfied(row) for row in table):
        assert examine("x", columns, RANGES, budgets) == expected
    else:
        with pytest.raises(BudgetInfeasible, match="space 'x'") as caught:
            examine("x", columns, RANGES, budgets)
        assert caught.value.bounds == expected


# -- why nothing satisfies them ----------------------------------------------------------------


def refused(*bounds: Bound) -> BudgetInfeasible:
    return BudgetInfeasible("mine", bounds)


def test_one_bound_that_nothing_satisfies() -> None:
    error = refused(Bound(Budget("macs", 1000, text="1K MACs"), extreme("macs", 2500), None))
    assert str(error).splitlines() == [
        "no architecture of space 'mine' satisfies 1K MACs",
        f"1K MACs: the smallest is 2.5K MACs (2,500) by architecture {LIGHT.id}, "
        "2.5 times the bound",
        f"architecture {LIGHT.id}: {LIGHT.to_json()}",
    ]
    assert error.hint == (
        "raise the bound on macs or choose another space; "
        "sret-nas spaces check says what a space holds"
    )
    assert error.tightest is error.bounds[0]


def test_a_bound_that_was_not_written_is_said_in_words() -> None:
    error = refused(Bound(Budget("macs", 1000), extreme("macs", 2500), None))
    first, second, _ = str(error).splitlines()
    assert first == "no architecture of space 'mine' satisfies 1K MACs"
    assert second.startswith("1K MACs: the smallest is 2.5K MACs")


def test_two_bounds_the_tightest_is_named_and_the_other_among_the_rest() -> None:
    tight = Bound(Budget("params", 100, text="100 params"), extreme("params", 150), 150)
    loose = Bound(Budget("macs", 1000, text="1K MACs"), extreme("macs", 500), 700)
    error = refused(loose, tight)
    assert error.tightest is tight
    assert str(error).splitlines() == [
        "no architecture of space 'mine' satisfies 1K MACs, 100 params",
        f"1K MACs: the smallest is 500 MACs (500) by architecture {LIGHT.id}, "
        "0.5 times the bound; within the others 700 MACs (700)",
        f"100 params: the smallest is 150 params (150) by architecture {LIGHT.id}, "
        "1.5 times the bound, the tightest",
        f"architecture {LIGHT.id}: {LIGHT.to_json()}",
    ]
    assert "raise the bound on params" in str(error.hint)


def test_two_bounds_of_which_each_alone_can_be_satisfied() -> None:
    one = Bound(Budget("macs", 1000), extreme("macs", 1000), None)
    other = Bound(Budget("params", 1000), Extreme("params", 10, HEAVY, 20, LIGHT, True), 2000)
    assert str(refused(one, other)).splitlines() == [
        "no architecture of space 'mine' satisfies 1K MACs, 1K params, "
        "although each bound alone can be satisfied",
        f"1K MACs: the smallest is 1K MACs (1,000) by architecture {LIGHT.id}, "
        "1 times the bound, the tightest; nothing satisfies the others",
        f"1K params: the smallest is 10 params (10) by architecture {HEAVY.id}, "
        "0.01 times the bound; within the others 2K params (2,000)",
        f"architecture {LIGHT.id}: {LIGHT.to_json()}",
        f"architecture {HEAVY.id}: {HEAVY.to_json()}",
    ]


def test_of_a_sample_it_is_said_that_it_is_one() -> None:
    exact, sampled = (Bound(Budget("macs", 1000), extreme("macs", 500, exact=e), 1) for e in (1, 0))
    for bounds in ((sampled,), (exact, sampled)):
        asked = ", ".join(["1K MACs"] * len(bounds))
        assert str(refused(*bounds)).splitlines()[0] == (
            f"none of 20,000 sampled architectures of space 'mine' satisfies {asked} "
            "(its callable makes an exact answer impossible)"
        )


# -- the range of every metric -----------------------------------------------------------------


@dataclass(frozen=True)
class Listed:
    """What ``budget`` needs of a space that a callable changes."""

    space: Encodings
    size: int
    transform: Any

    @property
    def coding(self) -> Any:
        return self.space.coding

    def decode_many(self, codes: Any) -> list[Architecture]:
        return self.space.decode_many(codes)

    def costs(self, codes: Any, quantities: Any) -> Any:
        assert quantities == METRICS
        return self.space.costs(codes, quantities)


@pytest.fixture(scope="module")
def smoke() -> Encodings:
    return SearchSpace.load("smoke").encodings


def listed(smoke: Encodings, changed: bool = True) -> Any:
    return Listed(smoke, smoke.size, (lambda data: data) if changed else None)


def test_extremes_are_those_of_the_whole_space_whichever_way(smoke: Encodings) -> None:
    costs = smoke.costs(smoke.coding.all_codes(0, smoke.size), METRICS)
    for space in (listed(smoke), listed(smoke, changed=False)):
        assert budget.is_exact(space)
        for metric, found in find_extremes(space).items():
            assert (found.metric, found.exact) == (metric, True)
            assert (found.low, found.high) == (costs[metric].min(), costs[metric].max())
            assert getattr(cost(found.lightest), metric) == found.low
            assert getattr(cost(found.heaviest), metric) == found.high
    assert list(find_extremes(listed(smoke))) == list(METRICS)


def test_few_frames_stand_for_a_space_and_all_encodings_for_one_with_a_callable(
    smoke: Encodings,
) -> None:
    for ends in (budget.lightest, budget.heaviest):
        assert len(ends(listed(smoke)).codes) == smoke.size
        assert len(ends(listed(smoke, changed=False)).codes) < smoke.size


def test_a_large_space_with_a_callable_is_sampled_always_the_same(
    smoke: Encodings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transform, "MOST_LISTED", smoke.size)
    assert budget.is_exact(listed(smoke))
    monkeypatch.setattr(transform, "MOST_LISTED", 20)
    assert not budget.is_exact(listed(smoke))
    assert budget.is_exact(listed(smoke, changed=False))
    found = budget.lightest(listed(smoke))
    np.testing.assert_array_equal(
        found.codes, smoke.coding.random_codes(20, np.random.default_rng(0))
    )
    assert set(found.costs) == set(METRICS)
    np.testing.assert_array_equal(found.codes, budget.heaviest(listed(smoke)).codes)
    assert not any(one.exact for one in find_extremes(listed(smoke)).values())
