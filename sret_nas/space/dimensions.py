"""What a space chooses: the dimensions of an architecture and of its stages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from sret_nas.arch import Architecture, Stage

Value: TypeAlias = Any
"""What a field of an architecture may hold: true or false, a number, a word."""
Place: TypeAlias = tuple[str | int, ...]

GLOBAL_FIELDS = tuple(f for f in Architecture.model_fields if f not in ("schema_version", "stages"))
STAGE_FIELDS = tuple(f for f in Stage.model_fields if f != "groups")
"""The group counts are chosen loop by loop."""


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

    @property
    def ordered(self) -> bool:
        """Whether the choices are numbers, not words or true and false."""
        return not isinstance(self.choices[0], str | bool)


@dataclass(frozen=True)
class StageDimensions:
    """The dimensions of one stage; a tied one is the same object in several stages.

    Attributes:
        fields: By field, in the order of ``STAGE_FIELDS``.
        groups: One for every loop that the most recursions have.
    """

    fields: Mapping[str, Dimension]
    groups: tuple[Dimension, ...]

    def __iter__(self) -> Iterator[Dimension]:
        yield from self.fields.values()
        yield from self.groups
