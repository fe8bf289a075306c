"""Why a worker ended: by its own doing, or by somebody else's.

A candidate is blamed for what it does itself alone: a signal that only the process's own
code raises, memory that ran out, an exception that nobody expected. A kill from outside
(a scheduler, a user, a machine that goes away) says nothing about it.
"""

from __future__ import annotations

import signal
from contextlib import suppress
from pathlib import Path

from sret_nas.errors import InfeasibleError, SretNasError
from sret_nas.study.failures import STORAGE_ERRORS

OWN = ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGTRAP", "SIGSYS")
"""Signals that a process raises by what it does."""


def oom_kills() -> int:
    """How many processes the kernel has killed for want of memory.

    In this control group, where it counts them, else on this machine; 0 where nothing does.
    """
    places = [Path("/proc/vmstat")]
    with suppress(OSError, IndexError):
        (group,) = Path("/proc/self/cgroup").read_text().split("0::/", 1)[1].splitlines()[:1]
        places.insert(0, Path("/sys/fs/cgroup") / group / "memory.events")
    for place in places:
        with suppress(OSError):
            for line in place.read_text().splitlines():
                name, _, number = line.partition(" ")
                if name == "oom_kill" and number.isdigit():
                    return int(number)
    return 0


def of_process(code: int, ran_out: bool) -> str:
    """Why a process came down by itself; empty where it was somebody else's doing.

    Args:
        code: Its exit code as ``multiprocessing`` has it; a signal is negative.
        ran_out: Whether the kernel has killed for want of memory since it started.

    Example:
        >>> of_process(-11, False), of_process(-9, True), of_process(-9, False)
        ('SIGSEGV', 'out of memory', '')
        >>> of_process(9, False), of_process(InfeasibleError.exit_code, False)
        ('exit code 9', '')
    """
    if code >= 0:  # a worker that says why has a code of ours
        return f"exit code {code}" if code > InfeasibleError.exit_code else ""
    try:
        name = signal.Signals(-code).name
    except ValueError:
        return ""
    if name == "SIGKILL":
        return "out of memory" if ran_out else ""
    return name if name in OWN else ""


def of_error(error: BaseException) -> str:
    """Likewise of an exception; those of disks, databases and users are not the candidate's."""
    others = (SretNasError, OSError, *STORAGE_ERRORS)
    if not isinstance(error, Exception) or isinstance(error, others):
        return ""
    return "" if type(error).__module__.startswith("grpc") else type(error).__name__
