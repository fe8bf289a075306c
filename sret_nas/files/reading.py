"""Text, YAML and JSON read strictly: bounded, each key once, with the line of every value."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from sret_nas.errors import ConfigError

MAX_BYTES = 1_000_000
"""A configuration file larger than this is refused: it is something else."""
SECOND = "but found another document"
"""What PyYAML says of a file with several."""

Lines = dict[tuple[str | int, ...], int]
"""The line, from 1, of every value by the keys and indices that lead to it."""


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
