"""Records in one file, written block by block over hours, and found again after a kill.

Blocks are written in place, and each is then listed with its checksum in a file beside them. A
block that is not listed was not finished, and one whose checksum differs is damaged or of
others: both are written again. One file however many records: a reader maps it once, and of a
million images no more is in memory than what was just read.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import numpy.typing as npt

from sret_nas.errors import SretNasError
from sret_nas.units import format_quantity

LINE = re.compile(r"(\d+) ([0-9a-f]{32})")


class BlockFile:
    """A file of records of one size.

    Args:
        folder: Where it lies, with its list of blocks; made when it is first written.
        key: What the records are of: those of another key are not taken for its own.
        count: How many records.
        record: Their type.
        block: Records of a block; the last may have fewer.
    """

    def __init__(
        self, folder: Path, key: str, count: int, record: np.dtype[Any], block: int
    ) -> None:
        self.folder = folder
        self.key = key.encode()[:64]
        self.count = count
        self.record = record
        self.block = block
        self.whole = folder / "labels.bin"
        self.part = folder / "labels.bin.part"
        self.list = folder / "blocks.txt"

    @property
    def blocks(self) -> int:
        """How many blocks there are."""
        return -(-self.count // self.block)

    @property
    def size(self) -> int:
        """Bytes of all records."""
        return self.count * self.record.itemsize

    @property
    def path(self) -> Path:
        """The file: of its last name once all blocks were written."""
        return self.whole if self.whole.exists() else self.part

    def range(self, block: int) -> tuple[int, int]:
        """First record of a block, and of the next."""
        return block * self.block, min(self.count, (block + 1) * self.block)

    def digest(self, block: int, records: bytes | memoryview) -> str:
        """Checksum of the records of a block, at its place and of this key."""
        salt = block.to_bytes(8, "little")
        return hashlib.blake2b(records, digest_size=16, key=self.key, salt=salt).hexdigest()

    def missing(self) -> tuple[list[int], int]:
        """Blocks that have to be written; and how many of them were finished once, and are damaged.

        Raises:
            SretNasError: the file cannot be read.
        """
        try:
            text = self.list.read_text("ascii", errors="replace") if self.list.exists() else ""
            listed = {
                int(found[1]): found[2] for found in map(LINE.fullmatch, text.split("\n")) if found
            }
            listed = {block: digest for block, digest in listed.items() if block < self.blocks}
            if not listed or not self.path.exists():
                return list(range(self.blocks)), 0
            file = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise self._failed("read", error) from error

        def sound(block: int) -> bool:
            first, last = (at * self.record.itemsize for at in self.range(block))
            try:
                records = os.pread(file, last - first, first)
            except OSError:
                return False
            return self.digest(block, records) == listed[block]

        try:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                good = {
                    block for block, ok in zip(listed, pool.map(sound, listed), strict=True) if ok
                }
        finally:
            os.close(file)
        return [block for block in range(self.blocks) if block not in good], len(listed) - len(good)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder, and wait until nobody else writes here.

        Raises:
            SretNasError: it cannot be written, or there is no room for all records.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(self.folder / ".lock")
            lock.acquire()
        except OSError as error:
            raise self._failed("written", error) from error
        try:
            yield
        finally:
            lock.release()

    def begin(self) -> None:
        """Give the file its size; what of it is there already stays.

        Raises:
            SretNasError: there is no room for it.
        """
        try:
            have = self.path.stat().st_blocks * 512 if self.path.exists() else 0
            free = shutil.disk_usage(self.folder).free
            if self.size - have > free:
                raise SretNasError(
                    f"{self.folder}: soft labels take {format_quantity('peak_bytes', self.size)}, "
                    f"there is room for {format_quantity('peak_bytes', free)}",
                    "fewer crops, or make room",
                )
            with self.path.open("ab") as file:
                file.truncate(self.size)
        except OSError as error:
            raise self._failed("written", error) from error

    def write(self, block: int, records: npt.NDArray[Any]) -> None:
        """Write a block, then list it.

        Args:
            block: Its number, from 0.
            records: All of its records, in order.

        Raises:
            SretNasError: it cannot be written: the disk is full.
        """
        data = memoryview(np.ascontiguousarray(records, self.record).view(np.uint8).data)
        at = self.range(block)[0] * self.record.itemsize
        line = f"\n{block} {self.digest(block, data)}\n"
        try:
            with self.path.open("r+b") as file:
                file.seek(at)
                file.write(data)
            with self.list.open("a", encoding="ascii") as file_of_lines:
                file_of_lines.write(line)
        except OSError as error:
            raise self._failed("written", error) from error

    def finish(self) -> None:
        """Give the file its last name: every block is there."""
        try:
            if self.path == self.part:
                self.part.replace(self.whole)
        except OSError as error:
            raise self._failed("written", error) from error

    def records(self) -> npt.NDArray[Any]:
        """All records, mapped from the file: read when they are looked at."""
        return np.memmap(self.path, self.record, "r", shape=(self.count,))

    def _failed(self, verb: str, error: OSError) -> SretNasError:
        return SretNasError(
            f"{error.filename or self.folder}: soft labels cannot be {verb}: {error.strerror}",
            "the same command goes on with those that are there",
        )
