"""Which choices of a space an evaluator can see.

What an evaluator tries may be smaller than the architecture that it judges. Two architectures
that become one there get the same result, and a search would take the cheaper one for better.
So before a search, each choice is varied by itself in a fixed sample of feasible architectures,
and what would be tried is compared. Values that are never told apart are one to the evaluator:
only the cheapest of them is searched, and the user is told. Others are then seen as they were
before: what told them apart at a value that is left out does so at the one that stays.

What is told apart in some architectures only stays, and is counted.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from sret_nas import zoo
from sret_nas.arch import Architecture
from sret_nas.errors import ArchitectureError, ConfigError, InfeasibleError
from sret_nas.space.coding import Codes
from sret_nas.space.dimensions import Value
from sret_nas.space.frames import METRICS, within
from sret_nas.space.restricting import restricted
from sret_nas.space.space import SearchSpace
from sret_nas.units import Budget

Trained: TypeAlias = Callable[[Architecture], object]
"""What an evaluator tries of an architecture, as ``Evaluator.fits`` says; else it itself."""
Pairs: TypeAlias = Counter[tuple[int, int]]
"""Architectures by the two numbers, ascending, of choices that they differ in."""
FEW = 16
"""Architectures in which every choice is varied."""
MANY = 192
"""The same where some values were not told apart in those."""
DRAWN = 2_048
"""Encodings that are drawn to find as many feasible ones."""
ENOUGH = 4
"""Pairs of different architectures that must be one before their values are taken for one,
unless all that are feasible were looked at."""


@dataclass(frozen=True)
class Alike:
    """Values of a choice that an evaluator takes for one.

    Attributes:
        name: Of the choice.
        values: Those that it cannot tell apart, the cheapest first.
        kept: Why all of them are searched all the same; ``None`` where only the first is.
    """

    name: str
    values: tuple[Value, ...]
    kept: str | None = None

    def __str__(self) -> str:
        return f"{self.name} {' = '.join(map(_shown, self.values))}"

    def said(self, who: str) -> str:
        """A sentence on it; ``who`` is the evaluator."""
        first, *others = (_shown(value) for value in self.values)
        rest = others[0] if len(others) == 1 else f"{', '.join(others[:-1])} and {others[-1]}"
        said = f"{who} cannot tell {self.name} {first} from {rest}: "
        if self.kept is not None:
            return f"{said}{self.kept}, so all are searched and look alike"
        cheapest = "the cheaper" if len(others) == 1 else "the cheapest"
        return f"{said}only {first}, {cheapest}, is searched"


@dataclass(frozen=True)
class Seen:
    """A choice of a space, and how far an evaluator sees it.

    Attributes:
        name: As a dashboard shows it: ``stage2.recursions``, ``all.head_dim``.
        values: All of them.
        searched: Those that are searched.
        pairs: Pairs of architectures that differ in this choice alone, of those looked at.
        apart: How many of them are different to the evaluator.
    """

    name: str
    values: tuple[Value, ...]
    searched: tuple[Value, ...]
    pairs: int
    apart: int

    @property
    def share(self) -> float | None:
        """Of the pairs, those that are told apart; ``None`` where the sample has none."""
        return self.apart / self.pairs if self.pairs else None


@dataclass(frozen=True)
class Sight:
    """What an evaluator sees of a space.

    Attributes:
        choices: Every choice of the space, in its order.
        alike: Values that are one to the evaluator.
        left_out: Published architectures that are not searched for lack of a value.
    """

    choices: tuple[Seen, ...]
    alike: tuple[Alike, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def seen(self) -> int:
        """Choices of which at least two values are searched and told apart."""
        searched = {one.name: set(one.searched) for one in self.choices}
        blind = {one.name for one in self.alike if set(one.values) == searched[one.name]}
        return sum(len(values) > 1 and name not in blind for name, values in searched.items())

    def said(self, who: str) -> list[str]:
        """What a user should know, a line each; nothing where all choices are seen.

        Args:
            who: The evaluator, as in ``the proxy``.
        """
        lines = [alike.said(who) for alike in self.alike]
        if self.left_out:
            names = ", ".join(self.left_out)
            lines.append(f"published variants that need what is left out are not tried: {names}")
        return lines

    def keeping(self, why: str) -> Sight:
        """The same where nothing is left out after all."""
        return replace(
            self,
            choices=tuple(replace(one, searched=one.values) for one in self.choices),
            alike=tuple(replace(one, kept=why) for one in self.alike),
            left_out=(),
        )


def look(
    space: SearchSpace,
    trained: Trained,
    budgets: Iterable[Budget] = (),
    costs: Sequence[str] = (),
) -> tuple[SearchSpace, Sight]:
    """The space without what an evaluator cannot see, and what that is.

    Args:
        space: Fitted to the data.
        trained: What the evaluator makes of an architecture.
        budgets: Bounds; those on latency are not looked at.
        costs: By which the cheapest is found, the first first; then parameters and MACs.

    Returns:
        The space itself where nothing is left out.

    Raises:
        BudgetInfeasible: nothing satisfies the bounds.
    """
    bounds = [bound for bound in budgets if bound.metric in METRICS]
    order = tuple(dict.fromkeys((*(c for c in costs if c in METRICS), "params", "macs")))
    view = _View(space, trained, bounds)
    found: list[Seen] = []
    merged: list[Alike] = []
    for j, d in enumerate(space.coordinates):
        apart, one = view.pairs(j)
        left = set(range(len(d.choices)))
        for members in view.groups(len(d.choices), apart, one):
            cheapest = view.by_cost(j, members, order)
            merged.append(Alike(d.name, tuple(d.choices[k] for k in cheapest)))
            left -= set(cheapest[1:])
        counted = [pair for pair in apart | one if len(left) == 1 or left.issuperset(pair)]
        told = sum(apart[pair] for pair in counted)
        found.append(
            Seen(d.name, d.choices, d.choices, told + sum(one[pair] for pair in counted), told)
        )
    now, alike = _without(space, merged, bounds)
    kept = {d.name: d.choices for d in now.coding.dimensions}
    choices = tuple(replace(one, searched=kept.get(one.name, one.values[:1])) for one in found)
    return now, Sight(choices, tuple(alike), _lost(space, now) if now is not space else ())


def _without(
    space: SearchSpace, merged: Sequence[Alike], bounds: Sequence[Budget]
) -> tuple[SearchSpace, list[Alike]]:
    """The space without all but the first of values that are alike, as far as it can be."""
    settled = []
    for one in merged:
        d = next((d for d in space.coordinates if d.name == one.name), None)
        if d is None:  # it went with another
            continue
        rest = [value for value in d.choices if value not in one.values[1:]]
        try:
            file = restricted(space.file, {d.name: rest})
            smaller = SearchSpace(file, space.folder, allow_code=space.transform is not None)
            if bounds:
                smaller.examine(bounds)
        except (ConfigError, InfeasibleError):
            settled.append(replace(one, kept="no other choice fits without them"))
        else:
            space = smaller
            settled.append(one)
    return space, settled


class _View:
    """A sample of a space, as an evaluator sees it.

    Args:
        space: Of whatever choices.
        trained: What the evaluator makes of an architecture.
        bounds: On computed costs.
    """

    def __init__(self, space: SearchSpace, trained: Trained, bounds: Sequence[Budget]) -> None:
        self.space = space
        self.trained = trained
        self.contexts = _contexts(space, bounds)
        self.enough = ENOUGH if len(self.contexts) == MANY else 1
        self._known: dict[bytes, tuple[str, str | None]] = {}

    def pairs(self, j: int) -> tuple[Pairs, Pairs]:
        """How often choices of a coordinate are told apart, and how often not, pair by pair."""
        apart, one = Pairs(), Pairs()
        self._compare(self.contexts[:FEW], j, apart, one)
        number = len(self.space.coordinates[j].choices)
        if not all(apart[pair] for pair in itertools.combinations(range(number), 2)):
            self._compare(self.contexts[FEW:], j, apart, one)
        return apart, one

    def groups(self, number: int, apart: Pairs, one: Pairs) -> list[list[int]]:
        """Groups of at least two of so many choices that are never told apart."""
        found: list[list[int]] = []
        for k in range(number):
            for group in found:
                if all(not apart[a, k] and one[a, k] >= self.enough for a in group):
                    group.append(k)
                    break
            else:
                found.append([k])
        return [group for group in found if len(group) > 1]

    def _compare(self, codes: Codes, j: int, apart: Pairs, one: Pairs) -> None:
        """Count the pairs of choices that are told apart in some encodings, and that are not."""
        number = len(self.space.coordinates[j].choices)
        varied = np.repeat(codes, number, axis=0)
        varied[:, j] = np.tile(np.arange(number), len(codes))
        ids = self._ids(varied)
        for start in range(0, len(ids), number):
            for (a, left), (b, right) in itertools.combinations(
                enumerate(ids[start : start + number]), 2
            ):
                if left[0] != right[0] and left[1] is not None and right[1] is not None:
                    told = apart if left[1] != right[1] else one
                    told[a, b] += 1

    def by_cost(self, j: int, members: Sequence[int], order: Sequence[str]) -> list[int]:
        """Choices of a coordinate, the cheapest first: by their sums over the contexts."""
        sums = []
        for k in members:
            codes = self.contexts[:FEW].copy()
            codes[:, j] = k
            costs = self.space.costs(codes, order)
            sums.append((*(int(costs[name].sum()) for name in order), k))
        return [key[-1] for key in sorted(sums)]

    def _ids(self, codes: Codes) -> list[tuple[str, str | None]]:
        """What encodings are, and what the evaluator tries; ``None`` where it can try nothing."""
        keys = [row.tobytes() for row in codes]
        new = {key: at for at, key in enumerate(keys) if key not in self._known}
        for key, arch in zip(new, self.space.decode_many(codes[list(new.values())]), strict=True):
            self._known[key] = arch.id, self._tried(arch)
        return [self._known[key] for key in keys]

    def _tried(self, arch: Architecture) -> str | None:
        try:
            tried = self.trained(arch)
        except ArchitectureError:
            return None
        return tried.id if isinstance(tried, Architecture) else arch.id


def _contexts(space: SearchSpace, bounds: Sequence[Budget]) -> Codes:
    """Up to ``MANY`` feasible encodings, always the same; fewer only where there are fewer.

    Of a space with a callable, any encodings.
    """
    if space.size <= MANY:
        codes = space.coding.all_codes(0, space.size)
    else:
        codes = space.coding.random_codes(DRAWN, np.random.default_rng(0))
    if bounds and space.transform is None:
        limits = {bound.metric: bound.limit for bound in bounds}
        codes = codes[within(space.costs(codes, tuple(limits)), limits)]
        if len(codes) < MANY < space.size:
            found = space.sample(MANY, 0, bounds)
            codes = space.coding.array([space.encode(arch) for arch in found])
    return codes[:MANY]


def _lost(whole: SearchSpace, smaller: SearchSpace) -> tuple[str, ...]:
    """Published architectures that the smaller space lacks."""
    heads = list(itertools.product(whole.choices("num_classes"), whole.choices("in_chans")))
    return tuple(
        name
        for name, arch in zoo.PUBLISHED.items()
        if any(
            fitted in whole and fitted not in smaller
            for fitted in (arch.at(num_classes=n, in_chans=c) for n, c in heads)
        )
    )


def _shown(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
