"""Strict, immutable records: what a file may say, and what is wrong with what it says.

``Record`` is the base of everything that comes from YAML or JSON. What pydantic
finds wrong leaves it as a ``ConfigError`` whose sentences name the place, the
value that was given and what is allowed.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from sret_nas.errors import ConfigError, Problem
from sret_nas.files.reading import Lines, read

MISSING = "required key is missing"


def nearest(word: str, known: Sequence[str]) -> str | None:
    """The known word closest to a misspelt one, or ``None`` where nothing is close."""
    return next(iter(difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.6)), None)


class Record(BaseModel):
    """Base of what files say: frozen, hashable, no unknown keys and no silent conversion."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    error: ClassVar[type[ConfigError]] = ConfigError
    top: ClassVar[bool] = False
    """True for a record that is a file of its own: it reports in our words."""

    def _problems(self) -> Iterator[Problem]:
        """What types cannot say is wrong; each record has its own."""
        return iter(())

    @model_validator(mode="wrap")
    @classmethod
    def _in_our_words(cls, data: Any, handler: ModelWrapValidatorHandler[Any]) -> Any:
        try:
            record = handler(data)
        except ValidationError as error:
            if not cls.top:
                raise
            raise cls.error(_sort_out(cls, error)) from error
        found = list(record._problems())
        if found and cls.top:
            raise cls.error(found)
        if found:
            raise PydanticCustomError("problems", "{text}", {"text": str(found), "found": found})
        return record


R = TypeVar("R", bound=Record)


def _sort_out(cls: type[BaseModel], error: ValidationError) -> list[Problem]:
    found: list[Problem] = []
    for detail in error.errors(include_url=False):
        loc = tuple(detail["loc"])
        if detail["type"] == "problems":
            found += [Problem((*loc, *p.path), p.message) for p in detail["ctx"]["found"]]
        else:
            found.append(Problem(loc, _sentence(cls, detail)))
    # A misspelt key that must be there is one mistake, not two.
    meant = {
        (*detail["loc"][:-1], nearest(str(detail["loc"][-1]), _fields_at(cls, detail["loc"][:-1])))
        for detail in error.errors(include_url=False)
        if detail["type"] == "extra_forbidden"
    }
    found = [p for p in found if p.path not in meant or p.message != MISSING]
    inner = {p.path[:length] for p in found for length in range(1, len(p.path))}
    return [p for p in found if p.path not in inner]  # a wrong entry also makes its list too short


def _fields_at(cls: type[BaseModel], path: Sequence[str | int]) -> list[str]:
    """Names of the fields of the record that ``path`` leads to."""
    node: Any = cls.model_json_schema()
    defs = node.get("$defs", {})
    for key in path:
        node = node["items"] if isinstance(key, int) else node["properties"][key]
        node = defs[node["$ref"].rsplit("/", 1)[-1]] if "$ref" in node else node
    return list(node["properties"])


def _sentence(cls: type[BaseModel], detail: ErrorDetails) -> str:
    kind, ctx, given = detail["type"], detail.get("ctx", {}), detail["input"]
    if kind == "extra_forbidden":
        *parents, key = detail["loc"]
        known = _fields_at(cls, parents)
        guess = nearest(str(key), known)
        return "unknown key; " + (
            f"did you mean '{guess}'?" if guess else f"allowed: {', '.join(known)}"
        )
    if kind == "missing":
        return MISSING
    if kind == "finite_number":
        return f"given {given!r}; allowed: a finite number"
    limits = {
        "greater_than_equal": "at least {ge}",
        "greater_than": "more than {gt}",
        "less_than_equal": "at most {le}",
        "less_than": "less than {lt}",
        "literal_error": "{expected}",
        "too_short": "at least {min_length} entries",
        "too_long": "at most {max_length} entries",
        "int_type": "a whole number",
        "float_type": "a number",
        "bool_type": "true or false",
        "string_type": "text",
        "tuple_type": "a list",
        "model_type": "a mapping of keys to values",
        "model_attributes_type": "a mapping of keys to values",
    }
    allowed = limits[kind].format(**ctx) if kind in limits else detail["msg"]
    shown = repr(given if not isinstance(given, Sequence | Mapping) or len(given) < 9 else "…")
    return f"given {shown}; allowed: {allowed}"


def load(cls: type[R], path: Path) -> R:
    """Read a record from a YAML or JSON file; errors name the file and the line.

    Raises:
        ConfigError: of the kind ``cls.error``, with everything that is wrong.
    """
    data, lines = read(path)
    try:
        return cls.model_validate(data)
    except ConfigError as error:
        raise cls.error(
            [Problem((), f"{_place(path, p.path, lines)}: {_said(p)}") for p in error.problems],
            error.hint,
        ) from error


def find(
    cls: type[R],
    source: R | Mapping[str, Any] | str | Path,
    presets: Mapping[str, R],
    hint: str,
    words: Sequence[str] = (),
) -> R:
    """Find a record: as it is, from a mapping, by a preset's name or from a file.

    Args:
        cls: The kind of record.
        source: The record, its mapping, a preset's name or a path.
        presets: Records that have a name.
        hint: What there is, told when nothing is found.
        words: Further names that a misspelt one may have meant.

    Raises:
        ConfigError: of the kind ``cls.error``: nothing is found, or it is impossible.
    """
    if isinstance(source, cls):
        return source
    if isinstance(source, Mapping):
        return cls.model_validate(dict(source))
    if isinstance(source, str) and source in presets:
        return presets[source]
    path = Path(str(source))
    if path.suffix in (".yaml", ".yml", ".json") or path.is_file():
        return load(cls, path)
    guess = nearest(str(source), [*presets, *words])
    raise cls.error(
        f"'{source}' is neither a preset nor a file"
        + (f"; did you mean '{guess}'?" if guess else ""),
        hint,
    )


def _said(problem: Problem) -> str:
    return f"{problem.where}: {problem.message}" if problem.path else problem.message


def _place(path: Path, where: tuple[str | int, ...], lines: Lines) -> str:
    while where and where not in lines:
        where = where[:-1]
    return f"{path}:{lines[where]}" if where in lines else str(path)
