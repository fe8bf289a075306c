"""The way out for what a file cannot say: a Python function of the user's.

``callable: "module:function"`` names a function that gets every decoded
architecture as plain data, in the form of an architecture file, and returns the
architecture that is meant, in the same form:

    def odd_depth(architecture):
        for stage in architecture["stages"]:
            stage["blocks"] |= 1
        return architecture

It must return the same for the same; whether what it returns can be built is
checked every time. The module is looked for beside the file, then as an import.
It is code, and would run when the file is read: only with leave does it, and where a
run names it, only if the module's content is still that with which the run was begun.

What a function does to costs cannot be known without calling it, so in such a
space minima and maxima are exact only up to ``MOST_LISTED`` encodings; beyond,
they are those of a sample, and say so.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from sret_nas.arch import Architecture
from sret_nas.errors import ArchitectureError, ConfigError, Problem
from sret_nas.usercode import Code

Transform: TypeAlias = Callable[[dict[str, Any]], Mapping[str, Any]]

MOST_LISTED = 20_000
"""Encodings up to which a transformed space is looked at as a whole."""


def code(name: str, folder: Path | None) -> Code:
    """What a space's ``callable`` names; ``folder`` is where the file of the space lies."""
    return Code(name, "callable", folder, "beside the file of the space")


def apply(transform: Transform, name: str, data: dict[str, Any]) -> Architecture:
    """The architecture that a function makes of plain data.

    Raises:
        ConfigError: it fails, or returns what cannot be built; with what it was given.
    """
    try:
        returned = transform(copy.deepcopy(data))
    except Exception as error:
        raise _wrong(name, f"{type(error).__name__}: {error}", data) from error
    if not isinstance(returned, Mapping):
        raise _wrong(name, f"returned a {type(returned).__name__}; allowed: a mapping", data)
    try:
        return Architecture.load(returned)
    except ArchitectureError as error:
        what = "; ".join(str(error).splitlines())
        raise _wrong(name, f"returned what cannot be built: {what}", data) from error


def _wrong(name: str, message: str, data: dict[str, Any]) -> ConfigError:
    return ConfigError([Problem(("callable",), f"'{name}' {message}")], f"it was given: {data}")
