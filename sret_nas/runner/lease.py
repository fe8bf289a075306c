"""Who computes on a device: trainings side by side, or one measurement alone.

A readers-writer lock by device in the user's cache folder, so that it holds between the
workers of a run and between runs. A training gives its share up after every epoch; a
measurement that waits shuts a gate, so that trainings that go on come behind it. The
system drops the locks of a process that dies. Without ``fcntl`` (Windows) nothing is locked.
Trainings go on where the folder cannot be written; measurements do not.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sret_nas.arch import Architecture
from sret_nas.device import cache_folder
from sret_nas.errors import UsageError
from sret_nas.evaluate import Evaluation, Evaluator, Progress, Report, Work
from sret_nas.metrics import Declaration

if TYPE_CHECKING:
    import torch

try:
    import fcntl
except ImportError:  # pragma: no cover
    fcntl = None  # type: ignore[assignment]


Tell = Callable[[str], None]


class Lease:
    """The lease of one device.

    Args:
        device: What the device is called on this machine, whoever asks.
        folder: Of the lock files; default in the user's cache.
    """

    def __init__(self, device: str, folder: Path | None = None) -> None:
        folder = folder or cache_folder() / "leases"
        self.name = device
        self.gate, self.device = folder / f"{device}.gate", folder / f"{device}.lock"

    @contextmanager
    def computing(self, tell: Tell = lambda _: None) -> Iterator[None]:
        """Within the block nothing is measured on the device.

        Args:
            tell: Told if that has to be waited for.
        """
        waiting = _once(tell, f"waiting for a measurement on {self.name}")
        with ExitStack() as held:
            with _held(self.gate, False, waiting):
                held.enter_context(_held(self.device, False, waiting))
            yield

    @contextmanager
    def measuring(self, tell: Tell = lambda _: None) -> Iterator[None]:
        """Within the block nobody else computes on the device.

        Args:
            tell: Told if that has to be waited for.

        Raises:
            UsageError: the folder of the locks cannot be written.
        """
        waiting = _once(tell, f"waiting until nothing of ours computes on {self.name}")
        with _held(self.gate, True, waiting), _held(self.device, True, waiting):
            yield


def _once(tell: Tell, text: str) -> Callable[[], None]:
    """Say something, however often it is asked for, once."""
    return functools.cache(functools.partial(tell, text))


@contextmanager
def _held(path: Path, alone: bool, waiting: Callable[[], None]) -> Iterator[None]:
    if fcntl is None:  # pragma: no cover
        yield
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        if alone:
            raise UsageError(
                f"{path.parent} cannot be written, so that nobody is kept from computing while "
                f"something is measured: {error.strerror}",
                "let SRET_NAS_CACHE name another folder",
            ) from error
        yield
        return
    try:
        kind = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, kind)
        yield
    finally:
        os.close(file)  # which drops the lock


def lease(device: torch.device) -> Lease:
    """The lease of a device: a GPU goes by its own id, whatever its number is here."""
    if device.type != "cuda":
        return Lease(device.type)
    import torch

    return Lease(f"cuda-{torch.cuda.get_device_properties(device).uuid}")


class Leased(Evaluator):
    """An evaluator that holds its device's lease while it computes.

    Args:
        evaluator: Does the work.
        of: The lease.
    """

    def __init__(self, evaluator: Evaluator, of: Lease) -> None:
        self.evaluator = evaluator
        self.lease = of

    @property
    def declaration(self) -> Declaration:
        """What the evaluator declares."""
        return self.evaluator.declaration

    def evaluate(
        self, arch: Architecture, *, seed: int = 0, report: Report | None = None
    ) -> Evaluation:
        """Evaluate with a share of the device, which is given up after every step."""
        return self._hold(self.evaluator.evaluate, arch, seed, report)

    def resume(
        self, arch: Architecture, folder: Path, *, seed: int = 0, report: Report | None = None
    ) -> Evaluation:
        """Go on likewise."""
        run = functools.partial(self.evaluator.resume, folder=folder)
        return self._hold(run, arch, seed, report)

    def confirm(
        self, arch: Architecture, *, seed: int = 0, report: Report | None = None
    ) -> Evaluation:
        """Confirm likewise."""
        return self._hold(self.evaluator.confirm, arch, seed, report)

    def fits(self, arch: Architecture) -> object:
        """Whether the evaluator can evaluate an architecture."""
        return self.evaluator.fits(arch)

    def work(self, arch: Architecture) -> Work:
        """What the evaluator says that it costs."""
        return self.evaluator.work(arch)

    def _hold(
        self,
        work: Callable[..., Evaluation],
        arch: Architecture,
        seed: int,
        report: Report | None,
    ) -> Evaluation:
        with ExitStack() as held:
            held.enter_context(self.lease.computing())

            def after_step(progress: Progress) -> bool:
                held.close()
                go_on = report is None or report(progress)
                held.enter_context(self.lease.computing())
                return go_on

            return work(arch, seed=seed, report=after_step)
