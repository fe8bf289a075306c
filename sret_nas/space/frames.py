"""The cheapest and the dearest architectures of a space, exactly.

No cost falls when a number that it depends on grows. So for nearly every
coordinate one choice is the cheapest whatever the others are: the smallest
ratio, the fewest blocks, the most groups. What is left is a frame: image size,
stem stride, the widths, and coordinates of which no choice is the cheapest in
every respect (``share`` of ``attention`` or ``mlp``; groups tied over stages
with different tokens). Frames grow stage by stage. Of those that agree in all
that the rest depends on, only the ones that no other beats in every metric can
lead to a minimum: a dynamic programme whose state is the width.

Its result is exact, for every metric and for several bounds at once: where no
frame that is left satisfies all bounds, no architecture of the space does.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sret_nas.arch import KINDS, Kind, Stage
from sret_nas.cost import table
from sret_nas.cost.dims import ABSENT, column, stage_shape
from sret_nas.space.coding import Codes, Coding
from sret_nas.space.dimensions import Dimension

METRICS = ("macs", "params", "peak_bytes")
MOST_FRAMES = 200_000
"""Frames that are held at once; where there are more, a random part of them."""

Table = dict[str, NDArray[np.int64]]


@dataclass(frozen=True)
class Frames:
    """Frames, each completed by the cheapest (or dearest) choice of everything else.

    Attributes:
        codes: Encodings, (n, K).
        costs: Columns of their metrics.
        complete: Whether no frame was left out for lack of room.
    """

    codes: Codes
    costs: Table
    complete: bool = True


def extremes(coding: Coding, dearest: bool = False) -> Frames:
    """The frames that no other beats: among them lie the minimum (or maximum) of every metric.

    Args:
        coding: The space.
        dearest: The maximum instead.
    """
    return _grow(coding, dearest, prune=True, limits={}, rng=None)


def feasible_frames(
    coding: Coding, limits: Mapping[str, float], rng: np.random.Generator
) -> Frames:
    """Every frame whose cheapest architecture satisfies the bounds.

    Args:
        coding: The space.
        limits: Upper bounds by metric.
        rng: Draws the ones that are kept, where there are more than ``MOST_FRAMES``.
    """
    return _grow(coding, False, prune=False, limits=limits, rng=rng)


def within(costs: Mapping[str, NDArray[Any]], limits: Mapping[str, float]) -> NDArray[np.bool_]:
    """Which rows satisfy all bounds."""
    rows = len(next(iter(costs.values())))
    ok = np.ones(rows, dtype=bool)
    for metric, limit in limits.items():
        ok &= costs[metric] <= limit
    return ok


def alternatives(coding: Coding, context: int, dearest: bool) -> dict[str, list[int]]:
    """Per coordinate outside of the widths, the choices that can be the cheapest (or dearest)."""
    vectors: dict[str, NDArray[Any]] = {}
    for name, dimension in coding.top.items():
        if name in ("image_size", "stem_stride"):
            continue
        free = name == "permute"
        vectors[dimension.name] = np.array([[0 if free else v] for v in dimension.choices])
    for i, stage in enumerate(coding.stages):
        for field, dimension in stage.fields.items():
            if KINDS.get(field) is not Kind.WIDTH:
                vectors[dimension.name] = _grows(field, dimension)
        for loop, dimension in enumerate(stage.groups):
            slices = -coding.group_tables[i][loop][context][:, None]
            known = vectors.get(dimension.name)
            vectors[dimension.name] = slices if known is None else np.hstack([known, slices])
    sign = -1 if dearest else 1
    return {
        name: np.flatnonzero(_unbeaten(sign * vector.astype(float))).tolist()
        for name, vector in vectors.items()
        if name in coding.at
    }


def _grows(field: str, dimension: Dimension) -> NDArray[Any]:
    """What costs grow with, (choices, any): a number itself; what a word makes of a stage."""
    if dimension.ordered:
        return np.array([[value] for value in dimension.choices])
    numbers = np.arange(len(dimension.choices))
    fields: dict[str, Any] = {"heads": 2, "head_dim": 2, "blocks": 2, "recursions": 2}
    fields |= {"groups": (2, 2), field: column(dimension.choices, numbers)}
    found = stage_shape(Stage.model_construct(**fields), tokens=4, permute="fixed")
    return np.column_stack([x + 0 * numbers for x in found])


def _unbeaten(rows: NDArray[Any]) -> NDArray[np.bool_]:
    """Rows that no other row equals or undercuts in every column; of equal rows the first."""
    _, first = np.unique(rows, axis=0, return_index=True)
    order = first[np.lexsort(rows[first].T[::-1])]
    kept = np.zeros(len(rows), dtype=bool)
    front = rows[:0]
    for k in order:  # in lexicographic order a row is beaten only by one before it
        if not (front <= rows[k]).all(axis=1).any():
            front = np.vstack([front, rows[k]])
            kept[k] = True
    return kept


def _grow(
    coding: Coding,
    dearest: bool,
    prune: bool,
    limits: Mapping[str, float],
    rng: np.random.Generator | None,
) -> Frames:
    codes = _starts(coding, dearest)
    own_open: list[set[str]] = [set() for _ in coding.stages]
    shared = [j for name, j in coding.at.items() if not name.startswith("stage")]
    complete = True
    open_choices = [alternatives(coding, c, dearest) for c in range(len(coding.contexts))]
    for names in open_choices:
        for name, choices in names.items():
            if len(choices) > 1 and name.startswith("stage"):
                own_open[int(name[5 : name.index(".")]) - 1].add(name)
    costs: Table = {}
    for i in range(len(coding.stages)):
        for name in sorted(own_open[i]):
            codes = _branch(coding, codes, name, open_choices)
        codes = _widen(coding, codes, i)
        costs = _prefix_costs(coding, codes, i)
        keep = within(costs, limits)
        codes, costs = codes[keep], {name: column[keep] for name, column in costs.items()}
        if prune:
            keep = _best(coding, codes, costs, i, shared, dearest)
            codes, costs = codes[keep], {name: column[keep] for name, column in costs.items()}
        elif rng is not None and len(codes) > MOST_FRAMES:
            complete = False
            keep = np.sort(rng.choice(len(codes), MOST_FRAMES, replace=False))
            codes, costs = codes[keep], {name: column[keep] for name, column in costs.items()}
    return Frames(codes, {name: costs[name] for name in METRICS}, complete)


def _starts(coding: Coding, dearest: bool) -> Codes:
    """Every context, shared open choice and tie that fits; the rest at its cheapest."""
    rows: list[NDArray[np.int64]] = []
    widths = coding.widths
    ties = np.unique(widths.tie_repair)
    for context in range(len(coding.contexts)):
        best = alternatives(coding, context, dearest)
        corner = np.zeros(len(coding.coordinates), dtype=np.int64)
        for name, choices in best.items():
            corner[coding.at[name]] = choices[0]
        _put(coding, corner[None], context, coding.top["image_size"], coding.top["stem_stride"])
        tied = [name for name, c in best.items() if len(c) > 1 and not name.startswith("stage")]
        for combination in itertools.product(*(best[name] for name in tied)):
            for name, choice in zip(tied, combination, strict=True):
                corner[coding.at[name]] = choice
            some = np.repeat(corner[None], len(ties), axis=0)
            _put(coding, some, ties, *widths.tied)
            rows.append(some)
    return np.concatenate(rows)


def _put(coding: Coding, codes: Codes, numbers: Any, *dimensions: Dimension | None) -> None:
    """Write a combination of choices by its number, as ``Coding`` counts them."""
    for dimension in reversed([d for d in dimensions if d is not None]):
        if dimension.name in coding.at:
            codes[:, coding.at[dimension.name]] = numbers % len(dimension.choices)
            numbers = numbers // len(dimension.choices)


def _branch(
    coding: Coding, codes: Codes, name: str, open_choices: list[dict[str, list[int]]]
) -> Codes:
    """Every row once for each choice that can be the cheapest."""
    context = coding.repair(codes).context
    parts = []
    for c in np.unique(context):
        rows = codes[context == c]
        for choice in open_choices[c][name]:
            part = rows.copy()
            part[:, coding.at[name]] = choice
            parts.append(part)
    return np.concatenate(parts)


def _widen(coding: Coding, codes: Codes, i: int) -> Codes:
    """Every row once for each pair of heads and head_dim that can follow in stage ``i``."""
    fixed, widths = coding.repair(codes), coding.widths
    ok = widths.fits[i][fixed.tie]
    if i:
        before = widths.width[i - 1][fixed.tie, fixed.pairs[i - 1]]
        ok = ok & (widths.width[i][fixed.tie] % before[:, None] == 0)
    rows, pairs = np.nonzero(ok)
    codes = codes[rows]
    _put(coding, codes, pairs, *widths.own[i])
    return codes


def _prefix_costs(coding: Coding, codes: Codes, i: int) -> Table:
    """Costs without the stages after ``i``; beside them what the memory of those adds to."""
    shape = coding.shape(codes)
    stages = shape.stages[: i + 1] + (ABSENT,) * (len(shape.stages) - i - 1)
    shape = shape._replace(stages=stages)
    costs = table(shape, METRICS)
    costs["kept"] = sum(s.tokens * s.dim for s in shape.stages[: i + 1])
    return costs


def _best(
    coding: Coding, codes: Codes, costs: Table, i: int, shared: list[int], dearest: bool
) -> NDArray[np.bool_]:
    """Rows that no other row beats with the same width and the same shared choices."""
    fixed = coding.repair(codes)
    width = coding.widths.width[i][fixed.tie, fixed.pairs[i]]
    last = i == len(coding.stages) - 1
    state = np.column_stack([codes[:, shared], width])
    if last:
        state = state[:, :1] * 0
    _, group = np.unique(state, axis=0, return_inverse=True)
    group = group.reshape(-1)
    transient = costs["peak_bytes"] - 4 * costs["params"]
    columns = [costs["macs"], costs["params"], costs["peak_bytes"]]
    if not last:
        columns = [costs["macs"], costs["params"], transient, costs["kept"]]
    rows = np.column_stack(columns) * (-1 if dearest else 1)
    kept = np.zeros(len(codes), dtype=bool)
    for g in range(group.max(initial=-1) + 1):
        here = np.flatnonzero(group == g)
        kept[here[_unbeaten(rows[here])]] = True
    return kept
