"""The file of a space with fewer choices, in its own grammar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sret_nas.space.dimensions import Dimension, Value
from sret_nas.space.grammar import SpaceFile

Data = dict[str, Any]


def restricted(file: SpaceFile, kept: Mapping[str, Sequence[Value]]) -> SpaceFile:
    """The same space without some choices; all other dimensions stay what they are.

    A choice that several stages or loops draw by themselves is taken from one of them alone:
    it is then written for that stage, or that loop.

    Args:
        file: Of the space.
        kept: Choices to keep, at least one, by the name of their dimension.

    Raises:
        ConfigError: what is left cannot hold together, as where no width fits any more.
    """
    data: Data = file.model_dump(mode="json", by_alias=True, exclude_unset=True)
    for dimension in file.reading.top.values():
        if dimension.name in kept:
            data[dimension.name] = _written(kept[dimension.name])
    for i, stage in enumerate(file.reading.stages):
        for field, dimension in stage.fields.items():
            if dimension.name in kept:
                _place(data, dimension, i)[field] = _written(kept[dimension.name])
        for dimension in stage.groups:
            if dimension.name in kept:
                place = _place(data, dimension, i)
                groups = place["groups"] = dict(place["groups"])
                key = dimension.name.rpartition(".")[2].replace("loops", "all_loops")
                groups[key] = _written(kept[dimension.name])
        own = data["stages"][i]
        if isinstance(own.get("groups"), dict):
            own["groups"] = _needed(own["groups"], len(stage.groups))
    for field in list(data.get("each_stage", {})):
        if all(field in own for own in data["stages"]):
            del data["each_stage"][field]
    found: SpaceFile = SpaceFile.model_validate(data)
    return found


def _written(values: Sequence[Value]) -> Value:
    return values[0] if len(values) == 1 else list(values)


def _place(data: Data, dimension: Dimension, i: int) -> Data:
    """Where the field of a dimension can be written for what draws it alone."""
    where, *rest = dimension.path
    if where == "all_stages":
        return data["all_stages"]  # type: ignore[no-any-return]
    own: Data = data["stages"][i]
    if where == "each_stage":
        own.setdefault(str(rest[0]), data["each_stage"][rest[0]])
    return own


def _needed(groups: Data, loops: int) -> Data:
    """What a stage may say of its loops: none beyond them, and of the others only if there are."""
    named = [f"loop{loop}" for loop in range(1, loops + 1)]
    whole = set(named) <= set(groups)
    return {
        key: written
        for key, written in groups.items()
        if key in named or (key in ("each_loop", "all_loops") and not whole)
    }
