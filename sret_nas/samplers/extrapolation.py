"""What a pruned trial would have reached, from what complete ones had at the same step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Line(NamedTuple):
    """The final value as a linear function of the value at one step, with its doubt.

    Attributes:
        step: Mean of the values at the step.
        final: Mean of the final values.
        slope: Rise of the final value with the value at the step.
        variance: Variance of a final value about the line.
    """

    step: float
    final: float
    slope: float
    variance: float

    def at(self, value: float) -> float:
        """The final value to expect after a value at the step."""
        return self.final + self.slope * (value - self.step)


def fit_line(pairs: Sequence[tuple[float, float]]) -> Line | None:
    """Fit a line by least squares, drawn towards a slope of 1 where trials are few.

    Args:
        pairs: Value at the step and final value of every complete trial.

    Returns:
        The line, or ``None`` of fewer than two trials.
    """
    if len(pairs) < 2:
        return None
    x, y = np.array(pairs).T
    weight = np.var(x) * 2 + 1e-12  # as if two more trials had said so
    slope = (len(x) * np.cov(x, y, bias=True)[0, 1] + weight) / (len(x) * np.var(x) + weight)
    residual = y - y.mean() - slope * (x - x.mean())
    prior = np.var(y) * 0.25
    variance = (residual @ residual + 2 * prior) / (len(x) + 2)
    return Line(float(x.mean()), float(y.mean()), float(slope), float(variance))
