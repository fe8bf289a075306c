"""The house: imports flow upward and never in a circle, and everything in it is installed."""

from __future__ import annotations

import ast
import graphlib
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "sret_nas"

PICTURE = re.search(
    r"```\n(.*?)```", (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"), re.DOTALL
)
assert PICTURE is not None
LAYERS = [re.split(r"\.py|/", line)[0] for line in PICTURE[1].splitlines()]
"""Rooms, as docs/architecture.md draws them: each may import only from those before it."""


def sources() -> list[tuple[str, Path]]:
    """Layer and path of every file of the package, the command line included."""
    own = [
        (path.relative_to(PACKAGE).parts[0].removesuffix(".py"), path)
        for path in sorted(PACKAGE.rglob("*.py"))
        if path != PACKAGE / "__init__.py"
    ]
    return own + [("cli", path) for path in sorted((ROOT / "cli").glob("*.py"))]


def module(path: Path) -> str:
    """The name that a file is imported by; those of the command line have one of their own."""
    base = ROOT if path.is_relative_to(ROOT / "cli") else PACKAGE
    return ".".join(path.relative_to(base).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module(path): path for _, path in sources()}


def imported(path: Path) -> set[str]:
    """Files that a file imports: at its top, inside a function, or for its types alone."""
    own, found = module(path), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parent = node.module or ""
            if node.level:  # the command line's siblings
                parent = ".".join(filter(None, ("sret_nas.cli", parent)))
            names = [f"{parent}.{alias.name}" for alias in node.names] + [parent]
        for name in names:
            inside = name.removeprefix("sret_nas.")
            if inside != name and inside in MODULES and inside != own:
                found.add(inside)
    return found


GRAPH = {name: imported(path) for name, path in MODULES.items()}


def circles() -> list[list[str]]:
    """Files that import each other, directly or not."""
    sorter = graphlib.TopologicalSorter(
        {
            name: {one for one in found if not name.startswith(f"{one}.")}
            for name, found in GRAPH.items()
        }
    )
    try:
        sorter.prepare()
    except graphlib.CycleError as error:
        return [list(map(str, error.args[1]))]
    return []


def test_every_file_has_its_place_and_every_place_its_file() -> None:
    assert {layer for layer, _ in sources()} == set(LAYERS)


def test_the_picture_names_what_is_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    files = {name for name in re.findall(r"`([\w/]+\.py)`", text) if "/" in name}
    missing = {
        name for name in files if not (PACKAGE / name).exists() and not (ROOT / name).exists()
    }
    assert len(files) > 10 and not missing


def test_the_samplers_stand_alone() -> None:
    found = set().union(*(GRAPH[name] for name in GRAPH if name.split(".")[0] == "samplers"))
    assert {name for name in found if name.split(".")[0] != "samplers"} == {"pareto"}


@pytest.mark.parametrize(("layer", "path"), sources(), ids=lambda v: getattr(v, "name", v))
def test_imports_flow_upward(layer: str, path: Path) -> None:
    allowed = set(LAYERS[: LAYERS.index(layer) + 1])
    assert {name.split(".")[0] for name in GRAPH[module(path)]} <= allowed


def test_no_file_imports_what_imports_it() -> None:
    assert circles() == []


def test_a_circle_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GRAPH, "space.dimensions", GRAPH["space.dimensions"] | {"space.space"})
    (circle,) = circles()
    assert {"space.dimensions", "space.space"} <= set(circle)


@pytest.mark.parametrize("path", sorted((ROOT / "cli").glob("*.py")), ids=lambda path: path.name)
def test_the_command_line_imports_its_siblings_relatively(path: Path) -> None:
    """An absolute ``cli`` would be somebody else's distribution."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert all(alias.name.split(".")[0] != "cli" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            assert (node.module or "").split(".")[0] != "cli"
            assert not (node.module or "").startswith("sret_nas.cli")


def test_every_package_is_installed() -> None:
    listed = set(
        tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    )
    here = {
        ".".join(("sret_nas", *path.parent.relative_to(PACKAGE).parts))
        for path in PACKAGE.rglob("__init__.py")
    }
    data = {"sret_nas.assets", "sret_nas.recipes", "sret_nas.search_spaces"}
    assert listed == here | data | {"sret_nas.cli"}
