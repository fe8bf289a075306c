"""How much of a space satisfies a budget."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sret_nas import zoo
from sret_nas.cost import cost
from sret_nas.errors import UsageError
from sret_nas.latency.bounds import Clock, Timing
from sret_nas.space.budget import Bound, BudgetInfeasible
from sret_nas.space.frames import METRICS, within
from sret_nas.units import Budget, parse_budgets

if TYPE_CHECKING:
    from sret_nas.space.space import SearchSpace

SAMPLE = 200_000
"""Encodings that shares and quartiles come from; smaller spaces are looked at as a whole."""
SLOW_SAMPLE = 2000
"""The same where a callable changes every architecture."""
TIMED = {"predicted": 500, "measured": 8}
"""The same where a bound on latency has to be predicted or measured."""


@dataclass(frozen=True)
class Share:
    """A share of the encodings of a space.

    Attributes:
        value: The share, or the best estimate of it.
        low: Lower end of its 95% interval (Wilson's); equal to ``value`` where it is exact.
        high: Upper end, likewise.
        rows: Encodings that were looked at.
    """

    value: float
    low: float
    high: float
    rows: int

    @classmethod
    def of(cls, hits: int, rows: int, whole: bool) -> Share:
        """A share counted in a sample, or in the whole space."""
        value = hits / rows
        if whole:
            return cls(value, value, value, rows)
        z2 = 1.96**2
        centre = (hits + z2 / 2) / (rows + z2)
        half = math.sqrt(z2 * (hits * (rows - hits) / rows + z2 / 4)) / (rows + z2)
        return cls(value, max(0.0, centre - half), min(1.0, centre + half), rows)


@dataclass(frozen=True)
class Spread:
    """How a metric is distributed over the encodings of a space.

    Attributes:
        metric: Its name; ``latency_ms@32`` for a batch of 32.
        limit: The bound on it, or ``None``.
        low: The smallest value; of the whole space where ``exact``, else of a sample.
        quartiles: First quartile, median, third quartile.
        high: The largest value.
        exact: Whether ``low`` and ``high`` are computed, not sampled.
        source: ``computed``, ``predicted`` or ``measured``.
    """

    metric: str
    limit: float | None
    low: float
    quartiles: tuple[float, float, float]
    high: float
    exact: bool
    source: str = "computed"


@dataclass(frozen=True)
class Known:
    """A published model against a space and a budget.

    Attributes:
        name: Its name.
        contained: Whether the space holds it.
        feasible: Whether it satisfies all bounds, contained or not.
        metrics: Its costs; latencies only where they decide.
    """

    name: str
    contained: bool
    feasible: bool
    metrics: dict[str, float]


@dataclass(frozen=True)
class Check:
    """What a space holds under a budget.

    Attributes:
        share: Of its encodings that satisfy all bounds.
        spreads: Every metric of the whole space.
        published: The published models.
        bounds: Every computed bound against the space.
        infeasible: The error, where nothing satisfies the bounds.
        warnings: Why to trust latencies less.
    """

    share: Share
    spreads: tuple[Spread, ...]
    published: tuple[Known, ...]
    bounds: tuple[Bound, ...]
    infeasible: BudgetInfeasible | None
    warnings: tuple[str, ...] = ()


def check(
    space: SearchSpace, budgets: Iterable[Budget | str], seed: int = 0, clock: Clock | None = None
) -> Check:
    """How much of a space satisfies a budget.

    Args:
        space: The space.
        budgets: Bounds that hold at once; possibly none.
        seed: Of the sample, where the space is too large to be looked at as a whole.
        clock: Tells latencies; needed for a bound in ms.
    """
    read = parse_budgets(budgets)
    limits = {b.metric: b.limit for b in read if b.metric in METRICS}
    timed = [b for b in read if b.metric not in METRICS]
    if timed and clock is None:
        raise UsageError(f"budget '{timed[0]}': a latency needs a device", "pass clock=")
    infeasible = None
    try:
        bounds = space.examine(read)
    except BudgetInfeasible as error:
        bounds, infeasible = error.bounds, error
    most = SAMPLE if space.transform is None else SLOW_SAMPLE
    whole = space.size <= most
    rng = np.random.default_rng(seed)
    coding = space.coding
    codes = coding.all_codes(0, space.size) if whole else coding.random_codes(most, rng)
    costs = space.costs(codes)
    spreads = []
    for metric in METRICS:
        extreme = space.extremes[metric]
        low, *quartiles, high = np.quantile(costs[metric], [0, 0.25, 0.5, 0.75, 1]).tolist()
        if extreme.exact:
            low, high = extreme.low, extreme.high
        limit = limits.get(metric)
        spreads.append(Spread(metric, limit, low, tuple(quartiles), high, extreme.exact))
    ok = within(costs, limits)
    warnings: list[str] = []
    if clock is not None and timed:
        share, timed_spreads, warnings = _timed(space, codes, ok, timed, clock, rng)
        spreads += timed_spreads
    else:
        share = Share.of(int(ok.sum()), len(ok), whole)
    published = tuple(_known(space, name, limits, timed, clock) for name in zoo.PUBLISHED)
    return Check(share, tuple(spreads), published, bounds, infeasible, tuple(warnings))


def _timed(
    space: SearchSpace,
    codes: Any,
    ok: Any,
    timed: list[Budget],
    clock: Clock,
    rng: np.random.Generator,
) -> tuple[Share, list[Spread], list[str]]:
    """The share under bounds on latency too, from as many architectures as there is time for."""
    order = rng.permutation(len(codes))
    rows: list[list[Timing]] = []
    hits = 0
    for row in order:
        arch = space.decode_many(codes[row : row + 1])[0]
        timings = [clock(arch, b.batch) for b in timed]
        rows.append(timings)
        met = all(t.most_ms <= b.limit for t, b in zip(timings, timed, strict=True))
        hits += bool(ok[row] and met)
        if len(rows) >= min(TIMED[t.source] for t in timings):
            break
    spreads = []
    for bound, column in zip(timed, zip(*rows, strict=True), strict=True):
        ms = np.quantile([t.ms for t in column], [0, 0.25, 0.5, 0.75, 1])
        low, *quartiles, high = ms.tolist()
        source = column[0].source
        spreads.append(Spread(bound.key, bound.limit, low, tuple(quartiles), high, False, source))
    warned = [t.warning for timings in rows for t in timings if t.warning]
    warnings = [f"{len(warned)} of {len(rows)} latencies: {warned[0]}"] if warned else []
    return Share.of(hits, len(rows), False), spreads, warnings


def _known(
    space: SearchSpace,
    name: str,
    limits: dict[str, float],
    timed: list[Budget],
    clock: Clock | None,
) -> Known:
    arch = zoo.PUBLISHED[name]
    found = cost(arch)
    metrics: dict[str, float] = {metric: getattr(found, metric) for metric in METRICS}
    feasible = all(metrics[metric] <= limit for metric, limit in limits.items())
    if clock is not None and feasible:  # measuring takes time
        for bound in timed:
            timing = clock(arch, bound.batch)
            metrics[bound.key] = timing.ms
            feasible &= timing.most_ms <= bound.limit
    return Known(name, arch in space, feasible, metrics)
