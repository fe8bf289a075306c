"""What files hold, in a few bytes each, remembered between runs.

A digest is kept by path, size and times of change, in one SQLite file of the user's cache
folder: several processes may use it, a kill loses at most the digests of the last moments,
and the oldest go when there are too many. Where it cannot be used, files are read again.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sret_nas.data.errors import DataError
from sret_nas.device import cache_folder

WHOLE_BYTES = 2 << 30
"""Files of more than this together are sampled: beginning, middle and end of each."""
PART_BYTES = 16 << 10
"""Of a sampled file, at each of the three places."""
MOST = 4_000_000
"""Digests that are kept."""
CHUNK = 2_000
"""Digests that are computed before they are kept."""
TURN = 50
"""Of them, how many a thread computes in its turn."""
SETTLED_NS = 2_000_000_000
"""A file that changed more recently may change again without its times showing it."""

Tell = Callable[[str], None]
Key = tuple[bytes, int, int, int, int, int]
"""Path, offset, size, times of change of content and of metadata, whether it is sampled."""


def content(path: str, offset: int, size: int, sampled: bool) -> bytes:
    """Digest of a piece of a file.

    Args:
        path: The file.
        offset: Where the piece begins.
        size: How many bytes it has.
        sampled: Whether only its beginning, middle and end are read, where it is larger.
    """
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    parts = [(offset, size)]
    if sampled and size > 3 * PART_BYTES:
        places = (0, (size - PART_BYTES) // 2, size - PART_BYTES)
        parts = [(offset + place, PART_BYTES) for place in places]
    file = os.open(path, os.O_RDONLY)
    try:
        for start, left in parts:
            while left and (block := os.pread(file, min(left, 1 << 20), start)):
                digest.update(block)
                start, left = start + len(block), left - len(block)
    finally:
        os.close(file)
    return digest.digest()


def digests(
    paths: Sequence[str],
    pieces: Sequence[tuple[int, int]] | None = None,
    tell: Tell = lambda _: None,
) -> tuple[list[bytes], bool]:
    """Digests of files or of pieces of them, in order, and whether their content was sampled.

    Args:
        paths: The files; one for each piece.
        pieces: Offset and size of each; default the whole files.
        tell: Told of the progress.

    Raises:
        DataError: a file cannot be read.
    """
    stats: dict[str, os.stat_result] = {}
    try:
        for path in paths:
            if path not in stats:
                stats[path] = os.stat(path)
        if pieces is None:
            pieces = [(0, stats[path].st_size) for path in paths]
        sampled = sum(size for _, size in pieces) > WHOLE_BYTES
        keys: list[Key] = [
            (
                os.fsencode(os.path.abspath(path)),
                offset,
                size,
                stats[path].st_mtime_ns,
                stats[path].st_ctime_ns,
                int(sampled),
            )
            for path, (offset, size) in zip(paths, pieces, strict=True)
        ]
        with _Store() as store:
            found = store.known(keys)
            todo = [at for at, digest in enumerate(found) if digest is None]
            now = time.time_ns()

            def read(some: Sequence[int]) -> None:
                for at in some:
                    found[at] = content(paths[at], *pieces[at], sampled)

            with ThreadPoolExecutor(os.cpu_count()) as pool:
                for start in range(0, len(todo), CHUNK):
                    tell(f"reading images: {start:,} of {len(todo):,} that are new")
                    chunk = todo[start : start + CHUNK]
                    list(pool.map(read, [chunk[k : k + TURN] for k in range(0, len(chunk), TURN)]))
                    store.keep(
                        [
                            (*keys[at], found[at], now)
                            for at in chunk
                            if now - max(keys[at][3:5]) > SETTLED_NS
                        ]
                    )
    except OSError as error:
        raise DataError(f"{error.filename or 'data'}: cannot be read: {error.strerror}") from error
    return [digest for digest in found if digest is not None], sampled


class _Store:
    """The file of digests; one that is busy or broken is done without."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or cache_folder() / "digests.sqlite"
        self.base: sqlite3.Connection | None = None

    def __enter__(self) -> _Store:
        with contextlib.suppress(OSError, sqlite3.Error):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.base = sqlite3.connect(self.path, timeout=5)
            self.base.execute(
                "CREATE TABLE IF NOT EXISTS digests (path BLOB, start INT, size INT, mtime INT, "
                "ctime INT, sampled INT, digest BLOB, kept INT, "
                "PRIMARY KEY (path, start, sampled)) WITHOUT ROWID"
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self.base is None:
            return
        with contextlib.suppress(sqlite3.Error), contextlib.closing(self.base) as base, base:
            (count,) = base.execute("SELECT COUNT(*) FROM digests").fetchone()
            if count > MOST:
                base.execute(
                    "DELETE FROM digests WHERE (path, start, sampled) IN "
                    "(SELECT path, start, sampled FROM digests ORDER BY kept LIMIT ?)",
                    (count - MOST // 2,),
                )

    def known(self, keys: Sequence[Key]) -> list[bytes | None]:
        """Digests of what has not changed."""
        rows: dict[Key, bytes] = {}
        if self.base is not None and keys:
            paths = [key[0] for key in keys]
            with contextlib.suppress(sqlite3.Error):
                for *key, digest in self.base.execute(
                    "SELECT path, start, size, mtime, ctime, sampled, digest FROM digests "
                    "WHERE path BETWEEN ? AND ?",
                    (min(paths), max(paths)),
                ):
                    rows[tuple(key)] = digest
        return [rows.get(key) for key in keys]

    def keep(self, rows: Sequence[tuple[object, ...]]) -> None:
        """Keep digests of files."""
        if self.base is not None:
            with contextlib.suppress(sqlite3.Error), self.base as base:
                base.executemany("INSERT OR REPLACE INTO digests VALUES (?,?,?,?,?,?,?,?)", rows)


def together(digests: Sequence[bytes], labels: bytes, sampled: bool) -> str:
    """One hash of images and of their labels, in order."""
    parts = itertools.chain([b"sampled" if sampled else b"whole", labels], digests)
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part)
    return whole.hexdigest()
