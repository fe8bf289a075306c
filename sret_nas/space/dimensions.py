"""What a space chooses: the dimensions of an architecture and of its stages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

Value: TypeAlias = Any
"""What a field of an architecture may hold: true or false, a number, a word."""
Place: TypeAlias = tuple[str | int, ...]

GLOBAL_FIELDS = (
    "image_size",
    "in_chans",
    "num_classes",
    "stem_stride",
    "residual_scale",
    "permute",
)
STAGE_FIELDS = (
    "heads",
    "head_dim",
    "blocks",
    "recursions",
    "order",
    "share",
    "mlp_ratio",
    "nll_ratio",
)


@dataclass(frozen=True)
class Dimension:
    """The choices of one field.

    Attributes:
        name: As a dashboard shows it: ``stage2.recursions``, ``all.head_dim``.
        choices: At least one, numbers ascending; only where there are more is it a coordinate.
        path: Where the file says so.
    """

    name: str
    choices: tuple[Value, ...]
    path: Place = ()


@dataclass(frozen=True)
class StageDimensions:
    """The dimensions of one stage; a tied one is the same object in several stages."""

    heads: Dimension
    head_dim: Dimension
    blocks: Dimension
    recursions: Dimension
    order: Dimension
    share: Dimension
    mlp_ratio: Dimension
    nll_ratio: Dimension
    groups: tuple[Dimension, ...]
    """One for every loop that the most recursions have."""

    def __iter__(self) -> Iterator[Dimension]:
        for name in STAGE_FIELDS:
            yield getattr(self, name)
        yield from self.groups
