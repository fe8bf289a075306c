"""How much a quality changes with the seed alone, over all that was evaluated more than once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Noise:
    """The spread between seeds of one architecture, taken to be the same for all of them.

    Attributes:
        std: Standard deviation, in the unit of the quality.
        dof: Degrees of freedom of its estimate: repeats beyond the first, over all architectures.
    """

    std: float
    dof: int


def pooled(values: Iterable[Sequence[float]]) -> Noise | None:
    """The pooled variance within architectures, as in an analysis of variance.

    Args:
        values: Of each architecture, what each of its seeds found.

    Returns:
        ``None`` where nothing has a second seed: then the noise is not known.

    Example:
        >>> pooled([[1.0, 3.0], [5.0]])
        Noise(std=1.4142135623730951, dof=1)
    """
    groups = [np.asarray(one, dtype=float) for one in values]
    dof = sum(len(one) - 1 for one in groups if len(one))
    if not dof:
        return None
    squares = sum(float(((one - one.mean()) ** 2).sum()) for one in groups if len(one))
    return Noise(math.sqrt(squares / dof), dof)
