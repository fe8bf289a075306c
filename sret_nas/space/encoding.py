"""From an architecture back to an encoding.

An architecture lies in a space where some encoding decodes to the same ``id``.
Fields that its function does not depend on may be written otherwise in the space
(``order`` where nothing recurs, the ratio behind a number of hidden channels), so
every spelling of a stage is tried, its own first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sret_nas.arch import KINDS, Architecture, Kind, Stage, shown
from sret_nas.space.coding import Coding
from sret_nas.space.dimensions import Dimension, StageDimensions

Chosen = dict[str, int]
"""Number of the choice by the name of its dimension."""


def encode(coding: Coding, arch: Architecture) -> tuple[int, ...] | None:
    """An encoding that decodes to the architecture's ``id``, or ``None``."""
    if len(arch.stages) != len(coding.stages):
        return None
    for start in _top(coding, arch):
        context = start.get("image_size", 0) * len(coding.top["stem_stride"].choices)
        context += start.get("stem_stride", 0)
        for found in _stages(coding, arch, context, 0, start):
            codes = tuple(found.get(d.name, 0) for d in coding.coordinates)
            data = coding.architectures(coding.array([codes]))
            if Architecture.model_validate(data[0]).id == arch.id:
                return codes
    return None


def _top(coding: Coding, arch: Architecture) -> Iterator[Chosen]:
    """Choices of the architecture's own fields; any ``permute`` where nothing is permuted."""
    chosen: Chosen = {}
    for name, dimension in coding.top.items():
        value = getattr(arch, name)
        if value in dimension.choices:
            chosen[name] = dimension.choices.index(value)
        elif name != "permute":
            return
    first = chosen.pop("permute", None)
    modes = range(len(coding.top["permute"].choices))
    for mode in sorted(modes, key=lambda mode: mode != first):
        yield {**chosen, "permute": mode}


def _stages(
    coding: Coding, arch: Architecture, context: int, i: int, chosen: Chosen
) -> Iterator[Chosen]:
    """Choices of the stages from ``i`` on, in agreement with those made."""
    if i == len(coding.stages):
        yield chosen
        return
    for spelled in _spellings(coding.stages[i], arch, i):
        options = list(_options(coding, arch, i, context, spelled))
        for widths in _widths(coding.stages[i], arch, i):
            for found in _agreeing(chosen, [*widths, *options]):
                yield from _stages(coding, arch, context, i + 1, found)


def _agreeing(chosen: Chosen, options: list[tuple[Dimension, list[int]]]) -> Iterator[Chosen]:
    """Every way to choose one option of each dimension without contradicting a choice made."""
    if not options:
        yield chosen
        return
    (dimension, numbers), rest = options[0], options[1:]
    made = chosen.get(dimension.name)
    for number in numbers:
        if made is None or made == number:
            yield from _agreeing({**chosen, dimension.name: number}, rest)


def _widths(
    dimensions: StageDimensions, arch: Architecture, i: int
) -> Iterator[list[tuple[Dimension, list[int]]]]:
    """Heads and head_dim of the stage's width; any heads where they cannot be seen."""
    stage = arch.stages[i]
    heads, head_dim = dimensions.fields["heads"], dimensions.fields["head_dim"]
    hidden = all(groups == arch.tokens[i] for groups in stage.groups)
    pairs = [
        (h, d, a, b)
        for a, h in enumerate(heads.choices)
        for b, d in enumerate(head_dim.choices)
        if h * d == stage.dim and (hidden or h == stage.heads)
    ]
    for _, _, a, b in sorted(pairs, key=lambda pair: pair[0] != stage.heads):
        yield [(heads, [a]), (head_dim, [b])]


def _options(
    coding: Coding, arch: Architecture, i: int, context: int, spelled: dict[str, Any]
) -> Iterator[tuple[Dimension, list[int]]]:
    """Per dimension outside of the widths, the numbers of the choices that will do."""
    dimensions, stage = coding.stages[i], arch.stages[i]
    for name, dimension in dimensions.fields.items():
        if KINDS.get(name) is not Kind.WIDTH:
            value = spelled.get(name, getattr(stage, name))
            seen = shown(name, stage.dim, value)
            same = [k for k, v in enumerate(dimension.choices) if shown(name, stage.dim, v) == seen]
            yield dimension, sorted(same, key=lambda k: dimension.choices[k] != value)
    for loop, groups in enumerate(spelled["groups"][: len(dimensions.groups)]):
        dimension = dimensions.groups[loop]
        repaired = coding.group_tables[i][loop][context].tolist()
        same = [k for k, g in enumerate(repaired) if g == groups]
        yield dimension, sorted(same, key=lambda k: dimension.choices[k] != groups)


def _spellings(dimensions: StageDimensions, arch: Architecture, i: int) -> Iterator[dict[str, Any]]:
    """Block counts, recursions, orders and shares that make the same schedule; and its groups."""
    stage = arch.stages[i]
    schedule = arch.schedules[i]
    yield {name: getattr(stage, name) for name, kind in KINDS.items() if kind is Kind.SCHEDULE}
    fields = dimensions.fields
    for recursions in fields["recursions"].choices:
        for blocks in fields["blocks"].choices:
            if blocks * recursions != len(schedule):
                continue
            for order in fields["order"].choices:
                steps = schedule[:: int(blocks)] if order == "cyclic" else schedule
                groups = [step.groups for step in steps[: int(recursions)]]
                for share in fields["share"].choices:
                    spelled = {
                        "blocks": blocks,
                        "recursions": recursions,
                        "order": order,
                        "share": share,
                        "groups": tuple(groups),
                    }
                    other = Stage(heads=stage.heads, head_dim=stage.head_dim, **spelled)
                    if other.schedule(arch.tokens[i], arch.permute) == schedule:
                        yield spelled
