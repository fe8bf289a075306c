"""Timing of calls: one turn of runs, turns interleaved, and what they say.

Times are seconds per run here. A *turn* is a few runs of one call in a row; a
*round* is one turn of every call. Drift of the machine therefore hits all calls
alike, and turns, not runs, are what is independent enough for an interval.

Requires torch.
"""

from __future__ import annotations

import itertools
import logging
import math
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

_extensions = logging.getLogger("torch.utils.cpp_extension")
_before, _extensions.disabled = _extensions.disabled, True  # it warns of a compiler for CUDA
from torch.utils.benchmark import Timer  # noqa: E402

_extensions.disabled = _before

Turn = Callable[[int], list[float]]
"""Runs a call that many times; seconds of each run."""

MIN_ROUNDS = 6
"""The fewest turns whose range holds the median with 95% confidence (2 · 0.5⁶ < 0.05)."""

K = TypeVar("K", bound=Hashable)


def cpu_turn(call: Callable[[], object], threads: int) -> Turn:
    """Turns by ``torch.utils.benchmark``: its threads, two warm-up runs, no collector.

    The statement notes each run's time itself, because ``Timer`` keeps only the
    mean of a block of runs, which has no p95.
    """
    noted: list[float] = []

    def timed() -> None:
        start = time.perf_counter()
        call()
        noted.append(time.perf_counter() - start)

    timer = Timer("timed()", globals={"timed": timed}, num_threads=threads)

    def turn(runs: int) -> list[float]:
        noted.clear()
        timer.timeit(runs)
        return noted[-runs:]

    return turn


def cuda_turn(call: Callable[[], object], device: torch.device, flush_l2: bool = False) -> Turn:
    """Turns by CUDA events around each run, after two warm-up runs.

    Args:
        call: What to time; it works on the current stream.
        device: The GPU.
        flush_l2: Overwrite the L2 cache before each run, outside of its time.
    """
    size = 2 * torch.cuda.get_device_properties(device).L2_cache_size if flush_l2 else 0
    scratch = torch.empty(size, dtype=torch.uint8, device=device)

    def turn(runs: int) -> list[float]:
        with torch.cuda.device(device):
            events = [(_event(), _event()) for _ in range(runs)]
            for _ in range(2):
                call()
            for start, end in events:
                if size:
                    scratch.zero_()
                start.record()
                call()
                end.record()
            torch.cuda.synchronize()
        return [start.elapsed_time(end) / 1e3 for start, end in events]

    return turn


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def warm_up(turn: Turn, within: float = 0.03, most_turns: int = 20, most_s: float = 3.0) -> float:
    """Run until two turns in a row have the same median, or long enough.

    Args:
        turn: What to run.
        within: Relative difference that counts as the same.
        most_turns: Give up after this many turns.
        most_s: Give up after this many measured seconds.

    Returns:
        Seconds per run, as last seen.
    """
    before, spent = math.inf, 0.0
    for _ in range(most_turns):
        runs = turn(3)
        now = statistics.median(runs)
        spent += sum(runs)
        if abs(now - before) <= within * now or spent > most_s:
            return now
        before = now
    return before


def interleave(
    turns: Mapping[K, Turn],
    runs: Mapping[K, int],
    rounds: int,
    enough: Callable[[Mapping[K, list[list[float]]]], bool] = lambda _: False,
) -> dict[K, list[list[float]] | Exception]:
    """Time several calls, a turn of each in every round.

    Every second round goes backwards, so that a steady drift cancels.

    Args:
        turns: What to time.
        runs: Runs per turn of each.
        rounds: Rounds at most.
        enough: Asked after every round from ``MIN_ROUNDS`` on: stop now?

    Returns:
        Per call its turns, or what it raised; the others go on without it.
    """
    taken: dict[K, list[list[float]]] = {key: [] for key in turns}
    failed: dict[K, Exception] = {}
    for number in range(rounds):
        order = list(taken) if number % 2 == 0 else list(reversed(taken))
        for key in order:
            try:
                taken[key].append(turns[key](runs[key]))
            except Exception as error:  # whatever a model raises is its own result
                failed[key] = error
                del taken[key]
        if not taken or (number + 1 >= MIN_ROUNDS and enough(taken)):
            break
    return {key: failed[key] if key in failed else taken[key] for key in turns}


@dataclass(frozen=True)
class Summary:
    """What turns say about a call.

    Attributes:
        median_s: Median over all runs.
        p95_s: 95th percentile over all runs.
        low_s: Lower end of the 95% confidence interval of the median.
        high_s: Upper end of that interval.
        runs: Runs in all.
    """

    median_s: float
    p95_s: float
    low_s: float
    high_s: float
    runs: int

    @property
    def spread(self) -> float:
        """Half the confidence interval of the median, as a share of the median."""
        return (self.high_s - self.low_s) / 2 / self.median_s


def summarise(turns: Sequence[Sequence[float]]) -> Summary:
    """Median, p95 and interval of turns of runs.

    The interval is distribution-free: two order statistics of the turns' medians
    (binomial, 95%; with fewer than ``MIN_ROUNDS`` turns their range, which is
    less), widened to hold the median of all runs.
    """
    runs = sorted(run for turn in turns for run in turn)
    median = statistics.median(runs)
    medians = sorted(statistics.median(turn) for turn in turns)
    cut = _cut(len(medians))
    return Summary(
        median_s=median,
        p95_s=_quantile(runs, 0.95),
        low_s=min(median, medians[cut]),
        high_s=max(median, medians[-1 - cut]),
        runs=len(runs),
    )


def _cut(n: int) -> int:
    """Values to leave out at each end, so that the rest holds the median with 95%."""
    misses = itertools.accumulate(math.comb(n, j) * 0.5 ** (n - 1) for j in range(n // 2))
    return max(sum(miss <= 0.05 for miss in misses) - 1, 0)


def _quantile(ordered: Sequence[float], q: float) -> float:
    at = q * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])
