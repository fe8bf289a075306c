"""The file of a search space: what may be written, and what is refused when it is read.

Every field of an architecture has choices, written as

    a value            ``blocks: 2``
    a list             ``blocks: [1, 2, 4]``
    a range with step  ``blocks: {from: 1, to: 5, step: 2}``

For stages there are three places. ``each_stage`` is drawn for every stage by
itself; ``all_stages`` is drawn once and holds for all stages; an entry of
``stages`` is for that stage alone and takes precedence. Group counts follow the
same pattern over the loops of a block: ``loop1``, ``loop2``, …, ``each_loop``
(drawn by itself for every other loop) or ``all_loops`` (drawn once for them).

An architecture file whose groups are written by loop is a space of one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias, get_args

from pydantic import Field, create_model, model_validator
from pydantic_core import PydanticUndefined

from sret_nas import files
from sret_nas.arch import Architecture, Stage
from sret_nas.errors import ConfigError, Problem
from sret_nas.space.consistency import MAX_COORDINATES, impossible
from sret_nas.space.dimensions import (
    GLOBAL_FIELDS,
    STAGE_FIELDS,
    Dimension,
    Place,
    StageDimensions,
    Value,
)

MAX_CHOICES = 1000


if TYPE_CHECKING:
    StageChoices: TypeAlias = files.Record
else:
    StageChoices = create_model(
        "StageChoices",
        __base__=files.Record,
        __doc__="Choices for the fields of a stage; the others have a default or come elsewhere.",
        **dict.fromkeys(Stage.model_fields, (Any, None)),
    )


class SpaceFile(files.Record):
    """A search space as it is written.

    Attributes:
        name: For run directories and messages.
        description: For whom the space is.
        all_stages: Choices that are drawn once and hold for all stages.
        each_stage: Choices that are drawn for every stage by itself.
        stages: One entry for every stage, possibly empty; or their number.
        callable: ``module:function``, applied to every architecture; see ``transform``.
    """

    top: ClassVar[bool] = True

    schema_version: Annotated[Literal[1], Field(alias="schema")] = 1
    name: Annotated[str, Field(strict=True, min_length=1, max_length=100)] = "space"
    description: Annotated[str, Field(strict=True)] = ""
    image_size: Any = 224
    in_chans: Any = 3
    num_classes: Any = 1000
    stem_stride: Any = 8
    residual_scale: Any = True
    permute: Any = "fixed"
    all_stages: StageChoices = StageChoices()
    each_stage: StageChoices = StageChoices()
    stages: Annotated[tuple[StageChoices, ...], Field(min_length=1, max_length=8)]
    callable: Annotated[str, Field(strict=True)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _count_of_stages(cls, data: Any) -> Any:
        """``stages: 3`` is three entries that say nothing."""
        if isinstance(data, Mapping):
            count = data.get("stages")
            if type(count) is int and 1 <= count <= 8:
                return {**data, "stages": [{}] * count}
        return data

    def fitted(self, *, num_classes: int, in_chans: int) -> SpaceFile:
        """The same for certain data, where the file itself says nothing of these fields.

        Args:
            num_classes: Classes of the data.
            in_chans: Channels of the data.
        """
        data = {"num_classes": num_classes, "in_chans": in_chans}
        said = self.model_dump(mode="json", by_alias=True, exclude_unset=True)
        found: SpaceFile = SpaceFile.model_validate(data | said)
        return found

    def _problems(self) -> Iterator[Problem]:
        if self.callable is not None and not re.fullmatch(
            r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", self.callable
        ):
            yield Problem(
                ("callable",), f"given '{self.callable}'; allowed: module:function, e.g. mine:odd"
            )
        yield from self.reading.problems

    @cached_property
    def reading(self) -> Reading:
        """The dimensions, and everything that is wrong."""
        return Reading(self)


class _Choice(files.Record):
    """Checks one value against the type of its field."""

    top: ClassVar[bool] = True

    value: Any


def _checker(record: type[files.Record], field: str) -> type[_Choice]:
    info = record.model_fields[field]
    kind: Any = info.annotation
    if field == "groups":  # chosen loop by loop
        kind, _ = get_args(kind)
    for constraint in info.metadata:
        kind = Annotated[kind, constraint]
    return create_model(f"Choice of {field}", __base__=_Choice, value=(kind, ...))


_CHECKERS = {name: _checker(Architecture, name) for name in GLOBAL_FIELDS}
_CHECKERS |= {name: _checker(Stage, name) for name in Stage.model_fields}


def _numeric(checker: type[_Choice]) -> bool:
    kind = checker.model_fields["value"].annotation
    return kind is not bool and not any(isinstance(word, str) for word in get_args(kind))


_NUMERIC = {field for field, checker in _CHECKERS.items() if _numeric(checker)}


class Reading:
    """Turns a file into dimensions and collects everything that is wrong with it.

    Attributes:
        top: The dimensions of the architecture by field.
        stages: Those of every stage; complete where there are no problems.
        problems: Everything that is wrong.
    """

    def __init__(self, file: SpaceFile) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self.top = {
            name: self.dimension(name, name, getattr(file, name), (name,)) for name in GLOBAL_FIELDS
        }
        self.tied: dict[str, Dimension] = {}
        self.used: set[tuple[str, str]] = set()
        found = [self.stage(i) for i in range(len(file.stages))]
        self.stages = [stage for stage in found if stage is not None]
        self.unused()
        if not self.problems:
            self.problems += impossible(self.top, self.stages)

    def wrong(self, path: Place, message: str) -> None:
        """Take note of a problem."""
        problem = Problem(path, message)
        if problem not in self.problems:  # a place that serves several stages is read for each
            self.problems.append(problem)

    def dimension(self, name: str, field: str, written: Any, path: Place) -> Dimension:
        """The dimension of what is written; numbers ascending."""
        choices = self.choices(field, written, path)
        if field in _NUMERIC:
            choices.sort()
        return Dimension(name, tuple(choices), path)

    def choices(self, field: str, written: Any, path: Place) -> list[Value]:
        """The choices that are written for a field; wrong ones are reported and left out."""
        if isinstance(written, Mapping):
            values = self.range(field, written, path)
            paths = [path] * len(values)
        elif isinstance(written, list | tuple):
            values, paths = list(written), [(*path, i) for i in range(len(written))]
            if not values:
                self.wrong(path, "given an empty list; allowed: at least one choice")
        else:
            values, paths = [written], [path]
        if len(values) > MAX_CHOICES:
            self.wrong(path, f"given {len(values):,} choices; allowed: at most {MAX_CHOICES:,}")
            return []
        found: list[Value] = []
        for value, here in zip(values, paths, strict=True):
            try:
                checked = _CHECKERS[field].model_validate({"value": value}).value
            except ConfigError as error:
                for problem in error.problems:
                    self.wrong(here, problem.message)
                continue
            if checked in found:
                self.wrong(here, f"{value!r} is given twice; allowed: every choice once")
                continue
            found.append(checked)
        return found

    def range(self, field: str, written: Mapping[Any, Any], path: Place) -> list[Any]:
        """The values of ``{from: …, to: …, step: …}``, in decimal arithmetic."""
        allowed = "allowed: a value, a list of choices, or {from: …, to: …, step: …}"
        if set(written) != {"from", "to", "step"}:
            given = ", ".join(map(str, written)) or "nothing"
            self.wrong(path, f"given a mapping with {given}; {allowed}")
            return []
        if field not in _NUMERIC:
            self.wrong(path, "given a range; allowed: a value or a list of choices")
            return []
        numbers = {}
        for key in ("from", "to", "step"):
            value = written[key]
            try:
                numbers[key] = Decimal(str(value)) if type(value) in (int, float) else None
            except InvalidOperation:
                numbers[key] = None
            number = numbers[key]
            if number is None or not number.is_finite():
                self.wrong((*path, key), f"given {value!r}; allowed: a number")
                return []
        low, high, step = (numbers[key] or Decimal(0) for key in ("from", "to", "step"))
        if step <= 0:
            self.wrong((*path, "step"), f"given {written['step']}; allowed: more than 0")
            return []
        if low > high:
            self.wrong(path, f"no value from {low} to {high}; allowed: from no more than to")
            return []
        if (high - low) / step >= MAX_CHOICES:
            self.wrong(path, f"more than {MAX_CHOICES:,} choices; allowed: a larger step")
            return []
        steps = int((high - low) // step)
        if low + steps * step != high:
            self.wrong(
                (*path, "to"),
                f"{high} is not reached from {low} in steps of {step}; "
                f"allowed: {low + steps * step} or {low + (steps + 1) * step}",
            )
            return []
        whole = all(type(written[key]) is int for key in ("from", "to", "step"))
        return [(int if whole else float)(low + i * step) for i in range(steps + 1)]

    def written(self, i: int, field: str) -> tuple[Any, Place, str]:
        """What stage ``i`` takes for a field: content, place, prefix of its name."""
        file = self.file
        if field in file.stages[i].model_fields_set:
            return getattr(file.stages[i], field), ("stages", i, field), f"stage{i + 1}"
        for place, prefix in (("each_stage", f"stage{i + 1}"), ("all_stages", "all")):
            choices = getattr(file, place)
            if field in choices.model_fields_set:
                self.used.add((place, field))
                return getattr(choices, field), (place, field), prefix
        default = 1 if field == "groups" else Stage.model_fields[field].default
        return default, ("stages", i, field), f"stage{i + 1}"

    def stage(self, i: int) -> StageDimensions | None:
        """The dimensions of stage ``i``; ``None`` where something is missing."""
        found: dict[str, Dimension] = {}
        for field in STAGE_FIELDS:
            written, path, prefix = self.written(i, field)
            if written is PydanticUndefined:
                self.wrong(
                    ("stages", i),
                    f"{field} is missing; allowed: in this stage, each_stage or all_stages",
                )
                continue
            found[field] = self.tie(prefix, field, field, written, path)
        if len(found) < len(STAGE_FIELDS) or not found["recursions"].choices:
            return None
        loops = int(max(found["recursions"].choices))
        return StageDimensions(found, self.groups(i, loops))

    def tie(self, prefix: str, name: str, field: str, written: Any, path: Place) -> Dimension:
        """A dimension; the one of ``all_stages`` is made once."""
        name = f"{prefix}.{name}"
        if prefix != "all":
            return self.dimension(name, field, written, path)
        if name not in self.tied:
            self.tied[name] = self.dimension(name, field, written, path)
        return self.tied[name]

    def groups(self, i: int, loops: int) -> tuple[Dimension, ...]:
        """The group counts of the loops of stage ``i``."""
        written, path, prefix = self.written(i, "groups")
        if type(written) is int:
            written = {"all_loops": written}
            places = {"all_loops": path}
        elif isinstance(written, Mapping) and not {"from", "to", "step"} & set(written):
            places = {key: (*path, key) for key in written}
        else:
            shown = written if isinstance(written, Sequence) and len(written) < 9 else "…"
            self.wrong(
                path,
                f"given {shown}; allowed: one number, or choices by loop, e.g. "
                "{each_loop: [1, 2]} or {loop1: [4, 8], loop2: 1}",
            )
            return ()
        if "each_loop" in written and "all_loops" in written:
            self.wrong(path, "given each_loop and all_loops; allowed: one of them")
            return ()
        # Stages that share this place may have fewer recursions than the place has loops.
        most = loops if path[0] == "stages" else self.most_recursions()
        for key in written:
            number = re.fullmatch(r"loop([1-9]\d*)", key) if isinstance(key, str) else None
            if key not in ("each_loop", "all_loops") and number is None:
                self.wrong(
                    (*path, str(key)), "unknown key; allowed: loop1, loop2, …, each_loop, all_loops"
                )
                return ()
            if number and int(number[1]) > most:
                self.wrong(places[key], f"there are at most {most} recursions; allowed: none")
                return ()
        found: list[Dimension] = []
        for loop in range(1, loops + 1):
            key = f"loop{loop}"
            source = next((k for k in (key, "each_loop", "all_loops") if k in written), None)
            if source is None:
                self.wrong(path, f"nothing is said of {key}; allowed: {key}, each_loop, all_loops")
                return ()
            name = "groups.loops" if source == "all_loops" else f"groups.{key}"
            if len(dict.fromkeys(found)) > MAX_COORDINATES:
                break  # will be refused; a thousand loops are not read for it
            if source == "all_loops" and found and found[-1].name.endswith("groups.loops"):
                found.append(found[-1])
            else:
                found.append(self.tie(prefix, name, "groups", written[source], places[source]))
        rest = {f"loop{loop}" for loop in range(1, loops + 1)}
        for key in ("each_loop", "all_loops"):
            if path[0] == "stages" and key in written and rest <= set(written):
                self.wrong(places[key], f"every loop is said; allowed: leave {key} out")
        return tuple(found)

    def most_recursions(self) -> int:
        """The most recursions of any stage; 1 where that cannot be read."""
        most = 1
        for i in range(len(self.file.stages)):
            written, path, _ = self.written(i, "recursions")
            counts = [x for x in self.choices("recursions", written, path) if isinstance(x, int)]
            most = max([most, *counts])
        return most

    def unused(self) -> None:
        """What is written for several stages and taken by none."""
        for place in ("each_stage", "all_stages"):
            for field in sorted(getattr(self.file, place).model_fields_set):
                if (place, field) not in self.used:
                    self.wrong(
                        (place, field), "no stage takes it: each has its own; allowed: leave it out"
                    )
