"""What a sampler may propose, as arrays: from any of Optuna's distributions.

A row is one candidate: a number per parameter, its position among the choices of a
discrete parameter, or where it lies in [0, 1] for a continuous one. Rows that are equal
are the same candidate.

Shapes: N candidates, P parameters, K known objectives, D inputs of a model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

Rows = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Params = dict[str, Any]
T = TypeVar("T")

FEW = 20_000
"""Candidates up to which a space is looked at whole."""
STEP = 0.1
"""Standard deviation of a step along a continuous parameter of range 1."""
DRAWS = 20
"""Rows drawn for every one that is asked for, before a lack of feasible ones is believed."""
REMEMBERED = 200_000
"""Answers of the user's functions that are kept."""


class Candidates(Protocol):
    """What ``KnownCostSampler`` proposes from."""

    def everything(self) -> Rows | None:
        """All feasible candidates, (N, P), of a space of at most ``FEW``; else ``None``."""

    def draw(self, n: int, rng: np.random.Generator) -> Rows:
        """About ``n`` feasible candidates at random, all different; fewer where they are rare."""

    def around(self, rows: Rows, rng: np.random.Generator) -> Rows:
        """Feasible candidates one choice away from any of the rows, all different."""

    def costs(self, rows: Rows) -> Floats:
        """Known objectives, (N, K), to minimise."""

    def inputs(self, rows: Rows) -> Floats:
        """What a model sees, (N, D), roughly within the unit cube."""

    def keys(self, rows: Rows) -> list[bytes]:
        """Equal where candidates are the same, (N,)."""

    def encode(self, params: Mapping[str, Any]) -> Rows | None:
        """The row of a trial's parameters, (P,); ``None`` where they are not of this space."""

    def params(self, row: Rows) -> Params:
        """The parameters of one row."""


class FromDistributions:
    """Candidates from distributions and functions of one set of parameters.

    Args:
        distributions: By name.
        known: Known objectives, to minimise.
        feasible: Whether a candidate may be tried.
        features: Further inputs of the model.
    """

    def __init__(
        self,
        distributions: Mapping[str, BaseDistribution],
        known: Sequence[Callable[[Params], float]] = (),
        feasible: Callable[[Params], bool] | None = None,
        features: Callable[[Params], Sequence[float]] | None = None,
    ) -> None:
        self.axes = [_Axis(name, d) for name, d in distributions.items()]
        self.known = known
        self.feasible = feasible
        self.features = features
        self._is_feasible: dict[bytes, bool] = {}
        self._numbers: dict[bytes, tuple[float, ...]] = {}

    # -- rows --------------------------------------------------------------------------------

    def encode(self, params: Mapping[str, Any]) -> Rows | None:
        """See ``Candidates``."""
        row = [axis.encode(params[axis.name]) for axis in self.axes if axis.name in params]
        if len(row) < len(self.axes) or None in row:
            return None
        return np.array(row, dtype=float)

    def params(self, row: Rows) -> Params:
        """See ``Candidates``."""
        return {axis.name: axis.decode(x) for axis, x in zip(self.axes, row, strict=True)}

    def keys(self, rows: Rows) -> list[bytes]:
        """See ``Candidates``."""
        return [row.tobytes() for row in np.ascontiguousarray(rows, dtype=float) + 0.0]

    # -- sets of them ------------------------------------------------------------------------

    def everything(self) -> Rows | None:
        """See ``Candidates``."""
        return self._everything

    @cached_property
    def _everything(self) -> Rows | None:
        counts = [axis.count for axis in self.axes]
        if 0 in counts or math.prod(counts) > FEW:
            return None
        grid = np.stack(np.meshgrid(*map(np.arange, counts), indexing="ij"), axis=-1)
        return self._kept(grid.reshape(-1, len(counts)).astype(float))

    def draw(self, n: int, rng: np.random.Generator) -> Rows:
        """See ``Candidates``."""
        found: list[Rows] = []
        enough, drawn = 0, 0
        while enough < n and drawn < DRAWS * n:
            rows = np.stack([axis.draw(n, rng) for axis in self.axes], axis=1)
            found.append(self._kept(rows))
            enough += len(found[-1])
            drawn += n
        return np.unique(np.concatenate(found)[:n], axis=0)

    def around(self, rows: Rows, rng: np.random.Generator) -> Rows:
        """See ``Candidates``."""
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
        """See ``Candidates``."""
        return self._extra(rows)[:, : len(self.known)]

    def inputs(self, rows: Rows) -> Floats:
        """See ``Candidates``."""
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


