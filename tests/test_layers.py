"""The house: imports only flow upward, and everything in it is installed."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "sret_nas"

LAYERS = [  # each may import only from those before it
    "errors",
    "files",
    "units",
    "arch",
    "zoo",
    "model",
    "cost",
    "counters",
    "gpus",
    "device",
    "graphs",
    "latency",
    "profile",
    "space",
    "data",
    "proxy",
    "training",
    "evaluate",
    "pareto",
    "samplers",
    "study",
    "runner",
    "report",
    "doctor",
    "api",
    "cli",
]


def sources() -> list[tuple[str, Path]]:
    """Layer and path of every file of the package, the command line included."""
    own = [
        (path.relative_to(PACKAGE).parts[0].removesuffix(".py"), path)
        for path in sorted(PACKAGE.rglob("*.py"))
        if path != PACKAGE / "__init__.py"
    ]
    return own + [("cli", path) for path in sorted((ROOT / "cli").glob("*.py"))]


def imported_layers(path: Path) -> set[str]:
    """Layers that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            module = node.module or ""
            names = [f"{module}.{alias.name}" for alias in node.names] + [module]
        for name in names:
            parts = name.split(".")
            if parts[0] == "sret_nas" and len(parts) > 1 and parts[1] in LAYERS:
                found.add(parts[1])
    return found


def test_every_file_has_its_place() -> None:
    assert {layer for layer, _ in sources()} <= set(LAYERS)


@pytest.mark.parametrize(("layer", "path"), sources(), ids=lambda v: getattr(v, "name", v))
def test_imports_flow_upward(layer: str, path: Path) -> None:
    allowed = set(LAYERS[: LAYERS.index(layer) + 1])
    assert imported_layers(path) <= allowed


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
    assert listed == here | {"sret_nas.assets", "sret_nas.cli", "sret_nas.search_spaces"}
