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

from sret_nas.arch import Architecture, nearest_groups
from sret_nas.cost import Shape, StageShape, shape
from sret_nas.space.consistency import grids
from sret_nas.space.dimensions import (
    GLOBAL_FIELDS,
    STAGE_FIELDS,
    Dimension,
    StageDimensions,
    Value,
)
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
    def stem_sides(self) -> NDArray[np.int64]:
        """Output sides of the stem's convolutions, (context, 3)."""
        probes = (grids(*c, len(self.stages)) for c in self.contexts)
        return np.array([shape(probe).stem_sides for probe in probes])

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
        return dimension.choices[0] if j is None else np.array(dimension.choices)[codes[:, j]]

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

    def shape(self, codes: Codes) -> Shape:
        """The numbers that costs depend on, a column each."""
        fixed = self.repair(codes)
        zero = np.zeros(len(codes), dtype=np.int64)
        top = {name: self.value(codes, d) for name, d in self.top.items()}
        stages = []
        for i, stage in enumerate(self.stages):
            tokens = self.tokens[:, i][fixed.context]
            dim = self.widths.width[i][fixed.tie, fixed.pairs[i]]
            blocks, recursions = (
                self.value(codes, stage.blocks),
                self.value(codes, stage.recursions),
            )
            depth = blocks * recursions
            shares = [
                np.array([s in ("all", part) for s in stage.share.choices])[
                    self.choice(codes, stage.share)
                ]
                for part in ("attention", "mlp")
            ]
            pairs, permuted = 0, 0
            can_permute = self.value(codes, self.top["permute"]) != "none"
            for loop, groups in enumerate(fixed.groups[i]):
                active = recursions > loop
                pairs = pairs + active * (tokens * (tokens // groups))
                if loop:
                    permuted = permuted + (active & (groups > 1) & (groups < tokens) & can_permute)
            stages.append(
                StageShape(
                    tokens=tokens,
                    dim=dim,
                    heads=self.widths.heads[i][fixed.tie, fixed.pairs[i]],
                    mlp_hidden=self._hidden(dim, codes, stage.mlp_ratio),
                    nll_hidden=self._hidden(dim, codes, stage.nll_ratio),
                    depth=depth + zero,
                    attention_units=np.where(shares[0], blocks, depth) + zero,
                    mlp_units=np.where(shares[1], blocks, depth) + zero,
                    attention_pairs=blocks * pairs,
                    permuted=blocks * permuted + zero,
                )
            )
        return Shape(
            image_size=top["image_size"],
            in_chans=top["in_chans"],
            num_classes=top["num_classes"],
            residual_scale=top["residual_scale"] + zero,
            stem_sides=tuple(self.stem_sides[:, c][fixed.context] for c in range(3)),
            stages=tuple(stages),
        )

    def _hidden(self, dim: Codes, codes: Codes, ratio: Dimension) -> Codes:
        """Hidden channels, rounded down as ``Stage`` does."""
        hidden: Codes = (dim * self.value(codes, ratio)).astype(np.int64)
        return hidden

    def architectures(self, codes: Codes) -> list[dict[str, Any]]:
        """What encodings decode to, as plain data in the form of an architecture file."""
        fixed = self.repair(codes)
        n = len(codes)
        top = {name: self._listed(codes, d) for name, d in self.top.items()}
        stages = []
        for i, stage in enumerate(self.stages):
            fields = {name: self._listed(codes, getattr(stage, name)) for name in STAGE_FIELDS}
            fields["heads"] = self.widths.heads[i][fixed.tie, fixed.pairs[i]].tolist()
            fields["head_dim"] = self.widths.head_dim[i][fixed.tie, fixed.pairs[i]].tolist()
            groups = [(g + np.zeros(n, dtype=np.int64)).tolist() for g in fixed.groups[i]]
            stages.append((fields, groups))
        return [
            {
                "schema": 1,
                **{name: top[name][row] for name in GLOBAL_FIELDS},
                "stages": [
                    {
                        **{name: fields[name][row] for name in STAGE_FIELDS},
                        "groups": [g[row] for g in groups[: fields["recursions"][row]]],
                    }
                    for fields, groups in stages
                ],
            }
            for row in range(n)
        ]

    def _listed(self, codes: Codes, dimension: Dimension) -> list[Value]:
        j = self.at.get(dimension.name)
        if j is None:
            return [dimension.choices[0]] * len(codes)
        return [dimension.choices[k] for k in codes[:, j].tolist()]

    def keys(self, codes: Codes) -> Codes:
        """Numbers that are equal where encodings decode to the same fields, (n, more than K)."""
        fixed = self.repair(codes)
        n = len(codes)
        repaired = {d.name for s in self.stages for d in (s.heads, s.head_dim, *s.groups)}
        columns = [codes[:, j] for name, j in self.at.items() if name not in repaired]
        columns += [fixed.tie, *fixed.pairs]
        for stage, groups in zip(self.stages, fixed.groups, strict=True):
            recursions = self.value(codes, stage.recursions)
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
