"""Where what was measured on this machine is kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """The user's cache folder for what was measured here.

    ``$SRET_NAS_CACHE``, else ``sret_nas`` under ``$XDG_CACHE_HOME``, else under
    ``~/.cache``.
    """
    if own := os.environ.get("SRET_NAS_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sret_nas"