class _Axis:
    """One parameter: between its values and numbers.

    Attributes:
        name: Of the parameter.
        count: Of its choices; 0 for a continuous one.
    """

    def __init__(self, name: str, distribution: BaseDistribution) -> None:
        self.name = name
        self.choices: tuple[Any, ...] | None = None
        self.log = False
        if isinstance(distribution, CategoricalDistribution):
            self.choices = distribution.choices
            self.ordered = all(type(choice) in (int, float) for choice in self.choices)
            if self.ordered:
                self.choices = tuple(sorted(self.choices))
                low, high = self.choices[0], self.choices[-1]
                self.log = low > 0 and high >= 4 * low
            self.count = len(self.choices)
            return
        if not isinstance(distribution, IntDistribution | FloatDistribution):
            raise ValueError(
                f"parameter '{name}': {type(distribution).__name__} is not supported; "
                "allowed: float, int and categorical distributions"
            )
        self.ordered = True
        self.whole = isinstance(distribution, IntDistribution)
        self.low, self.high = distribution.low, distribution.high
        self.log = distribution.log
        self.step: float = distribution.step or 0
        self.count = round((self.high - self.low) / self.step) + 1 if self.step else 0

    def decode(self, x: float) -> Any:
        """The value of a parameter."""
        if self.choices is not None:
            return self.choices[int(x)]
        if self.count:
            value = self.low + int(x) * self.step
            return int(value) if self.whole else min(float(value), float(self.high))
        if self.log:
            value = math.exp(math.log(self.low) + x * math.log(self.high / self.low))
        else:
            value = self.low + x * (self.high - self.low)
        return min(max(value, self.low), self.high)

    def encode(self, value: Any) -> float | None:
        """The number of a value; ``None`` for one that is not allowed."""
        if self.choices is not None:
            return float(self.choices.index(value)) if value in self.choices else None
        if not self.low <= value <= self.high:
            return None
        value = float(value)
        if self.count:
            return float(round((value - self.low) / self.step))
        if self.low == self.high:
            return 0.0
        if self.log:
            return float(math.log(value / self.low) / math.log(self.high / self.low))
        return float((value - self.low) / (self.high - self.low))

    def draw(self, n: int, rng: np.random.Generator) -> Floats:
        """Numbers at random."""
        if not self.count:
            return rng.random(n)
        if self.choices is None and self.log:
            logs = rng.uniform(math.log(self.low), math.log(self.high + 1), n)
            return np.minimum(np.floor((np.exp(logs) - self.low) / self.step), self.count - 1)
        return rng.integers(self.count, size=n).astype(float)

    def around(self, x: float, rng: np.random.Generator) -> list[float]:
        """Numbers near by; of a parameter without an order, all others."""
        if not self.count:
            steps = x + rng.normal(0, STEP, 2) * np.array([1.0, 0.1])
            return [float(y) for y in steps if 0 <= y <= 1]
        if not self.ordered:
            return [float(y) for y in range(self.count) if y != x]
        far = max(1, self.count // 10)
        return [float(y) for y in {x - far, x - 1, x + 1, x + far} if 0 <= y < self.count]

    def inputs(self, x: Floats) -> Floats:
        """Columns of a model, (N, columns), within [0, 1]; none for a parameter with no choice."""
        if self.count == 1:
            return np.empty((len(x), 0))
        if not self.count:
            return x[:, None]
        if not self.ordered:
            return np.asarray(x[:, None] == np.arange(self.count), dtype=float)
        if self.choices is not None:
            values = np.array(self.choices, dtype=float)[x.astype(int)]
            low, high = float(self.choices[0]), float(self.choices[-1])
        else:
            values, low, high = self.low + x * self.step, float(self.low), float(self.high)
        if self.log:
            values, low, high = np.log(values), math.log(low), math.log(high)
        return np.asarray((values - low) / (high - low))[:, None]
