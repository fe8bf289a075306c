"""Widths that fit together, and the nearest ones to those that do not.

The depthwise down-sampling needs every stage to be a whole number of times as
wide as the stage before. The rule that repairs a draw of heads and head
dimensions stays within the choices of the file, stage by stage:

    1. Values of ``all_stages`` that fit with nothing move to the nearest that do:
       nearest in head_dim, then in heads, then the smaller.
    2. In every stage, the drawn pair stays where its width is a multiple of the
       width before and the stages behind can follow. Else it becomes, of the
       pairs that can, the one nearest in width; then the narrower; then the one
       nearest in heads; then the one with fewer heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sret_nas.errors import ConfigError, Problem

if TYPE_CHECKING:
    from sret_nas.space.dimensions import Dimension, StageDimensions

Ints: TypeAlias = NDArray[np.int64]

MOST = 10_000_000
"""Pairs of pairs that are compared at most; beyond, a file asks for a larger step."""


class Widths:
    """The widths of all stages.

    A tie is one combination of the values that all stages share, a pair one of
    the heads and head_dim that a stage has of its own.

    Attributes:
        tied: The shared dimensions of heads and of head_dim; ``None`` where there is none.
        own: Per stage, its own dimensions of heads and of head_dim; likewise.
        heads: Per stage, heads of (tie, pair).
        head_dim: Per stage, channels per head of (tie, pair).
        width: Per stage, their product.
        fits: Per stage, whether (tie, pair) is part of a chain of widths that fits.
    """

    def __init__(self, stages: Sequence[StageDimensions]) -> None:
        self.tied: list[Dimension | None] = [None, None]
        self.own: list[list[Dimension | None]] = []
        for stage in stages:
            pair = stage.fields["heads"], stage.fields["head_dim"]
            both: list[Dimension | None] = list(pair)
            for j, dimension in enumerate(pair):
                if dimension.name.startswith("all."):
                    self.tied[j], both[j] = dimension, None
            self.own.append(both)
        shared = _product(self.tied)
        self.heads: list[Ints] = []
        self.head_dim: list[Ints] = []
        for own in self.own:
            pairs = _product(own)
            values = [
                np.where(pairs[None, :, j] > 0, pairs[None, :, j], shared[:, None, j])
                for j in (0, 1)
            ]
            self.heads.append(values[0])
            self.head_dim.append(values[1])
        self.width = [h * d for h, d in zip(self.heads, self.head_dim, strict=True)]
        for i in range(1, len(stages)):
            ties, before = self.width[i - 1].shape
            if ties * before * self.width[i].shape[1] > MOST:
                raise ConfigError(
                    [
                        Problem(
                            ("stages", i, "head_dim"),
                            f"{before:,} × {self.width[i].shape[1]:,} combinations of widths; "
                            f"allowed: at most {MOST:,}, by a larger step",
                        )
                    ]
                )
        self.fits = self._fitting()

    def follows(self, i: int) -> NDArray[np.bool_]:
        """Whether (tie, pair of stage ``i``, pair of stage ``i`` + 1) can follow each other."""
        out: NDArray[np.bool_] = self.width[i + 1][:, None, :] % self.width[i][:, :, None] == 0
        return out

    def _fitting(self) -> list[NDArray[np.bool_]]:
        fits = [np.ones(width.shape, dtype=bool) for width in self.width]
        for i in reversed(range(len(fits) - 1)):
            fits[i] &= (self.follows(i) & fits[i + 1][:, None, :]).any(axis=2)
        for i in range(1, len(fits)):
            fits[i] &= (self.follows(i - 1) & fits[i - 1][:, :, None]).any(axis=1)
        return fits

    def broken(self) -> tuple[int, list[int], list[int]] | None:
        """The first stage that no chain of widths reaches, the widths before and its own."""
        reached: NDArray[np.bool_] = np.ones(self.width[0].shape, dtype=bool)
        for i in range(1, len(self.width)):
            before = self.width[i - 1][reached]
            reached = np.any(self.follows(i - 1) & reached[:, :, None], axis=1)
            if not reached.any():
                return i, np.unique(before).tolist(), np.unique(self.width[i]).tolist()
        return None

    def dead(self) -> Iterator[tuple[Dimension, Any]]:
        """Choices that are part of no chain."""
        yield from _unused(self.tied, np.asarray(self.fits[0].any(axis=1)))
        for own, fits in zip(self.own, self.fits, strict=True):
            yield from _unused(own, np.asarray(fits.any(axis=0)))

    @cached_property
    def tie_repair(self) -> Ints:
        """For every tie, itself or the nearest that fits."""
        shared, ok = _product(self.tied), self.fits[0].any(axis=1)
        known = np.flatnonzero(ok)
        heads, dims = shared[:, 0], shared[:, 1]
        repair = np.arange(len(shared))
        for tie in np.flatnonzero(~ok):
            keys = (
                heads[known],
                dims[known],
                abs(heads[known] - heads[tie]),
                abs(dims[known] - dims[tie]),
            )
            repair[tie] = known[np.lexsort(keys)[0]]
        return repair

    @cached_property
    def before(self) -> list[Ints]:
        """Per stage and (tie, pair), a number for its width, as ``pair_repair`` counts them."""
        return [
            np.unique(width, return_inverse=True)[1].reshape(width.shape) for width in self.width
        ]

    @cached_property
    def pair_repair(self) -> list[Ints]:
        """Per stage, for (tie, width before, pair), the pair that is taken."""
        tables = []
        for i, (width, fits) in enumerate(zip(self.width, self.fits, strict=True)):
            befores = np.unique(self.width[i - 1]) if i else np.ones(1, dtype=np.int64)
            table = np.zeros((len(width), len(befores), width.shape[1]), dtype=np.int64)
            for tie, row in enumerate(width):
                heads = self.heads[i][tie]
                known = np.unique(self.width[i - 1][tie][self.fits[i - 1][tie]]) if i else befores
                for b in np.searchsorted(befores, known):
                    ok = np.flatnonzero(fits[tie] & (row % befores[b] == 0))
                    table[tie, b] = _nearest(row, heads, ok)
            tables.append(table)
        return tables


def _product(dimensions: Sequence[Dimension | None]) -> Ints:
    """All combinations of heads and head_dim, (count, 2); 0 for a missing dimension."""
    heads, dims = ((0,) if d is None else d.choices for d in dimensions)
    return np.array([(h, d) for h in heads for d in dims], dtype=np.int64)


def _unused(
    dimensions: Sequence[Dimension | None], ok: NDArray[np.bool_]
) -> Iterator[tuple[Dimension, Any]]:
    """Choices of which no combination is ok, given for all combinations in their order."""
    grid = ok.reshape([1 if d is None else len(d.choices) for d in dimensions])
    for j, dimension in enumerate(dimensions):
        if dimension is not None:
            used = np.atleast_1d(grid.any(axis=1 - j)).tolist()
            yield from ((dimension, dimension.choices[k]) for k, u in enumerate(used) if not u)


def _nearest(width: Ints, heads: Ints, ok: Ints) -> Ints:
    """For every pair, itself where it is among ``ok``, else the one to take instead."""
    taken = np.arange(len(width))
    if not len(ok):
        return taken
    for pair in np.setdiff1d(taken, ok):
        keys = (
            heads[ok],
            abs(heads[ok] - heads[pair]),
            width[ok],
            abs(width[ok] - width[pair]),
        )
        taken[pair] = ok[np.lexsort(keys)[0]]
    return taken
