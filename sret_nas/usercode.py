"""Functions and classes of a user's own module, named as ``module:name``.

They are code, and would run where somebody else's file or study names them: only with leave
do they, and where a run names them, only if the module's content is still that with which the
run was begun. The module is looked for in a folder, then as an import.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, TypeAlias

from sret_nas.errors import ConfigError, Problem, UsageError

Allow: TypeAlias = bool | Callable[[str, Path], object]
"""Leave to run the code that a file or a study names; a function is told of it before it runs."""


@dataclass(frozen=True)
class Code:
    """What ``module:name`` means.

    Attributes:
        name: Module and function, or class.
        what: What it is there for, as errors call it: ``callable`` or ``evaluator``.
        folder: Where the module is looked for first.
        place: What that folder is to the user, as in "put it beside …".
    """

    name: str
    what: str
    folder: Path | None = None
    place: str = "here"

    @property
    def module(self) -> str:
        """Name of the module."""
        return self.name.partition(":")[0]

    def source(self) -> Path:
        """The file of the module; nothing of it is run.

        Raises:
            ConfigError: there is none.
        """
        beside = self.folder / f"{self.module}.py" if self.folder else None
        if beside is not None and beside.is_file():
            return beside
        where: list[str] | None = None
        parts = self.module.split(".")
        for length in range(1, len(parts) + 1):
            # By hand: ``importlib.util.find_spec`` would run the packages above.
            spec = _find(".".join(parts[:length]), where)
            where = list(spec.submodule_search_locations or ()) if spec else []
            if spec is None:
                break
        if spec is None or spec.origin is None or not spec.has_location:
            raise self._absent("no such module")
        return Path(spec.origin)

    def digest(self) -> str:
        """Hash of the module's content.

        Raises:
            ConfigError: there is none, or it cannot be read.
        """
        return _digest(_content(self.source()))

    def load(self, allow: Allow = False, expected: str | None = None) -> Any:
        """The function or class.

        Args:
            allow: Whether the module may run.
            expected: What its ``digest`` must be; ``None``: anything.

        Raises:
            ConfigError: no such module or name, or the module fails; before anything
                is run: it has another content, or may not run.
        """
        path = self.source()
        content = _content(path)
        if expected is not None and _digest(content) != expected:
            raise ConfigError(
                f"{self.what} '{self.name}' is not the one that the run was begun with: "
                f"{path} has another content",
                "bring the module of that run here",
            )
        if not allow:
            raise ConfigError(
                f"{self.what} '{self.name}' would run the code in {path}",
                "read it; if you trust it: --allow-code (in Python: allow_code=True)",
            )
        if callable(allow):
            allow(self.name, path)
        try:
            beside = path.parent == self.folder
            module = self._run(path, content) if beside else importlib.import_module(self.module)
        except (Exception, SystemExit) as error:
            raise self._failed(path, error) from error
        name = self.name.partition(":")[2]
        found = getattr(module, name, None)
        if not callable(found):
            raise ConfigError(
                [Problem((self.what,), f"module '{self.module}' has no function or class '{name}'")]
            )
        return found

    def _run(self, path: Path, content: bytes) -> ModuleType:
        loader = _Loader(self.module, path, content)
        spec = importlib.util.spec_from_loader(self.module, loader)
        assert spec
        module = importlib.util.module_from_spec(spec)
        # Dataclasses look their module up; one that is imported already keeps its name.
        known = sys.modules.setdefault(self.module, module)
        try:
            loader.exec_module(module)
        except BaseException:
            if known is module:
                del sys.modules[self.module]
            raise
        return module

    def _failed(self, path: Path, error: BaseException) -> ConfigError:
        said = "; ".join(str(error).strip().splitlines())
        hint = f"correct {path}"
        if isinstance(error, ImportError):
            hint = "install what it imports; a file beside it is not found, unless it is installed"
        return ConfigError(
            [Problem((self.what,), f"module '{self.module}': {type(error).__name__}: {said}")], hint
        )

    def _absent(self, why: str) -> ConfigError:
        return ConfigError(
            [Problem((self.what,), f"module '{self.module}': {why}")],
            f"put {self.module}.py {self.place}, or install it",
        )


def named(what: str | Callable[..., Any], kind: str) -> tuple[str, Path]:
    """How other processes find a function or class, and the folder where they look first.

    Args:
        what: The thing itself, or its name, whose module is looked for where the user is.
        kind: What it is there for, as errors call it.

    Raises:
        UsageError: it is of the script itself, or is none that a name leads to.
    """
    if isinstance(what, str):
        return what, Path.cwd()
    name, module = getattr(what, "__qualname__", ""), getattr(what, "__module__", "")
    if not name.isidentifier() or module == "__main__":
        raise UsageError(
            f"{kind}: given {what!r}, which other processes cannot import",
            "give a class or function at the top level of a module of its own, or module:name",
        )
    file = getattr(sys.modules.get(module), "__file__", None)
    return f"{module}:{name}", Path(file).resolve().parent if file else Path.cwd()


class _Loader(SourceFileLoader):
    """Runs the very bytes that were looked at: no other file, and no cached code."""

    def __init__(self, name: str, path: Path, content: bytes) -> None:
        super().__init__(name, str(path))
        self.content = content

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = self.source_to_code(self.content, self.path)
        return code


def _find(name: str, where: list[str] | None) -> ModuleSpec | None:
    """Where a module is, as an import would find it; nothing is run."""
    for finder in sys.meta_path:  # those of packages that are installed editably, too
        spec = finder.find_spec(name, where)
        if spec is not None:
            return spec
    return None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
