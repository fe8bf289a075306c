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
import hashlib
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from importlib.machinery import PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any, TypeAlias

from sret_nas.arch import Architecture
from sret_nas.errors import ArchitectureError, ConfigError, Problem

Transform: TypeAlias = Callable[[dict[str, Any]], Mapping[str, Any]]

MOST_LISTED = 20_000
"""Encodings up to which a transformed space is looked at as a whole."""


Allow: TypeAlias = bool | Callable[[str, Path], object]
"""Leave to run the code that a space names; a function is told of it before it runs."""


def source(name: str, folder: Path | None = None) -> Path:
    """The file of the module that ``module:function`` names; nothing of it is run.

    Raises:
        ConfigError: there is none.
    """
    module_name = name.partition(":")[0]
    beside = folder / f"{module_name}.py" if folder else None
    if beside is not None and beside.is_file():
        return beside
    where: list[str] | None = None
    parts = module_name.split(".")
    for length in range(1, len(parts) + 1):
        # By hand: ``importlib.util.find_spec`` would run the packages above.
        spec = PathFinder.find_spec(".".join(parts[:length]), where)
        where = list(spec.submodule_search_locations or ()) if spec else []
        if spec is None:
            break
    if spec is None or spec.origin is None or not spec.has_location:
        raise _absent(module_name, "no such module")
    return Path(spec.origin)


def digest(path: Path) -> str:
    """Hash of a module's content.

    Raises:
        ConfigError: it cannot be read.
    """
    return hashlib.sha256(_content(path)).hexdigest()[:16]


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


class _Loader(SourceFileLoader):
    """Runs the very bytes that were looked at: no other file, and no cached code."""

    def __init__(self, name: str, path: Path, content: bytes) -> None:
        super().__init__(name, str(path))
        self.content = content

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = self.source_to_code(self.content, self.path)
        return code


def load(
    name: str, folder: Path | None = None, allow: Allow = False, expected: str | None = None
) -> Transform:
    """The function that ``module:function`` names.

    Args:
        name: Module and function.
        folder: Where the file of the space lies.
        allow: Whether its module may run.
        expected: What the module's ``digest`` must be; ``None``: anything.

    Raises:
        ConfigError: no such module or function, or the module fails; before anything
            is run: it has another content, or may not run.
    """
    module_name, function = name.split(":")
    path = source(name, folder)
    content = _content(path)
    if expected is not None and hashlib.sha256(content).hexdigest()[:16] != expected:
        raise ConfigError(
            f"callable '{name}' is not the one that the run was begun with: "
            f"{path} has another content",
            "bring the module of that run here",
        )
    if not allow:
        raise ConfigError(
            f"callable '{name}' would run the code in {path}",
            "read it; if you trust it: --allow-code (in Python: allow_code=True)",
        )
    if callable(allow):
        allow(name, path)
    try:
        if path.parent == folder:
            loader = _Loader(module_name, path, content)
            spec = importlib.util.spec_from_loader(module_name, loader)
            assert spec
            module = importlib.util.module_from_spec(spec)
            loader.exec_module(module)
        else:
            module = importlib.import_module(module_name)
    except Exception as error:
        raise _absent(module_name, f"{type(error).__name__}: {error}") from error
    found = getattr(module, function, None)
    if not callable(found):
        raise ConfigError(
            [Problem(("callable",), f"module '{module_name}' has no function '{function}'")]
        )
    transform: Transform = found
    return transform


def _absent(module: str, why: str) -> ConfigError:
    return ConfigError(
        [Problem(("callable",), f"module '{module}': {why}")],
        f"put {module}.py beside the file of the space, or install it",
    )


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
