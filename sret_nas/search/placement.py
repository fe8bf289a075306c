"""Where the workers of one machine sit: which GPU, how many threads."""

from __future__ import annotations

from dataclasses import dataclass

MOST_THREADS = 1
"""Threads beyond which a small model trains no faster."""


@dataclass(frozen=True)
class Seat:
    """The place of one worker.

    Attributes:
        device: ``cpu`` or ``cuda:N``.
        threads: Threads of torch.
        shared: Whether others sit on the same GPU.
        guest: Whether it is this one that leaves where not all fit.
        team: Name of the process that gives the seats.
    """

    device: str
    threads: int = 1
    shared: bool = False
    guest: bool = False
    team: str = ""


def seats(device: str, workers: int, gpus: int, cores: int, team: str = "") -> list[Seat]:
    """Seats for the workers of one machine.

    Args:
        device: ``cpu``, ``cuda`` (all GPUs, in turn) or ``cuda:N`` (that one).
        workers: How many.
        gpus: GPUs that can be seen.
        cores: Processor cores that may be used.
        team: Name of the process that gives the seats.

    Example:
        >>> [seat.device for seat in seats("cuda", 3, gpus=2, cores=8)]
        ['cuda:0', 'cuda:1', 'cuda:0']
    """
    threads = max(1, min(MOST_THREADS, cores // workers))
    if device != "cuda":
        names = [device] * workers
    else:
        names = [f"cuda:{k % max(1, gpus)}" for k in range(workers)]
    return [
        Seat(
            name,
            threads,
            shared=name != "cpu" and names.count(name) > 1,
            guest=name != "cpu" and name in names[:k],
            team=team,
        )
        for k, name in enumerate(names)
    ]
