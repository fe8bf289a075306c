"""Who works, and whether they still do.

A worker writes who it is on what it holds, and beats: a number there that grows. Others
judge by two signs, and by no clock but their own steady one:

- its process is gone, where it ran on this very machine (same boot, same process
  namespace): at once;
- its number has not grown while one looked on for ``GRACE`` beats; ``ANONYMOUS`` where it
  holds something without a word, which takes it no longer than two writes. Time during which
  nobody could look (the database was away, this process slept) does not count.

A worker that was given up wrongly learns it at its next write, for its trial is closed;
it drops the work. So a wrong judgement costs time, never a result.
"""

from __future__ import annotations

import contextlib
import os
import platform
import random
import re
import secrets
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

GRACE, ANONYMOUS = 6, 2
"""Beats that a worker may miss: one at work, and one that has not yet said who it is."""
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 5.0
"""Between two looks at what others do."""


@dataclass(frozen=True)
class WorkerId:
    """A process that works on a study.

    Attributes:
        name: Unique, and readable: host, process and a random word.
        boot: Id of the boot of its operating system; ``None`` where that cannot be told.
        space: Its namespace of process ids within it.
        pid: Its process id there.
        started: When it started, as its operating system counts.
        team: Name of the process that started it, or its own.
    """

    name: str
    boot: str | None
    space: str
    pid: int
    started: str
    team: str

    def to_dict(self) -> dict[str, Any]:
        """All attributes by name, as plain data for the study."""
        return asdict(self)

    @classmethod
    def load(cls, data: Mapping[str, Any] | None) -> WorkerId | None:
        """Read what ``to_dict`` gave; ``None`` where it is missing or of another version."""
        try:
            return cls(**(data or {}))
        except TypeError:
            return None


def me(team: str = "") -> WorkerId:
    """The id of this process; it has a new name each time.

    Args:
        team: Name of the process that started it; default its own.
    """
    host = re.sub(r"[^A-Za-z0-9.-]", "-", platform.node())[:40] or "host"
    pid = os.getpid()
    boot, space = _place()
    name = f"{host}/{pid}/{secrets.token_hex(4)}"
    return WorkerId(name, boot, space, pid, _started(pid) or "", team or name)


@cache
def _place() -> tuple[str | None, str]:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return boot, str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return f"{platform.node()} {uuid.getnode()}", platform.system()


def _started(pid: int) -> str | None:
    """When a process started; ``None`` where it is gone, empty where it cannot be told."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if after_name[0] in "ZX" else after_name[19]
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return ""


def gone(who: WorkerId, one_machine: bool = False) -> bool:
    """Whether a process certainly is no more.

    Args:
        who: The process.
        one_machine: Whether all that share the storage run on this machine, so that
            one of another boot is gone.
    """
    boot, space = _place()
    if who.boot != boot:
        return one_machine
    return who.space == space and _started(who.pid) != who.started


@dataclass(frozen=True)
class Held:
    """Something that a worker holds: a trial, or a confirmation.

    Attributes:
        owner: The worker; ``None`` where it died, or has not yet said who it is.
        beat: The last number that it wrote.
    """

    owner: WorkerId | None
    beat: int


class HeartbeatMonitor:
    """Tells whose workers are no more, by looking again and again.

    Args:
        own: Name of this process, which is alive.
        beat_s: Seconds between two beats.
        one_machine: Whether all that share the storage run on this machine, so that a worker
            of another boot is gone.
        clock: A steady clock, in seconds.
    """

    def __init__(
        self,
        own: str,
        beat_s: float,
        one_machine: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.own = own
        self.beat_s = beat_s
        self.one_machine = one_machine
        self.clock = clock
        self._seen: dict[Any, tuple[Held, float]] = {}
        self._last = clock()

    def look(self, held: Mapping[Any, Held]) -> set[Any]:
        """Judge who is no more, by what has changed since the last look.

        Args:
            held: Everything that is held now by its key, as just read from the storage.

        Returns:
            Keys of those whose worker is no more.
        """
        now = self.clock()
        passed, self._last = now - self._last, now
        before, self._seen = self._seen, {}
        lost = set()
        for key, one in held.items():
            if one.owner is not None and one.owner.name == self.own:
                continue
            earlier, silent_s = before.get(key, (None, 0.0))
            grace_s = (GRACE if one.owner else ANONYMOUS) * self.beat_s
            # Three looks at least: an absence of this process itself is no one else's silence.
            silent_s = silent_s + min(passed, grace_s / 2) if earlier == one else 0.0
            self._seen[key] = (one, silent_s)
            if silent_s >= grace_s or (one.owner and gone(one.owner, self.one_machine)):
                lost.add(key)
        return lost


class Heartbeat:
    """Beats from a thread, for whatever the worker holds; a beat that fails is left out.

    Args:
        every_s: Seconds between two beats.
    """

    def __init__(self, every_s: float) -> None:
        self.every_s = every_s
        self._beat: Callable[[int], object] | None = None
        self._beats = threading.Lock()
        self._over: threading.Event | None = None

    def hold(self, beat: Callable[[int], object]) -> None:
        """From now on, call ``beat`` with a number that grows, every ``every_s`` seconds."""
        with self._beats:
            self._beat = beat

    def release(self) -> None:
        """Beat no more for what was held; when this returns, no beat is under way."""
        with self._beats:
            self._beat = None

    def __enter__(self) -> Heartbeat:
        self._over = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(self._over,), name="heartbeat", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._over is not None
        self._over.set()
        self._thread.join(timeout=1.0)
        self.release()

    def _run(self, over: threading.Event) -> None:
        number = 0
        while not over.wait(self.every_s):
            number += 1
            with self._beats, contextlib.suppress(Exception):  # the worker's own calls complain
                if self._beat:
                    self._beat(number)


def pauses() -> Iterator[None]:
    """Sleep before each item, longer from one to the next, and never the same for two workers.

    From ``SHORTEST_PAUSE_S`` to ``LONGEST_PAUSE_S``, without an end.
    """
    length = SHORTEST_PAUSE_S
    while True:
        time.sleep(random.uniform(length / 2, length))  # noqa: S311
        yield
        length = min(LONGEST_PAUSE_S, 1.5 * length)
