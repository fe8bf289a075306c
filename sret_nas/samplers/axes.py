"""One parameter of Optuna's, between its values and numbers.

A number is the position among the choices of a discrete parameter, or where the value lies
in [0, 1] for a continuous one.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

Floats = npt.NDArray[np.float64]

STEP = 0.1
"""Standard deviation of a step along a continuous parameter of range 1."""


class Axis:
    """The axis of one parameter: numbers for its values, and values for its numbers.

    Args:
        name: Name of the parameter.
        distribution: Its distribution, one of Optuna's float, int and categorical ones.

    Attributes:
        count: How many choices it has; 0 for a continuous one.
        ordered: Whether its choices have an order, as numbers do.
        log: Whether the surrogate sees its logarithm.

    Raises:
        ValueError: a distribution of another kind.
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
        """The value that a number stands for."""
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
        """Numbers at random, (n,), evenly over the choices or, of a log range, their logarithms."""
        if not self.count:
            return rng.random(n)
        if self.choices is None and self.log:
            logs = rng.uniform(math.log(self.low), math.log(self.high + 1), n)
            return np.minimum(np.floor((np.exp(logs) - self.low) / self.step), self.count - 1)
        return rng.integers(self.count, size=n).astype(float)

    def around(self, x: float, rng: np.random.Generator) -> list[float]:
        """Numbers near one; of a parameter without an order, all others."""
        if not self.count:
            steps = x + rng.normal(0, STEP, 2) * np.array([1.0, 0.1])
            return [float(y) for y in steps if 0 <= y <= 1]
        if not self.ordered:
            return [float(y) for y in range(self.count) if y != x]
        far = max(1, self.count // 10)
        return [float(y) for y in {x - far, x - 1, x + 1, x + far} if 0 <= y < self.count]

    def inputs(self, x: Floats) -> Floats:
        """What the surrogate sees of numbers, (N,): columns within [0, 1].

        One for a parameter with an order, one a choice for one without, none where there is
        only one choice.
        """
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
