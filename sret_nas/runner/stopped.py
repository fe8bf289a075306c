"""The states of stopped candidates, from which they may go on, in the run's folder.

They are kept while the search goes on, within bounds; without its state a candidate goes on from
its beginning, to the same result. Where a worker has no folder of the run, as on another machine,
there are none.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from sret_nas.study.rundir import RunDir

MOST, MOST_BYTES = 64, 2**30
"""Candidates of which states are kept, and the bytes of all of them."""


class StoppedStates:
    """The states of a run.

    Args:
        run: Where.
    """

    def __init__(self, run: RunDir) -> None:
        self.run, self.path = run, run.path / "stopped"

    def folder(self, arch_id: str) -> Path | None:
        """Where the state of a candidate is, or would be; ``None`` where none can be kept."""
        return self.path / arch_id if self.run.has_folder and self.run.path.is_dir() else None

    def forget(self, arch_id: str) -> None:
        """Remove the state of a candidate, if there is one."""
        shutil.rmtree(self.path / arch_id, ignore_errors=True)

    def keep(self, chances: Mapping[str, float], most: int = MOST, size: int = MOST_BYTES) -> None:
        """Remove all but the states of those that are most likely to go on.

        Args:
            chances: That a candidate goes on, by its id; others do not.
            most: How many may stay.
            size: Bytes that they may take.
        """
        if not self.path.is_dir():
            return
        found = sorted(self.path.iterdir(), key=lambda p: (-chances.get(p.name, 0.0), p.name))
        for place, folder in enumerate(found):
            size -= _bytes(folder)
            if place >= most or size < 0:
                self.forget(folder.name)

    def clear(self) -> None:
        """Remove all of them."""
        if self.run.has_folder:
            shutil.rmtree(self.path, ignore_errors=True)


def _bytes(folder: Path) -> int:
    """Size of the files in a folder, which others may remove meanwhile."""
    total = 0
    for path in folder.glob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total
