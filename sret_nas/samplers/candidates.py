"""Candidates: what a sampler may propose, as arrays, from any of Optuna's distributions.

A row is one candidate, a number per parameter (``axes``). Rows that are equal are the same
candidate.

Shapes: N candidates, P parameters, K known objectives, D inputs of a model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from optuna.distributions import BaseDistribution

from sret_nas.samplers.axes import Axis

Rows = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Params = dict[str, Any]
T = TypeVar("T")

FEW = 20_000
"""Candidates up to which a space is looked at whole."""
DRAWS = 20
"""Rows drawn for every one that is asked for, before a lack of feasible ones is believed."""
REMEMBERED = 200_000
"""Answers of the user's functions that are kept."""


class Candidates(Protocol):
    """What ``KnownCostSampler`` needs to know of a search space; ``FromDistributions`` is one."""

    def everything(self) -> Rows | None:
        """All feasible candidates, (N, P), of a space of at most ``FEW``; else ``None``."""

    def draw(self, n: int, rng: np.random.Generator) -> Rows:
        """About ``n`` feasible candidates at random, all different; fewer where they are rare."""

    def around(self, rows: Rows, rng: np.random.Generator) -> Rows:
        """Feasible candidates one choice away from any of the rows, all different."""

    def costs(self, rows: Rows) -> Floats:
        """Known objectives, (N, K), to minimise."""

    def inputs(self, rows: Rows) -> Floats:
        """What the surrogate sees, (N, D), roughly within the unit cube."""

    def keys(self, rows: Rows) -> list[bytes]:
        """Equal where candidates are the same, (N,)."""

    def encode(self, params: Mapping[str, Any]) -> Rows | None:
        """The row of a trial's parameters, (P,); ``None`` where they are not of this space."""

    def params(self, row: Rows) -> Params:
        """The parameters of one row."""


class FromDistributions:
    """Candidates from distributions, and functions that are asked once for each of them.

    Args:
        distributions: Distributions of all parameters, by name.
        known: Known objectives as functions of the parameters, to minimise.
        feasible: Whether parameters may be tried; without it, all may.
        features: Further inputs of the surrogate, equally many for all parameters.

    Raises:
        ValueError: a distribution of another kind than Optuna's three.

    Example:
        >>> from optuna.distributions import IntDistribution
        >>> candidates = FromDistributions({"width": IntDistribution(8, 32, step=8)})
        >>> candidates.everything().tolist()
        [[0.0], [1.0], [2.0], [3.0]]
        >>> candidates.params(candidates.everything()[2])
        {'width': 24}
    """

    def __init__(
        self,
        distributions: Mapping[str, BaseDistribution],
        known: Sequence[Callable[[Params], float]] = (),
        feasible: Callable[[Params], bool] | None = None,
        features: Callable[[Params], Sequence[float]] | None = None,
    ) -> None:
        self.axes = [Axis(name, d) for name, d in distributions.items()]
        self.known = known
        self.feasible = feasible
        self.features = features
        self._is_feasible: dict[bytes, bool] = {}
        self._numbers: dict[bytes, tuple[float, ...]] = {}

    # -- rows --------------------------------------------------------------------------------

    def encode(self, params: Mapping[str, Any]) -> Rows | None:
        """The numbers of parameters, (P,); ``None`` where one is missing or not allowed."""
        row = [axis.encode(params[axis.name]) for axis in self.axes if axis.name in params]
        if len(row) < len(self.axes) or None in row:
            return None
        return np.array(row, dtype=float)

    def params(self, row: Rows) -> Params:
        """The values that the numbers of a row, (P,), stand for."""
        return {axis.name: axis.decode(x) for axis, x in zip(self.axes, row, strict=True)}

    def keys(self, rows: Rows) -> list[bytes]:
        """The bytes of every row, (N,), -0.0 read as 0.0."""
        return [row.tobytes() for row in np.ascontiguousarray(rows, dtype=float) + 0.0]

    # -- sets of them ------------------------------------------------------------------------

    def everything(self) -> Rows | None:
        """The whole grid, where no parameter is continuous and it has at most ``FEW`` rows."""
        return self._everything

    @cached_property
    def _everything(self) -> Rows | None:
        counts = [axis.count for axis in self.axes]
        if 0 in counts or math.prod(counts) > FEW:
            return None
        grid = np.stack(np.meshgrid(*map(np.arange, counts), indexing="ij"), axis=-1)
        return self._kept(grid.reshape(-1, len(counts)).astype(float))

    def draw(self, n: int, rng: np.random.Generator) -> Rows:
        """Rows drawn from each distribution by itself, until ``n`` feasible ones are found."""
        found: list[Rows] = []
        enough, drawn = 0, 0
        while enough < n and drawn < DRAWS * n:
            rows = np.stack([axis.draw(n, rng) for axis in self.axes], axis=1)
            found.append(self._kept(rows))
            enough += len(found[-1])
            drawn += n
        return np.unique(np.concatenate(found)[:n], axis=0)

    def around(self, rows: Rows, rng: np.random.Generator) -> Rows:
        """All that differ in one parameter: by a step if it has an order, else by any choice."""
        moved = []
        for row in rows:
            for j, axis in enumerate(self.axes):
                for x in axis.around(row[j], rng):
                    other = row.copy()
                    other[j] = x
                    moved.append(other)
        if not moved:
            return np.empty((0, len(self.axes)))
        return self._kept(np.unique(np.array(moved), axis=0))

    def _kept(self, rows: Rows) -> Rows:
        if self.feasible is None:
            return rows
        check = self.feasible
        return rows[self._ask(rows, self._is_feasible, lambda params: bool(check(params)))]

    # -- numbers -----------------------------------------------------------------------------

    def costs(self, rows: Rows) -> Floats:
        """The known objectives, (N, K), in the order they were given."""
        return self._extra(rows)[:, : len(self.known)]

    def inputs(self, rows: Rows) -> Floats:
        """Columns of every parameter, then the known objectives and the features, (N, D)."""
        columns = [axis.inputs(rows[:, j]) for j, axis in enumerate(self.axes)]
        return np.column_stack([*columns, self._extra(rows)])

    def _extra(self, rows: Rows) -> Floats:
        """Known objectives and features."""

        def numbers(params: Params) -> tuple[float, ...]:
            known = [float(function(params)) for function in self.known]
            return (*known, *map(float, self.features(params) if self.features else ()))

        told = self._ask(rows, self._numbers, numbers)
        return np.array(told, dtype=float).reshape(len(rows), -1 if len(rows) else len(self.known))

    def _ask(self, rows: Rows, memory: dict[bytes, T], function: Callable[[Params], T]) -> list[T]:
        """What a function says of rows, asked once for each."""
        if len(memory) > REMEMBERED:
            memory.clear()
        found = []
        for key, row in zip(self.keys(rows), rows, strict=True):
            if key not in memory:
                memory[key] = function(self.params(row))
            found.append(memory[key])
        return found
