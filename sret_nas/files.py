"""Files that people write: strict, immutable records, read with line numbers.

``Record`` is the base of everything that comes from YAML or JSON. What pydantic
finds wrong leaves it as a ``ConfigError`` whose sentences name the place, the
value that was given and what is allowed.
"""

from __future__ import annotations

import difflib
import errno
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from sret_nas.errors import ConfigError, Problem

MAX_BYTES = 1_000_000
"""A configuration file larger than this is refused: it is something else."""

MISSING = "required key is missing"
SECOND = "but found another document"
"""What PyYAML says of a file with several."""

MAX_NAME = 100
"""Characters of a file's name that somebody else has chosen."""

Lines = dict[tuple[str | int, ...], int]


def nearest(word: str, known: Sequence[str]) -> str | None:
    """The known word closest to ``word``, or ``None`` where nothing is close."""
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


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice instead of keeping the last."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    loader.flatten_mapping(node)
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str | int | float | bool | None):
            raise yaml.constructor.ConstructorError(
                None, None, "a key must be text", key_node.start_mark
            )
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"key {key!r} is written twice", key_node.start_mark
            )
        seen.add(key)
    return dict(loader.construct_mapping(node, deep=True))


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def parse_yaml(text: str) -> tuple[Any, Lines]:
    """Read YAML safely; also the line (from 1) of every value by its path.

    Raises:
        ConfigError: not YAML, or a key written twice, with the line.
    """
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        raise ConfigError(
            f"not valid YAML: character U+{error.character:04X} is not allowed"
        ) from error
    try:
        node = loader.get_single_node()
        data = None if node is None else loader.construct_document(node)
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        if mark and what == SECOND:
            raise ConfigError(
                f"line {mark.line + 1}: a second document begins; allowed: one in a file",
                "split the file at its lines of ---",
            ) from error
        raise ConfigError(
            f"line {mark.line + 1}: not valid YAML: {what}" if mark else f"not valid YAML: {what}"
        ) from error
    except RecursionError as error:
        raise ConfigError("not valid YAML: nested too deeply") from error
    finally:
        loader.dispose()
    return data, dict(_walk(node, (), set())) if node else {}


def _walk(
    node: yaml.Node, path: tuple[str | int, ...], seen: set[int]
) -> Iterator[tuple[tuple[str | int, ...], int]]:
    yield path, node.start_mark.line + 1
    if id(node) in seen:  # an alias: follow it once
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _walk(value, (*path, key.value), seen)
            yield (*path, key.value), key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            yield from _walk(value, (*path, i), seen)


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_text(path: Path) -> str:
    """The text of a file; never waits for one, and never reads more than ``MAX_BYTES``.

    Raises:
        ConfigError: missing, unreadable, no regular file (a device, a pipe), or too large.
    """
    try:
        # Opened before it is looked at, so that it is the same file; a pipe would block.
        with open(path, "rb", opener=_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ConfigError(f"{path}: cannot be read: not a regular file")
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_BYTES:,} bytes; not a configuration file")
        text = content.decode("utf-8")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path, or no UTF-8
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        reason = "not a path" if "null" in str(error) else reason
        raise ConfigError(f"{path}: cannot be read: {reason}") from error
    # Line ends as when a file is opened for text.
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read(path: Path) -> tuple[Any, Lines]:
    """The content of a YAML or JSON file and the line of every value.

    Raises:
        ConfigError: missing, unreadable, too large, or not what its suffix says.
    """
    text = read_text(path)
    try:
        return (parse_json(text), {}) if path.suffix == ".json" else parse_yaml(text)
    except ConfigError as error:
        line, _, rest = str(error).removeprefix("line ").partition(": ")
        place = f"{path}:{line}: {rest}" if str(error).startswith("line ") else f"{path}: {error}"
        raise type(error)(place, error.hint) from error


def parse_json(text: str) -> Any:
    """Read JSON.

    Raises:
        ConfigError: not JSON, or a key written twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise ConfigError(f"line {error.lineno}: not valid JSON: {error.msg}") from error
    except RecursionError as error:
        raise ConfigError("not valid JSON: nested too deeply") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    for i, (key, _) in enumerate(pairs):
        if any(key == other for other, _ in pairs[:i]):
            raise ConfigError(f"key {key!r} is written twice")
    return dict(pairs)


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
    """A record as it is, from a mapping, by a preset's name or from a file.

    Args:
        cls: Of which kind.
        source: Which.
        presets: By name.
        hint: What there is, for when nothing is found.
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


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all: a temporary file of its own, then a rename.

    Nobody knows the temporary name beforehand, and what should lie there, a link too, is
    not opened. What is no file, a device, is never replaced.
    """
    if path.exists() and not path.is_file():
        code = errno.EISDIR if path.is_dir() else errno.EINVAL
        why = os.strerror(code) if path.is_dir() else "not a regular file"
        raise OSError(code, why, str(path))
    temporary = path.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        with temporary.open("x", encoding="utf-8") as file:  # created, or nothing at all
            try:
                file.write(text)
                file.close()
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
    except OSError as error:  # of the file that was meant
        raise OSError(error.errno, error.strerror, str(path)) from error


def safe_name(name: str) -> str:
    """A name as that of one file in one folder; different names stay different.

    Example:
        >>> safe_name("smoke-2mmacs")
        'smoke-2mmacs'
        >>> safe_name("../up")
        'up-8c722b'
    """
    safe = re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII).strip("-.")[:MAX_NAME]
    if safe and safe == name:
        return name
    return f"{safe}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:6]}".lstrip("-")
