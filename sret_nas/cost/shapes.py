"""The numbers that a cost depends on: Python ints, or columns of a table."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sret_nas.arch import Architecture

Number: TypeAlias = Any
"""A Python int, or an integer NumPy column with one entry per architecture."""


class StageShape(NamedTuple):
    """The numbers of one stage that its cost depends on; each int or column.

    A stage that some rows of a table do not have is all zeros there.

    Attributes:
        tokens: Tokens N.
        dim: Channels C.
        heads: Attention heads.
        mlp_hidden: Hidden channels of the MLP.
        nll_hidden: Hidden channels of the non-linear projection layer; 0: none.
        depth: Block applications.
        attention_units: Attention units with weights of their own.
        mlp_units: MLP units with weights of their own.
        attention_pairs: Query-key pairs of one image and head: the sum of N² / G
            over the applications, with G slices in each.
        permuted: Applications that permute the tokens.
    """

    tokens: Number
    dim: Number
    heads: Number
    mlp_hidden: Number
    nll_hidden: Number
    depth: Number
    attention_units: Number
    mlp_units: Number
    attention_pairs: Number
    permuted: Number = 0


class Shape(NamedTuple):
    """The numbers of an architecture, or of a table of them; each int or column.

    Attributes:
        image_size: Side of the input in pixels.
        in_chans: Input channels.
        num_classes: Classes of the head; 0: no head.
        residual_scale: 1 where units have two residual coefficients, else 0.
        stem_sides: Output sides of the three stem convolutions.
        stages: The stages in order.
    """

    image_size: Number
    in_chans: Number
    num_classes: Number
    residual_scale: Number
    stem_sides: tuple[Number, ...]
    stages: tuple[StageShape, ...]

    def map(self, change: Callable[[Number], Number]) -> Shape:
        """The same shape with every number changed."""
        return Shape(
            change(self.image_size),
            change(self.in_chans),
            change(self.num_classes),
            change(self.residual_scale),
            tuple(map(change, self.stem_sides)),
            tuple(StageShape(*map(change, stage)) for stage in self.stages),
        )

    def columns(self) -> list[NDArray[Any]]:
        """The columns among the numbers; none for one architecture."""
        found: list[NDArray[Any]] = []
        self.map(lambda x: found.append(x) if isinstance(x, np.ndarray) else None)
        return found

    def rows(self, here: slice) -> Shape:
        """Some rows of a table, without a copy."""
        return self.map(lambda x: x[here] if isinstance(x, np.ndarray) else x)

    def narrow(self) -> Shape:
        """The same table in the least memory: the smallest dtype that holds each column."""
        return self.map(
            lambda x: x.astype(np.min_scalar_type(x.max())) if isinstance(x, np.ndarray) else x
        )

    def wide(self) -> Shape:
        """The same numbers as int64 columns and Python ints, so that products fit."""
        return self.map(
            lambda x: (
                x.astype(np.int64, copy=False)
                if isinstance(x, np.ndarray)
                else x.item()
                if isinstance(x, np.generic)
                else x
            )
        )


ABSENT = StageShape(*(0 for _ in StageShape._fields))
"""A stage that is not there."""


def shape(arch: Architecture) -> Shape:
    """The numbers of one architecture, as Python integers."""
    sides = [arch.image_size]
    for stride in (2, 4, 8):
        sides.append(-(-sides[-1] // 2) if arch.stem_stride >= stride else sides[-1])
    permutes = arch.permute != "none"
    stages = []
    for stage, tokens in zip(arch.stages, arch.tokens, strict=True):
        pairs = permuted = 0
        for loop, groups in enumerate(stage.groups):
            pairs += tokens * (tokens // groups)
            permuted += permutes and loop > 0 and 1 < groups < tokens
        stages.append(
            StageShape(
                tokens=tokens,
                dim=stage.dim,
                heads=stage.heads,
                mlp_hidden=stage.mlp_hidden,
                nll_hidden=stage.nll_hidden,
                depth=stage.depth,
                attention_units=stage.attention_units,
                mlp_units=stage.mlp_units,
                attention_pairs=stage.blocks * pairs,
                permuted=stage.blocks * permuted,
            )
        )
    return Shape(
        image_size=arch.image_size,
        in_chans=arch.in_chans,
        num_classes=arch.num_classes,
        residual_scale=int(arch.residual_scale),
        stem_sides=(sides[1], sides[2], sides[3]),
        stages=tuple(stages),
    )


def stack(archs: Sequence[Architecture]) -> Shape:
    """Many architectures as one table: every number an int64 column.

    Rows with fewer stages than others have zeros in the rest.
    """
    shapes = [shape(arch) for arch in archs]
    most = max(len(one.stages) for one in shapes)
    shapes = [
        one._replace(stages=one.stages + (ABSENT,) * (most - len(one.stages))) for one in shapes
    ]
    rows: list[list[int]] = []
    for one in shapes:
        row: list[int] = []
        one.map(row.append)
        rows.append(row)
    columns = iter(np.array(rows, dtype=np.int64).T.copy())
    return shapes[0].map(lambda _: next(columns))


def largest(*numbers: Number) -> Number:
    """The maximum, entry by entry where one is a column."""
    if all(isinstance(x, int) for x in numbers):
        return max(numbers)
    return functools.reduce(np.maximum, numbers)
