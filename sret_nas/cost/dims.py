"""The numbers that a cost depends on: Python ints, or columns of a table.

They are derived once, from the fields of an architecture and what follows from them. A field
may hold a column as well, with an entry per architecture: a table is an ``Architecture`` made of
columns (``model_construct``, which checks nothing), and is derived as one architecture is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sret_nas.arch import Architecture, Permute, Stage, permutes

Number: TypeAlias = Any
"""A Python int, or an integer NumPy column with one entry per architecture."""


class Words:
    """A column of words, as numbers; compared with a word, a column of true and false.

    Args:
        words: The different ones.
        numbers: For every entry, the index of its word.
    """

    def __init__(self, words: Sequence[str], numbers: NDArray[np.int64]) -> None:
        self.words = words
        self.numbers = numbers

    def __eq__(self, word: object) -> NDArray[np.bool_]:  # type: ignore[override]
        return np.array([one == word for one in self.words])[self.numbers]

    def __ne__(self, word: object) -> NDArray[np.bool_]:  # type: ignore[override]
        return ~(self == word)

    __hash__ = None  # type: ignore[assignment]

    def tolist(self) -> list[str]:
        """The words, one by one."""
        return [self.words[k] for k in self.numbers.tolist()]


def column(choices: Sequence[Any], numbers: NDArray[np.int64]) -> Number | Words:
    """The choices of a field as a column of it.

    Args:
        choices: What it can be.
        numbers: For every entry, the index of its choice.
    """
    return Words(choices, numbers) if isinstance(choices[0], str) else np.array(choices)[numbers]


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

    @property
    def hidden(self) -> tuple[Number, ...]:
        """Hidden channels of every layer of two matrices."""
        return self.mlp_hidden, self.nll_hidden


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


def stage_shape(stage: Stage, tokens: Number, permute: Permute) -> StageShape:
    """The numbers of one stage, or of a column of them.

    Args:
        stage: Where it is made of columns, it has the groups of as many loops as the most
            recursions, and those beyond the recursions of an entry are ignored.
        tokens: Tokens N.
        permute: Permutation mode of the architecture.
    """
    pairs: Number = 0
    permuted: Number = 0
    for loop, groups in enumerate(stage.groups):
        runs = stage.recursions > loop
        pairs = pairs + runs * (tokens * (tokens // groups))
        permuted = permuted + (runs & permutes(permute, loop, groups, tokens))
    return StageShape(
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


def shape(arch: Architecture) -> Shape:
    """The numbers of one architecture, or of a table that is made of columns."""
    sides: list[Number] = [arch.image_size]
    for stride in (2, 4, 8):
        sides.append(-(-sides[-1] // (1 + (arch.stem_stride >= stride))))
    return Shape(
        image_size=arch.image_size,
        in_chans=arch.in_chans,
        num_classes=arch.num_classes,
        residual_scale=1 * arch.residual_scale,
        stem_sides=(sides[1], sides[2], sides[3]),
        stages=tuple(
            stage_shape(stage, tokens, arch.permute)
            for stage, tokens in zip(arch.stages, arch.tokens, strict=True)
        ),
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
