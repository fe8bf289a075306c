"""Dominance, fronts and hypervolume. Everything is minimised; negate what is maximised.

Shapes: P points, M objectives.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether ``a`` is nowhere worse than ``b`` and somewhere better.

    Example:
        >>> dominates([1, 2], [1, 3]), dominates([1, 2], [1, 2])
        (True, False)
    """
    return bool(np.all(np.less_equal(a, b)) and np.any(np.less(a, b)))


def front(points_PM: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Which points no other dominates, (P,); of equal points, all.

    As many passes over the points as the front has members.

    Example:
        >>> front([[1, 3], [2, 2], [3, 3], [2, 2]]).tolist()
        [True, True, False, True]
    """
    points = np.asarray(points_PM, dtype=float)
    keep = np.zeros(len(points), dtype=bool)
    # Nothing later in this order dominates anything earlier.
    left = np.lexsort(points.T[::-1]) if len(points) else np.empty(0, dtype=int)
    while len(left):
        first, left = left[0], left[1:]
        keep[first] = True
        point, others = points[first], points[left]
        dominated = np.all(point <= others, axis=1) & np.any(point < others, axis=1)
        left = left[~dominated]
    return keep


def hypervolume(points_PM: npt.ArrayLike, reference_M: npt.ArrayLike) -> float:
    """The volume that the points dominate, below a reference point. Exact.

    Sliced along the last objective, recursively; O(P^(M-1) log P), which serves
    fronts of hundreds of points in up to four objectives.

    Source: hypervolume indicator, Zitzler and Thiele 1998.

    Example:
        >>> hypervolume([[1, 2], [2, 1]], [3, 3])
        3.0
    """
    reference = np.asarray(reference_M, dtype=float)
    points = np.asarray(points_PM, dtype=float).reshape(-1, len(reference))
    points = points[np.all(points < reference, axis=1)]
    if not len(points):
        return 0.0
    if len(reference) == 1:
        return float(reference[0] - points.min())
    points = points[np.argsort(points[:, -1], kind="stable")]
    edges = np.append(points[1:, -1], reference[-1])
    volume = 0.0
    for i, (low, high) in enumerate(zip(points[:, -1], edges, strict=True)):
        if high > low:
            below = points[: i + 1, :-1]
            volume += (high - low) * hypervolume(below[front(below)], reference[:-1])
    return volume
