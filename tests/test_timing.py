"""Turns, rounds and statistics, on calls that only pretend to take time."""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterator

import pytest
import torch

from sret_nas.latency import timing


def test_the_median_and_the_95th_percentile_are_of_all_runs() -> None:
    found = timing.summarise([[float(i) for i in range(1, 52)], [float(i) for i in range(52, 102)]])
    assert (found.median_s, found.p95_s, found.runs) == (51.0, 96.0, 101)


@pytest.mark.parametrize(
    ("turns", "low", "high"),
    [
        (1, 1, 1),
        (5, 1, 5),  # the range of five misses the median in 6% of the cases: less than asked for
        (6, 1, 6),  # 2 · 0.5⁶ = 3%
        (8, 1, 8),  # without both ends: 2 · 9 / 2⁸ = 7%
        (9, 2, 8),  # 2 · 10 / 2⁹ = 3.9%
        (20, 6, 15),  # the textbook interval of twenty
    ],
)
def test_the_interval_is_of_order_statistics_of_the_turns(turns: int, low: int, high: int) -> None:
    found = timing.summarise([[float(i)] * 3 for i in range(1, turns + 1)])
    assert (found.low_s, found.high_s) == (low, high)


def test_the_interval_holds_the_true_median_as_often_as_it_says() -> None:
    rng = random.Random(7)
    held = 0
    for _ in range(400):
        found = timing.summarise([[rng.lognormvariate(0, 0.3)] for _ in range(12)])
        held += found.low_s <= 1.0 <= found.high_s
    assert held / 400 >= 0.94


def test_the_interval_holds_the_median_of_unequal_turns() -> None:
    found = timing.summarise([[1.0] * 50, *([[2.0]] * 8)])
    assert found.low_s == found.median_s == 1.0
    assert found.spread == pytest.approx(0.5)


def test_rounds_are_interleaved_and_go_there_and_back() -> None:
    order: list[tuple[str, int]] = []

    def turn_of(name: str) -> timing.Turn:
        def turn(runs: int) -> list[float]:
            order.append((name, runs))
            return [1.0] * runs

        return turn

    taken = timing.interleave({n: turn_of(n) for n in "abc"}, {"a": 1, "b": 2, "c": 3}, rounds=3)
    there, back = [("a", 1), ("b", 2), ("c", 3)], [("c", 3), ("b", 2), ("a", 1)]
    assert order == there + back + there
    assert taken["b"] == [[1.0, 1.0]] * 3


def test_a_steady_drift_cancels() -> None:
    clock = iter(range(1000))

    def turn(runs: int) -> list[float]:
        return [1.0 + 0.01 * next(clock)] * runs

    taken = timing.interleave({"a": turn, "b": turn, "c": turn}, dict.fromkeys("abc", 1), 10)
    means = []
    for turns in taken.values():
        assert not isinstance(turns, Exception)
        means.append(statistics.fmean(t for (t,) in turns))
    assert means == pytest.approx([means[0]] * 3)


def test_what_one_call_raises_is_its_own_result() -> None:
    left = iter([[1.0], [1.0]])

    def breaks(_: int) -> list[float]:
        try:
            return next(left)
        except StopIteration:
            raise RuntimeError("worn out") from None

    taken = timing.interleave({"bad": breaks, "good": lambda _: [2.0]}, {"bad": 1, "good": 1}, 8)
    assert str(taken["bad"]) == "worn out"
    assert taken["good"] == [[2.0]] * 8


def test_measuring_stops_when_it_is_enough_but_not_before_an_interval_exists() -> None:
    asked: list[int] = []

    def enough(taken: object) -> bool:
        assert isinstance(taken, dict)
        asked.append(len(taken["a"]))
        return len(asked) == 2

    taken = timing.interleave({"a": lambda _: [1.0]}, {"a": 1}, 100, enough)
    assert asked == [timing.MIN_ROUNDS, timing.MIN_ROUNDS + 1]
    assert len(list(taken["a"])) == timing.MIN_ROUNDS + 1  # type: ignore[arg-type]


def pretend(*medians: float) -> tuple[timing.Turn, list[int]]:
    values: Iterator[float] = iter(medians)
    turns: list[int] = []

    def turn(runs: int) -> list[float]:
        turns.append(runs)
        return [next(values)] * runs

    return turn, turns


def test_warm_up_goes_on_until_two_turns_agree() -> None:
    turn, turns = pretend(1.0, 0.5, 0.3, 0.299, 9.0)
    assert timing.warm_up(turn, most_s=100) == 0.299
    assert len(turns) == 4


def test_warm_up_gives_up_in_the_end() -> None:
    turn, turns = pretend(*(2.0**i for i in range(30)))
    assert timing.warm_up(turn, most_turns=5, most_s=1e9) == 16.0
    assert len(turns) == 5
    turn, turns = pretend(*(2.0**i for i in range(30)))
    timing.warm_up(turn, most_s=10.0)
    assert len(turns) == 3  # 3 · (1 + 2 + 4) seconds


def test_a_cpu_turn_times_every_run_and_sets_the_threads() -> None:
    seen: list[int] = []
    before = torch.get_num_threads()
    turn = timing.cpu_turn(lambda: seen.append(torch.get_num_threads()), threads=1)
    times = turn(5)
    assert len(times) == 5
    assert all(0 < seconds < 1 for seconds in times)
    assert len(seen) == 7  # two runs warm up
    assert set(seen) == {1}
    assert torch.get_num_threads() == before
    assert len(turn(2)) == 2


@pytest.mark.cuda
@pytest.mark.parametrize("flush_l2", [False, True])
def test_a_cuda_turn_times_the_device(flush_l2: bool) -> None:
    device = torch.device("cuda:0")
    a = torch.randn(4096, 4096, device=device)
    b = torch.randn(64, 64, device=device)
    large = timing.cuda_turn(lambda: a @ a, device, flush_l2)(5)
    small = timing.cuda_turn(lambda: b @ b, device, flush_l2)(5)
    assert len(large) == 5
    assert statistics.median(large) > statistics.median(small) > 0
