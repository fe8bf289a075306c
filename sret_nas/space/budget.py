"""What a budget means for a space, known before anything is trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sret_nas.arch import Architecture
from sret_nas.errors import InfeasibleError
from sret_nas.space import transform
from sret_nas.space.encodings import Encodings
from sret_nas.space.frames import METRICS, Frames, extremes, within
from sret_nas.units import Budget, format_quantity


@dataclass(frozen=True)
class Extreme:
    """The smallest and the largest value of a metric in a space, and who has it.

    Attributes:
        metric: ``macs``, ``params`` or ``peak_bytes``.
        low: The smallest value.
        lightest: An architecture that reaches it.
        high: The largest value.
        heaviest: An architecture that reaches it.
        exact: Whether it is that of the whole space; else that of a sample, where
            a callable changes the architectures.
    """

    metric: str
    low: int
    lightest: Architecture
    high: int
    heaviest: Architecture
    exact: bool


@dataclass(frozen=True)
class Bound:
    """One bound of a budget against a space.

    Attributes:
        budget: The bound.
        extreme: The range of its metric in the space.
        low_within_rest: The smallest value among the architectures that satisfy the
            other bounds; ``None`` where there is none.
    """

    budget: Budget
    extreme: Extreme
    low_within_rest: int | None

    @property
    def tightness(self) -> float:
        """The smallest value over the bound: more than 1 where nothing satisfies it."""
        return self.extreme.low / self.budget.limit

    @property
    def excludes_nothing(self) -> bool:
        """Whether every architecture of the space satisfies it."""
        return self.extreme.exact and self.extreme.high <= self.budget.limit


class BudgetInfeasible(InfeasibleError):  # noqa: N818
    """No architecture of a space satisfies the budget.

    Attributes:
        bounds: Every bound, with the architecture that comes nearest to it.
        tightest: The bound whose smallest value exceeds it most, or comes nearest.
    """

    def __init__(self, space: str, bounds: Sequence[Bound]) -> None:
        self.bounds = tuple(bounds)
        self.tightest = max(bounds, key=lambda bound: bound.tightness)
        asked = ", ".join(bound.budget.text or str(bound.budget) for bound in bounds)
        exact = all(bound.extreme.exact for bound in bounds)
        lines = [f"no architecture of space '{space}' satisfies {asked}"]
        if not exact:
            lines[0] = f"none of {transform.MOST_LISTED:,} sampled architectures of space " + (
                f"'{space}' satisfies {asked} (its callable makes an exact answer impossible)"
            )
        elif all(bound.tightness <= 1 for bound in bounds):
            lines[0] += ", although each bound alone can be satisfied"
        lines += [self._line(bound) for bound in bounds]
        archs = {bound.extreme.lightest.id: bound.extreme.lightest for bound in bounds}
        lines += [f"architecture {name}: {arch.to_json()}" for name, arch in archs.items()]
        super().__init__(
            "\n".join(lines),
            f"raise the bound on {self.tightest.budget.metric} or choose another space; "
            "sret-nas spaces check says what a space holds",
        )

    def _line(self, bound: Bound) -> str:
        metric, extreme = bound.budget.metric, bound.extreme
        line = (
            f"{bound.budget.text or bound.budget}: the smallest is "
            f"{format_quantity(metric, extreme.low)} ({extreme.low:,}) by architecture "
            f"{extreme.lightest.id}, {bound.tightness:,.3g} times the bound"
        )
        if len(self.bounds) == 1:
            return line
        if bound is self.tightest:
            line += ", the tightest"
        if bound.tightness <= 1:
            rest = bound.low_within_rest
            line += (
                "; nothing satisfies the others"
                if rest is None
                else f"; within the others {format_quantity(metric, rest)} ({rest:,})"
            )
        return line


def find_extremes(space: Encodings) -> dict[str, Extreme]:
    """The range of every metric: exact, but for a large space that a callable changes."""
    low, high, exact = lightest(space), heaviest(space), is_exact(space)
    found = {}
    for metric in METRICS:
        ends = []
        for frames, pick in ((low, np.argmin), (high, np.argmax)):
            row = int(pick(frames.costs[metric]))
            (arch,) = space.decode_many(frames.codes[[row]])
            ends.append((int(frames.costs[metric][row]), arch))
        found[metric] = Extreme(metric, *ends[0], *ends[1], exact)
    return found


def is_exact(space: Encodings) -> bool:
    """Whether minima and maxima are those of the whole space."""
    return space.transform is None or space.size <= transform.MOST_LISTED


def lightest(space: Encodings) -> Frames:
    """Architectures among which the smallest value of every metric is, under any bounds."""
    return extremes(space.coding) if space.transform is None else _listed(space)


def heaviest(space: Encodings) -> Frames:
    """Architectures among which the largest value of every metric is."""
    return extremes(space.coding, dearest=True) if space.transform is None else _listed(space)


def _listed(space: Encodings) -> Frames:
    """All architectures of a space that a callable changes, or a sample of them."""
    if is_exact(space):
        codes = space.coding.all_codes(0, space.size)
    else:
        codes = space.coding.random_codes(transform.MOST_LISTED, np.random.default_rng(0))
    return Frames(codes, space.costs(codes, METRICS))


def examine(
    name: str,
    frames: Frames,
    ranges: Mapping[str, Extreme],
    budgets: Iterable[Budget],
) -> tuple[Bound, ...]:
    """Every computed bound against a space.

    Args:
        name: Of the space.
        frames: Its lightest architectures.
        ranges: Its extremes, by metric.
        budgets: The bounds.

    Raises:
        BudgetInfeasible: nothing satisfies all of them.
    """
    limits = {b.metric: b.limit for b in budgets if b.metric in METRICS}
    bounds = []
    for budget in budgets:
        if budget.metric not in METRICS:
            continue
        rest = {metric: limit for metric, limit in limits.items() if metric != budget.metric}
        values = frames.costs[budget.metric][within(frames.costs, rest)]
        nearest = int(values.min()) if len(values) else None
        bounds.append(Bound(budget, ranges[budget.metric], nearest))
    if bounds and not within(frames.costs, limits).any():
        raise BudgetInfeasible(name, bounds)
    return tuple(bounds)
