"""Arrays of encodings as architectures and as costs: what helpers need of a space."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sret_nas.arch import Architecture
from sret_nas.cost import BLOCK as ROWS
from sret_nas.cost import stack, table
from sret_nas.space import transform
from sret_nas.space.coding import Codes, Coding
from sret_nas.space.frames import METRICS

BLOCK = 1 << 15
"""Encodings that are drawn or looked at at once."""


@dataclass(frozen=True)
class Encodings:
    """The encodings of a space, with the callable that changes its architectures.

    Attributes:
        coding: Between encodings and architectures.
        transform: The callable, or ``None``.
        callable: How the space's file names it.
    """

    coding: Coding
    transform: transform.Transform | None = None
    callable: str | None = None

    @property
    def size(self) -> int:
        """How many there are, exactly."""
        return math.prod(len(d.choices) for d in self.coding.coordinates)

    def decode_many(self, codes: Codes) -> list[Architecture]:
        """The architectures of an array of encodings, (n, coordinates)."""
        if self.transform is None:
            return self.coding.build(codes)
        return [
            transform.apply(self.transform, str(self.callable), data)
            for data in self.coding.architectures(codes)
        ]

    def costs(self, codes: Codes, quantities: Sequence[str] = METRICS) -> dict[str, NDArray[Any]]:
        """Costs of an array of encodings as int64 columns, by the formulas of ``cost``."""
        if not len(codes):
            return {name: np.empty(0, dtype=np.int64) for name in quantities}
        if self.transform is not None:
            return table(stack(self.decode_many(codes)), quantities)
        parts = [
            table(self.coding.shape(codes[i : i + ROWS]), quantities)
            for i in range(0, len(codes), ROWS)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in quantities}
