"""The folder of a training: whose it is, and that one process at a time works in it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import filelock

from sret_nas.data.folder import reads
from sret_nas.deploy import full_training
from sret_nas.deploy.job import JOB, Job
from sret_nas.deploy.metrics_file import METRICS
from sret_nas.errors import UsageError

LOCK = ".training.lock"


def refuse_folder(folder: Path, data: str) -> None:
    """Look whether a training may work in a folder.

    Args:
        folder: The model folder; it need not be there.
        data: What is trained on, as the user named it.

    Raises:
        UsageError: it lies among the images, is a file, or holds something else.
    """
    if "\0" not in data and reads(Path(data).expanduser(), folder):
        raise UsageError(
            f"--out: {folder} lies among the images of {data}, where it would be a class",
            "choose a folder beside them",
        )
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"{folder}: a file; allowed: a folder", "choose another --out")
    strange = [path.name for path in folder.iterdir() if path.name != LOCK]
    if strange and JOB not in strange:
        raise UsageError(
            f"{folder}: holds {sorted(strange)[0]} and no training of ours",
            "choose another --out",
        )


def finished(folder: Path) -> bool:
    """Whether a folder holds a trained model already."""
    return Job.load(folder) is not None and (folder / METRICS).is_file()


@contextlib.contextmanager
def alone(folder: Path, job: Job) -> Iterator[None]:
    """Write down what is asked for, and keep others from the folder.

    Of a training that fails before its first state nothing stays.

    Args:
        folder: The model folder.
        job: What is asked for; what is written down already stays.

    Raises:
        UsageError: another process trains there.
    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise UsageError(
            f"{folder}: another process is training there", "wait for it, or another --out"
        ) from error
    try:
        if Job.load(folder) is None:
            job.save(folder)
        yield
    except BaseException:
        _forget(folder)
        raise
    finally:
        with contextlib.suppress(OSError):  # where an open file cannot go
            (folder / LOCK).unlink(missing_ok=True)
        lock.release()
        if made:
            with contextlib.suppress(OSError):  # it holds something
                folder.rmdir()


def _forget(folder: Path) -> None:
    """Without a state or a result there is nothing to go on from."""
    states = folder / full_training.CHECKPOINTS
    if not any(states.glob("*.pt")) and not (folder / METRICS).exists():
        with contextlib.suppress(OSError):
            states.rmdir()
        (folder / JOB).unlink(missing_ok=True)
