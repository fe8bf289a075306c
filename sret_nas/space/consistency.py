"""Choices that cannot hold together, found when the file of a space is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from sret_nas.arch import MAX_APPLICATIONS, MAX_DIM, RATIOS, Architecture, Stage, divisors, hidden
from sret_nas.cost import QUANTITIES, shape
from sret_nas.cost.dims import column
from sret_nas.errors import ArchitectureError, ConfigError, Problem
from sret_nas.space.dimensions import Dimension, StageDimensions
from sret_nas.space.widths import Widths

MAX_COORDINATES = 512


def impossible(top: dict[str, Dimension], stages: list[StageDimensions]) -> Iterator[Problem]:
    """Choices that cannot hold together, or that no architecture could have."""
    coordinates = {d.name for d in (*top.values(), *(d for s in stages for d in s))}
    if len(coordinates) > MAX_COORDINATES:
        yield Problem(
            ("stages",),
            f"more than {MAX_COORDINATES} fields; allowed: fewer, e.g. groups by all_loops",
        )
        return
    tokens: set[tuple[int, ...]] = set()
    for image_size in top["image_size"].choices:
        for stem_stride in top["stem_stride"].choices:
            try:
                tokens.add(grids(image_size, stem_stride, len(stages)).tokens)
            except ArchitectureError as error:
                yield Problem(
                    top["image_size"].path,
                    f"{image_size} px with stem_stride {stem_stride} and {len(stages)} stages: "
                    f"{error.problems[0].message}",
                )
    if not tokens:
        return
    yield from _too_wide(stages)
    told: set[tuple[object, ...]] = set()
    for i, stage in enumerate(stages):
        for choice, problem in _in_stage(i, stage, sorted({each[i] for each in tokens})):
            if (problem.path, choice) not in told:  # a choice of several stages is one mistake
                told.add((problem.path, choice))
                yield problem
    yield from _too_costly(top, stages)
    depth = sum(_most(s, "blocks") * _most(s, "recursions") for s in stages)
    if depth > MAX_APPLICATIONS:
        yield Problem(
            ("stages",),
            f"up to {depth:,} block applications in all; allowed: at most {MAX_APPLICATIONS:,}",
        )
    try:
        widths = Widths(stages)
    except ConfigError as error:
        yield from error.problems
        return
    broken = widths.broken()
    if broken is not None:
        i, before, here = broken
        yield Problem(
            stages[i].fields["head_dim"].path,
            f"stage {i + 1}: no width of {_some(here)} is a multiple of one of stage {i}, "
            f"{_some(before)}, as the depthwise down-sampling needs; "
            "allowed: heads × head_dim that fit together",
        )
        return
    dead: dict[Dimension, list[Any]] = {}
    for dimension, choice in widths.dead():
        dead.setdefault(dimension, []).append(choice)
    for dimension, choices in dead.items():
        yield Problem(
            dimension.path,
            f"with {dimension.name} {_some(choices)} no width of one stage is a multiple of the "
            "width before, as the depthwise down-sampling needs; "
            "allowed: choices that fit together",
        )


def _most(stage: StageDimensions, field: str) -> int:
    """The largest choice."""
    found: int = max(stage.fields[field].choices)
    return found


def _too_costly(
    top: Mapping[str, Dimension], stages: Sequence[StageDimensions]
) -> Iterator[Problem]:
    """The dearest numbers of every field together, whatever the words, in exact integers."""
    dearest: list[Stage] = []
    for stage in stages:
        words = {f: d for f, d in stage.fields.items() if not d.ordered}
        every = np.indices([len(d.choices) for d in words.values()]).reshape(len(words), -1)
        most: dict[str, Any] = {f: max(d.choices) for f, d in stage.fields.items() if d.ordered}
        most |= {f: column(d.choices, n) for (f, d), n in zip(words.items(), every, strict=True)}
        most["groups"] = (1,) * most["recursions"]
        dearest.append(Stage.model_construct(**most))
    numbers: dict[str, Any] = {f: max(d.choices) for f, d in top.items() if d.ordered}
    numbers["stem_stride"] = min(top["stem_stride"].choices)
    bound = shape(Architecture.model_construct(**numbers, stages=tuple(dearest)))
    bound = bound.map(lambda x: x if isinstance(x, int) else int(x.max()))
    for name, quantity in QUANTITIES.items():
        highest = quantity(bound)
        if highest >= 2**63:
            yield Problem(("stages",), f"{name} up to {highest:.3g}; allowed: less than 2^63")
            return


def _too_wide(stages: Sequence[StageDimensions]) -> Iterator[Problem]:
    """The narrowest and the widest of every head_dim, whatever stages it holds for."""
    sizes: dict[Dimension, list[tuple[int, int, int, int]]] = {}
    for i, stage in enumerate(stages):
        heads, head_dim = stage.fields["heads"], stage.fields["head_dim"]
        sizes.setdefault(head_dim, []).extend(
            (h * d, i + 1, h, d) for h in heads.choices for d in head_dim.choices
        )
    for dimension, found in sizes.items():
        for size, number, h, d in (min(found), max(found)):
            if not 2 <= size <= MAX_DIM:
                yield Problem(
                    dimension.path,
                    f"stage {number}: heads × head_dim = {h} × {d} = {size}; "
                    f"allowed: a width of 2 to {MAX_DIM:,}",
                )


def _in_stage(
    i: int, stage: StageDimensions, tokens: list[int]
) -> Iterator[tuple[object, Problem]]:
    """Choices that the stage cannot have, each with what is wrong with it."""
    here = f"stage {i + 1}"
    narrowest = min(stage.fields["heads"].choices) * min(stage.fields["head_dim"].choices)
    for field, optional in RATIOS.items():
        dimension = stage.fields[field]
        for ratio in dimension.choices:
            if hidden(narrowest, ratio) < 1 and not (optional and ratio == 0):
                yield (
                    ratio,
                    Problem(
                        dimension.path,
                        f"{here}: {ratio} of a width of {narrowest} is no hidden channel; "
                        f"allowed: at least {1 / narrowest:.4g}",
                    ),
                )
    for dimension in dict.fromkeys(stage.groups):
        for groups in dimension.choices:
            if all(n % groups for n in tokens):
                allowed = sorted({d for n in tokens for d in divisors(n)})
                yield (
                    groups,
                    Problem(
                        dimension.path,
                        f"{here}: {groups} groups cut {' or '.join(map(str, tokens[:6]))} tokens "
                        f"at no image size; allowed here: {_some(allowed)}",
                    ),
                )


def _some(values: Sequence[Any], most: int = 12) -> str:
    return ", ".join(map(str, values[:most])) + (", …" if len(values) > most else "")


def grids(image_size: Any, stem_stride: Any, stages: int) -> Architecture:
    """The smallest architecture with these token grids, to ask for its grids.

    Raises:
        ArchitectureError: the image is too small.
    """
    stage = Stage(heads=2, head_dim=1)
    return Architecture(image_size=image_size, stem_stride=stem_stride, stages=(stage,) * stages)
