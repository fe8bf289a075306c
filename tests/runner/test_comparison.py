"""One latency a trial: rivals in one round, ranked or equal, on one scale, undisturbed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from sret_nas.arch import Architecture
from sret_nas.runner import comparison
from sret_nas.runner.comparison import OWN, ROUNDS_S, Comparer, Measured, Rival
from sret_nas.runner.lease import lease
from sret_nas.runner.quiet import LOOKS, busy, others_work
from sret_nas.space import SearchSpace

ARCH = Architecture.load("sret_t")


def interval(low: float, median: float, high: float) -> Any:
    spread = (high - low) / 2 / median
    return SimpleNamespace(
        low_ms=low,
        median_ms=median,
        high_ms=high,
        spread=spread,
        rankable=spread <= 0.05,
        note=None if spread <= 0.05 else "too wide",
    )


def rivals(**ms: float) -> list[Rival]:
    return [Rival(int(name[1:]), ARCH, value) for name, value in ms.items()]


class Bench:
    """Gives the rounds that were prepared, and notes what was asked for."""

    def __init__(self, *rounds: Mapping[str, Any], disturbed: Sequence[bool] = ()) -> None:
        self.rounds = [{name.removeprefix("t"): i for name, i in one.items()} for one in rounds]
        self.disturbances = list(disturbed)
        self.asked: list[tuple[set[str], float]] = []
        self.kept: list[dict[str, Any]] = []
        self.inside = False

    @contextmanager
    def alone(self) -> Iterator[None]:
        self.inside = True
        yield
        self.inside = False

    def take(self, archs: Mapping[str, Architecture], seconds: float) -> Mapping[str, Any]:
        assert self.inside
        self.asked.append((set(archs), seconds))
        found = self.rounds[min(len(self.asked), len(self.rounds)) - 1]
        return {name: found[name] for name in archs if name in found}

    def disturbed(self) -> bool:
        assert self.inside
        return self.disturbances.pop(0) if self.disturbances else False

    def measure(self, earlier: Sequence[Rival] = (), expected_ms: float = 5.0) -> Measured:
        def keep(found: dict[str, Any]) -> None:
            assert self.inside  # whoever measures next sees it
            self.kept.append(found)

        def look() -> Sequence[Rival]:
            assert self.inside
            return earlier

        comparer = Comparer(self.take, self.alone, self.disturbed, "a card")
        return comparer.measure(ARCH, expected_ms, look, keep)


def test_the_first_has_what_was_measured() -> None:
    bench = Bench({OWN: interval(4.9, 5.0, 5.2)})
    found = bench.measure()
    assert found.ms == 5.0 and found.margin_ms == pytest.approx(0.2)
    assert (found.warning, found.equal_to, found.source) == (None, None, "measured")
    assert bench.asked == [({OWN}, ROUNDS_S[0])]
    (kept,) = bench.kept
    assert kept["on"] == "a card" and kept["ms"] == 5.0 and kept["source"] == "measured"


def test_a_round_has_the_reference_and_the_nearest() -> None:
    bench = Bench({OWN: interval(4.99, 5, 5.01)})
    bench.measure(rivals(t3=9.0, t4=5.1, t5=7.0, t6=4.8))
    assert bench.asked[0][0] == {OWN, "3", "4", "6"}


def test_all_are_on_the_scale_of_the_reference() -> None:
    """The device is 10% slower than at the beginning, for all alike."""
    bench = Bench({OWN: interval(5.49, 5.5, 5.51), "t0": interval(10.98, 11.0, 11.02)})
    found = bench.measure(rivals(t0=10.0))
    assert found.ms == pytest.approx(5.0)
    assert found.margin_ms == pytest.approx(0.01 / 1.1 + 5 * 0.02 / 11)
    assert found.warning is not None
    assert "10% slower than when trial 0 was measured" in found.warning
    quiet = Bench({OWN: interval(5.04, 5.05, 5.06), "t0": interval(10.09, 10.1, 10.11)})
    assert quiet.measure(rivals(t0=10.0)).warning is None


def test_what_overlaps_is_measured_again_until_it_is_ranked() -> None:
    wide = {OWN: interval(4.8, 5.0, 5.2), "t0": interval(4.9, 5.1, 5.3)}
    narrow = {OWN: interval(4.99, 5.0, 5.01), "t0": interval(5.09, 5.1, 5.11)}
    bench = Bench(wide, narrow)
    found = bench.measure(rivals(t0=5.1))
    assert found.equal_to is None and found.ms == pytest.approx(5.0)
    assert [seconds for _, seconds in bench.asked] == list(ROUNDS_S[:2])


def test_what_stays_together_is_equal_and_has_one_value() -> None:
    wide = {OWN: interval(4.8, 5.0, 5.2), "t0": interval(4.9, 5.1, 5.3)}
    bench = Bench(wide)
    found = bench.measure(rivals(t0=5.1))
    assert (found.equal_to, found.ms) == (0, 5.1)
    assert found.margin_ms == pytest.approx(0.3 + 0.2)  # the farther end, and the reference's
    assert len(bench.asked) == len(ROUNDS_S)
    close = {OWN: interval(5.0, 5.02, 5.04), "t0": interval(5.0, 5.0, 5.03)}
    bench = Bench(close)
    assert bench.measure(rivals(t0=5.0)).equal_to == 0
    assert len(bench.asked) == 1


def test_the_nearer_of_two_equals() -> None:
    bench = Bench(
        {
            OWN: interval(4.98, 5.0, 5.02),
            "t0": interval(4.9, 4.95, 4.99),
            "t1": interval(5.0, 5.01, 5.04),
        }
    )
    assert bench.measure(rivals(t0=4.95, t1=5.03)).ms == 5.03


def test_a_spread_too_wide_warns() -> None:
    bench = Bench({OWN: interval(4.0, 5.0, 6.0)})
    assert bench.measure().warning == "too wide"
    assert len(bench.asked) == len(ROUNDS_S)


def test_a_disturbed_measurement_is_taken_again() -> None:
    first = {OWN: interval(5.9, 6.0, 6.1)}
    second = {OWN: interval(4.99, 5.0, 5.01)}
    for before, after in ((True, False), (False, True)):
        bench = Bench(first, second, disturbed=[before, after])
        found = bench.measure()
        assert (found.ms, found.warning) == (5.0, None)
    bench = Bench(first, disturbed=[True] * 6)
    warning = bench.measure().warning
    assert warning and "another process" in warning
    assert len(bench.asked) == len(ROUNDS_S)


def test_a_rival_that_cannot_be_measured_any_more_is_left_out() -> None:
    bench = Bench({OWN: interval(4.99, 5.0, 5.01)})
    assert bench.measure(rivals(t0=5.0)).ms == 5.0


@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda(seconds=60))]
)
def test_on_a_device(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it takes: it is measured, and a twin is found to be one or not."""
    from sret_nas.device import resolve

    monkeypatch.setattr(comparison, "ROUNDS_S", (0.1,))
    arch = SearchSpace.load("smoke").sample(1, seed=0)[0]
    found = resolve(device)
    percent = busy(found)
    assert percent is None if device == "cpu" else percent is None or 0 <= percent <= 100
    comparer = comparison.comparer(found, lease(found), batch=2)
    kept: list[dict[str, Any]] = []
    first = comparer.measure(arch, 1.0, list, kept.append)
    assert first.ms > 0 and first.margin_ms >= 0 and first.equal_to is None
    second = comparer.measure(arch, first.ms, lambda: [Rival(0, arch, first.ms)], kept.append)
    assert second.equal_to is None or second.ms == first.ms
    assert kept[0]["on"] == kept[1]["on"] and kept[0]["on"]


@pytest.mark.parametrize(
    ("percent", "told", "looked"),
    [
        ([None], False, 1),
        ([0], False, 1),
        ([90, 40, 3], False, 3),  # the rest of our own work
        ([90] * LOOKS, True, LOOKS),
    ],
)
def test_whether_others_work_on_the_card(
    percent: list[int | None], told: bool, looked: int
) -> None:
    answers, pauses = iter(percent), list[float]()
    assert others_work(lambda: next(answers), pauses.append) is told
    assert len(pauses) == looked - 1
