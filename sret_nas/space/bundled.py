"""The search spaces that come with the package: files to copy and edit."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

import sret_nas


def bundled() -> dict[str, Path]:
    """Bundled files by name, alphabetically."""
    folder = Path(str(importlib.resources.files("sret_nas") / "search_spaces"))
    if not folder.is_dir():  # a checkout: beside the package
        folder = Path(sret_nas.__file__).parent.parent / "search_spaces"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
