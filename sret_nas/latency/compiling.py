"""Compiling a model with ``torch.compile``, with an end to waiting for it.

Requires torch.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

import torch

from sret_nas.errors import SretNasError

COMPILE_S = 300.0
"""Seconds after which a compilation is given up."""
TELL_S = 5.0
"""Seconds between two words on a compilation."""

Run = Callable[[], Any]
"""Runs a model on its input, and returns its output."""
T = TypeVar("T")


def compiled(
    run: Callable[[], Any],
    device: torch.device,
    name: str,
    most_s: float,
    progress: Callable[[str], None],
) -> tuple[Run, float]:
    """Compile a call for its input alone, and make it once.

    Args:
        run: The call, a function that is written in Python.
        device: Where it runs.
        name: What to call it.
        most_s: Give up after this many seconds.
        progress: Told for how long it has been compiling.

    Returns:
        The compiled call, and the seconds that compiling took.

    Raises:
        SretNasError: it took too long.
    """
    # A code object of its own: torch keeps compiled code by code object, and
    # gives up silently after the eighth model that shares one.
    run.__code__ = run.__code__.replace()
    fast = torch.compile(run, fullgraph=True, dynamic=False)
    threads = torch.get_num_threads()

    def first() -> None:
        from torch._inductor import config

        # No pool of compiling processes: closing it at the end can take minutes.
        with (
            torch.inference_mode(),
            warnings.catch_warnings(),
            config.patch(compile_threads=1),
        ):
            warnings.simplefilter("ignore")  # advice such as to use TF32
            torch.set_num_threads(threads)
            if device.type == "cuda":
                with torch.cuda.device(device):
                    fast()
                    torch.cuda.synchronize()
            else:
                fast()

    start = time.perf_counter()
    within(
        first,
        most_s,
        lambda spent: progress(f"compiling {name}: {spent:.0f} s of at most {most_s:.0f}"),
        SretNasError(
            f"{name}: not compiled after {most_s:.0f} s", "take --mode graph or --mode eager"
        ),
    )
    return fast, time.perf_counter() - start


@contextlib.contextmanager
def nothing_compiles(mode: str) -> Iterator[None]:
    """Within, a compiled call that would be compiled anew is an error, not a slow run."""
    if mode != "compile":
        yield
        return
    with torch.compiler.set_stance("fail_on_recompile"):
        yield


def within(
    work: Callable[[], T], seconds: float, tell: Callable[[float], None], late: SretNasError
) -> T:
    """Do something in a thread of its own, so that waiting ends even where the work does not.

    Args:
        work: What to do.
        seconds: How long to wait for it.
        tell: Told now and then for how long it has been going on.
        late: Raised when it is not done by then; it is asked to end.
    """
    done: Future[T] = Future()

    def body() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    thread = threading.Thread(target=body, name="compiling", daemon=True)
    start = time.perf_counter()
    thread.start()
    try:
        while (left := start + seconds - time.perf_counter()) > 0:
            thread.join(min(left, TELL_S))
            if done.done():
                return done.result()
            tell(time.perf_counter() - start)
        raise late
    finally:
        if thread.is_alive() and thread.ident is not None:  # at its next step in Python
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit)
            )
