"""Encodings: one small integer per choice, and what they decode to.

Every encoding is valid. What cannot hold together is repaired, always in the
same way: widths by the rule of ``widths``; a group count that does not divide
the tokens of its stage by ``arch.nearest_groups``, as ``Architecture.at`` does
it; group counts of loops that a block does not have are ignored.

Shapes: n encodings, K coordinates.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sret_nas.arch import Architecture, Stage, nearest_groups
from sret_nas.cost import Shape, shape
from sret_nas.cost.dims import Words, column
from sret_nas.space.consistency import grids
from sret_nas.space.dimensions import Dimension, StageDimensions
from sret_nas.space.widths import Widths

Codes: TypeAlias = NDArray[np.int64]
"""Encodings, (n, K)."""

Column: TypeAlias = Any
"""One entry per encoding, or a plain value that all have."""


@dataclass(frozen=True)
class Repaired:
    """What coordinates that depend on each other decode to; indices by encoding.

    Attributes:
        context: Which combination of image size and stem stride.
        tie: Which combination of shared heads and head_dim.
        pairs: Per stage, which combination of its own heads and head_dim.
        groups: Per stage and loop, the group count, loops beyond the recursions too.
    """

    context: Codes
    tie: Codes
    pairs: tuple[Codes, ...]
    groups: tuple[tuple[Column, ...], ...]


class Coding:
    """Between encodings, architectures and the numbers that costs depend on.

    Args:
        top: Dimensions of the architecture by field.
        stages: Dimensions of every stage.
    """

    def __init__(self, top: dict[str, Dimension], stages: Sequence[StageDimensions]) -> None:
        self.top = top
        self.stages = tuple(stages)
        every = {d.name: d for d in (*top.values(), *itertools.chain(*stages))}
        tied = [d for d in every.values() if d.name.startswith("all.")]
        ordered = [*top.values(), *tied, *(d for d in every.values() if d not in tied)]
        self.dimensions = tuple(dict.fromkeys(ordered))
        self.coordinates = tuple(d for d in self.dimensions if len(d.choices) > 1)
        self.at = {d.name: j for j, d in enumerate(self.coordinates)}
        self.counts = np.array([len(d.choices) for d in self.coordinates], dtype=np.int64)
        self.widths = Widths(stages)

    @cached_property
    def contexts(self) -> list[tuple[Any, Any]]:
        """Combinations of image size and stem stride, in the order of their numbers."""
        return list(
            itertools.product(self.top["image_size"].choices, self.top["stem_stride"].choices)
        )

    @cached_property
    def tokens(self) -> NDArray[np.int64]:
        """Tokens of (context, stage)."""
        return np.array([grids(*c, len(self.stages)).tokens for c in self.contexts])

    @cached_property
    def group_tables(self) -> list[list[NDArray[np.int64]]]:
        """Per stage and loop, the group count that (context, choice) is repaired to."""
        return [
            [
                np.array(
                    [[nearest_groups(int(g), int(n)) for g in d.choices] for n in self.tokens[:, i]]
                )
                for d in stage.groups
            ]
            for i, stage in enumerate(self.stages)
        ]

    def choice(self, codes: Codes, dimension: Dimension) -> Column:
        """Index of the choice; 0 where there is but one."""
        j = self.at.get(dimension.name)
        return 0 if j is None else codes[:, j]

    def value(self, codes: Codes, dimension: Dimension) -> Column:
        """The choice itself, as it is drawn."""
        j = self.at.get(dimension.name)
        return dimension.choices[0] if j is None else column(dimension.choices, codes[:, j])

    def repair(self, codes: Codes) -> Repaired:
        """Widths and group counts that can be built."""
        n = len(codes)
        zero = np.zeros(n, dtype=np.int64)
        context = self._combined(codes, self.top["image_size"], self.top["stem_stride"]) + zero
        widths = self.widths
        tie = widths.tie_repair[self._combined(codes, *widths.tied) + zero]
        pairs, before = [], zero
        for own, table, number in zip(widths.own, widths.pair_repair, widths.before, strict=True):
            pair = table[tie, before, self._combined(codes, *own) + zero]
            pairs.append(pair)
            before = number[tie, pair]
        groups = tuple(
            tuple(
                table[context, self.choice(codes, d)]
                for d, table in zip(stage.groups, tables, strict=True)
            )
            for stage, tables in zip(self.stages, self.group_tables, strict=True)
        )
        return Repaired(context, tie, tuple(pairs), groups)

    def _combined(self, codes: Codes, *dimensions: Dimension | None) -> Column:
        """Number of a combination of choices; the last dimension counts fastest."""
        number: Column = 0
        for dimension in dimensions:
            if dimension is not None:
                number = number * len(dimension.choices) + self.choice(codes, dimension)
        return number

    def fields(self, codes: Codes) -> tuple[dict[str, Column], list[dict[str, Column]]]:
        """What encodings decode to: the values of the architecture's fields and of every stage's.

        Groups are a column for every loop, loops beyond the recursions too.
        """
        fixed = self.repair(codes)
        top = {name: self.value(codes, d) for name, d in self.top.items()}
        stages = []
        for i, stage in enumerate(self.stages):
            values = {name: self.value(codes, d) for name, d in stage.fields.items()}
            values["heads"] = self.widths.heads[i][fixed.tie, fixed.pairs[i]]
            values["head_dim"] = self.widths.head_dim[i][fixed.tie, fixed.pairs[i]]
            stages.append({**values, "groups": fixed.groups[i]})
        return top, stages

    def shape(self, codes: Codes) -> Shape:
        """The numbers that costs depend on: columns, but for what all architectures share."""
        top, stages = self.fields(codes)
        columns = [Stage.model_construct(**values) for values in stages]
        found = shape(Architecture.model_construct(**top, stages=tuple(columns)))
        shared = {name: top[name] for name in ("image_size", "in_chans", "num_classes")}
        full = found.map(lambda x: x if isinstance(x, np.ndarray) else np.full(len(codes), x))
        return full._replace(**shared)

    def architectures(self, codes: Codes) -> list[dict[str, Any]]:
        """What encodings decode to, as plain data in the form of an architecture file."""
        n = len(codes)
        found, found_stages = self.fields(codes)
        top = {name: _listed(value, n) for name, value in found.items()}
        stages = []
        for values in found_stages:
            groups = [_listed(value, n) for value in values.pop("groups")]
            stages.append(({name: _listed(value, n) for name, value in values.items()}, groups))
        return [
            {
                "schema": 1,
                **{name: rows[row] for name, rows in top.items()},
                "stages": [
                    {
                        **{name: rows[row] for name, rows in fields.items()},
                        "groups": [g[row] for g in groups[: fields["recursions"][row]]],
                    }
                    for fields, groups in stages
                ],
            }
            for row in range(n)
        ]

    def keys(self, codes: Codes) -> Codes:
        """Numbers that are equal where encodings decode to the same fields, (n, more than K)."""
        fixed = self.repair(codes)
        n = len(codes)
        repaired = {d.name for s in self.stages for d in s.groups}
        repaired |= {s.fields[name].name for s in self.stages for name in ("heads", "head_dim")}
        columns = [codes[:, j] for name, j in self.at.items() if name not in repaired]
        columns += [fixed.tie, *fixed.pairs]
        for stage, groups in zip(self.stages, fixed.groups, strict=True):
            recursions = self.value(codes, stage.fields["recursions"])
            columns += [g * (recursions > loop) * np.ones(n, int) for loop, g in enumerate(groups)]
        return np.stack(columns, axis=1) if columns else np.zeros((n, 1), dtype=np.int64)

    def array(self, rows: Sequence[Sequence[int]] | Sequence[Codes]) -> Codes:
        """Encodings as an array; also of none, and of no coordinates."""
        return np.array(rows, dtype=np.int64).reshape(len(rows), len(self.counts))

    def all_codes(self, start: int, stop: int) -> Codes:
        """Encodings by their number, the last coordinate counting fastest."""
        numbers = np.arange(start, stop, dtype=np.int64)
        columns = []
        for count in self.counts[::-1]:
            columns.append(numbers % count)
            numbers = numbers // count
        return np.stack(columns[::-1], axis=1) if columns else np.zeros((stop - start, 0), np.int64)

    def random_codes(self, n: int, rng: np.random.Generator) -> Codes:
        """Encodings, uniformly and independently."""
        return rng.integers(0, self.counts, size=(n, len(self.counts)), dtype=np.int64)

    def build(self, codes: Codes) -> list[Architecture]:
        """What encodings decode to."""
        return [Architecture.model_validate(data) for data in self.architectures(codes)]


def _listed(value: Column, n: int) -> list[Any]:
    """The entries of a column, or a value that all have, as plain data."""
    return value.tolist() if isinstance(value, np.ndarray | Words) else [value] * n
