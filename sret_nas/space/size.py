"""How many different architectures a space holds.

Different by ``Architecture.id``: a count of functions that can be built, not of
encodings. The canonical form of an architecture is a word with one symbol per
stage, and a symbol has independent parts: width and heads, the schedule of block
applications, and what is shown of every other field, as hidden channels. Choices that
all stages share are a hidden state that the word may not show (``share`` cannot
be seen where nothing recurs). Words are counted by the subset construction: the
state is the set of shared choices that could have written the word so far.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from sret_nas.arch import KINDS, Kind, shown
from sret_nas.space.coding import Coding
from sret_nas.space.dimensions import STAGE_FIELDS, Dimension, StageDimensions
from sret_nas.space.encodings import Encodings

MOST_STEPS = 2_000_000
"""Block applications that are written down at most to tell schedules apart."""
SAMPLE = 20_000
"""Encodings that an estimate looks at."""

SHOWN = tuple(f for f in STAGE_FIELDS if KINDS.get(f) not in (Kind.WIDTH, Kind.SCHEDULE))
"""Fields of which each is a part of its own."""

Hidden: TypeAlias = frozenset[int]
"""Numbers of shared choices."""
Classes: TypeAlias = Counter[Hidden]
"""How many symbols can be written under exactly these shared choices."""


@dataclass(frozen=True)
class Count:
    """A number of architectures.

    Attributes:
        value: The number, or the best estimate of it.
        low: At least; equal to ``value`` where it is exact.
        high: At most; likewise.
    """

    value: int
    low: int
    high: int

    @property
    def exact(self) -> bool:
        """Whether it was counted, not estimated."""
        return self.low == self.high


def count_distinct(space: Encodings) -> Count:
    """Architectures of a space that differ: exact where they can be counted.

    Else an estimate from the repetitions in a sample (Chao's), between a lower
    bound that holds with about 97.5% and the number of encodings.
    """
    if space.transform is None:
        if sum(_steps(stage) for stage in space.coding.stages) <= MOST_STEPS:
            exact = _count(space.coding)
            return Count(exact, exact, exact)
    elif space.size <= SAMPLE:
        ids = {arch.id for arch in space.decode_many(space.coding.all_codes(0, space.size))}
        return Count(len(ids), len(ids), len(ids))
    rng = np.random.default_rng(0)
    archs = space.decode_many(space.coding.random_codes(SAMPLE, rng))
    times = Counter(Counter(arch.id for arch in archs).values())
    seen, once, twice = sum(times.values()), times[1], times[2]
    estimate = min(space.size, seen + once * (once - 1) // (2 * (twice + 1)))
    # Pairs of equals in a sample from N that are equally likely are Poisson with mean
    # C(SAMPLE, 2) / N; where they are not equally likely there are more.
    pairs = sum(n * k * (k - 1) // 2 for k, n in times.items())
    most_pairs = pairs + 2 * math.sqrt(pairs) + 4
    low = min(space.size, max(seen, int(math.comb(SAMPLE, 2) / most_pairs)))
    return Count(max(low, estimate), low, space.size)


def _steps(stage: StageDimensions) -> int:
    """Block applications over all schedules of a stage: the work of telling them apart."""
    blocks, recursions, *words = (d.choices for d in _schedule(stage))
    groups = math.prod(len(d.choices) for d in dict.fromkeys(stage.groups))
    return sum(blocks) * sum(recursions) * groups * math.prod(map(len, words))


def _schedule(stage: StageDimensions) -> list[Dimension]:
    """Blocks, recursions, order and share."""
    return [d for field, d in stage.fields.items() if KINDS.get(field) is Kind.SCHEDULE]


def _count(coding: Coding) -> int:
    modes = coding.top["permute"].choices
    permuting = sum(mode != "none" for mode in modes)
    found = 0
    for context in range(len(coding.contexts)):
        if permuting:
            every = _Words(coding, context, True).count()
            plain = _Words(coding, context, True, plain_only=True).count()
            found += permuting * (every - plain) + (plain if permuting == len(modes) else 0)
        if permuting < len(modes):
            found += _Words(coding, context, False).count()
    visible = ("in_chans", "num_classes", "residual_scale")
    return found * math.prod(len(coding.top[name].choices) for name in visible)


class _Words:
    """Counts the words of one image size and stem stride.

    Args:
        coding: The space.
        context: Number of the image size and stem stride.
        permuting: Whether later loops permute.
        plain_only: Only words in which nothing is permuted after all.
    """

    def __init__(
        self, coding: Coding, context: int, permuting: bool, plain_only: bool = False
    ) -> None:
        self.coding = coding
        self.memo: dict[Hashable, int] = {}
        tied = {d.name: d for s in coding.stages for d in s if d.name.startswith("all.")}
        for name in ("all.heads", "all.head_dim"):
            tied.pop(name, None)
        self.tied = [tied.pop(f"all.{name}", None) for name in SHOWN]
        self.shared = list(tied.values())
        self.schedules = [
            self._schedules(i, context, permuting, plain_only) for i in range(len(coding.stages))
        ]

    def count(self) -> int:
        """Distinct words."""
        ties = frozenset(np.unique(self.coding.widths.tie_repair).tolist())
        numbers = [range(1 if d is None else len(d.choices)) for d in self.tied]
        numbers.append(range(math.prod(len(d.choices) for d in self.shared)))
        return self._from(0, 1, ties, tuple(map(frozenset, numbers)))

    def _from(self, i: int, before: int, ties: Hidden, possible: tuple[Hidden, ...]) -> int:
        """Ways to go on from stage ``i`` after a width, by the shared choices that are possible."""
        if i == len(self.schedules):
            return 1
        state = (i, before, ties, possible)
        if state not in self.memo:
            *fields, shared = possible
            total = 0
            for one_token, schedules in self.schedules[i].items():
                for width, some_ties in self._widths(i, before, ties, one_token):
                    parts = [
                        [(some_ties, 1)],
                        *(self._shown(i, k, width, some) for k, some in enumerate(fields)),
                        [(h & shared, n) for h, n in schedules.items() if h & shared],
                    ]
                    # Parts that leave the same shared choices possible go on in the same way.
                    for combination in itertools.product(*parts):
                        ways = math.prod(n for _, n in combination)
                        some_ties, *rest = (h for h, _ in combination)
                        total += ways * self._from(i + 1, width, some_ties, tuple(rest))
            self.memo[state] = total
        return self.memo[state]

    def _widths(
        self, i: int, before: int, ties: Hidden, one_token: bool
    ) -> Iterator[tuple[int, Hidden]]:
        """Every width and head count that can follow, and the ties that have it."""
        widths = self.coding.widths
        found: dict[tuple[int, int], set[int]] = {}
        for tie in ties:
            ok = widths.fits[i][tie] & (widths.width[i][tie] % before == 0)
            for pair in np.flatnonzero(ok).tolist():
                # The head count cannot be seen where every slice is one token.
                heads = 1 if one_token else int(widths.heads[i][tie, pair])
                found.setdefault((int(widths.width[i][tie, pair]), heads), set()).add(tie)
        return ((width, frozenset(some)) for (width, _), some in found.items())

    def _shown(self, i: int, k: int, width: int, possible: Hidden) -> Iterable[tuple[Hidden, int]]:
        """Classes of what is shown of field ``k``, by the shared choices that lead to them."""
        field = SHOWN[k]
        dimension = self.coding.stages[i].fields[field]
        if dimension is not self.tied[k]:
            return [(possible, len({shown(field, width, value) for value in dimension.choices}))]
        found: dict[Any, set[int]] = {}
        for number in possible:
            found.setdefault(shown(field, width, dimension.choices[number]), set()).add(number)
        return Counter(frozenset(some) for some in found.values()).items()

    def _schedules(
        self, i: int, context: int, permuting: bool, plain_only: bool
    ) -> dict[bool, Classes]:
        """Classes of schedules, apart for those whose slices are all of one token."""
        stage, tokens = self.coding.stages[i], int(self.coding.tokens[context, i])
        parts = _schedule(stage)
        own = [d for d in (*parts, *stage.groups) if d not in self.shared]
        own = list(dict.fromkeys(own))
        repaired = [table[context].tolist() for table in self.coding.group_tables[i]]
        found: dict[tuple[bool, Hashable], set[int]] = {}
        for number, tied in enumerate(_choices(self.shared)):
            for chosen in _choices(own):
                k = tied | chosen
                blocks, recursions, order, share = (d.choices[k[d.name]] for d in parts)
                groups = [
                    repaired[loop][k[d.name]]
                    for loop, d in enumerate(stage.groups[: int(recursions)])
                ]
                loops = tuple(
                    (g, permuting and loop > 0 and 1 < g < tokens) for loop, g in enumerate(groups)
                )
                if plain_only and any(permuted for _, permuted in loops):
                    continue
                symbol = _symbol(int(blocks), order, share, loops)
                one_token = all(g == tokens for g in groups)
                found.setdefault((one_token, symbol), set()).add(number)
        classes: dict[bool, Classes] = {}
        for (one_token, _), numbers in found.items():
            classes.setdefault(one_token, Counter())[frozenset(numbers)] += 1
        return classes


def _choices(dimensions: list[Dimension]) -> Iterator[dict[str, int]]:
    """Every combination, as the number of the choice by name."""
    names = [d.name for d in dimensions]
    for numbers in itertools.product(*(range(len(d.choices)) for d in dimensions)):
        yield dict(zip(names, numbers, strict=True))


def _symbol(blocks: int, order: Any, share: Any, loops: tuple[tuple[int, bool], ...]) -> Hashable:
    """What tells a schedule from others, without writing its applications down."""
    if len(loops) > 1 and share != "none":
        return (blocks, loops, share, order if blocks > 1 else "")
    # Weights of its own in every application: only their sequence counts.
    steps = loops * blocks if order == "adjacent" else [x for x in loops for _ in range(blocks)]
    return tuple((key, sum(1 for _ in run)) for key, run in itertools.groupby(steps))
